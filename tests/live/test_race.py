"""Nothing of ours can be reached by the user whose program it starts.

Each test runs tests/programs/seize.c at the same time: a process of that user that tries to trace
every new process, and to take its descriptors.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from probes.launcher import Launcher
from probes.tracee import Tracee
from recordings import commands as cmd
from recordings import events as ev
from tests.accounts import Account
from tests.agent import PROGRAMS, agent

STARTS = 200


@contextmanager
def attacked_by(user: Account) -> Iterator[None]:
    """Fails if the attacker got into anything but the program itself, and if it reached nothing."""
    attack = subprocess.Popen(
        [str(PROGRAMS / "seize"), str(user.uid)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert attack.stdin is not None
    assert attack.stdout is not None
    try:
        assert attack.stdout.readline() == "ready\n"
        yield
        attack.stdin.close()
        *caught, reached = attack.stdout.read().splitlines()
    finally:
        attack.kill()
        attack.wait()
    assert not caught, f"{len(caught)}: {caught[:20]}"
    assert int(reached.removeprefix("reached ")) > 0, "it never reached even the program"


def capabilities(pid: int) -> set[int]:
    """The masks of /proc/PID/status, without the bounding set."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = dict(line.split(":\t") for line in lines if line.startswith("Cap"))
    return {int(mask, 16) for name, mask in masks.items() if name != "CapBnd"}


@pytest.mark.parametrize("may_hold", [False, True], ids=["plain", "hold"])
def test_nobody_gets_into_a_program_that_starts(
    user: Account, may_hold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_UID", str(user.uid))
    monkeypatch.setenv("SUDO_GID", str(user.gid))
    launcher = Launcher()
    with attacked_by(user):
        for _ in range(STARTS):
            tracee = Tracee(launcher, ["sleep", "99"], may_hold)
            assert capabilities(tracee.pid) == {0}
            assert (tracee.region is not None) == may_hold, tracee.why_no_region
            if tracee.region is not None:
                tracee.region.close()
            tracee.send(signal.SIGKILL)
            os.waitpid(tracee.pid, 0)
            tracee.close()
    launcher.close()


def test_nobody_gets_into_a_program_that_restarts(user: Account) -> None:
    env = {"SUDO_UID": str(user.uid), "SUDO_GID": str(user.gid)}
    with attacked_by(user), agent("sleep", "99", env=env) as running:
        running.until_state("stopped")
        for _ in range(STARTS):
            running.say(cmd.Restart())
            running.until(lambda event: isinstance(event, ev.Header))
            running.until_state("stopped")


def test_nobody_gets_into_an_agent(user: Account) -> None:
    env = {"SUDO_UID": str(user.uid), "SUDO_GID": str(user.gid)}
    with attacked_by(user):
        for _ in range(5):
            with agent("sleep", "99", env=env) as running:
                running.until_state("stopped")
