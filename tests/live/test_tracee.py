"""The traced process by itself: what is done to it, and to nobody else."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from probes import guardian
from probes.launcher import Launcher
from probes.tracee import Tracee, TraceeError
from recordings import commands as cmd
from recordings import events as ev
from tests.agent import SOCKET_TEST, agent, needs_root, unless, wait_for

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    needs_root()
    made = Launcher()
    yield made
    made.close()


@pytest.fixture
def tracee(launcher: Launcher) -> Iterator[Tracee]:
    """A program before its first instruction."""
    made = Tracee(launcher, ["sleep", "99"])
    yield made
    made.send(signal.SIGKILL)
    made.close()


@contextlib.contextmanager
def process_with(pid: int) -> Iterator[None]:
    """Another process, with a pid that was used before."""
    for _ in range(100):
        LAST_PID.write_text(str(pid - 1))
        other = subprocess.Popen(["sleep", "99"])
        try:
            if other.pid == pid:
                yield
                return
        finally:
            other.kill()
            other.wait()
    pytest.fail(f"pid {pid} could not be had again")


def soft_limit(pid: int) -> int:
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]


def test_no_limit_is_set_of_a_process_that_has_the_pid_of_a_dead_one(tracee: Tracee) -> None:
    tracee.send(signal.SIGKILL)
    wait_for(lambda: tracee.wait() is not None or tracee.exited)
    with process_with(tracee.pid):
        before = soft_limit(tracee.pid)
        assert tracee.limit(7) == -errno.ESRCH
        assert soft_limit(tracee.pid) == before
        guardian.raise_limit(tracee.pid, tracee.pidfd, 7)
        assert soft_limit(tracee.pid) == before


def test_the_guardian_sets_the_limit_of_the_process_that_it_means(tracee: Tracee) -> None:
    guardian.raise_limit(tracee.pid, tracee.pidfd, 7)
    assert soft_limit(tracee.pid) == 7
    status = Path(f"/proc/{tracee.pid}/status").read_text()
    assert "TracerPid:\t0" in status
    assert "State:\tT (stopped)" in status


def test_its_own_cgroup_keeps_the_limits_of_the_one_that_it_was_in() -> None:
    """It is made below that one, so what is set there and above holds on."""
    needs_root()
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    roots = [Path(words[1]) for words in mounts if words[2] == "cgroup2"]
    unless(bool(roots), "no cgroup2 is mounted")
    outer = roots[0] / "a name with blanks"
    outer.mkdir()
    try:
        with agent(SOCKET_TEST) as running:
            pid = running.until_state("stopped").pid
            (outer / "cgroup.procs").write_text(str(pid))
            running.say(cmd.Refuse(hook="cgroup"))
            armed = running.until(lambda event: isinstance(event, ev.Inject))
            assert isinstance(armed, ev.Inject)
            unless(not armed.why, f"no cgroup of its own here: {armed.why}")
            own = outer / f"sockstep-{pid}"
            assert (own / "cgroup.procs").read_text() == f"{pid}\n"
            running.process.kill()  # the guardian puts it back
            wait_for(lambda: not own.exists())
    finally:
        wait_for(lambda: _removed(outer))


def _removed(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["/no/such"], "cannot run /no/such: No such file or directory"),
        (["true", "a\0b"], "cannot run true: embedded null byte"),
        (["true", "x" * (1 << 20)], "cannot run true: Argument list too long"),
        (["/tmp"], "cannot run /tmp: Permission denied"),
    ],
)
def test_what_cannot_be_run_is_said(launcher: Launcher, argv: list[str], why: str) -> None:
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(TraceeError) as caught:
        Tracee(launcher, argv)
    assert str(caught.value) == why
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)


def test_a_program_inherits_its_terminal_and_nothing_else(launcher: Launcher) -> None:
    script = "ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status"
    made = Tracee(launcher, ["sh", "-c", script])
    made.go_on()
    wait_for(lambda: made.wait() is not None and made.exited)
    *words, ignored = made.output().decode().split()
    assert words == ["0", "1", "2", "3", "SigBlk:", "0" * 16, "SigIgn:"]
    glibc = 1 << (32 - 1) | 1 << (33 - 1)  # its own signals, which no function of it can set
    assert int(ignored, 16) & ~glibc == 0
    made.close()


def test_a_launcher_ends_with_its_agent() -> None:
    with agent("sleep", "99") as running:
        running.until_state("stopped")
        children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
        launchers = [
            pid for pid in children.read_text().split()
            if b"launcher.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]  # fmt: skip
        assert len(launchers) == 1
        running.process.kill()
        running.process.wait()
        wait_for(lambda: not Path(f"/proc/{launchers[0]}").exists())
