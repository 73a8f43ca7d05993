"""Starts programs as an unprivileged user, on behalf of an agent that is root.

A fork of the agent has its memory and its BPF maps until execve(2), and becomes the user's when it
takes the user's uid: from then on ptrace(2) and pidfd_getfd(2) let that user reach into it. A
program is therefore forked from the launcher, which the agent starts before it opens anything:
a process of its own, exec'd, not dumpable, with a socket to the agent and nothing else. clone3(2)
with CLONE_PARENT makes the program a child of the agent, which can wait for it and trace it.

One request: its length, with descriptors (standard input; standard output and error; a pipe for
what fails), then a marshalled `Request`. The answer is the pid.

`Launcher` is the agent's end. As a program, this file is the launcher; it uses the standard library
only.
"""

from __future__ import annotations

import ctypes as ct
import errno
import fcntl
import marshal
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import NamedTuple

_CLONE3, _CLOSE_RANGE = 435, 436  # on every architecture
_CLONE_PARENT = 0x8000
_PTRACE_TRACEME = 0
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 4, 8, 47, 2
_CAP_SYS_PTRACE, _CAPABILITY_VERSION_3 = 19, 0x20080522


class Request(NamedTuple):
    """A program to start. `identity`: uid, gid and groups to take; None to keep the agent's.

    `environment`: what differs from the agent's own; SUDO_* is left out.

    `may_hold`: give it CAP_SYS_PTRACE across execve(2), so that userfaultfd(2) is allowed. Whoever
    traces the program has to take that away before its first instruction. As long as it has it, the
    kernel refuses ptrace(2) and pidfd_getfd(2) to the program's own user (cap_ptrace_access_check).
    """

    argv: list[bytes]
    environment: dict[bytes, bytes]
    identity: tuple[int, int, tuple[int, ...]] | None
    may_hold: bool


class LaunchError(Exception):
    """The program was not started; one line that says why."""


class Launcher:
    """The launcher's process, as the agent has it: start it before anything privileged is open."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__).resolve())],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    def fork(self, request: Request, stdin: int, stdout: int, failure: int) -> int:
        """The pid of a new child of ours. It asks to be traced (PTRACE_TRACEME), stops itself with
        SIGSTOP, and then executes the program. If it cannot, it writes why to `failure` and exits.
        """
        data = marshal.dumps(tuple(request))
        try:
            length = struct.pack("I", len(data))
            socket.send_fds(self._socket, [length], [stdin, stdout, failure])
            self._socket.sendall(data)
            answer = self._socket.recv(4, socket.MSG_WAITALL)
        except OSError:  # EPIPE, ECONNRESET
            answer = b""
        if len(answer) < 4:
            raise LaunchError("the process that starts programs for sockstep was killed")
        (pid,) = struct.unpack("i", answer)
        if pid < 0:
            raise LaunchError(f"no process can be made: {os.strerror(-pid)}")
        return int(pid)

    def close(self) -> None:
        """End the launcher. What it started lives on."""
        self._socket.close()
        self._process.wait()


_libc = ct.PyDLL(None, use_errno=True)  # PyDLL: the child of clone3(2) still has the GIL


def _system(call: str, *arguments: object) -> int:
    """Call a function of libc. Raises OSError."""
    result = int(getattr(_libc, call)(*arguments))
    if result == -1:
        raise OSError(ct.get_errno(), os.strerror(ct.get_errno()))
    return result


def _keep_capability() -> None:
    """Have CAP_SYS_PTRACE, which is permitted, and nothing else, across execve(2)."""
    bit = 1 << _CAP_SYS_PTRACE
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    sets = struct.pack("6I", 0, bit, bit, 0, 0, 0)  # effective, permitted, inheritable; bits 32…
    _system("capset", header, sets)
    _system("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_SYS_PTRACE, 0, 0)


def _become(request: Request, stdin: int, stdout: int, failure: int) -> None:
    """Turn this process, a fork of the launcher, into the program. Returns only if it cannot."""
    what = ""
    try:
        for number, fd in enumerate((stdin, stdout, stdout)):
            os.dup2(fd, number)
        os.set_inheritable(failure, False)
        os.closerange(3, failure)
        _system("syscall", _CLOSE_RANGE, failure + 1, -1, 0)
        what = "a terminal of its own: "
        os.setsid()
        fcntl.ioctl(1, termios.TIOCSCTTY, 0)
        what = "setuid(2): "
        if request.identity is not None:
            uid, gid, groups = request.identity
            _system("prctl", _PR_SET_KEEPCAPS, request.may_hold, 0, 0, 0)
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            # Done by setresuid() too, unless fs.suid_dumpable is 1.
            _system("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)
            if request.may_hold:
                _keep_capability()
        what = "ptrace(2): "
        # After setresuid(), so that execve(2) grants a setuid program nothing while it is traced:
        # its user must not have us inject failures into it.
        _system("ptrace", _PTRACE_TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        what = ""
        os.execvpe(request.argv[0], request.argv, request.environment)
    except Exception as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        os.write(failure, (what + why).encode())


def _fork() -> int:
    """Fork a child of our parent; 0 in the child, −errno on failure."""
    arguments = struct.pack("8Q", _CLONE_PARENT, *[0] * 7)  # struct clone_args
    try:
        return _system("syscall", _CLONE3, arguments, ct.c_size_t(len(arguments)))
    except OSError as error:
        return -(error.errno or errno.EAGAIN)


def main() -> None:
    """Serve requests on standard input until the agent closes its end, or dies."""
    _system("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)
    for signo in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(signo, signal.SIG_DFL)  # Python ignores SIGPIPE; a program must not
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    inherited = {k: v for k, v in os.environb.items() if not k.startswith(b"SUDO_")}
    agent = socket.socket(fileno=0)
    while True:
        length, fds, _, _ = socket.recv_fds(agent, 4, 3)
        if not length:
            return
        data = agent.recv(struct.unpack("I", length)[0], socket.MSG_WAITALL)
        request = Request(*marshal.loads(data))
        request.environment.update(inherited | request.environment)
        pid = _fork()
        if pid == 0:
            try:
                _become(request, *fds)
            finally:
                os._exit(127)
        for fd in fds:
            os.close(fd)
        agent.sendall(struct.pack("i", pid))


if __name__ == "__main__":
    main()
