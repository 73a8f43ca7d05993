"""What is looked at, and the lines of text that views are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from textual.content import Content

from recordings.layers import Kind
from recordings.steps import STEPS
from recordings.story import Moment, Story
from recordings.words import visible

STOPS = frozenset(id for id in STEPS if id.startswith(("STEP_", "CLEANUP_")))
QUIET = "$quiet"

# The signs, each with its style: the cursor; held, stopped; a stop that the user set; folded,
# unfolded; not reached; a value or an object that is new, that changed. Those of a check's outcome
# are in recordings/steps.py. Their ASCII forms are in tui/plain.py.
HERE, HELD, STOPPED, STOP, FOLDED, OPEN, AHEAD = "▶", "‖", "■", "●", "▸", "▾", "·"
NEW, CHANGED = "+", "*"
STYLES = {"pass": "$success", "fail": "bold $error", "unobservable": QUIET}


@dataclass(frozen=True)
class Look:
    """All that is looked at: the story so far, the cursor in it, and what the user chose.

    `stops`: where the program stops, of all that it `could` stop at. `opened`: the calls whose
    cleanup is unfolded. `output`: what the program had written.
    """

    story: Story
    moment: Moment | None = None
    layer: Kind = "socket"
    stops: frozenset[str] = STOPS
    could: frozenset[str] = STOPS
    opened: frozenset[int] = frozenset()
    live: bool = False
    width: int = 80
    height: int = 24

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


def fill(line: Content, width: int) -> Content:
    """The line, cut or padded to exactly this width."""
    return cut(line, width).pad_right(max(0, width - line.cell_length))
