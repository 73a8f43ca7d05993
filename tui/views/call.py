"""The steps of a call, as a list."""

from __future__ import annotations

from dataclasses import dataclass

from textual.content import Content

from recordings import events as ev
from recordings.stacks import functions
from recordings.steps import CALL_STEPS, SIGNS, STEPS
from recordings.story import Call, Check, Hold, Moment, Story, order
from recordings.words import duration, since, visible
from tui.views.look import (
    AHEAD,
    FOLDED,
    HELD,
    HERE,
    OPEN,
    QUIET,
    STOP,
    STOPPED,
    STYLES,
    Look,
    cut,
    fill,
    text,
)

TIMES_FROM = 44  # columns of a list that has room for times, too
LEGEND = (
    (("✓", "$success"), (" passed ", QUIET), ("✗", "bold $error"), (" failed ", QUIET),
     ("○ not observable", QUIET)),
    (("· not reached ", QUIET), ("+", "$accent"), (" new ", QUIET), ("*", "$accent"),
     (" changed", QUIET)),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A line of the step list: a moment, or a step of which there is none; or the heading of
    what came `after` the call.
    """

    id: str
    moment: Moment | None
    check: Check | None
    after: tuple[Moment, ...] = ()


def places(call: Call, story: Story) -> list[Moment]:
    """The captured steps of a call, and where a thread is or was held asleep in it, in order."""
    holds = [hold.moment for hold in story.holds if hold.call == call.number and is_place(hold)]
    return sorted([*call.moments, *filter(None, holds)], key=order) if holds else call.moments


def is_place(hold: Hold) -> bool:
    """Where the machine was frozen, the step was captured a moment later: the step is the place."""
    return hold.event.how == "asleep" or hold.end is None


def halves(all: list[Moment]) -> tuple[list[Moment], list[Moment]]:
    """The moments up to the call's return, and those after it: from close(), the exit."""
    ends = [at for at, moment in enumerate(all, 1) if moment.id == "STEP_17"]
    split = ends[0] if ends else len(all)
    return all[:split], all[split:]


def rows(look: Look) -> list[Row]:
    """The captured steps in their order; each one missing, where the kernel would have it; and,
    under a heading, what came after the call's return.
    """
    if look.moment is None:
        return []
    call, story = look.moment.call, look.story
    checks = story.steps(call)
    inside, after = halves(places(call, story))
    found = [Row(moment.id, moment, moment.check) for moment in inside]
    seen = {moment.id for moment in inside}
    for rank, id in enumerate(CALL_STEPS):
        if id not in seen:
            before = [
                number
                for number, row in enumerate(found, 1)
                if row.id in CALL_STEPS and CALL_STEPS.index(row.id) < rank
            ]
            at = max(before, default=0)
            while at < len(found) and _asleep(found[at].moment):
                at += 1  # what is held here has not come to it
            found.insert(at, Row(id, None, checks[id]))
    if after:
        found.append(Row("", None, None, tuple(after)))
        if is_open(look, after):
            found += [Row(moment.id, moment, moment.check) for moment in after]
    return found


def _asleep(moment: Moment | None) -> bool:
    return moment is not None and moment.id not in STEPS and isinstance(moment.event, ev.Held)


def is_open(look: Look, after: list[Moment]) -> bool:
    """Whether what came after the call is unfolded: once the cursor was in it, it stays so."""
    return look.moment is not None and (
        look.moment.call.number in look.opened or any(each is look.moment for each in after)
    )


def is_after(moment: Moment) -> bool:
    """Whether a moment came after its call's return."""
    end = moment.call.first.get("STEP_17")
    return end is not None and order(moment) > order(end)


def named_step(id: str) -> Content:
    """The id with the name, where the name says more than the id."""
    kind = STEPS[id]
    return Content(id if kind.cleanup else f"{id} {kind.name}")


def part(moment: Moment) -> str:
    """Which of the readings of a step it is: "entry", "exit", or "2/2" where both are alike."""
    at = getattr(moment.event, "at", None)
    twins = [each for each in moment.call.moments if each.id == moment.id]
    if len(twins) > 1 and moment in twins:
        ats = [getattr(each.event, "at", None) for each in twins]
        if len(set(ats)) == len(ats):
            return str(at)
        return f"{next(n for n, m in enumerate(twins, 1) if m is moment)}/{len(twins)}"
    if at is not None and isinstance(moment.event, ev.Held):
        return str(at)
    return "entry" if at == "entry" and moment.id in CALL_STEPS else ""


def place(moment: Moment) -> str:
    """What the cursor is on, in short: "STEP_16 entry"."""
    return visible(f"{moment.id} {part(moment)}".rstrip())


def sign(row: Row, look: Look) -> tuple[str, str]:
    if row.moment is None and row.id != "PROBE_INIT" and row.id not in look.story.blind:
        return AHEAD, QUIET
    return (SIGNS[row.check.status], STYLES[row.check.status]) if row.check else (" ", "")


def stands(moment: Moment | None, look: Look) -> str:
    """‖ where a thread is or was held, ■ where the program is stopped now; else a space."""
    if moment is None:
        return " "
    if isinstance(moment.event, ev.Held):
        return HELD
    if not look.live:
        return " "
    state = look.story.tasks.get(moment.event.pid)
    stopped = state is not None and state.state == "stopped"
    return STOPPED if stopped and moment is look.story.moments[-1] else " "


def title(look: Look) -> Content:
    calls = len(look.story.calls)
    which = f"  call {look.moment.call.number} of {calls}" if look.moment and calls > 1 else ""
    return Content.assemble("STEPS", (which, QUIET))


def steps(look: Look) -> list[Content]:
    """One line a step; the signs explained below, where there is room."""
    if look.moment is None:
        nothing = "no socket() call yet" if look.live else "no socket() call in this recording"
        return [text(f"  {nothing}", QUIET)]
    lines = [_step(row, look) for row in rows(look)]
    spare = look.height - len(lines) - len(LEGEND)
    if spare >= 0:
        legend = [Content.assemble(" ", *parts) for parts in LEGEND]
        lines += [*[Content("")] * spare, *legend]
    return lines


def _step(row: Row, look: Look) -> Content:
    if row.after:
        return _heading(row, look)
    here = row.moment is not None and row.moment is look.moment
    mark, style = sign(row, look)
    where = stands(row.moment, look)
    if where == " " and look.live and look.stops != look.could and row.id in look.stops:
        where = STOP
    tone = "bold" if here else "" if row.moment or row.id == "PROBE_INIT" else QUIET
    line = Content.assemble(
        (HERE if here else " ", "bold $accent"),
        (where, "$error" if where == STOP else "bold $warning"), (mark, style), " ",
        (_name(row, look), tone),
    )  # fmt: skip
    if row.moment is not None and look.width >= TIMES_FROM:
        line = _timed(line, row.moment.event.t - row.moment.call.enter.t, look.width)
    return fill(line, look.width).stylize("on $cursor") if here else cut(line, look.width)


def _name(row: Row, look: Look) -> str:
    event = row.moment.event if row.moment else None
    if isinstance(event, ev.Held) and event.how == "asleep":
        hold = next(hold for hold in look.story.holds if hold.moment is row.moment)
        return visible(f"{row.id} {duration(hold.end.held) if hold.end else 'held here'}")
    kind = STEPS.get(row.id)
    name = kind.name if kind and not kind.cleanup else ""
    which = part(row.moment) if row.moment else ""
    return visible(" ".join(word for word in (row.id, name, which) if word))


def _timed(line: Content, past: int, width: int) -> Content:
    """The line with its time at the right: since the call began."""
    words = since(past)
    return Content.assemble(fill(line, width - len(words) - 1), " ", (words, QUIET))


def _heading(row: Row, look: Look) -> Content:
    """What came after the call's return: where from, how many steps, how much later."""
    after = list(row.after)
    inside, _ = halves(look.moment.call.moments) if look.moment else ([], [])
    later = duration(after[0].event.t - inside[-1].event.t) if inside else ""
    worst = [each.check.status for each in after if each.check]
    status = next((each for each in ("fail", "unobservable", "pass") if each in worst), "pass")
    mark, style = (SIGNS[status], STYLES[status]) if worst else (" ", "")
    steps = f"{len(after)} step{'s' if len(after) > 1 else ''}"
    opened = is_open(look, after)
    line = Content.assemble(
        " ", OPEN if opened else FOLDED, (mark, style), " ", (came_from(after, look.story), ""),
        (f" {steps}, {later} later", QUIET),
    )  # fmt: skip
    return cut(line, look.width)


def came_from(after: list[Moment], story: Story) -> str:
    """What brought the steps after the call's return, where that was seen."""
    number = after[0].call.objects.get("fd")
    if number is not None and number.free is not None and number.free.site == "close":
        return "close()"
    stack = getattr(after[0].event, "stack", None)
    names = functions(story.stacks.get(stack, [])) if stack is not None else []
    if after[0].id == "CLEANUP_DO_EXIT" or "do_exit" in names:
        return "exit"
    return {"CLEANUP_GET_SIGNAL": "signal"}.get(after[0].id, "cleanup")


def row_of(look: Look) -> int | None:
    """The line of the step list that the cursor is on."""
    if look.moment is None:
        return None
    return next((y for y, row in enumerate(rows(look)) if row.moment is look.moment), None)
