"""What is looked at, and the lines of text that views are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from textual.content import Content

from recordings import events as ev
from recordings.steps import STEPS
from recordings.story import Moment, Story
from recordings.words import visible

STOPS = frozenset(id for id in STEPS if id.startswith(("STEP_", "CLEANUP_")))
QUIET = "$quiet"


@dataclass(frozen=True)
class Look:
    """All that is looked at: the story so far, the cursor in it, and what the user chose."""

    story: Story
    moment: Moment | None = None
    layer: ev.Kind = "socket"
    stops: frozenset[str] = STOPS
    live: bool = False
    width: int = 80
    height: int = 24

    @property
    def now(self) -> ev.Snapshot | None:
        """The layers as they are now, where the call is held after this moment."""
        held = [hold.event for hold in self.story.held.values()]
        if self.moment is None or self.moment is not self.moment.call.moments[-1]:
            return None
        snaps = [event.snap for event in held if event.call == self.moment.call.number]
        return snaps[-1] if snaps else None

    def within(self, width: int, height: int) -> Look:
        return replace(self, width=width, height=height)


View = Callable[[Look], Sequence[Content]]


def text(words: str, style: str = "") -> Content:
    """One line of our own or anybody's words, as they are: never markup, nothing invisible."""
    return Content.styled(visible(words), style) if words else Content("")


def wrapped(words: str, width: int, style: str = "") -> list[Content]:
    return list(text(words, style).wrap(max(8, width)))


def cut(line: Content, width: int) -> Content:
    return line.truncate(max(1, width), ellipsis=True) if line.cell_length > width else line
