"""Holding a task inside the kernel: pages that userfaultfd keeps missing, and letting go.

A sleepable LSM program (bpf/hold.c) reads a page of the tracee that is not there. The task sleeps
in the page fault, at that very place in the kernel, until the page is filled. So the pages must be
the tracee's own: before its first instruction it is made to call mmap(2) and userfaultfd(2) itself,
by ptrace. We take the descriptor over; the guardian has it too, and lets all go on when we die.
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import errno
import fcntl
import os
import platform
import signal
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from probes.attach import Attached, AttachError
from probes.attach import why_not as why_not_loaded
from probes.capture import Hold
from probes.ptrace import PEEKTEXT, POKETEXT, SINGLESTEP, Registers, ptrace
from recordings import events as ev
from recordings.commands import HOLDS

PAGE = 4096
PAGES = 16384  # one for each hold of a tracee's life
MOST = 540.0  # seconds that a hold lasts at most: after 600 the kernel may complain
SPIN = 0.25  # the same once a signal is pending, which keeps the task from sleeping
ASLEEP = 0.2  # seconds that a task has, from its fault, to be asleep
MAX_FDS = 256  # descriptors that are told, at most

# x86-64
_MMAP, _MUNMAP, _CLOSE, _CAPSET, _USERFAULTFD = 9, 11, 3, 126, 323
_SYS_PIDFD_GETFD = 438
_USER_CS = 0x33
_API, _REGISTER, _ZEROPAGE, _WAKE = 0xC018AA3F, 0xC020AA00, 0xC020AA04, 0x8010AA02
_UNREGISTER = 0x8010AA01
_UFFD_API, _THREAD_ID, _MISSING, _PAGEFAULT, _MESSAGE = 0xAA, 1 << 8, 1, 0x12, 32
_SYSCALL = b"\x0f\x05"

_libc = ct.CDLL(None, use_errno=True)


class HoldError(Exception):
    """The tracee cannot be held; one line that says why."""


class _Remote:
    """Has a process in a ptrace stop, which is our tracee, make system calls.

    It uses a `syscall` instruction of its vDSO, so that no page of it is written; where it has
    none, the next instruction is one for the moment. `restore` puts its registers back.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.signals: list[int] = []  # that came meanwhile: to be sent again
        self._before = Registers.of(pid)
        if self._before.cs != _USER_CS:
            raise HoldError("a 32-bit program cannot be held")
        self._word: int | None = None
        self._at = self._in_vdso() or self._poked()

    def _in_vdso(self) -> int:
        for line in Path(f"/proc/{self.pid}/maps").read_text().splitlines():
            if line.endswith("[vdso]"):
                start, end = (int(word, 16) for word in line.split()[0].split("-"))
                with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
                    memory.seek(start)
                    found = memory.read(end - start).find(_SYSCALL)
                return start + found if found >= 0 else 0
        return 0

    def _poked(self) -> int:
        at = int(self._before.rip)
        self._word = ptrace(PEEKTEXT, self.pid, at)
        ptrace(POKETEXT, self.pid, at, self._word & ~0xFFFF | int.from_bytes(_SYSCALL, "little"))
        return at

    def call(self, number: int, *arguments: int) -> int:
        """The result: −errno on failure. Raises HoldError where the process is no more."""
        registers = Registers.from_buffer_copy(self._before)
        registers.rip, registers.rax, registers.orig_rax = self._at, number, 2**64 - 1
        names = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
        for name, value in zip(names, arguments, strict=False):
            setattr(registers, name, value & 2**64 - 1)
        registers.give(self.pid)
        while True:
            ptrace(SINGLESTEP, self.pid)
            _, status = os.waitpid(self.pid, 0)
            if not os.WIFSTOPPED(status):
                raise HoldError("the program died before its first instruction")
            registers = Registers.of(self.pid)
            if os.WSTOPSIG(status) == signal.SIGTRAP and registers.rip == self._at + 2:
                return ct.c_int64(registers.rax).value
            if os.WSTOPSIG(status) != signal.SIGTRAP:
                self.signals.append(os.WSTOPSIG(status))

    def drop_capabilities(self) -> int:
        """Every one, for good: 0, or the errno. The arguments are below its stack for a moment."""
        none = struct.pack("Ii6I", 0x20080522, 0, *[0] * 6)  # _LINUX_CAPABILITY_VERSION_3
        at = (int(self._before.rsp) & ~15) - 256  # below the red zone
        with open(f"/proc/{self.pid}/mem", "r+b", buffering=0) as memory:
            before = os.pread(memory.fileno(), len(none), at)
            os.pwrite(memory.fileno(), none, at)
            result = self.call(_CAPSET, at, at + 8)
            os.pwrite(memory.fileno(), before, at)
        return -result

    def restore(self) -> None:
        if self._word is not None:
            ptrace(POKETEXT, self.pid, self._at, self._word)
        self._before.give(self.pid)
        for signo in self.signals:
            os.kill(self.pid, signo)


class Region:
    """Pages of a tracee, from address `base` on, that are missing until we fill them."""

    def __init__(self, pid: int, base: int, count: int, fd: int) -> None:
        self.pid, self.base, self.count, self.fd = pid, base, count, fd

    def faults(self) -> list[tuple[int, int]]:
        """(page, tid) of each task that came to wait for a page since the last look."""
        found: list[tuple[int, int]] = []
        try:
            data = os.read(self.fd, 64 * _MESSAGE)
        except OSError:  # none; or the memory is gone
            return found
        for at in range(0, len(data), _MESSAGE):
            event, _, address, tid = struct.unpack_from("B7xQQI", data, at)
            if event == _PAGEFAULT:
                found.append((address & ~(PAGE - 1), tid))
        return found

    def fill(self, page: int) -> None:
        """Let the task that waits for this page go on. Nothing where the memory is gone."""
        request = bytearray(struct.pack("QQQq", page, PAGE, 0, 0))
        for _ in range(100):
            try:
                fcntl.ioctl(self.fd, _ZEROPAGE, request)
            except OSError as error:
                if error.errno == errno.EAGAIN:  # its mappings are being changed
                    time.sleep(0.001)
                    continue
                with contextlib.suppress(OSError):
                    fcntl.ioctl(self.fd, _WAKE, bytearray(struct.pack("QQ", page, PAGE)))
            return

    def close(self) -> None:
        """Whoever still waits for a page gets one of the kernel, as anybody would."""
        with contextlib.suppress(
            OSError
        ):  # ESRCH: the memory is gone; the guardian has it open too
            fcntl.ioctl(self.fd, _UNREGISTER, struct.pack("QQ", self.base, self.count * PAGE))
        os.close(self.fd)


def plant(pid: int, pidfd: int, drop: bool) -> Region:
    """Give a process in a ptrace stop before its first instruction pages to be held by.

    userfaultfd(2) needs CAP_SYS_PTRACE. `drop`: the process has it for this alone (launcher.py),
    and loses every capability. Registers, memory, descriptors and signals are as they were; one
    mapping has come. Raises HoldError: then it may have the capability still.
    """
    if platform.machine() != "x86_64":
        raise HoldError(f"no task can be held on {platform.machine()} yet")
    try:
        remote = _Remote(pid)
        try:
            region = _planted(remote, pidfd)
            if drop and (error := remote.drop_capabilities()):
                os.close(region.fd)
                raise HoldError(f"the program keeps a capability of root's: {os.strerror(error)}")
        finally:
            remote.restore()
    except OSError as error:
        raise HoldError(f"the program's registers are out of reach: {error.strerror}") from error
    return region


def _planted(remote: _Remote, pidfd: int) -> Region:
    theirs = remote.call(_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
    if theirs < 0:
        raise HoldError(f"the program may not call userfaultfd(2): {os.strerror(-theirs)}")
    ours = int(_libc.syscall(_SYS_PIDFD_GETFD, pidfd, theirs, 0))
    why = os.strerror(ct.get_errno())
    remote.call(_CLOSE, theirs)
    if ours < 0:
        raise HoldError(f"its userfaultfd cannot be taken over: {why}")
    prot_read, private_anonymous_noreserve = 1, 0x4022
    for count in (PAGES, 256):  # fewer where RLIMIT_AS is small
        base = remote.call(
            _MMAP, 0, count * PAGE, prot_read, private_anonymous_noreserve, -1, 0
        )  # fmt: skip
        if base > 0:
            break
    try:
        if base < 0:
            raise OSError(-base, os.strerror(-base))
        fcntl.ioctl(ours, _API, bytearray(struct.pack("QQQ", _UFFD_API, _THREAD_ID, 0)))
        pages = struct.pack("QQQQ", base, count * PAGE, _MISSING, 0)
        fcntl.ioctl(ours, _REGISTER, bytearray(pages))
    except OSError as error:
        os.close(ours)
        if base > 0:
            remote.call(_MUNMAP, base, count * PAGE)
        raise HoldError(f"its pages cannot be had: {error.strerror}") from error
    return Region(remote.pid, base, count, ours)


@dataclass
class _Held:
    """A thread at a hold. `told`: it was seen asleep; `by`: it was let go, and by whom."""

    start: Hold
    call: int
    deadline: float
    told: bool = False
    spinning: bool = False
    by: ev.By | None = None


class Holds:
    """All that is held, by tid. `stack`: frames → the id of a stack event, sent if it is new."""

    def __init__(
        self,
        attached: Attached,
        limit: float,
        emit: Callable[[ev.Event], None],
        stack: Callable[[list[str]], int],
    ) -> None:
        self.limit = limit
        self.points: set[str] = set()  # where it holds
        self.region: Region | None = None
        self._attached = attached
        self._emit = emit
        self._stack = stack
        self._held: dict[int, _Held] = {}
        self._why = "holds were not asked for: start with --hold"
        self._said: set[str] = set()

    # -- where it holds ------------------------------------------------------------------

    def adopt(self, region: Region | None, why: str = "") -> None:
        """The pages of a new tracee; None, and why it has none."""
        self.gone()
        self.region = region
        self._why = why or self._why
        self._said.clear()
        if region is not None:
            self._attached.may_hold(region.pid, region.base, region.count)

    def arm(self, point: str, on: bool) -> str:
        """Hold at this point, or no longer; why that cannot be, or ""."""
        if point not in HOLDS:
            return f"nothing can be held at {point}"
        if on and self.region is None:
            return self._why
        if not on and point not in self.points:
            return ""
        try:
            self._attached.hold(point, on)
        except (AttachError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            return f"no task can be held at {point} here: {why}"
        (self.points.add if on else self.points.discard)(point)
        return ""

    # -- who is held ---------------------------------------------------------------------

    @property
    def any(self) -> bool:
        return any(held.by is None for held in self._held.values())

    @property
    def faulting(self) -> Region | None:
        """To be watched for faults; not while one spins, which would have us spin too."""
        return None if any(held.spinning for held in self._held.values()) else self.region

    def heard(self, hold: Hold) -> None:
        """The BPF program told of a hold: it begins (`ret` None), or it is over."""
        if hold.ret is not None:
            self._over(hold)
            return
        if self.region is None:
            return
        if hold.call is None:  # its beginning was lost: whose it is cannot be told
            self.region.fill(hold.page)
            return
        self._held[hold.tid] = _Held(hold, hold.call, time.monotonic() + self.limit)

    def look(self) -> None:
        """Tell of those that sleep now."""
        if (region := self.faulting) is None:
            return
        for page, tid in region.faults():
            held = self._held.get(tid)
            if held is None or held.start.page != page:
                self._attached.drain()  # the program told of it before it touched the page
                held = self._held.get(tid)
            if held is None or held.start.page != page or held.by is not None:
                region.fill(page)
            elif not held.told:
                self._tell(held)
            else:  # it was woken, and has not come far: a signal
                held.spinning = True
                held.deadline = min(held.deadline, time.monotonic() + SPIN)
                self._tell(held)

    def _tell(self, held: _Held) -> None:
        start = held.start
        first = not any(other.told for other in self._held.values())
        facts = _Task(start.pid, start.tid)
        fds, fds_cut = facts.fds()
        if not held.spinning:
            facts.wait_until_asleep()
        status = facts.status()
        stack = facts.stack()
        held.told = True
        self._emit(
            ev.Held(
                t=time.monotonic_ns(), call=held.call, point=start.point, pid=start.pid,
                tid=start.tid, state=status.get("State", "")[:1], wchan=facts.wchan(),
                stack=self._stack(stack) if stack else None,
                pending=_signals(status.get("SigPnd")), shared=_signals(status.get("ShdPnd")),
                blocked=_signals(status.get("SigBlk")), fds=fds, fds_cut=fds_cut,
                snap=start.snap, module=start.module, since=start.t,
                until=time.monotonic_ns() + int((held.deadline - time.monotonic()) * 1e9),
            )
        )  # fmt: skip
        if held.spinning:
            text = f"thread {start.tid}: a signal is pending, which would keep it busy: "
            text += f"let go in {SPIN * 1e3:.0f} ms"
            self._emit(ev.Note(t=time.monotonic_ns(), text=text))
        elif first:
            now = time.monotonic_ns()
            self._emit(ev.State(t=now, pid=start.pid, state="held", why=HOLDS[start.point]))

    def _over(self, hold: Hold) -> None:
        held = self._held.pop(hold.tid, None)
        if held is None:
            return
        if not held.told and hold.ret:
            self._once(f"no hold at {hold.point}: the memory that it needs is gone (exit or exec)")
            return
        # The pages are mapped, so it can only fail for a signal that kills.
        by = held.by or ("signal" if hold.ret else "detach")
        self._emit(
            ev.Released(
                t=hold.t, call=held.call, point=hold.point, pid=hold.pid, tid=hold.tid, by=by,
                held=max(hold.t - held.start.t, 0), ret=hold.ret or 0, snap=hold.snap,
            )
        )  # fmt: skip
        if held.told and not any(other.told for other in self._held.values()):
            self._emit(ev.State(t=hold.t, pid=hold.pid, state="running"))

    # -- letting go ----------------------------------------------------------------------

    def release(self, tid: int | None = None, by: ev.By = "user") -> bool:
        """Let one thread go on, or all; whether there was one."""
        found = False
        for number, held in self._held.items():
            if self.region is not None and held.by is None and tid in (None, number):
                held.by = by
                held.spinning = False
                self.region.fill(held.start.page)
                found = True
        return found

    def tick(self) -> None:
        """Let go whose time is over."""
        now = time.monotonic()
        for tid, held in list(self._held.items()):
            if held.by is None and held.deadline <= now:
                self.release(tid, "signal" if held.spinning else "limit")

    def due(self, most: float) -> float:
        """Seconds until `tick` has something to do, at most so many."""
        deadlines = [held.deadline for held in self._held.values() if held.by is None]
        return max(0.0, min([most, *(deadline - time.monotonic() for deadline in deadlines)]))

    def let_go(self) -> None:
        """Hold nobody any more, and see them go."""
        if self.region is None:
            return
        for point in HOLDS:
            if point in self.points:
                self._attached.hold(point, False)
        self._attached.may_hold(self.region.pid, 0, 0)
        self._attached.drain()
        end = time.monotonic() + 1.0
        while self.release(by="detach") or (self._held and time.monotonic() < end):
            time.sleep(0.001)
            self._attached.drain()
        self.gone()

    def gone(self) -> None:
        """The tracee is no more, or its memory."""
        self._held.clear()
        if self.region is not None:
            self._attached.may_hold(self.region.pid, 0, 0)
            self.region.close()
            self.region = None

    def execed(self, t: int) -> None:
        """The tracee called execve(2): with its memory the pages went."""
        self.gone()
        self._why = "the program called execve(2), which drops the memory that a hold needs"
        if self.points:
            self._emit(ev.Note(t=t, text=f"no task is held any more: {self._why}"))

    def _once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._emit(ev.Note(t=time.monotonic_ns(), text=text))


class _Task:
    """What /proc tells of a thread. Where it is gone: nothing."""

    def __init__(self, pid: int, tid: int) -> None:
        self._process = Path(f"/proc/{pid}")
        self._thread = self._process / "task" / str(tid)

    def _read(self, name: str) -> str:
        try:
            return (self._thread / name).read_text(errors="replace")
        except OSError:
            return ""

    def wait_until_asleep(self) -> None:
        """Its fault is told a moment before it sleeps."""
        end = time.monotonic() + ASLEEP
        while self.wchan() != "handle_userfault" and time.monotonic() < end:
            time.sleep(0.0002)

    def wchan(self) -> str:
        return self._read("wchan")

    def status(self) -> dict[str, str]:
        lines = (line.partition(":") for line in self._read("status").splitlines())
        return {name: value.strip() for name, _, value in lines}

    def stack(self) -> list[str]:
        """The kernel stack, innermost first: `function+0xoffset`."""
        lines = self._read("stack").splitlines()
        return [line.partition("] ")[2].rpartition("/")[0] or line for line in lines]

    def fds(self) -> tuple[list[ev.Open] | None, bool]:
        """The lowest of its open descriptors; whether there are more."""
        found = []
        try:
            names = sorted(os.listdir(self._process / "fd"), key=int)
        except OSError:
            return None, False
        for name in names[:MAX_FDS]:
            with contextlib.suppress(OSError):
                to = os.readlink(self._process / "fd" / name)
                found.append(ev.Open(number=int(name), to=to))
        return found, len(names) > MAX_FDS


def _signals(mask: str | None) -> list[int]:
    """The numbers of the signals in a mask of /proc/PID/status."""
    bits = int(mask or "0", 16)
    return [number + 1 for number in range(bits.bit_length()) if bits >> number & 1]


def why_not() -> str:
    """Why no task can be held on this machine; "" where one can. Raises BtfError."""
    if platform.machine() != "x86_64":
        return f"not on {platform.machine()} yet"
    try:
        lsms = Path("/sys/kernel/security/lsm").read_text().strip()
    except OSError:
        return "the list of LSMs cannot be read: mount -t securityfs none /sys/kernel/security"
    if "bpf" not in lsms.split(","):
        return f"bpf is not among the LSMs: boot with lsm={lsms},bpf on the kernel's command line"
    return why_not_loaded("sleepable lsm")
