"""What holds for the whole session: the log, the output, the ledger, the probes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from textual.content import Content

from recordings import events as ev
from recordings.story import Moment, Object, Story, order
from recordings.words import (
    address,
    describe,
    duration,
    object_word,
    since,
    uncaptured_text,
    visible,
)
from tui.views.look import QUIET, Look, cut, text


class LogLines(Sequence[Content]):
    """The event log, each line made when it is looked at."""

    def __init__(self, look: Look) -> None:
        self._story, self._here = look.story, look.moment.line if look.moment else -1

    def __len__(self) -> int:
        return len(self._story.log)

    def __getitem__(self, y):  # type: ignore[no-untyped-def]
        story, event = self._story, self._story.log[y]
        start = story.header.t if story.header else event.t
        line = Content.assemble(
            (f"{(event.t - start) / 1e9:>9.6f} ", QUIET),
            (describe(event, moment_at(story, y)), _tone(event)),
        )
        return line.stylize("on $cursor") if y == self._here else line


def moment_at(story: Story, line: int) -> Moment | None:
    """The moment that a line of the log made, if it made one."""
    found = bisect_left(story.moments, line, key=lambda moment: moment.line)
    moment = story.moments[found] if found < len(story.moments) else None
    return moment if moment is not None and moment.line == line else None


def _tone(event: ev.Event) -> str:
    match event:
        case ev.Lost():
            return "bold $error"
        case ev.Signal() | ev.Inject():
            return "$warning"
        case ev.State():
            return "$primary"
        case ev.Alloc() | ev.Free():
            return QUIET
    return ""


def log(look: Look) -> Sequence[Content]:
    return LogLines(look)


@dataclass
class OutputLines(Sequence[Content]):
    """The tracee's output as lines, taken in piece by piece."""

    lines: list[str] = field(default_factory=lambda: [""])
    _taken: int = 0

    def take(self, pieces: list[str]) -> OutputLines:
        for piece in pieces[self._taken :]:
            first, *more = piece.replace("\r\n", "\n").split("\n")
            self.lines[-1] += first
            self.lines += more
        self._taken = len(pieces)
        return self

    def __len__(self) -> int:
        return len(self.lines) - (self.lines[-1] == "")

    def __getitem__(self, y):  # type: ignore[no-untyped-def]
        return text(self.lines[y].expandtabs())


def ledger_title(look: Look) -> Content:
    """How many objects live; the last line that the program had written by then."""
    live = sum(1 for each in _made(look) if _word(each, look) == "live")
    wrote = text("OUTPUT  " + (written(look) or "nothing yet"), QUIET)
    return Content.assemble(f"LEDGER  {live} live".ljust(24), wrote)


def written(look: Look) -> str:
    """The last line that the program had written at this moment; at the newest, of all."""
    story, moment = look.story, look.moment
    newest = moment is None or order(moment) >= order(story.moments[-1])
    line = ""
    for piece in reversed(story.output if newest else story.output[: moment.written]):  # type: ignore[union-attr]
        line = piece + line
        if "\n" in line.rstrip("\r\n"):
            break
    return line.rstrip("\r\n").rpartition("\n")[2]


def ledger(look: Look) -> list[Content]:
    """The objects that the call had made at this moment: what is known of each, where it was made,
    and where it was freed: nothing of what came later.
    """
    made = _made(look)
    if look.moment is None or not made:
        return [text("  no object of a call was seen so far", QUIET)]
    ended = look.story.end is not None and look.moment is look.story.moments[-1]
    leaked = [each for each in made if ended and _leaked(each, look.story)]
    return [_object(each, look, each in leaked) for each in made]


def _leaked(made: Object, story: Story) -> bool:
    from recordings.verdict import fate  # the first frame does not wait for it

    return fate(story, made).status == "fail"


def _made(look: Look) -> list[Object]:
    if look.moment is None:
        return []
    known = look.moment.objects
    return [each for kind, each in look.moment.call.objects.items() if kind in known]


def _word(made: Object, look: Look) -> str:
    return object_word(made.kind, look.moment, look.story) if look.moment else ""


def _object(made: Object, look: Look, leaked: bool) -> Content:
    assert look.moment is not None
    moment, alloc, free = look.moment, made.alloc, made.free
    start, pid = moment.call.enter.t, moment.call.enter.pid
    word = _word(made, look)
    style = {"live": "$success", "freed": "$warning"}.get(word, QUIET)
    end = ""
    if free is not None and (word == "freed" or free.t <= moment.event.t):
        who = f" in {free.comm} ({free.pid})" if free.pid != pid else ""
        here = "" if word == "freed" else "by this step, "
        end = f"  freed {here}{since(free.t - start)}  {free.site}{who}"
    elif word == "freed":
        end = "  no free seen, but its address was given out again"
    elif leaked:
        word, style = "LEAK", "bold $error"
    at = made.at if made.kind == "fd" else address(made.at, None if look.height > 12 else 6)
    again = f" generation {made.generation}" if made.generation > 1 and made.kind != "fd" else ""
    cache = f" ({alloc.cache})" if alloc.cache and look.width > 100 else ""
    born = since(alloc.t - start)
    line = Content.assemble(
        (f"  {made.kind:<6}  ", "bold"), f"{visible(at):<8}", (f"  {word:<5}", style),
        (visible(f"  {born:<8}  {alloc.site}{cache}{again}"), QUIET), (visible(end), style),
    )  # fmt: skip
    return cut(line, look.width)


def stack(look: Look) -> list[Content]:
    """The kernel's functions at this moment, innermost first."""
    number = getattr(look.moment.event, "stack", None) if look.moment else None
    frames = look.story.stacks.get(number) if number is not None else None
    return [text(f"  {frame}", QUIET) for frame in frames or ["not captured here"]]


def probes(look: Look) -> list[Content]:
    """Each planned probe: fired, attached but never reached, or missing; and what is blind."""
    story = look.story
    lines = []
    if story.ready is not None:
        lines.append(text(f"attached in {duration(story.ready.took)}", QUIET))
    for name, state in story.probes.items():
        style = {"missing": "$error", "fired": "$success"}.get(state.status, "")
        hits = f" {state.hits} times" if state.hits else ""
        missed = f", {state.missed} missed" if state.missed else ""
        why = f": {state.probe.why}" if state.probe.why else ""
        lines.append(
            Content.assemble(
                f"{visible(name):<36} ", (visible(f"{state.status}{hits}{missed}{why}"), style)
            )
        )
    lines += [text(f"{id} not observable here: {why}", "$warning") for id, why in
              story.blind.items()]  # fmt: skip
    if story.lost:
        lines.append(text(f"{story.lost} events were LOST", "bold $error"))
    if story.uncaptured:
        lines.append(text(uncaptured_text(story.uncaptured), "bold $warning"))
    return lines or [text("the recording does not say which probes there were", QUIET)]
