"""The steps of a call, as a list."""

from __future__ import annotations

from dataclasses import dataclass

from textual.content import Content

from recordings import events as ev
from recordings.steps import CALL_STEPS, SIGNS, STEPS
from recordings.story import Call, Check, Moment, Story
from recordings.uapi import errno_text
from recordings.words import call_text, duration, visible
from tui.plain import AHEAD, UNCHECKED
from tui.views.look import QUIET, Look, cut, text

STYLES = {"pass": "$success", "fail": "bold $error", "unobservable": "$warning"}


@dataclass(frozen=True)
class Row:
    """A line of the step list: a captured moment, or a step of which there is none."""

    id: str
    moment: Moment | None
    check: Check | None


def rows(call: Call, story: Story) -> list[Row]:
    """The captured steps in their order; each one missing, where the kernel would have it."""
    checks = story.steps(call)
    seen = {moment.id for moment in call.moments}
    found = [Row(moment.id, moment, moment.check) for moment in call.moments]
    for rank, id in enumerate(CALL_STEPS):
        if id not in seen:
            before = [
                number
                for number, row in enumerate(found, 1)
                if row.id in CALL_STEPS and CALL_STEPS.index(row.id) < rank
            ]
            found.insert(max(before, default=0), Row(id, None, checks[id]))
    return found


def named_step(id: str) -> Content:
    """The id with the name, where the name says more than the id."""
    kind = STEPS[id]
    return Content(id if kind.cleanup else f"{id} {kind.name}")


def sign(row: Row, story: Story) -> tuple[str, str]:
    if row.moment is None and row.id != "PROBE_INIT" and row.id not in story.blind:
        return AHEAD, QUIET
    return (SIGNS[row.check.status], STYLES[row.check.status]) if row.check else (UNCHECKED, "")


def call_title(look: Look) -> str:
    """Which call it is, and what came of it."""
    if look.moment is None:
        return "STEPS"
    call = look.moment.call
    number = f"STEPS  call {call.number}/{len(look.story.calls)}"
    result = f" = {errno_text(call.result)}" if call.result is not None else ""
    whole = f"{number}  {call_text(call.enter)}{result}"
    return whole if len(whole) < look.width - 2 else number + result


def steps(look: Look) -> list[Content]:
    if look.moment is None:
        nothing = "no socket() call yet" if look.live else "no socket() call in this recording"
        return [text(nothing, QUIET)]
    call = look.moment.call
    return [_step(row, look) for row in rows(call, look.story)]


def _step(row: Row, look: Look) -> Content:
    here = row.moment is not None and row.moment is look.moment
    mark, style = sign(row, look.story)
    kind = STEPS.get(row.id)
    name = kind.name if kind and not kind.cleanup else ""
    if name and row.moment and isinstance(row.moment.event, ev.Step):
        name += " (entry)" if row.moment.event.at == "entry" else ""
    stop = "•" if look.live and row.id in look.stops else " "
    tone = "bold" if here else "" if row.moment or row.id == "PROBE_INIT" else QUIET
    line = Content.assemble(
        ("▶" if here else " ", "$accent"), stop, (mark, style), " ", (visible(row.id), tone), " ",
        (visible(name), tone or QUIET),
    )  # fmt: skip
    if look.width >= 48 and row.moment is not None:
        since = f"+{duration(row.moment.event.t - row.moment.call.enter.t)} "
        line = cut(line, look.width - len(since) - 1).pad_right(
            max(0, look.width - len(since) - line.cell_length)
        )
        line = Content.assemble(line, (since, QUIET))
    line = cut(line, look.width)
    if here:
        line = line.pad_right(max(0, look.width - line.cell_length)).stylize("on $cursor")
    return line


def row_of(look: Look) -> int | None:
    """The line of the step list that the cursor is on."""
    moment = look.moment
    if moment is None:
        return None
    found = rows(moment.call, look.story)
    return next((y for y, row in enumerate(found) if row.moment is moment), None)
