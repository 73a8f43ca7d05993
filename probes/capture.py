"""From what BPF read to the event stream: `Raw` mirrors `struct event` of bpf/common.c."""

from __future__ import annotations

import ctypes as ct
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from probes.backends import Backend, Point
from probes.kallsyms import Kallsyms
from recordings import events as ev
from recordings.commands import HOLDS, REFUSALS
from recordings.layers import FIELDS, MADE, NULL, POINTERS, STRUCTS, Found, Ptr
from recordings.stacks import INTERRUPT, functions
from recordings.steps import STEPS

_EXITING_CALLS = 16  # calls of an exiting task that are told so, at most
# Where a function failed, only these steps say something: how it failed, and what it returned.
_TOLD_ON_FAILURE = ("STEP_13", "STEP_14", "STEP_17")

# enum have of bpf/common.c.
_HAVE = ("ret", "fd", "fd_file", "lowest", "stop", "signal", "nr", "args")
_BIT = {name: 1 << number for number, name in enumerate(_HAVE, 32)}


class Raw(ct.Structure):
    """`struct event` (bpf/common.c); the C side asserts the size."""

    _fields_ = (
        ("point", ct.c_uint32),
        ("cpu", ct.c_uint32),
        *((name, ct.c_uint64) for name in ("t", "t0", "have")),
        ("ret", ct.c_int64),
        ("args", ct.c_uint64 * 3),
        ("layer", ct.c_uint64 * len(STRUCTS)),
        ("field", ct.c_uint64 * len(FIELDS)),
        *((name, ct.c_uint64) for name in (
            "fd_file", "ops_release", "f_release", "site", "object", "stack",
        )),
        *((name, ct.c_uint32) for name in (
            "pid", "tid", "owner_pid", "owner_tid",
        )),
        *((name, ct.c_int32) for name in (
            "fd", "lowest", "users", "stop", "signo", "sig_ret", "left",
        )),
        ("kind", ct.c_uint32),
        ("pad", ct.c_uint32),
        ("comm", ct.c_char * 16),
        ("cache", ct.c_char * 32),
    )  # fmt: skip

    def has(self, name: str) -> bool:
        return bool(self.have & _BIT[name])

    def number(self, name: str) -> int | None:
        return int(getattr(self, name)) if self.have & _BIT[name] else None


@dataclass(frozen=True)
class Hold:
    """A task came to a hold, `ret` None, or goes on from it: `ret` is 0, or −errno.

    `page`: the address that it waits for. `call` None: its beginning was not seen. `module`: what
    it asks modprobe for.
    """

    t: int
    call: int | None
    point: str
    pid: int
    tid: int
    page: int
    snap: ev.Snapshot
    module: str
    ret: int | None


def number_or_pointer(name: str, value: int) -> Ptr | int:
    """A field's value as events have it."""
    return hex(value) if name in POINTERS else value


def count_of(f_ref: int) -> int:
    """The references of a struct file that has `f_ref` (Linux 6.13), which counts from 0.

    See file_ref_read of linux/file_ref.h.
    """
    return f_ref + 1 if f_ref < 0xC000000000000000 else 0


@cache
def _fields_of(have: int) -> list[tuple[int, Found]]:
    """Those of FIELDS whose bits are set, with their numbers."""
    return [(number, found) for number, found in enumerate(FIELDS) if have >> number & 1]


# enum abi of bpf/common.c.
_ABIS: tuple[Literal["i386", "x32"] | None, ...] = (None, "i386", "x32")
# Functions that make sockets without socket(2): of the program's, and of the kernel's own.
_NO_SOCKET = {
    "do_accept", "__sys_accept4", "io_accept", "__sys_socketpair", "__netlink_kernel_create",
    "sock_create_kern", "sock_create_lite", "kernel_accept", "inet_ctl_sock_create", "ops_init",
}  # fmt: skip
_SOCKET = re.compile(r"_*((x64|ia32|do|se|compat)_)*sys_socket(call)?")


def way(own: list[str]) -> ev.Way | None:
    """How a socket is being made, by the functions of its stack; None: not as socket(2) does it."""
    if not _NO_SOCKET.isdisjoint(own):
        return None
    if "__sys_socket_file" in own or "io_socket" in own:
        return "io_uring"
    if sockets := [name for name in own if _SOCKET.fullmatch(name)]:
        return "32-bit" if any("ia32" in name or "compat" in name for name in sockets) else "other"
    return None if own else "other"


class Decoder:
    """Turns raw events into the stream, in order, and hands each to `emit`.

    It numbers the calls, names symbols and stacks before their first use, and knows which
    objects are live; it judges nothing.
    """

    def __init__(
        self,
        backend: Backend,
        symbols: Kallsyms,
        f_ref: bool,
        emit: Callable[[ev.Event], None],
        stacks: Mapping[int, tuple[int, ...]],
    ) -> None:
        """`stacks`: the addresses of each stack that an event may name, innermost first."""
        self._addresses = stacks
        self._points = backend.points
        self._told_cut = False
        self._f_ref = f_ref
        self._symbols = symbols
        self._emit = emit
        self._calls: dict[tuple[int, int], int] = {}
        self._last: dict[int, int] = {}  # pid → its newest call
        self._snapped: Raw | None = None  # whose snapshot `_snap` is
        self._snap = ev.Snapshot()
        self._named: set[int] = {0}
        self._stacks: dict[tuple[int, int], int] = {}  # (stack, point) → the id of its event
        self._frames: dict[int, list[str]] = {}
        self._read_stacks: dict[tuple[str, ...], int] = {}
        self._cleanup: set[tuple[int, str]] = set()
        self._left_open: set[int] = set()  # calls whose process ended with the descriptor open
        self.live: dict[tuple[int, str], Ptr] = {}  # (call, kind) → address or number
        self.call_pid: dict[int, int] = {}
        self.stopped_by: dict[int, str] = {}  # pid → the point where its newest SIGSTOP was sent
        self.stops: list[int] = []  # pids that are about to stand, for a signal that they took
        self.returned = 0  # calls whose return was seen
        self.exits: list[int] = []
        self.forks: list[tuple[int, int]] = []
        self.orphans = 0  # events of calls whose beginning never came
        self.holds: list[Hold] = []
        self.execs: list[int] = []
        self.uncaptured: Counter[tuple[int, int, ev.Way]] = Counter()

    def feed(self, raw: Raw) -> None:
        point = self._points[raw.point]
        match point.name:
            case "ENTER":
                self._enter(raw)
            case "SIGNAL_GENERATE" | "SIGNAL_DELIVER":
                self._signal(raw, point)
            case "FORK":
                self.forks.append((raw.owner_pid, int(raw.object)))
            case "REFUSED":
                self._refused(raw)
            case "HELD" | "RELEASED":
                self._hold(raw)
            case "EXEC":
                self.execs.append(raw.t)
            case "STACK":
                pass
            case "UNCAPTURED":
                self._uncaptured(raw, point)
            case "TASK_EXIT":
                self._task_exit(raw, point)
            case "CLOSE":
                self._closed(raw)
            case name if name.startswith("FREE_"):
                self._freed(raw, point)
            case _:
                self._step(raw, point)

    @property
    def last_call(self) -> int | None:
        return len(self._calls) or None

    def _call(self, raw: Raw) -> int | None:
        call = self._calls.get((raw.owner_tid, raw.t0))
        self.orphans += call is None
        return call

    def _enter(self, raw: Raw) -> None:
        call = self._calls[raw.owner_tid, raw.t0] = len(self._calls) + 1
        self._last[raw.pid] = call
        self.call_pid[call] = raw.pid
        self._emit(
            ev.Enter(
                t=raw.t, call=call, pid=raw.pid, tid=raw.tid, comm=_text(raw.comm), cpu=raw.cpu,
                syscall="socket", nr=int(raw.object) if raw.has("nr") else -1,
                abi=_ABIS[raw.kind],
                args=[ct.c_int32(arg & 0xFFFFFFFF).value for arg in raw.args if raw.has("args")],
                lowest=raw.number("lowest"),
            )
        )  # fmt: skip
        self._armed(raw, call, "USER_EXEC")

    def _uncaptured(self, raw: Raw, point: Point) -> None:
        own = functions(self._symbols.frame(at) for at in self._addresses[raw.stack])
        if how := way([*own, *([point.symbol] if point.at == "entry" else [])]):
            self.uncaptured[raw.pid, raw.tid, how] += 1

    def tell_uncaptured(self) -> None:
        """What came since this was asked last."""
        for (pid, tid, how), count in self.uncaptured.items():
            t = time.monotonic_ns()
            self._emit(ev.Uncaptured(t=t, pid=pid, tid=tid, how=how, count=count))
        self.uncaptured.clear()

    def _step(self, raw: Raw, point: Point) -> None:
        call = self._call(raw)
        if call is None:
            return
        _, stack = self._stack(raw)
        failed = raw.has("ret") and raw.ret < 0
        if point.makes == "fd" and not failed:
            self._alloc(raw, call, "fd", str(raw.ret), point.symbol)
        elif point.makes and point.makes != "fd" and raw.object:
            site = self._symbols.frame(raw.site) if raw.site else point.symbol
            self._alloc(raw, call, point.makes, hex(raw.object), site)
        elif point.name == "EXIT" and not failed and (call, "fd") not in self.live:
            self._alloc(raw, call, "fd", str(raw.ret), point.symbol)
        self.returned += point.name == "EXIT"
        for id in point.steps:
            if not failed or id in _TOLD_ON_FAILURE:
                self._emit(self._made(raw, point, call, id, stack))
            if id.startswith("CLEANUP"):
                self._cleanup.add((call, id))
        if point.frees:
            self._free(raw, call, point.frees, point.symbol, stack)
        self._armed(raw, call, point.steps[0] if point.steps else "")

    def _made(
        self, raw: Raw, point: Point, call: int, id: str, stack: int | None, symbol: str = ""
    ) -> ev.Step:
        return ev.Step(
            t=raw.t, call=call, id=id, pid=raw.pid, tid=raw.tid, comm=_text(raw.comm),
            cpu=raw.cpu, probe=point.name, symbol=symbol or point.symbol, at=point.at,
            snap=self._snapshot(raw), ret=raw.number("ret"), stack=stack,
            signal=raw.signo if raw.has("signal") else None,
            stop=raw.stop if raw.has("stop") else None,
        )  # fmt: skip

    def _armed(self, raw: Raw, call: int | None, step: str) -> None:
        """What the program did to the task at this point, by the arming map."""
        if raw.has("signal"):
            self._emit(
                ev.Inject(
                    t=raw.t, what="signal", pid=raw.pid, signo=raw.signo, step=step, call=call,
                    result=raw.sig_ret,
                )
            )  # fmt: skip
        if raw.has("stop") and raw.stop == 0:
            self.stopped_by[raw.pid] = self._points[raw.point].name

    def _refused(self, raw: Raw) -> None:
        self._emit(
            ev.Inject(
                t=raw.t, what="refusal", pid=raw.pid, hook=list(REFUSALS)[raw.object],
                errno=int(raw.ret), call=self._call(raw), result=0,
            )
        )  # fmt: skip

    def _hold(self, raw: Raw) -> None:
        self.holds.append(
            Hold(
                t=raw.t, call=self._call(raw), point=list(HOLDS)[raw.object], pid=raw.pid,
                tid=raw.tid, page=raw.site, snap=self._snapshot(raw), module=_text(raw.cache),
                ret=raw.number("ret"),
            )
        )  # fmt: skip

    def _alloc(self, raw: Raw, call: int, kind: ev.Kind, at: Ptr, site: str) -> None:
        self.live[call, kind] = at
        self._emit(
            ev.Alloc(t=raw.t, call=call, kind=kind, at=at, site=site, cache=_text(raw.cache))
        )

    def _free(self, raw: Raw, call: int, kind: ev.Kind, site: str, stack: int | None) -> None:
        at = self.live.pop((call, kind), None)
        if at is not None:
            self._emit(
                ev.Free(
                    t=raw.t, call=call, kind=kind, at=at, site=site, pid=raw.pid,
                    comm=_text(raw.comm), cpu=raw.cpu, stack=stack,
                )
            )  # fmt: skip

    def _freed(self, raw: Raw, point: Point) -> None:
        call = self._call(raw)
        if call is None:
            return
        frames, stack = self._stack(raw)
        own = functions(frames)
        for id in point.steps:
            if (symbol := self._reached(id, own, point)) and (call, id) not in self._cleanup:
                self._cleanup.add((call, id))
                self._emit(self._made(raw, point, call, id, stack, symbol))
        kind = MADE[raw.kind]
        self._free(raw, call, kind, self._symbols.frame(raw.site), stack)
        if kind == "file" and not any("sys_close" in name for name in own):
            # No table can hold a file that is freed: its descriptor went without close(2).
            left = call in self._left_open
            site = "do_exit" if left else "the file is freed: no table holds it"
            self._free(raw, call, "fd", site, stack)
        self._armed(raw, call, point.steps[-1] if point.steps else "")

    @staticmethod
    def _reached(id: str, own: list[str], point: Point) -> str:
        """The function that a cleanup step is named after, where the stack shows it; or ""."""
        return next((name for name in STEPS[id].stack if name in own), "")

    def _closed(self, raw: Raw) -> None:
        call = self._call(raw)
        if call is None or self.live.get((call, "fd")) != str(raw.fd):
            return
        if self.call_pid[call] == raw.pid and raw.ret != -9:  # EBADF: nothing was closed
            self._free(raw, call, "fd", "close", self._stack(raw)[1])
        self._armed(raw, call, "CLEANUP_FPUT")

    def _task_exit(self, raw: Raw, point: Point) -> None:
        if raw.left:  # a thread of several: the descriptors are the others' too
            return
        self.exits.append(raw.pid)
        _, stack = self._stack(raw)
        held = [
            call for call, kind in self.live
            # What another way than close(2) closed is on its way already.
            if kind == "fd" and self.call_pid[call] == raw.pid
            and (call, "CLEANUP_FPUT") not in self._cleanup
        ]  # fmt: skip
        self._left_open.update(held)
        for call in held[-_EXITING_CALLS:]:
            self._cleanup.add((call, "CLEANUP_DO_EXIT"))
            self._emit(self._made(raw, point, call, "CLEANUP_DO_EXIT", stack))

    def _signal(self, raw: Raw, point: Point) -> None:
        delivered = point.name == "SIGNAL_DELIVER"
        action = {0: "default", 1: "ignored"}.get(int(raw.object), "handled")
        self._emit(
            ev.Signal(
                t=raw.t, pid=raw.owner_pid, tid=raw.owner_tid, signo=raw.signo,
                phase="delivered" if delivered else "generated",
                by="" if delivered else f"{_text(raw.comm)} pid {raw.pid}",
                handler=action if delivered else None,  # type: ignore[arg-type]
            )
        )  # fmt: skip
        if delivered and raw.signo == 19:
            self.stops.append(raw.owner_pid)
        call = self._last.get(raw.pid)
        stops = (17, 18, 19, 20, 21, 22, 23, 28)  # what does not end a task by default
        if delivered and call is not None and action == "default" and raw.signo not in stops:
            self._emit(self._made(raw, point, call, "CLEANUP_GET_SIGNAL", self._stack(raw)[1]))

    def _snapshot(self, raw: Raw) -> ev.Snapshot:
        """What was read, made once for all steps of this event."""
        if self._snapped is not raw:
            self._snapped, self._snap = raw, self._read(raw)
        return self._snap

    def _read(self, raw: Raw) -> ev.Snapshot:
        fd = None
        if raw.has("fd"):
            shared = raw.users if raw.has("lowest") else None
            file = hex(raw.fd_file) if raw.has("fd_file") else None
            fd = ev.Fd(number=raw.fd, file=file, lowest=raw.number("lowest"), users=shared)
        if self._points[raw.point].name == "SOCK_ALLOC" and not any(raw.layer):
            return ev.Snapshot(socket=ev.Socket(at=NULL))  # it was read: sock_alloc() gave NULL
        read: dict[str, dict[str, Ptr | int]] = {layer: {} for layer in STRUCTS}
        values = raw.field[:]
        for number, found in _fields_of(raw.have & (1 << len(FIELDS)) - 1):
            value = values[number]
            if found.name == "f_count" and self._f_ref:
                value = count_of(value)
            read[found.layer][found.name] = number_or_pointer(found.name, value)
            if found.field.table and value not in self._named:
                release = {"f_op": raw.f_release, "ops": raw.ops_release}.get(found.name, 0)
                self._name(raw.t, value, release)
        return ev.Snapshot(fd=fd, **{
            layer: struct(at=hex(at), **read[layer])
            for (layer, struct), at in zip(STRUCTS.items(), raw.layer, strict=True)
            if at
        })  # fmt: skip

    def _name(self, t: int, address: int, release: int) -> None:
        """Names a table of operations: by its own symbol, else by its release function."""
        self._named.add(address)
        name = self._symbols.at(address)
        if not name and release and (function := self._symbols.at(release)):
            name = f"(its release is {function})"
        if name:
            self._emit(ev.Symbol(t=t, at=hex(address), name=name))

    def keep_stack(self, t: int, frames: list[str]) -> int:
        """Put a stack that was read elsewhere into the stream; its id."""
        known = len(self._frames) + 1
        self._frames[known] = frames
        self._emit(ev.Stack(t=t, id=known, frames=frames))
        return known

    def named_stack(self, frames: list[str]) -> int:
        """The id of a stack that was read as text; its event is sent before its first use."""
        key = tuple(frames)
        if key not in self._read_stacks:
            self._read_stacks[key] = self.keep_stack(time.monotonic_ns(), frames)
        return self._read_stacks[key]

    def _stack(self, raw: Raw) -> tuple[list[str], int | None]:
        if not raw.stack:
            return [], None
        key = raw.stack, raw.point
        known = self._stacks.get(key)
        if known is None:
            frames = [self._symbols.frame(address) for address in self._addresses[raw.stack]]
            frames, cut = _kernel_only(frames, self._points[raw.point])
            if cut and not self._told_cut:
                self._told_cut = True
                self._emit(ev.Note(t=raw.t, text=_CUT))
            known = self._stacks[key] = len(self._frames) + 1 if frames else 0
            if frames:
                self._frames[known] = frames
                self._emit(ev.Stack(t=raw.t, id=known, frames=frames))
        return (self._frames[known], known) if known else ([], None)


# The tracing machinery between the kernel's own function and our program.
_TRACING = (
    "bpf_trace_run", "bpf_prog_", "__bpf_trace", "__traceiter_", "perf_", "trace_call_bpf",
    "kprobe_", "ftrace_", "aggr_pre_handler", "optimized_callback", "syscall_exit_work",
    "syscall_trace_enter", "trace_syscall_",
)  # fmt: skip
_RETURNS = ("kretprobe_trampoline", "__kretprobe_trampoline", "arch_rethook_trampoline")
_CUT = (
    "a stack ends below the first function that has a kretprobe, where the kernel could not unwind "
    "through that (before Linux 5.15 it never can)"
)


def _kernel_only(frames: list[str], point: Point) -> tuple[list[str], bool]:
    """The kernel's own frames, without the tracing machinery; whether that cut the stack short.

    A function with fentry or fexit calls its BPF trampoline with its first instruction (5 bytes,
    or after endbr64; since Linux 7 it may also jump), and for fexit that calls the function's
    rest. So beside a trampoline's frame its call site is a second frame of the same function.
    """
    inner: list[int] = []
    for i, frame in enumerate(frames[:16]):
        if frame.startswith(INTERRUPT):
            break  # tracing machinery beyond was itself interrupted: it is not this probe's
        if frame.startswith(_TRACING):
            inner.append(i)
    kept: list[str] = []
    after = False  # after a trampoline
    for frame in frames[inner[-1] + 1 :] if inner else frames:
        name, _, offset = frame.partition("+")
        if name in _RETURNS:
            return kept, True
        if name.startswith("bpf_trampoline_"):
            after = True
            continue
        if after and not kept and point.at == "entry" and name != point.symbol:
            kept.append(f"{point.symbol}+0x0")  # it jumped
        twice = point.at == "exit" if not kept else kept[-1].partition("+")[0] == name
        if not (after and twice and offset in ("0x5", "0x9")):
            kept.append(frame)
        after = False
    return kept, False


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
