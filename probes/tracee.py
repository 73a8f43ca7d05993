"""The traced process: started stopped, in its own session and terminal, as the user who asked."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import resource
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Literal

from probes.hold import PAGE, HoldError, Region, plant
from probes.launcher import Launcher, LaunchError, Request
from probes.loader import entry_point, past_loader
from probes.ptrace import (
    CONT,
    DETACH,
    EVENT_EXEC,
    EXITKILL,
    SETOPTIONS,
    TRACEEXEC,
    Died,
    ptrace,
    run_to,
)
from recordings import events as ev
from recordings.invoker import invoking_user

_GUARDIAN = Path(__file__).with_name("guardian.py")


# What the tracee reads: its terminal, which echoes what comes, or does not; or a pipe.
Stdin = Literal["terminal", "quiet", "pipe"]
_END = b"\x04"  # VEOF: what ends the input from a terminal


class TraceeError(Exception):
    """The program cannot be started; one line that says why."""


def launch(launcher: Launcher, request: Request, stdin: int, terminal: int) -> tuple[int, int]:
    """A child of ours in a ptrace stop before its first instruction: pid, pidfd.

    It dies with us (PTRACE_O_EXITKILL). Raises TraceeError.
    """
    failure, theirs = os.pipe()
    try:
        pid = launcher.fork(request, stdin, terminal, theirs)
    except LaunchError as error:
        os.close(failure)
        raise TraceeError(str(error)) from error
    finally:
        os.close(theirs)
    with open(failure, "rb") as report:
        pidfd = os.pidfd_open(pid)
        try:
            run_to(pid, signal.SIGSTOP)
            ptrace(SETOPTIONS, pid, 0, EXITKILL | TRACEEXEC)
            ptrace(CONT, pid)
            run_to(pid, EVENT_EXEC << 8 | signal.SIGTRAP)
            # Only at a stop on the way back to user mode do its registers keep what we set.
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            ptrace(CONT, pid)
            run_to(pid, signal.SIGSTOP)
        except (Died, OSError) as error:
            if isinstance(error, OSError):  # ESRCH: it was killed
                os.waitpid(pid, 0)
            os.close(pidfd)
            why = report.read().decode() or "it was killed before its first instruction"
            raise TraceeError(f"cannot run {os.fsdecode(request.argv[0])}: {why}") from error
    return pid, pidfd


def started(pid: int) -> int:
    """When a process was started, in clock ticks since the machine's (/proc/PID/stat, field 22).

    Raises OSError.
    """
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


class Tracee:
    """One traced process, a child of ours. Signals go through its pidfd, to it and no other."""

    def __init__(
        self,
        launcher: Launcher,
        argv: list[str],
        may_hold: bool = False,
        stdin: Stdin = "terminal",
    ) -> None:
        """Start `argv`, stopped before its first instruction. Raises TraceeError.

        `may_hold`: give it the pages that a task is held by: `region`, or None and `why_no_region`.
        """
        self.argv = argv
        self.master, slave = pty.openpty()
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        os.set_blocking(self.master, False)
        reads, self._writes = slave, self.master
        if stdin == "pipe":
            reads, self._writes = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._writes, False)
        elif stdin == "quiet":
            modes = termios.tcgetattr(slave)
            modes[3] &= ~termios.ECHO
            termios.tcsetattr(slave, termios.TCSANOW, modes)
        self.unread = b""  # of its input
        self._ends, self._line = False, b"\n"  # whether it has an end; the last that came
        try:
            self._start(launcher, may_hold, reads, slave)
        except TraceeError:
            for fd in {self.master, self._writes}:
                os.close(fd)
            raise
        finally:
            for fd in {slave, reads}:
                os.close(fd)
        self._cgroups: tuple[Path, Path] | None = None
        self._guardian = self._guard()
        with contextlib.suppress(OSError):  # it was killed
            ptrace(DETACH, self.pid, 0, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)
        self.exited = False
        self._limit: int | None = None  # to be set when the dynamic loader is done
        self._began = False  # it has run its first instruction
        self._end: int | None = None  # its wait status, where that was waited for already

    def _start(self, launcher: Launcher, may_hold: bool, stdin: int, terminal: int) -> None:
        """Set `pid`, `pidfd` and `region`. Raises TraceeError."""
        user = invoking_user()
        identity, environment = None, {}
        if user is not None:
            os.fchown(terminal, user.uid, -1)
            identity = user.uid, user.gid, user.groups
            environment = user.environment
        try:
            request = Request(
                [os.fsencode(word) for word in self.argv],
                {os.fsencode(k): os.fsencode(v) for k, v in environment.items()},
                identity, may_hold,
            )  # fmt: skip
        except UnicodeEncodeError as error:
            raise TraceeError(f"cannot run {self.argv[0]!a}: {error}") from error
        self.region: Region | None = None
        self.why_no_region = ""
        self.pid, self.pidfd = launch(launcher, request, stdin, terminal)
        if not may_hold:
            return
        try:
            self.region = plant(self.pid, self.pidfd, drop=identity is not None)
        except HoldError as error:
            self.why_no_region = str(error)
            # It may still have the capability that this needs: replace it by one that never had.
            self.send(signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # it died amid that
                os.waitpid(self.pid, 0)
            os.close(self.pidfd)
            request = request._replace(may_hold=False)
            self.pid, self.pidfd = launch(launcher, request, stdin, terminal)

    def _guard(self) -> int:
        """A process that outlives us: resumes the tracee should we die, and keeps its terminal.

        Returns our end of its pipe: closing it (as our death does) sets it to work.
        """
        theirs, ours = os.pipe()
        numbers = [theirs, self.master, self.pid]
        passed = [theirs, self.master]
        if self.region is not None:
            numbers += [self.region.fd, self.region.base, self.region.count * PAGE]
            passed.append(self.region.fd)
        arguments = [str(number) for number in numbers]
        guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARDIAN), *arguments],
            pass_fds=passed, start_new_session=True, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        guardian.returncode = 0
        os.close(theirs)
        return ours

    def guard_child(self, pid: int, ticks: int) -> None:
        """Have the guardian look after a followed child too, which was `started` at `ticks`."""
        with contextlib.suppress(OSError):
            os.write(self._guardian, f"child {pid} {ticks}\n".encode())

    def forget_child(self, pid: int) -> None:
        """The child has ended."""
        with contextlib.suppress(OSError):
            os.write(self._guardian, f"gone {pid}\n".encode())

    def guard_limit(self, soft: int | None) -> None:
        """Have the guardian put back this soft RLIMIT_NOFILE; None: it is as it was."""
        with contextlib.suppress(OSError):
            os.write(self._guardian, f"limit {-1 if soft is None else soft}\n".encode())

    def send(self, signo: int) -> int:
        """Send a signal; 0, or −errno (ESRCH: it is gone)."""
        try:
            signal.pidfd_send_signal(self.pidfd, signo)
        except OSError as error:
            return -(error.errno or 0)
        return 0

    def go_on(self) -> tuple[int, int] | None:
        """Resume it. The limit that waited for its loader, and what `limit` says, if one did."""
        limit, self._limit = self._limit, None
        entry = None if limit is None else entry_point(self.pid)
        self._begin()
        if limit is None or entry is None:
            self.send(signal.SIGCONT)
            return None
        before = [-errno.ESRCH]
        self._end = past_loader(self.pid, entry, lambda: before.append(self._set_limit(limit)))
        return limit, before[-1]

    def _begin(self) -> None:
        """It runs its first instruction now: the guardian is to resume it, and not to kill it."""
        if not self._began:
            self._began = True
            with contextlib.suppress(OSError):
                os.write(self._guardian, b"began\n")

    def limit(self, nofile: int) -> int | None:
        """Set the soft RLIMIT_NOFILE; what it was before, or −errno.

        None: it is set when the dynamic loader, which opens files too, has come to the program.
        """
        if not self._began and not self.exited and entry_point(self.pid) is not None:
            self._limit = nofile
            return None
        return self._set_limit(nofile)

    @property
    def reaped(self) -> bool:
        """Whether its pid may be another process's by now."""
        return self.exited or self._end is not None

    def _set_limit(self, nofile: int) -> int:
        if self.reaped:
            return -errno.ESRCH
        try:
            soft, hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (nofile, hard))
        except OSError as error:
            return -(error.errno or 0)
        except ValueError:  # above the hard limit
            return -errno.EINVAL
        return soft

    def feed(self, data: bytes = b"", end: bool = False) -> None:
        """Give it more to read, and the end of it: what it takes now; the rest is `unread`."""
        self.unread += data
        self._ends |= end
        self._line = data[-1:] or self._line
        if end and self._writes == self.master:  # amid a line the first only ends the line
            self.unread += _END if self._line == b"\n" else _END + _END
        try:
            while self.unread:
                self.unread = self.unread[os.write(self._writes, self.unread) :]
        except BlockingIOError:
            return
        except OSError:  # it reads no more
            self.unread = b""
        if self._ends and self._writes not in (self.master, -1):
            os.close(self._writes)
            self._writes = -1

    def own_cgroup(self) -> Path:
        """Move it into a cgroup of its own, until `leave_cgroup`. Raises OSError.

        It is a child of the present one, without controllers, so every limit set above still holds.
        """
        if self._cgroups is not None:
            return self._cgroups[0]
        if self.reaped:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        roots = [line.split()[1] for line in mounts if line.split()[2] == "cgroup2"]
        if not roots:
            raise OSError(errno.ENOENT, "no cgroup2 is mounted")
        lines = Path(f"/proc/{self.pid}/cgroup").read_text().splitlines()
        now = next(line[3:] for line in lines if line.startswith("0::"))
        before = Path(roots[0] + now)
        own = before / f"sockstep-{self.pid}"
        self._cgroups = own, before
        # In hexadecimal: the name of a cgroup may have blanks in it.
        words = [os.fsencode(path).hex() for path in self._cgroups]
        os.write(self._guardian, f"cgroup {' '.join(words)}\n".encode())
        try:
            own.mkdir()
            (own / "cgroup.procs").write_text(str(self.pid))
        except OSError:
            self.leave_cgroup()
            raise
        return own

    def leave_cgroup(self) -> None:
        """Back to where it was; its own cgroup is removed."""
        if self._cgroups is None:
            return
        own, before = self._cgroups
        self._cgroups = None
        with contextlib.suppress(OSError):
            for pid in (own / "cgroup.procs").read_text().split():
                (before / "cgroup.procs").write_text(pid)
            own.rmdir()

    def asleep(self) -> tuple[str, str, list[str]]:
        """(state, wchan, stack innermost first) of its sleep in the kernel; else no stack."""
        folder = Path(f"/proc/{self.pid}")
        if self.reaped:
            return "", "", []
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            lines = (folder / "stack").read_text().splitlines()
            wchan = (folder / "wchan").read_text()
        except OSError:
            return "", "", []
        if state not in "SD":
            return state, wchan, []
        return state, wchan, [line.partition("] ")[2].partition("/")[0] for line in lines]

    def wait(self) -> ev.State | None:
        """What became of it since the last look, without waiting; None: nothing."""
        if self.exited:
            return None
        pid, status = self.pid, self._end
        if status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        if pid == 0:
            return None
        t = time.monotonic_ns()
        if os.WIFSTOPPED(status):
            return ev.State(t=t, pid=self.pid, state="stopped", signal=os.WSTOPSIG(status))
        if os.WIFCONTINUED(status):
            self._begin()  # whoever sent SIGCONT
            return ev.State(t=t, pid=self.pid, state="running")
        self.exited = True
        code = os.waitstatus_to_exitcode(status)
        return ev.State(t=t, pid=self.pid, state="exited", status=code)

    def output(self) -> bytes:
        """What it wrote to its terminal; b"" when there is nothing now, or no more."""
        try:
            return os.read(self.master, 65536)
        except (BlockingIOError, OSError):
            return b""

    def close(self, detach: bool = False) -> None:
        """Let go. `detach`: the guardian stays, keeps the terminal open and resumes the tracee."""
        self.leave_cgroup()
        if detach:
            self._begin()
        else:
            with contextlib.suppress(OSError):
                os.write(self._guardian, b"done\n")
        for fd in {self._guardian, self.master, self.pidfd, self._writes} - {-1}:
            os.close(fd)
        self._guardian = self.master = self.pidfd = self._writes = -1
