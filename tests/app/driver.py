"""Drives the app key by key, over made-up streams, and reads what stands on its screen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from rich.segment import Segment
from textual.notifications import SeverityLevel
from textual.pilot import Pilot

from recordings import commands as cmd
from recordings import events as ev
from recordings.stream import encode
from tui import app as under_test
from tui.app import Sockstep
from tui.pane import Pane
from tui.source import Replay


class Scripted:
    """A live source whose agent is the test."""

    live = True
    path: Path | None = None
    trouble = ""

    def __init__(self, *events: ev.Event) -> None:
        self.sent: list[cmd.Command] = []
        self._queue: asyncio.Queue[list[ev.Event] | None] = asyncio.Queue()
        self.say(*events)

    def say(self, *events: ev.Event) -> None:
        self._queue.put_nowait(list(events))

    def end(self) -> None:
        self._queue.put_nowait(None)

    async def batches(self) -> AsyncIterator[list[ev.Event]]:
        while (batch := await self._queue.get()) is not None:
            yield batch

    def send(self, command: cmd.Command) -> None:
        self.sent.append(command)


class Driven(Sockstep):
    """The app, with all that it ever told the user."""

    CSS_PATH = Path(under_test.__file__).with_name("app.tcss")

    def __init__(self, source: Scripted | Replay | None = None) -> None:
        super().__init__(source)
        self.notes: list[str] = []

    def tell(self, words: str, severity: SeverityLevel = "information") -> None:
        self.notes.append(words)
        super().tell(words, severity)

    @property
    def said(self) -> str:
        return "\n".join(self.notes)


Drive = Callable[[Pilot[None], Driven], Awaitable[None]]


def recording(path: Path, events: list[ev.Event]) -> Path:
    path.write_bytes(b"".join(encode(event) + b"\n" for event in events))
    return path


async def over(path: Path, drive: Drive, size: tuple[int, int] = (100, 30)) -> None:
    """Drive a replay, from its first step on: it opens at the first that has an object."""
    app = Driven(Replay(path))
    async with app.run_test(size=size) as pilot:
        await settle(pilot)
        await pilot.press("home")
        await drive(pilot, app)


async def with_agent(source: Scripted, drive: Drive) -> Sockstep:
    app = Driven(source)
    async with app.run_test(size=(100, 30)) as pilot:
        await settle(pilot)
        await drive(pilot, app)
    return app


async def settle(pilot: Pilot[None]) -> None:
    """Until nothing is on its way: no message, no screen that is made, no drawing that is due."""
    app, still = pilot.app, 0
    assert isinstance(app, Sockstep)
    async with asyncio.timeout(60):
        while still < 3 and app.is_running:
            await pilot.pause(0.02)
            widgets = (app, app.screen, *app.screen.walk_children())
            busy = app.due or not app.screen.is_mounted
            busy = busy or any(widget.message_queue_size for widget in widgets)
            still = 0 if busy else still + 1


def at(app: Sockstep) -> str:
    assert app.moment is not None
    return f"{app.moment.call.number} {app.moment.id}"


def text(app: Sockstep, pane: str) -> str:
    """What stands in a pane of the top screen."""
    found = next(s for s in reversed(app.screen_stack) if s.query(f"#{pane}"))
    lines = found.query_one(f"#{pane}", Pane).lines
    return "\n".join(lines[y].plain for y in range(len(lines)))


def badge(app: Sockstep) -> str:
    return text(app, "badge").strip()


def drawn(app: Sockstep) -> list[list[Segment]]:
    """The lines of the terminal, as they leave for it: after the filters of colours and ASCII."""
    filters, background = app.get_line_filters(), app.screen.background_colors[1]
    lines = []
    for strip in app.screen._compositor.render_strips():  # Textual has no public way to these
        segments = list(strip)
        for line_filter in filters:
            segments = line_filter.apply(segments, background)
        lines.append(segments)
    return lines


def all_text(app: Sockstep) -> str:
    return "\n".join("".join(segment.text for segment in line) for line in drawn(app))
