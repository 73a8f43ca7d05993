"""When: the title, what is looked at and when it was captured, the timeline."""

from __future__ import annotations

from itertools import groupby, islice

from textual.content import Content

from recordings import events as ev
from recordings.story import Call, Moment, Story
from recordings.words import duration, visible
from tui.views.look import QUIET, Look, cut, text

STOPPING = (19, 20, 21, 22)  # SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU
OWN = (18, 19)  # SIGCONT and SIGSTOP: our own pauses, which the timeline shows as such
SOON = 256  # lines of the log within which a step's stop is looked for


def title(look: Look) -> list[Content]:
    header = look.story.header
    if header is None:
        return [Content.assemble((" sockstep ", "bold reverse $primary"))]
    words = [f"pid {header.pid}", f"Linux {header.kernel}", header.backend]
    if header.addresses != "raw":
        words.append(f"{header.addresses} addresses")
    rest = visible("".join(f" · {word}" for word in words))
    lost = f" {look.story.lost} LOST " if look.story.lost else ""
    room = look.width - 12 - len(rest) - len(lost) - 1
    argv = cut(text(" ".join(header.argv), "bold"), max(16, room))
    line = Content.assemble((" sockstep ", "bold reverse $primary"), "  ", argv, (rest, QUIET))
    line = cut(line, look.width - len(lost))
    if lost:
        line = line.pad_right(max(0, look.width - len(lost) - line.cell_length))
        line += text(lost, "bold reverse $error")
    return [line]


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


def looking(look: Look, room: int) -> str:
    """What the cursor is on and how long before the pause it was captured, in `room` cells."""
    moment = look.moment
    if moment is None:
        return ""
    id, pause = visible(moment.id), next_pause(look.story, moment.line, moment.call.enter.pid)
    ways = [f"looking at {id}", id]
    if pause is not None:
        before = duration(pause[1] - moment.event.t)
        ways = [
            f"looking at {id}, captured {before} before the {pause[0]}",
            f"{id}, captured {before} before",
            f"captured {before} before",
            f"{before} before",
        ]
    return next((way for way in ways if len(way) <= room), "")


def timeline(look: Look) -> list[Content]:
    """The call at its true times: steps, signals, the stop, the cursor; then what came later.

    Time that the task was held asleep is taken out of the scale, and told.
    """
    moment = look.moment
    if moment is None:
        return [Content("")]
    call = moment.call
    inside, cleanup = _halves(call)
    held = [
        (hold.event.since, hold.end.held)
        for hold in look.story.holds
        if hold.call == call.number and hold.end is not None and hold.event.how == "asleep"
    ]

    def awake(t: int) -> int:
        return t - sum(min(span, max(0, t - since)) for since, span in held)

    start, end = call.enter.t, max(inside[-1].event.t, call.enter.t + 1)
    since = f"+{duration(moment.event.t - start)} "
    later = _after(inside[-1], cleanup, look)
    asleep = sum(span for fell, span in held if fell < end)
    total = f" {duration(awake(end) - start)}{'' if call.result is not None else ' so far'}"
    total += f" and {duration(asleep)} held" if asleep else ""
    width = max(10, look.width - 12 - len(total) - sum(len(word) + 2 for word, _ in later))
    cells: list[tuple[str, str]] = [("─", QUIET)] * width

    def column(t: int) -> int:
        past = (awake(t) - start) * (width - 1) // max(1, awake(end) - start)
        return max(0, min(width - 1, past))  # a clock that went back shows at the edge

    for each in inside:
        failed = each.check is not None and each.check.status == "fail"
        cells[column(each.event.t)] = ("✗", "bold $error") if failed else ("┼", "$primary")
    for event in look.story.log[inside[0].line : inside[-1].line]:
        if isinstance(event, ev.Signal) and event.signo not in OWN and start <= event.t <= end:
            cells[column(event.t)] = ("!", "bold $warning")
    for fell, _ in held:
        if fell < end:
            cells[column(fell)] = ("‖", "bold $warning")
    if moment.index <= inside[-1].index:
        cells[column(moment.event.t)] = ("▼", "bold $accent")
    parts: list[tuple[str, str]] = [(f"{since:>12}", "$accent")]
    for style, run in groupby(cells, key=lambda cell: cell[1]):
        parts.append(("".join(mark for mark, _ in run), style))
    parts.append((total, QUIET))
    for word, style in later:
        parts += [("  ", ""), (word, style)]
    return [cut(Content.assemble(*parts), look.width)]


def _halves(call: Call) -> tuple[list[Moment], list[Moment]]:
    """The moments up to the call's return, and those after it: from close(), the exit."""
    ends = [at for at, moment in enumerate(call.moments, 1) if moment.id == "STEP_17"]
    split = ends[0] if ends else len(call.moments)
    return call.moments[:split], call.moments[split:]


def _after(last: Moment, cleanup: list[Moment], look: Look) -> list[tuple[str, str]]:
    """What came after the call's return, in words: the stop, the cleanup."""
    words: list[tuple[str, str]] = []
    pause, start = next_pause(look.story, last.line, last.call.enter.pid), last.call.enter.t
    if pause is not None:
        words.append((f"■ {pause[0]} +{duration(pause[1] - start)}", "$warning"))
    if cleanup:
        here = look.moment is not None and look.moment.index >= cleanup[0].index
        since = duration(cleanup[0].event.t - start)
        sign, style = ("▼", "bold $accent") if here else ("┼", "$primary")
        words.append((f"{sign} cleanup +{since}", style))
    return words
