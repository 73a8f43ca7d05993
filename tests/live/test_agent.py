"""The agent, whatever it is told and whatever happens to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from probes.agent import GRACE
from recordings import commands as cmd
from recordings import events as ev
from recordings.isolated import command
from tests.agent import ROOT, SOCKET_TEST, Agent, agent, needs_root, process_state, wait_for

DEEP = 100_000


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b'{"cmd":"input","text":"\xff"}',
        b'{"cmd":"input","text":"\\ud800"}',
        b'{"cmd":"restart","argv":["true","a\\u0000b"]}',
        b'{"cmd":"name","addresses":[1267650600228229401496703205376]}',
        b'{"cmd":"pause","x":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b"[" * DEEP,
        b'{"cmd":"' + b"x" * (9 << 20) + b'"}',
        b"\x00",
    ],
    ids=[
        "no UTF-8", "no UTF-8 in a text", "surrogate", "NUL", "number", "nested", "open", "long",
        "zero",
    ],
)  # fmt: skip
def test_a_bad_command_is_one_note_and_the_session_goes_on(line: bytes) -> None:
    with agent(SOCKET_TEST) as running:
        running.until_state("stopped")
        running.disarm()
        assert running.process.stdin is not None
        running.process.stdin.write(line + b"\n")
        running.say(cmd.Continue())
        story = running.until_end()
        notes = [event.text for event in running.events if isinstance(event, ev.Note)]
    assert len(notes) == 1, notes
    assert notes[0].startswith("a command was not understood: ")
    assert len(notes[0]) < 300
    assert story.calls[1].result == 3


def failing(method: str, program: str) -> subprocess.Popen[bytes]:
    """A real agent with a defect: this method of it raises an exception."""
    needs_root()
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
sys.path += {sys.path!r}
sys.argv = ["sockstep", "agent", "--", *{program.split()!r}]
from probes import agent, cli
def fail(*_):
    raise KeyError("two\\nlines")
agent.Agent.{method} = fail
sys.exit(cli.main())
"""
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def pid_of(running: subprocess.Popen[bytes]) -> int:
    assert running.stdout is not None
    return int(json.loads(running.stdout.readline())["pid"])


@pytest.mark.parametrize("method", ["_after_calls", "_note"], ids=["at once", "later"])
def test_a_defect_is_one_line_and_ends_what_nobody_saw(method: str) -> None:
    running = failing(method, "sleep 99")
    pid = pid_of(running)
    if method == "_note":
        assert process_state(pid) == "T"
    _, said = running.communicate(b"no command\n")
    assert running.returncode == os.EX_SOFTWARE
    assert said.decode().splitlines() == [said.decode().strip()]
    assert said.startswith(b"sockstep: the agent failed, which is a bug in it: KeyError: ")
    wait_for(lambda: process_state(pid) == "")


def test_a_defect_lets_a_program_that_runs_go_on() -> None:
    running = failing("_note", "sleep 99")
    pid = pid_of(running)
    _, said = running.communicate(b'{"cmd":"continue"}\nno command\n')
    assert running.returncode == os.EX_SOFTWARE
    assert said.count(b"\n") == 1
    wait_for(lambda: process_state(pid) == "S")
    os.kill(pid, 9)


def test_an_agent_that_is_killed_takes_what_nobody_saw_along() -> None:
    with agent("sleep", "99") as running:
        pid = running.until_state("stopped").pid
        running.process.kill()
        wait_for(lambda: process_state(pid) == "")


def test_a_tracefs_that_cannot_be_mounted_is_said(tmp_path: Path) -> None:
    needs_root()
    hide = f"""
        mount --bind /sys/kernel/btf {tmp_path}
        mount -t tmpfs none /sys/kernel && mkdir /sys/kernel/btf
        mount --bind {tmp_path} /sys/kernel/btf
        exec "$@"
    """
    agent_command = command("probes.cli", "agent", "--backend", "tracepoint", "--", "true")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", hide, "sh", *agent_command],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=Path("/"),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    why = "sockstep: cannot see tracefs: mounting tracefs: No such file or directory\n"
    assert done.stderr == why


# The child keeps the socket, and is not followed: the agent waits for a free that does not come.
KEPT = """
import os, _socket, time
kept = _socket.socket()
reads, writes = os.pipe()
if not os.fork():
    os.setsid()  # else the end of the program's session ends it
    os.write(writes, b".")
    time.sleep(20)
os.read(reads, 1)
"""


@contextmanager
def waiting() -> Iterator[Agent]:
    """An agent whose program has ended, while it waits for the end of what that had."""
    with agent("/usr/bin/python3", "-S", "-c", KEPT) as running:
        running.until_state("stopped")
        running.disarm()
        running.say(cmd.Continue())
        running.until_state("exited")
        yield running


@pytest.mark.parametrize("command", [cmd.Quit(), cmd.Detach()], ids=["quit", "detach"])
def test_an_agent_that_waits_for_the_kernel_still_leaves(command: cmd.Command) -> None:
    with waiting() as running:
        asked = time.monotonic()
        running.say(command)
        story = running.until_end()
        assert running.process.wait(10) == 0
        assert time.monotonic() - asked < GRACE / 2
        assert story.lost > 0, "the frees that it did not wait for"


def test_an_agent_that_waits_for_the_kernel_still_restarts_and_refuses() -> None:
    with waiting() as running:
        asked = time.monotonic()
        running.say(cmd.Inject(signo=15))
        note = running.until(lambda event: isinstance(event, ev.Note))
        assert isinstance(note, ev.Note)
        assert note.text == "the tracee has exited: restart it first"
        running.say(cmd.Restart(argv=[SOCKET_TEST]), cmd.Continue())
        running.until(lambda event: isinstance(event, ev.Header))
        running.until_state("running")
        assert time.monotonic() - asked < GRACE / 2


def test_an_agent_without_an_app_waits_to_the_end() -> None:
    with waiting() as running:
        assert running.process.stdin is not None
        running.process.stdin.close()
        story = running.until_end()
        assert running.process.wait(10) == 0
        assert story.lost == 0
