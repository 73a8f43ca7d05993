"""Nothing is lost where we can wait: programs that are faster than the agent."""

from __future__ import annotations

import os
import signal
import time

import pytest

from recordings import commands as cmd
from recordings import events as ev
from recordings.story import Story
from tests.agent import PROGRAMS, Agent, agent, process_state, wait_for

# The whole load is 100000 sockets and 2000 children.
SOCKETS = int(os.environ.get("SOCKSTEP_TEST_SOCKETS", "20000"))
FORKED = int(os.environ.get("SOCKSTEP_TEST_FORKED", "500"))
LOOP, CHILDREN = str(PROGRAMS / "loop"), str(PROGRAMS / "children")


def start(running: Agent) -> int:
    """Continue past all steps; the tracee's pid."""
    pid = running.until_state("stopped").pid
    running.disarm()
    running.say(cmd.Continue())
    return pid


def until_it_waits(running: Agent, pid: int) -> None:
    """The agent does not come to run: the ring fills."""
    running.until(lambda event: isinstance(event, ev.Enter))
    running.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: process_state(pid) == "T", timeout=120)


def complete(story: Story, calls: int) -> None:
    assert story.lost == 0
    assert len(story.calls) == calls
    assert all(call.result is not None for call in story.calls.values())
    assert not story.orphans


@pytest.mark.parametrize("threads", [1, 8, 200])
def test_every_call_of_a_tight_loop_is_recorded(threads: int) -> None:
    each = SOCKETS // threads
    with agent(LOOP, str(each), str(threads)) as running:
        complete(running.run_through(timeout=600), each * threads)


def test_every_child_is_followed() -> None:
    with agent(CHILDREN, str(FORKED), options=("--follow-forks",)) as running:
        story = running.run_through(timeout=600)
    complete(story, FORKED + 1)
    forks = [event for event in running.events if isinstance(event, ev.Fork)]
    assert len(forks) == FORKED
    assert {call.enter.pid for call in story.calls.values()} == {
        story.header.pid if story.header else 0, *(fork.child for fork in forks),
    }  # fmt: skip
    exited = {e.pid for e in running.events if isinstance(e, ev.State) and e.state == "exited"}
    assert {fork.child for fork in forks} <= exited


def test_who_waits_is_told_how_long_and_sees_no_signal() -> None:
    with agent(LOOP, "12000") as running:
        until_it_waits(running, start(running))
        time.sleep(0.5)
        running.process.send_signal(signal.SIGCONT)
        story = running.until_end(timeout=600)
    complete(story, 12000)
    waited = [event for event in running.events if isinstance(event, ev.Waited)]
    assert {event.count for event in waited} == {1}
    assert 0.5e9 < sum(event.took for event in waited) < 600e9
    signals = [e.signo for e in running.events if isinstance(e, ev.Signal)]
    assert signals == [signal.SIGCONT], "the one that had it run"
    states = [event.state for event in running.events if isinstance(event, ev.State)]
    assert states == ["stopped", "running", "exited"]


def test_a_stop_by_somebody_else_is_not_undone() -> None:
    with agent(LOOP, "12000") as running:
        pid = start(running)
        until_it_waits(running, pid)
        os.kill(pid, signal.SIGSTOP)
        running.process.send_signal(signal.SIGCONT)
        running.until_state("stopped")
        assert process_state(pid) == "T"
        running.say(cmd.Continue())
        complete(running.until_end(timeout=600), 12000)


def test_an_agent_that_is_killed_leaves_nobody_waiting() -> None:
    with agent(LOOP, "12000") as running:
        pid = start(running)
        until_it_waits(running, pid)
        running.process.kill()
        running.process.wait(10)
        wait_for(lambda: process_state(pid) not in ("T", "t"))
        wait_for(lambda: process_state(pid) == "", timeout=60)


@pytest.mark.parametrize("options", [("--follow-forks",), ()], ids=["tracee", "stranger"])
def test_signals_in_any_number_cost_no_call(options: tuple[str, ...]) -> None:
    """A child floods the program with signals, which makes sockets meanwhile. Is the child traced
    too, it waits; else its signals may be lost, and are counted apart."""
    program = (
        "import _socket, os, signal, sys\n"
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
        "maker = os.getpid()\n"
        "if (flooder := os.fork()) == 0:\n"
        "    while os.getppid() == maker: os.kill(maker, signal.SIGUSR1)\n"
        "    os._exit(0)\n"
        "for _ in range(2000): _socket.socket().close()\n"
    )
    with agent("/usr/bin/python3", "-S", "-c", program, options=options) as running:
        story = running.run_through(timeout=600)
    lost = {event.what for event in running.events if isinstance(event, ev.Lost)}
    assert lost <= ({"ring buffer: signals"} if not options else set())
    assert len(story.calls) == 2000
    assert all(call.result is not None for call in story.calls.values())
