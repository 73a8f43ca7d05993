"""Drives a real agent on this machine's kernel, for the tests."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from recordings import commands as cmd
from recordings import events as ev
from recordings.isolated import command
from recordings.steps import STEPS
from recordings.story import Story
from recordings.stream import Reader, encode
from tests import ROOT

PROGRAMS = ROOT / "tests/programs/bin"
SOCKET_TEST = str(ROOT / "examples/socket_test")
LIVING = (
    "/usr/bin/python3", "-S", "-c", "import _socket, time; s = _socket.socket(); time.sleep(99)"
)  # fmt: skip
CI = os.environ.get("CI") == "true"


def unless(possible: bool, reason: str) -> None:
    """Skip with the reason on a user's machine; fail in CI, where everything must run."""
    if not possible:
        (pytest.fail if CI else pytest.skip)(reason)


def needs_root() -> None:
    unless(os.geteuid() == 0, "attaching probes needs root")


class Agent:
    """A running agent: what it said so far, folded, and a way to talk to it."""

    def __init__(
        self, argv: list[str], options: list[str], env: dict[str, str], via: list[str]
    ) -> None:
        self.process = subprocess.Popen(
            [*via, *command("probes.cli", "agent", *options, "--", *argv)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | env,
        )
        self.story = Story()
        self.events: list[ev.Event] = []
        self.reader = Reader("agent")
        self._buffer = b""

    def say(self, *commands: cmd.Command) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(encode(command) + b"\n" for command in commands))
        self.process.stdin.flush()

    def until(self, done: Callable[[ev.Event], bool], timeout: float = 30) -> ev.Event:
        """Read on to the first event of which `done` is true."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout
        while True:
            while b"\n" in self._buffer:
                line, self._buffer = self._buffer.split(b"\n", 1)
                if line.startswith(b'{"ev":"header"'):  # a restart begins a new stream
                    self.reader, self.story = Reader("agent"), Story()
                event = self.reader.feed(line)
                assert event is not None
                self.events.append(event)
                self.story.feed(event)
                if done(event):
                    return event
            left = deadline - time.monotonic()
            assert left > 0, f"waited in vain; the last was {self.events[-1:]}; {self.where()}"
            if select.select([self.process.stdout], [], [], left)[0]:
                data = os.read(self.process.stdout.fileno(), 1 << 16)
                assert data, f"the agent ended: {self.process.communicate()[1].decode()}"
                self._buffer += data

    def where(self) -> str:
        """What the agent is about, for the message of a test that waited for it."""
        said = []
        for name in ("status", "wchan", "stack"):
            with suppress(OSError):
                said.append(Path(f"/proc/{self.process.pid}/{name}").read_text())
        return f"after {time.monotonic():.0f} s of this machine the agent is: {' '.join(said)}"

    def until_state(self, state: str) -> ev.State:
        found = self.until(lambda e: isinstance(e, ev.State) and e.state == state)
        assert isinstance(found, ev.State)
        return found

    def until_end(self, timeout: float = 30) -> Story:
        self.until(lambda e: isinstance(e, ev.End), timeout)
        return self.story

    def disarm(self) -> None:
        """Stop at no step."""
        self.say(*(cmd.Arm(step=id, stop=False) for id in STEPS))

    def run_through(self, timeout: float = 60) -> Story:
        """No stops: continue to the end."""
        self.until_state("stopped")
        self.disarm()
        self.say(cmd.Continue())
        return self.until_end(timeout)


@contextmanager
def agent(
    *argv: str,
    options: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
    via: Sequence[str] = (),
) -> Iterator[Agent]:
    """An agent on a program; it is gone afterwards, and so is its tracee. `via`: a VM's command."""
    if not via:
        needs_root()
    running = Agent(list(argv), list(options), env or {}, list(via))
    try:
        yield running
    finally:
        pid = running.story.header.pid if running.story.header else None
        running.process.kill()
        running.process.wait()
        for pipe in (running.process.stdin, running.process.stdout, running.process.stderr):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        if pid is not None and not via:
            subprocess.run(["kill", "-9", str(pid)], stderr=subprocess.DEVNULL, check=False)


def capture(*argv: str, options: tuple[str, ...] = ()) -> Story:
    """The whole story of one run without stops."""
    with agent(*argv, options=options) as running:
        return running.run_through()


def process_state(pid: int) -> str:
    """The state letter of /proc/PID/stat; "" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_for(true: Callable[[], bool], timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


# Eight threads, 20 sockets each, whatever becomes of them.
RACING = ("/usr/bin/python3", "-S", "-c", """
import ctypes, threading
libc = ctypes.CDLL(None)
work = lambda: [libc.socket(2, 1, 0) for _ in range(20)]
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
""")  # fmt: skip


def sent(running: Agent, signo: int, step: str, times: int) -> int:
    """How often a program that stands at its beginning gets a signal that is armed so often."""
    running.disarm()
    running.say(cmd.Inject(signo=signo, step=step, times=times), cmd.Continue())
    story = running.until_end(timeout=120)
    return sum(isinstance(event, ev.Inject) and not event.armed for event in story.log)
