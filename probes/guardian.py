"""Resumes the tracee when the agent is gone, and keeps its terminal alive. Run by tracee.py.

    guardian.py PIPE MASTER PID [UFFD BASE LENGTH]

A process of its own, with the standard library only, so that no way the agent can die takes it
along. The agent holds the other end of PIPE: a line "child PID STARTED" names one more process to
look after (STARTED: field 22 of its /proc/PID/stat), "gone PID" one less, "cgroup OWN BEFORE"
(paths, in hexadecimal) a cgroup to remove after moving its tasks, "limit SOFT" the RLIMIT_NOFILE
that PID had before it was lowered (-1: it has it again), "done" sends the guardian home, and
end-of-file means the agent died or detached. Unless "began" came before, PID has not run an
instruction, and is killed then: nobody would see what it does. The probes die with the agent, but a
SIGSTOP that one of them just sent may arrive after our first SIGCONT: so the tracee is watched for
a moment. As long as it lives its terminal is read and its output dropped: without a reader it would
block, and a closed terminal would kill it with SIGHUP.

UFFD, BASE and LENGTH are of the memory that the tracee is held by, inside the kernel (hold.py). A
dying agent closes its probes, and the kernel then waits for every task that is held: for ever, if
the agent's own descriptor of UFFD comes after them. So this is found out before its end: a process
that is about to die has PF_EXITING set.
"""

import contextlib
import ctypes as ct
import fcntl
import os
import resource
import select
import signal
import struct
import sys
import time

WATCH = 1.0  # seconds in which a stop is undone
LOOK = 0.25  # seconds between two looks whether the agent lives, where a task may be held
PF_EXITING = 4  # include/linux/sched.h
UFFDIO_UNREGISTER = 0x8010AA01
PTRACE_SEIZE = 0x4206


def fields(pid: int) -> list[bytes]:
    """Those of /proc/PID/stat after the name, the state first. Raises OSError."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        return stat.read().rpartition(b")")[2].split()


def stopped(pid: int) -> bool:
    try:
        return fields(pid)[0] == b"T"
    except OSError:
        return False


def dying(agent: int) -> bool:
    """Whether the agent, our parent, has begun to die."""
    if os.getppid() != agent:
        return True
    try:
        return bool(int(fields(agent)[6]) & PF_EXITING)
    except OSError:
        return True


def let_go(uffd: int, base: int, length: int) -> None:
    """Whoever is held goes on, and nobody is held any more."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(uffd, UFFDIO_UNREGISTER, struct.pack("QQ", base, length))


def resume(tracees: dict[int, int]) -> None:
    end = time.monotonic() + WATCH
    first = True
    while time.monotonic() < end:
        for pid, pidfd in tracees.items():
            if first or stopped(pid):
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        first = False
        time.sleep(0.02)


def dissolve(own: str, before: str) -> None:
    with contextlib.suppress(OSError):
        with open(f"{own}/cgroup.procs") as procs:
            for pid in procs.read().split():
                with open(f"{before}/cgroup.procs", "w") as there:
                    there.write(pid)
        os.rmdir(own)


def raise_limit(pid: int, pidfd: int, soft: int) -> None:
    """Set the soft RLIMIT_NOFILE of the process that `pidfd` names.

    prlimit(2) takes a pid, which is another process's once ours was reaped. Nobody can reap a
    process that we trace, so `pidfd` is looked at while we do. A child traces, and its exit
    detaches: PTRACE_DETACH would need a stop, which interrupts system calls.
    """
    if child := os.fork():
        os.waitpid(child, 0)
        return
    try:
        seized = ct.CDLL(None).ptrace(PTRACE_SEIZE, pid, None, None) == 0
        if seized and not select.select([pidfd], [], [], 0)[0]:
            hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    finally:
        os._exit(0)


def drain(master: int, pidfd: int) -> None:
    while not select.select([pidfd], [], [], 0)[0]:
        if select.select([master, pidfd], [], [], 60)[0]:
            try:
                os.read(master, 65536)
            except BlockingIOError:
                pass
            except OSError:
                return


def main(pipe: int, master: int, pid: int, *held_by: int) -> None:
    for signo in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(signo, signal.SIG_IGN)
    tracees = {pid: os.pidfd_open(pid)}
    cgroups: list[str] = []
    limit = -1
    began = False
    buffer = b""
    agent = os.getppid()
    while True:
        if held_by and not select.select([pipe], [], [], LOOK)[0]:
            if dying(agent):
                let_go(*held_by)
            continue
        if not (data := os.read(pipe, 4096)):
            break
        buffer += data
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            if line == b"done":
                return
            if line == b"began":
                began = True
                continue
            if line.startswith(b"cgroup "):
                cgroups = [os.fsdecode(bytes.fromhex(word.decode())) for word in line.split()[1:]]
                continue
            if line.startswith(b"limit "):
                limit = int(line.split()[1])
                continue
            with contextlib.suppress(OSError, ValueError):
                what, child, *started = line.split()
                if int(child) in tracees:
                    os.close(tracees.pop(int(child)))
                if what == b"child":
                    pidfd = os.pidfd_open(int(child))
                    tracees[int(child)] = pidfd
                    if fields(int(child))[19] != started[0]:  # another process by now
                        os.close(tracees.pop(int(child)))
    if not began:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(tracees[pid], signal.SIGKILL)
    if held_by:
        let_go(*held_by)
        os.close(held_by[0])
    if limit >= 0:
        raise_limit(pid, tracees[pid], limit)
    resume(tracees)
    if cgroups:
        dissolve(*cgroups)
    drain(master, tracees[pid])


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
