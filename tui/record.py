"""`sockstep record`: the same without the app. One line a step, the tracee's output between."""

from __future__ import annotations

import asyncio
import codecs
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from recordings import commands
from recordings import events as ev
from recordings.steps import SIGNS, STEPS
from recordings.story import Moment, Story
from recordings.stream import StreamError
from recordings.words import describe, duration, step_text, visible
from tui import plain
from tui.options import Options
from tui.plain import UNCHECKED, ascii_wanted, to_ascii
from tui.source import Live

FROZEN = 0.2  # seconds at each step that the machine is frozen at: so its events come in order


class Printer:
    """Prints events as they come; a step never lands in the middle of a line of output."""

    def __init__(self) -> None:
        self._ascii = ascii_wanted()
        self._midline = False

    def line(self, text: str) -> None:
        self._write(("\n" if self._midline else "") + text + "\n")
        self._midline = False

    def step(self, moment: Moment) -> None:
        since = duration(moment.event.t - moment.call.enter.t)
        sign = SIGNS[moment.check.status] if moment.check else UNCHECKED
        self.line(f"call {moment.call.number:<3} +{since:<8} {sign} {step_text(moment)}")

    def output(self, text: str) -> None:
        """The tracee's terminal output: its lines are kept, its control characters are not."""
        lines = text.replace("\r\n", "\n").split("\n")
        self._write("\n".join(visible(line.expandtabs()) for line in lines))
        self._midline = bool(lines[-1]) or (self._midline and len(lines) == 1)

    def _write(self, text: str) -> None:
        text = to_ascii(text) if self._ascii else text
        sys.stdout.write(text.encode("utf-8", "replace").decode())
        sys.stdout.flush()


def run(
    options: Options, injections: Sequence[commands.Command] = (), must_record: bool = False
) -> int:
    """Run the program through all its steps; the exit status is the program's.

    When no more can be recorded, say so at once. The program goes on, or with `must_record` is
    ended; either way the status is then 2.
    """
    options = replace(options, stdin="quiet" if sys.stdin and sys.stdin.isatty() else "pipe")
    with plain.Said() as say:
        return asyncio.run(_run(options, injections, must_record, say))


async def _run(
    options: Options,
    injections: Sequence[commands.Command],
    must_record: bool,
    say: Callable[[str], None],
) -> int:
    printer = Printer()
    agent = Live(options, say)
    await agent.start()
    story = Story()
    loop = asyncio.get_running_loop()
    farewell: commands.Command | None = commands.Detach()

    task = asyncio.current_task()
    assert task is not None
    ended_by = signal.SIGTERM

    def interrupt(signo: signal.Signals) -> None:
        if story.header is None or story.header.pid in story.exits:  # only its children live
            leave(signo)
        else:  # the tracee has a terminal of its own: pass it on
            agent.send(commands.Inject(signo=signo))

    def leave(signo: signal.Signals) -> None:
        nonlocal ended_by
        ended_by = signo
        task.cancel()

    for signo in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signo, leave, signo)
    loop.add_signal_handler(signal.SIGINT, interrupt, signal.SIGINT)
    try:
        async for batch in agent.batches():
            for event in batch:
                if isinstance(event, ev.Ready):
                    _run_through(agent, injections, everywhere=options.frozen)
                    _pass_input(agent, loop)
                if isinstance(event, ev.Held) and event.how == "frozen":
                    loop.call_later(FROZEN, agent.send, commands.Continue())
                _take(event, story, printer)
            if story.end is not None:
                break
            if agent.trouble and must_record:
                farewell = commands.Quit()
                say("the program is ended, as it cannot be recorded")
                break
    except asyncio.CancelledError:
        _tell_recordings(agent)
        if story.header is not None:
            say(f"ended by {ended_by.name}: what it traced runs on")
        return 128 + ended_by
    except (StreamError, BrokenPipeError):
        farewell = commands.Quit() if story.header is None else farewell
        raise
    finally:
        with suppress(BrokenPipeError, ConnectionResetError):
            await agent.close(farewell if story.end is None else None)
    return _conclude(story, agent)


def _run_through(agent: Live, injections: Sequence[commands.Command], everywhere: bool) -> None:
    """Stop nowhere: every step is captured all the same. Or `everywhere`, for a moment."""
    for step in STEPS if not everywhere else ():
        agent.send(commands.Arm(step=step, stop=False))
    for injection in injections:
        agent.send(injection)
    agent.send(commands.Continue())


def _take(event: ev.Event, story: Story, printer: Printer) -> None:
    moment = story.feed(event)
    if moment is not None:
        printer.step(moment)
    match event:
        case ev.Output():
            printer.output(event.text)
        case (
            ev.Signal(phase="delivered") | ev.State() | ev.Inject() | ev.Lost() | ev.Note()
            | ev.Held() | ev.Released()
        ):  # fmt: skip
            printer.line(f"-- {describe(event)}")


def _pass_input(agent: Live, loop: asyncio.AbstractEventLoop) -> None:
    """What we read is the program's to read. In the background a terminal is not ours to read."""
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)

    def read() -> None:
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        data = b"-"
        while data:
            try:
                data = os.read(0, 1 << 16)
            except OSError:
                data = b""
            with suppress(RuntimeError):  # we have ended meanwhile
                loop.call_soon_threadsafe(
                    agent.send, commands.Input(decode(data, not data), end=not data)
                )

    threading.Thread(target=read, daemon=True).start()


def _tell_recordings(agent: Live) -> None:
    for path in agent.recordings:
        text = f"recorded in {visible(str(path))}"
        text += f", but {visible(agent.trouble)}" if agent.trouble else ""
        print(plain.out(f"sockstep: {text}"), file=sys.stderr)


def _conclude(story: Story, agent: Live) -> int:
    _tell_recordings(agent)
    if agent.trouble:
        return 2  # what was asked for is not there
    state = story.exits.get(story.header.pid) if story.header else None
    if state is None or state.status is None:
        raise StreamError("the agent let go of the program before its end")
    return state.status if state.status >= 0 else 128 - state.status
