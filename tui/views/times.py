"""Where and when: the title, the path to what is looked at, the timeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, islice, pairwise

from textual.content import Content

from recordings import events as ev
from recordings.story import Call, Hold, Moment, Story
from recordings.uapi import errno_text
from recordings.words import call_text, duration, since, visible
from tui.views.call import came_from, halves, place, places
from tui.views.look import HELD, HERE, QUIET, STOPPED, Look, cut, fill, text

STOPPING = (19, 20, 21, 22)  # SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU
OWN = (18, 19)  # SIGCONT and SIGSTOP: our own pauses, which the timeline shows as such
SOON = 256  # lines of the log within which a step's stop is looked for
LONGEST = "STEP_13_BACKLINK exit"  # a step as the path names it, and how long it may be
BESIDE = 34  # columns beside the rail of the timeline


def title(look: Look) -> list[Content]:
    """Which program, on which kernel, by which means."""
    header = look.story.header
    if header is None:
        return [text(" sockstep", "bold")]
    words = [f"Linux {header.kernel}", header.backend]
    if header.addresses != "raw":
        words.append(f"{header.addresses} addresses")
    rest = visible(f"  pid {header.pid}" + "".join(f" · {word}" for word in words))
    story = look.story
    lost = f" {story.lost} LOST " if story.lost else ""
    if uncaptured := sum(event.count for event in story.uncaptured):
        lost += f" {uncaptured} UNCAPTURED "
    argv = cut(text(" ".join(header.argv), "bold"), max(16, look.width - len(rest + lost) - 2))
    line = fill(Content.assemble(" ", argv, (rest, QUIET)), look.width - len(lost))
    return [line + text(lost, "bold reverse $error")]


def next_pause(story: Story, line: int, pid: int) -> tuple[str, int] | None:
    """The stop or hold that a process came to after a line of the log, if that came next.

    ("stop" or "hold", its time). A stop's time is that of the signal's delivery, in the kernel,
    where that was seen: the agent learns of it only later.
    """
    t: int | None = None
    for event in islice(story.log, line, line + SOON):
        if getattr(event, "pid", pid) != pid:
            continue
        if isinstance(event, ev.Signal) and event.phase == "delivered" and event.signo in STOPPING:
            t = event.t
        elif isinstance(event, ev.Held):
            return "hold", event.since
        elif isinstance(event, ev.State):
            return ("stop", t or event.t) if event.state == "stopped" else None
    return None


def path(look: Look, room: int) -> str:
    """What the cursor is on: its call, its step, how long before the pause that was captured.

    As much as fits in `room`; how much that is depends on the room, not on the step.
    """
    moment = look.moment
    if moment is None:
        return ""
    enter, result = moment.call.enter, moment.call.result
    first = call_text(enter).partition(", ")[0].partition("(")[2]
    short = f"{enter.syscall}({first}, …)" if len(enter.args) > 1 else call_text(enter)
    equals = f" = {errno_text(result)}" if result is not None else ""
    calls = (f"{call_text(enter)}{equals}", f"{visible(short)}{equals}",
             f"{visible(enter.syscall)}(){equals}")  # fmt: skip
    if isinstance(moment.event, ev.Held):
        return next((way for way in calls if len(way) <= room), "")
    pause = next_pause(look.story, moment.line, moment.call.enter.pid)
    when = ""
    if pause is not None:
        which = "next hold" if pause[0] == "hold" else pause[0]
        when = f"{duration(pause[1] - moment.event.t)} before the {which}"
    here, whens = place(moment), (f", captured {when}", f", {when}") if when else ("",)
    widest = max(LONGEST, here, key=len)
    ways = [(f"{name} › ", after) for name in calls for after in whens]
    ways += [("", after) for after in (*whens, whens[-1].rpartition(" the ")[0])]
    for named in (widest, here):
        for before, after in ways:
            if len(before + named + after) <= room:
                return before + here + after
    return here if len(here) <= room else ""


@dataclass
class Tick:
    """A mark on the timeline: some moments at one place of it."""

    column: int
    moments: list[Moment]
    label: str


def timeline(look: Look) -> list[Content]:
    """The call at its true times, each step with its name below; then what came after the call.

    Time that the task was held asleep is taken out of the scale, and told. Where marks are too
    close for their names, they are moved apart.
    """
    moment = look.moment
    if moment is None:
        return [Content(""), Content("")]
    call = moment.call
    inside, after = halves(places(call, look.story))
    width = max(10, look.width - BESIDE)
    held = [hold for hold in look.story.holds if hold.call == call.number and _asleep(hold)]
    ticks = _ticks(inside, held, width)
    cells: list[tuple[str, str]] = [("─", QUIET)] * width
    names: list[tuple[str, str]] = [(" ", "")] * width
    cells[0], cells[-1] = ("├", QUIET), ("┤" if call.result is not None else "─", QUIET)
    for event in look.story.log[inside[0].line : inside[-1].line]:
        if isinstance(event, ev.Signal) and event.signo not in OWN:
            near = max((t for t in ticks if t.moments[0].event.t <= event.t), default=None,
                       key=lambda tick: tick.column)  # fmt: skip
            if near is not None:
                cells[min(width - 1, near.column + 1)] = ("!", "bold $warning")
    for tick in ticks:
        here = any(each is moment for each in tick.moments)
        cells[tick.column] = _mark(tick, here)
        style = "bold $accent" if here else QUIET
        names[tick.column : tick.column + len(tick.label)] = [(c, style) for c in tick.label]
    return [
        cut(Content.assemble("  ", *_runs(cells), *_total(call, inside, held)), look.width),
        cut(Content.assemble("  ", *_runs(names[:width]), *_beside(after, look)), look.width),
    ]


def _asleep(hold: Hold) -> bool:
    return hold.event.how == "asleep" and hold.end is not None


def _awake(t: int, held: Sequence[Hold]) -> int:
    """A time without that which was slept until then."""
    spans = ((hold.event.since, hold.end.held) for hold in held if hold.end is not None)
    return t - sum(min(span, max(0, t - since)) for since, span in spans)


def _at(moment: Moment) -> int:
    return moment.event.since if isinstance(moment.event, ev.Held) else moment.event.t


def _ticks(inside: list[Moment], held: Sequence[Hold], width: int) -> list[Tick]:
    start = _at(inside[0])
    end = max(start + 1, *(_awake(_at(moment), held) for moment in inside))
    ticks: list[Tick] = []
    for moment in inside:
        past = (_awake(_at(moment), held) - start) * (width - 1) // max(1, end - start)
        column = max(0, min(width - 1, past))  # a clock that went back shows at the edge
        last = ticks[-1] if ticks else None
        undone = moment.id.startswith("CLEANUP_")
        if last is not None and (
            column <= last.column or (undone and last.moments[-1].id.startswith("CLEANUP_"))
        ):
            last.moments.append(moment)
        else:
            ticks.append(Tick(column, [moment], ""))
    for tick in ticks:
        tick.label = _label(tick.moments)
    for one, two in pairwise(ticks):  # apart, from the left
        two.column = max(two.column, one.column + len(one.label) + 1)
    room = width
    for tick in reversed(ticks):  # and back, from the right
        tick.column = max(0, min(tick.column, room - len(tick.label)))
        room = tick.column - 1
    return ticks


def _label(moments: list[Moment]) -> str:
    names = [_name(moment) for moment in moments]
    return names[0] if len(set(names)) == 1 else f"{names[0]}-{names[-1]}"


def _name(moment: Moment) -> str:
    """A step in a few characters: 09, 13in, 13B; "undo" for the steps that release again."""
    if isinstance(moment.event, ev.Held) and moment.event.how == "asleep":
        return "held"
    if moment.id == "USER_EXEC":
        return "+0"
    if moment.id.startswith("CLEANUP_"):
        return "undo"
    name = visible(moment.id.removeprefix("STEP_").replace("_BACKLINK", "B"))[:8]
    twins = [each for each in moment.call.moments if each.id == moment.id]
    at = {"entry": "in", "exit": "out"}.get(getattr(moment.event, "at", ""), "")
    return name + at if len(twins) > 1 or moment not in twins else name


def _mark(tick: Tick, here: bool) -> tuple[str, str]:
    if any(each.check is not None and each.check.status == "fail" for each in tick.moments):
        return "✗", "bold reverse $error" if here else "bold $error"
    if here:
        return HERE, "bold $accent"
    if any(isinstance(each.event, ev.Held) for each in tick.moments):
        return HELD, "bold $warning"
    return "┼", "$primary"


def _runs(cells: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [
        ("".join(mark for mark, _ in run), style)
        for style, run in groupby(cells, key=lambda cell: cell[1])
    ]


def _total(call: Call, inside: list[Moment], held: Sequence[Hold]) -> list[tuple[str, str]]:
    """How long the call took, and how long of that it was held."""
    start, end = _at(inside[0]), max(map(_at, inside))
    asleep = sum(hold.end.held for hold in held if hold.end is not None and hold.event.since < end)
    words = f" {duration(_awake(end, held) - start)}"
    words += "" if call.result is not None else " so far"
    return [(words + (f" and {duration(asleep)} held" if asleep else ""), QUIET)]


def _beside(after: list[Moment], look: Look) -> list[tuple[str, str]]:
    """When the cursor's moment was, or what came after the call."""
    moment = look.moment
    assert moment is not None
    start = moment.call.enter.t
    words = [(f" {HERE} {since(_at(moment) - start)}", "$accent")]
    if after and not any(each is moment for each in after):
        later = since(after[0].event.t - start)
        words.append((f"  ╌ {came_from(after, look.story)} {later}", QUIET))
        return words
    pause = next_pause(look.story, moment.line, moment.event.pid)
    if pause is not None and not isinstance(moment.event, ev.Held):
        mark = HELD if pause[0] == "hold" else STOPPED
        words.append((f"  {mark} {pause[0]} {since(pause[1] - start)}", QUIET))
    return words
