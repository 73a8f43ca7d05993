"""Attaching the probes of a backend to the running kernel, and reading its maps."""

from __future__ import annotations

import contextlib
import ctypes as ct
import mmap
import os
import platform
import struct
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from probes import unwound
from probes.backends import COPIES, RAW_SYSCALLS, RELEASE, X86_64, Backend, Planned, steps_of
from probes.bpf_syscall import (
    CGROUP_INET_SOCK_CREATE,
    F_SLEEPABLE,
    LSM_MAC,
    MODIFY_RETURN,
    PROG_CGROUP_SOCK,
    PROG_KPROBE,
    PROG_LSM,
    PROG_RAW_TRACEPOINT,
    PROG_TRACEPOINT,
    PROG_TRACING,
    TRACE_FENTRY,
    TRACE_FEXIT,
    Map,
    Ring,
    attach_cgroup,
    attach_kprobe,
    attach_raw,
    attach_tracepoint,
    load,
    recursion_misses,
)
from probes.btf import Btf, kernel_btf
from probes.capture import Raw
from probes.compile import compiled, relocated
from probes.kallsyms import Kallsyms
from probes.spool import WAKE_INTERVAL, Spool
from recordings import events as ev
from recordings.commands import HOLDS, REFUSALS
from recordings.layers import FIELDS, MADE, STRUCTS, Found

RING_PAGES = 4096  # 16 MiB
RING_SIZE = RING_PAGES * mmap.PAGESIZE
RING_MARK = RING_SIZE // 2  # above it tracees wait

# struct, field path → OFF_<struct>_<last part>. A name that differs between kernels lists all.
_OFFSETS = (
    ("file", "private_data"), ("socket", "file"), ("socket", "sk"), ("sock", "sk_rcu"),
    ("socket_alloc", "socket"), ("socket_alloc", "vfs_inode"), ("task_struct", "files"),
    ("task_struct", "tgid"), ("task_struct", "pid"), ("files_struct", "fdt"),
    ("files_struct", "next_fd"), ("files_struct", "count"), ("fdtable", "fd"),
    ("fdtable", "open_fds"), ("fdtable", "full_fds_bits"), ("fdtable", "max_fds"),
    ("proto_ops", "release"),
    ("file_operations", "release"), ("kmem_cache", "name"), ("k_sigaction", "sa"),
    ("inode", "i_count"), ("task_struct", "signal"), ("signal_struct", "live"),
    ("task_struct", "flags"), ("task_struct", "io_uring"),
    ("task_struct", "thread_info"), ("thread_info", "status"),
    ("task_struct", "start_boottime"), ("task_struct", "jobctl"), ("task_struct", "ptrace"),
    ("task_struct", "stack"),
)  # fmt: skip
# The immediates in the code of kprobe.c and task.c that stand for constants of each loading.
_POINT, _ARG_AT, _ARG_OFFSET, _FOLLOW = 0x5EED0000, 0x5EED0001, 0x5EED0002, 0x5EED0003
TRACEE = struct.Struct("Q6I")  # struct tracee
_UNSEEN_FREES = 6  # enum lost_what
_STOP_EVERYWHERE, _HOLDS_ARMED, _TRACEES_WAIT, _AGENT_PID = range(4)  # enum control
ARM = struct.Struct("IIII")  # struct arm: signo, serial, stop, pad
REFUSAL = struct.Struct("Ii")  # struct refusal: serial, error
QUOTA = struct.Struct("IIQ")  # struct quota: serial, times, used
QUOTAS = 4096  # the newest: an older one ends


class JobControl(NamedTuple):
    """Who stopped a process since its last SIGCONT: SIGSTOPs by which it `waits`, the first at
    `since`, and other `stops`. `undone`: what `stops` was when that SIGCONT came."""

    since: int
    waits: int
    stops: int
    undone: int


class AttachError(Exception):
    """Live capture is not possible here; one line that says why and what to do."""


@contextlib.contextmanager
def tracefs() -> Iterator[Path]:
    """The folder of tracefs; where nobody mounted it, it is mounted for us alone and meanwhile."""
    for folder in (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing")):
        if (folder / "events").exists():
            yield folder
            return
    libc = ct.CDLL(None, use_errno=True)
    clone_newns, ms_rec, ms_private = 0x20000, 16384, 1 << 18

    def check(result: int, what: str) -> None:
        if result:
            raise AttachError(f"cannot see tracefs: {what}: {os.strerror(ct.get_errno())}")

    home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    cwd = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
    tracing = b"/sys/kernel/tracing"
    try:
        check(libc.unshare(clone_newns), "unshare(CLONE_NEWNS)")
        try:
            check(libc.mount(None, b"/", None, ms_rec | ms_private, None), "making / private")
            check(libc.mount(b"tracefs", tracing, b"tracefs", 0, None), "mounting tracefs")
            yield Path(os.fsdecode(tracing))
        finally:
            check(libc.setns(home, clone_newns), "back to our mount namespace")
            os.fchdir(cwd)
    finally:
        os.close(home)
        os.close(cwd)


def offset(btf: Btf, owner: str, path: str) -> int | None:
    """Byte offset of a field; of struct socket_alloc's, in the slab object that holds it.

    Since Linux 7 that is a struct sockfs_inode (net/socket.c), with the extended attributes first.
    """
    if owner == "socket_alloc" and (found := btf.offset("sockfs_inode", path)) is not None:
        return found
    return btf.offset(owner, path)


def fields(btf: Btf) -> Iterator[tuple[int, Found, int]]:
    """Those of FIELDS that this kernel has: number, field, offset."""
    for number, found in enumerate(FIELDS):
        names = (found.field.path or found.name, found.field.now)
        offsets = (btf.offset(found.layer, name) for name in names if name)
        if (at := next((at for at in offsets if at is not None), None)) is not None:
            yield number, found, at


def _defines(backend: Backend, btf: Btf, symbols: Kallsyms) -> list[str]:
    values: dict[str, int] = {
        "EVENT_SIZE": ct.sizeof(Raw),
        "STACK_SIZE": unwound.STACK.size,
        "STACK_DEPTH": unwound.DEPTH,
        "STACK_WORDS": unwound.WORDS,
        "STACK_SAMPLES": unwound.SAMPLES,
        "KNOWN_FRAMES": unwound.KNOWN_FRAMES,
        "RING_PAGES": RING_PAGES,
        "RING_SIZE": RING_SIZE,
        "RING_MARK": RING_MARK,
        "WAKE_INTERVAL": WAKE_INTERVAL,
        "QUOTAS": QUOTAS,
    }
    for owner, path in _OFFSETS:
        where = offset(btf, owner, path)
        values[f"OFF_{owner}_{path}"] = -1 if where is None else where
    values["FIELDS"] = len(FIELDS)
    for number, found in enumerate(FIELDS):
        values[f"FIELD_{found.layer}_{found.name}"] = number
    lists: dict[str, list[str]] = {layer: [] for layer in STRUCTS}
    bits = dict.fromkeys(STRUCTS, 0)
    for number, found, at in fields(btf):
        lists[found.layer].append(f"F({number},{at},{found.field.size})")
        bits[found.layer] |= 1 << number
    values |= {f"{layer.upper()}_BITS": mask for layer, mask in bits.items()}
    values["F_REF"] = int(btf.offset("file", "f_ref") is not None)
    values["CACHE_ARG"] = int(RELEASE >= (6, 1))  # kmem_cache_alloc's third argument since 6.1
    values["X86_64"] = int(X86_64)
    values["RAW_SYSCALLS"] = int(RAW_SYSCALLS)
    values["TASK_PT_REGS"] = int(RELEASE >= (5, 15))  # bpf_task_pt_regs()
    # "mm: emit the "free" trace report before freeing memory in kmem_cache_free()" (v5.16)
    values["FREED_BEFORE"] = int(RELEASE < (5, 16))
    for number, point in enumerate(backend.points):
        values[f"P_{point.name}"] = number
    for number, kind in enumerate(MADE):
        values[f"KIND_{kind.upper()}"] = number
    values["FENTRY"] = int(backend.name == "fentry")
    for planned in backend.probes:
        if planned.kind == "fexit":
            nargs = btf.parameters(planned.target.partition("|")[0]) or 0
            values[f"NARGS_{planned.program.removeprefix('exit_')}"] = nargs
    for site, names in backend.sites.items():
        extents = [extent for name in names if (extent := symbols.extent(name))]
        low, high = extents[0] if extents else (0, 0)
        values[f"SITE_{site}_LO"], values[f"SITE_{site}_HI"] = low, high
    numbers = [f"-D{k}={v if v < 1 << 31 else f'{v}ULL'}" for k, v in values.items()]
    return numbers + [f"-D{layer.upper()}_FIELDS(F)={' '.join(lists[layer])}" for layer in STRUCTS]


def why_no_kprobes() -> str:
    """Why backend kprobe cannot be here; "": it can."""
    if platform.machine() != "x86_64":
        return f"it knows the registers of x86_64 alone, not of {platform.machine()}"
    if not Path("/sys/bus/event_source/devices/kprobe").exists():
        return "this kernel has no CONFIG_KPROBES"
    return ""


def preempts() -> bool:
    """Whether this kernel takes the CPU from a task amid its own code.

    Then a program of type tracing that one task is in is skipped for the next task on that CPU
    (prog->active, kernel/bpf/trampoline.c). A kprobe's program is never interrupted so.
    """
    with contextlib.suppress(OSError):
        model = Path("/sys/kernel/debug/sched/preempt").read_text()
        return "(full)" in model or "(lazy)" in model
    if "PREEMPT_DYNAMIC" in platform.version():  # which it is was chosen at boot: the default
        return int(platform.release().partition(".")[0]) >= 7
    return "PREEMPT" in platform.version()


# Program type → the smallest thing to hang one on.
_PROGRAM_TYPES = {
    "tracing": (PROG_TRACING, TRACE_FENTRY, "fd_install"),
    "lsm": (PROG_LSM, LSM_MAC, "bpf_lsm_socket_create"),
    "sleepable lsm": (PROG_LSM, LSM_MAC, "bpf_lsm_socket_create"),
}


def why_not(program_type: str) -> str:
    """Why this kernel loads no program of a type (of _PROGRAM_TYPES); "" where it does.

    Loads the smallest one, and attaches nothing. Raises BtfError.
    """
    type, attach_type, target = _PROGRAM_TYPES[program_type]
    id = kernel_btf().function_id(target)
    if id is None:
        return f"this kernel's BTF has no {target}()"
    return_0 = bytes.fromhex("b7000000000000009500000000000000")
    sleepable = program_type.startswith("sleepable")
    try:
        os.close(load(return_0, type, attach_type, id, F_SLEEPABLE if sleepable else 0))
    except OSError as error:
        return f"{error.strerror}: refused by this kernel or its policy"
    return ""


def may_load(program_type: str) -> bool:
    return not why_not(program_type)


class Attached:
    """A backend at work. `probes`: what became of each planned probe; `took`: ns to attach all.

    Raises AttachError where nothing can be captured. Closing takes every probe away; so does
    the end of this process, however it comes.
    """

    def __init__(
        self,
        backend: Backend,
        symbols: Kallsyms,
        sink: Callable[[Raw], None],
        early: Callable[[Raw], None],
        follow_forks: bool,
    ) -> None:
        """`sink` gets each event when it is decoded; of fork and exit, `early` gets it before that:
        as soon as it is out of the ring."""
        start = time.monotonic_ns()
        self.backend = backend
        self._symbols = symbols
        self._follow_forks = follow_forks
        self.btf = kernel_btf()
        self.f_ref = self.btf.offset("file", "f_ref") is not None
        defines = _defines(backend, self.btf, symbols)
        self._code = compiled(
            ("common.c", backend.source, "ledger.c", "task.c", "refuse.c", "hold.c"), defines
        )
        self._maps = {name: Map(shape) for name, shape in self._code.maps.items()}
        self._map_fds = [table.fd for table in self._maps.values()]
        self._programs: dict[str, list[int]] = {}  # probe → its copies
        self._links: list[int] = []
        self.refusing: set[str] = set()  # the hooks that have programs
        self._cgroup: Path | None = None  # the one that has
        self._holding: dict[str, bool] = {}  # hold points whose program is loaded → armed
        self._quotas = 0
        with tracefs() as folder:
            self._planned = [
                each for each in backend.probes if not each.optional or self._has(each, each.target)
            ]
            self.probes = [self._attach(planned, folder) for planned in self._planned]
        if not any(probe.status == "attached" for probe in self.probes):
            why = self.probes[0].why
            raise AttachError(f"no probe of backend {backend.name} could be attached: {why}")
        self.ring_fd = self._maps["events"].fd
        self._index = {point.name: number for number, point in enumerate(backend.points)}
        self.stacks = unwound.Stacks(self._maps["known"])
        self._early = early
        numbers = {self._index[name] for name in ("FORK", "TASK_EXIT", "STACK")}
        self.spool = Spool(Ring(self.ring_fd, RING_SIZE), sink, self._take_early, numbers)
        self._control(_AGENT_PID, os.getpid())
        self.took = time.monotonic_ns() - start

    def _has(self, planned: Planned, function: str) -> bool:
        """Whether the kernel has it. Of fentry BTF is asked: the symbols are read at the first
        question, and have the trampolines only once they are there (Kallsyms)."""
        if planned.kind in ("fentry", "fexit"):
            return self.btf.function_id(function) is not None
        return self._symbols.has(function)

    def _attach(self, planned: Planned, tracefs: Path) -> ev.Probe:
        choices = planned.target.split("|")
        target = next((name for name in choices if self._has(planned, name)), choices[0])
        why = ""
        try:
            self._hook(planned, target, tracefs)
        except AttachError as error:
            why = str(error)
        except OSError as error:
            why = error.strerror or str(error)
        return ev.Probe(
            t=time.monotonic_ns(),
            name=f"{planned.kind}:{target}",
            kind=planned.kind,
            steps=steps_of(self.backend, planned),
            status="missing" if why else "attached",
            why=why,
        )

    def _hook(self, planned: Planned, target: str, tracefs: Path) -> None:
        """Load and attach one probe."""
        match planned.kind:
            case "tracepoint":
                try:
                    id = int((tracefs / "events" / target.replace(":", "/") / "id").read_text())
                except FileNotFoundError:
                    raise AttachError(f"this kernel has no tracepoint {target}") from None
                program = self._load(planned, PROG_TRACEPOINT)
                self._links.append(attach_tracepoint(program, id))
            case "raw_tracepoint":
                for _ in range(planned.copies):
                    program = self._load(planned, PROG_RAW_TRACEPOINT)
                    self._links.append(attach_raw(program, target))
            case "kprobe" | "kretprobe":
                if not self._symbols.has(target):
                    raise AttachError(f"this kernel has no function {target}")
                program = self._load(planned, PROG_KPROBE)
                self._links.append(attach_kprobe(program, target, planned.kind == "kretprobe"))
            case "fentry" | "fexit":
                id = self.btf.function_id(target) or 0
                if not id:
                    raise AttachError(f"this kernel's BTF has no function {target}")
                where = TRACE_FENTRY if planned.kind == "fentry" else TRACE_FEXIT
                self._links.append(attach_raw(self._load(planned, PROG_TRACING, where, id)))

    def _load(self, planned: Planned, type: int, attach_type: int = 0, btf_id: int = 0) -> int:
        """Load a probe's program; where it serves several functions, with this one's constants."""
        owner, path = planned.inside
        constants = {
            _POINT: [point.name for point in self.backend.points].index(planned.points[0]),
            # Where in the context the argument is: struct pt_regs, or an array of arguments.
            _ARG_AT: (112, 104)[planned.argument] if type == PROG_KPROBE else 8 * planned.argument,
            _ARG_OFFSET: (offset(self.btf, owner, path) or 0) if owner else 0,
            _FOLLOW: int(self._follow_forks),
        }
        program = load(self._template(planned.program, constants), type, attach_type, btf_id)
        self._programs.setdefault(f"{planned.kind}:{planned.target}", []).append(program)
        return program

    def _template(self, program: str, constants: dict[int, int]) -> bytes:
        return relocated(self._code.programs[program], self._map_fds, constants)

    def _take_early(self, data: bytes, at: int) -> None:
        raw = Raw.from_buffer_copy(data, at)
        if raw.point == self._index["STACK"]:
            self.stacks.add(data, at)
        else:
            self._early(raw)

    def drain(self) -> None:
        """Decode everything that waits; what comes meanwhile, perhaps."""
        self.spool.take()
        self.spool.decode()

    def _control(self, which: int, value: int) -> None:
        self._maps["control"][which.to_bytes(4, "little")] = value.to_bytes(4, "little")

    def follow(self, pid: int) -> None:
        self._maps["tracees"][pid.to_bytes(4, "little")] = bytes(TRACEE.size)

    def guard(self, pid: int) -> None:
        """This process may be stopped: the guardian knows it."""
        self._maps["guarded"][pid.to_bytes(4, "little")] = (1).to_bytes(4, "little")

    def job_control(self, pid: int) -> JobControl:
        """Who stopped this process since its last SIGCONT."""
        try:
            value = self._maps["tracees"][pid.to_bytes(4, "little")]
        except OSError:  # it has ended
            return JobControl(0, 0, 0, 0)
        since, _, waits, stops, undone, _, _ = TRACEE.unpack(value)
        return JobControl(since, waits, stops, undone)

    @property
    def waits(self) -> int:
        """How many SIGSTOPs were sent so that tracees wait."""
        return self._maps["waits"].total(0)

    def have_wait(self, yes: bool) -> None:
        """All guarded tracees wait, each thread from its next event on; else at RING_MARK only."""
        self._control(_TRACEES_WAIT, int(yes))

    def quota(self, times: int) -> int:
        """The serial of a new quota, from which the BPF programs take; 0 where `times` is 0.

        Each has memory of its own, that only they write to: no number of theirs is put back.
        """
        if not times:
            return 0
        self._quotas += 1
        key = (self._quotas % QUOTAS).to_bytes(4, "little")
        self._maps["quotas"][key] = QUOTA.pack(self._quotas, times, 0)
        return self._quotas

    def arm(self, point: str, *, stop: bool, signo: int = 0, serial: int = 0) -> None:
        """At this point: SIGSTOP if `stop`, and `signo` as often as the quota `serial` allows."""
        key = self._index[point].to_bytes(4, "little")
        self._maps["arms"][key] = ARM.pack(signo, serial, stop, 0)

    def armed(self, point: str) -> tuple[bool, int, int]:
        """Its stop, signal and quota."""
        key = self._index[point].to_bytes(4, "little")
        signo, serial, stop, _ = ARM.unpack(self._maps["arms"][key])
        return bool(stop), signo, serial

    def fd(self, name: str) -> int:
        """The descriptor of a map."""
        return self._maps[name].fd

    def stop_everywhere(self, yes: bool) -> None:
        self._control(_STOP_EVERYWHERE, int(yes))

    def refuse(self, hook: str, errno: int, times: int, cgroup: Path | None = None) -> None:
        """Have `hook` refuse with −`errno`, the next `times` times; hook "cgroup": of `cgroup`.

        Raises OSError or AttachError where this kernel does not allow it.
        """
        number = [*REFUSALS, "cgroup"].index(hook)
        if cgroup is not None and cgroup != self._cgroup:
            code = self._template("refuse_sock", {_POINT: number})
            program = load(code, PROG_CGROUP_SOCK, CGROUP_INET_SOCK_CREATE)
            self._links += [program, attach_cgroup(program, cgroup)]
            self._cgroup = cgroup
        if cgroup is None and hook not in self.refusing:
            id = self.btf.function_id(hook) or 0
            if not id:
                raise AttachError(f"this kernel's BTF has no function {hook}")
            code = self._template("refuse", {_POINT: number})
            for _ in range(COPIES):
                program = load(code, PROG_TRACING, MODIFY_RETURN, id)
                self._links += [program, attach_raw(program)]
            self.refusing.add(hook)
        key = number.to_bytes(4, "little")
        self._maps["refusals"][key] = REFUSAL.pack(self.quota(times), errno)

    def refuse_nothing(self) -> None:
        for number in range(len(REFUSALS) + 1):
            self._maps["refusals"][number.to_bytes(4, "little")] = REFUSAL.pack(0, 0)

    def cannot_refuse(self) -> dict[str, str]:
        """Hook → why this kernel lets nobody refuse there."""
        if why := why_not("tracing"):
            return dict.fromkeys(REFUSALS, f"BPF programs of type tracing: {why}")
        missing = [hook for hook in REFUSALS if self.btf.function_id(hook) is None]
        return dict.fromkeys(missing, "this kernel's BTF does not know that function")

    def hold(self, point: str, on: bool) -> None:
        """Hold every call that comes to this point, or none. Raises OSError or AttachError."""
        number = list(HOLDS).index(point)
        if point not in self._holding:
            function = f"bpf_lsm_{point}"
            id = self.btf.function_id(function) or 0
            if not id:
                raise AttachError(f"this kernel's BTF has no function {function}")
            if not self._holding:
                program = load(self._template("process_exec", {}), PROG_RAW_TRACEPOINT)
                self._links += [program, attach_raw(program, "sched_process_exec")]
            code = self._template("hold", {_POINT: number})
            program = load(code, PROG_LSM, LSM_MAC, id, F_SLEEPABLE)
            self._links += [program, attach_raw(program)]
        self._holding[point] = on
        self._maps["holds"][number.to_bytes(4, "little")] = int(on).to_bytes(4, "little")
        armed = any(self._holding.values())
        self._control(_HOLDS_ARMED, int(armed))

    def may_hold(self, pid: int, base: int, count: int) -> None:
        """The pages of this process that it can be held by; `count` 0: it cannot any more."""
        key = pid.to_bytes(4, "little")
        if count:
            self._maps["regions"][key] = struct.pack("QQQ", base, 0, count)
            return
        with contextlib.suppress(OSError):  # ENOENT: it called exec
            _, used, _ = struct.unpack("QQQ", self._maps["regions"][key])
            del self._maps["regions"][key]
            for number in range(used):
                with contextlib.suppress(OSError):
                    del self._maps["pages"][struct.pack("II", pid, number)]

    def refusals_left(self, hook: str) -> int:
        key = [*REFUSALS, "cgroup"].index(hook).to_bytes(4, "little")
        serial, _ = REFUSAL.unpack(self._maps["refusals"][key])
        slot = (serial % QUOTAS).to_bytes(4, "little")
        of, times, used = QUOTA.unpack(self._maps["quotas"][slot])
        return int(times - used) if serial and of == serial else 0

    def lost(self) -> dict[str, int]:
        """Events dropped so far, by what dropped them."""
        what = (
            "ring buffer", "calls map", "objects map", "returns", "pages to be held by",
            "ring buffer: signals",
        )  # fmt: skip
        return {name: self._maps["lost"].total(i) for i, name in enumerate(what)}

    def hits(self) -> dict[str, tuple[int, int]]:
        """Probe → how often it told of something, how often the kernel skipped it (all copies of
        it, at most)."""
        by_point = {name: self._maps["hits"].total(i) for name, i in self._index.items()}
        unseen = {"cache_free": self._maps["lost"].total(_UNSEEN_FREES)}
        return {
            probe.name: (
                sum(by_point[point] for point in planned.points),
                min(map(recursion_misses, self._programs[f"{planned.kind}:{planned.target}"]))
                + unseen.get(planned.program, 0),
            )
            for planned, probe in zip(self._planned, self.probes, strict=True)
            if probe.status == "attached"
        }

    def close(self) -> None:
        """Take every probe away. What was captured can still be drained."""
        for fd in (*self._links, *chain.from_iterable(self._programs.values())):
            os.close(fd)
        self._links.clear()
        self._programs.clear()

    def close_later(self) -> None:
        """Close in a child process, for a session whose tracees have all ended.

        Closing a perf event on a tracepoint waits for RCU grace periods, 0.3 s in all
        (perf_trace_event_unreg), and would at our exit too, were ours the last descriptors.
        """
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.setsid()
            probes = {*self._links, *chain.from_iterable(self._programs.values())}
            for fd in {int(name) for name in os.listdir("/proc/self/fd")} - probes - {reading}:
                with contextlib.suppress(OSError):  # the one that listed them
                    os.close(fd)
            os.read(reading, 1)  # the parent has closed its descriptors: ours are the last
            os._exit(0)
        os.close(reading)
        self.close()
        os.close(writing)
