"""What holds for the whole session: the log, the output, the ledger, the probes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from textual.content import Content

from recordings import events as ev
from recordings.story import Moment, Object, Story
from recordings.verdict import fate as fate_of
from recordings.words import address, describe, duration, object_word, visible
from tui.views.look import QUIET, Look, text


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


def ledger(look: Look) -> list[Content]:
    """The objects that the call had made at this moment: what is known of each, where it was made,
    and where it was freed: nothing of what came later.
    """
    moment = look.moment
    if moment is None:
        return [text("no objects yet", QUIET)]
    made = [each for kind, each in moment.call.objects.items() if kind in moment.objects]
    ended = look.story.end is not None and moment is look.story.moments[-1]
    leaked = [each for each in made if ended and fate_of(look.story, each).status == "fail"]
    lines = [_object(each, look, moment, each in leaked) for each in made]
    return lines or [text("no object of this call was seen so far", QUIET)]


def _object(made: Object, look: Look, moment: Moment, leaked: bool) -> Content:
    start, alloc, free = moment.call.enter.t, made.alloc, made.free
    word = object_word(made.kind, moment, look.story)
    style = {"live": "$success", "freed": "$warning"}.get(word, QUIET)
    at = made.at if made.kind == "fd" else address(made.at)
    again = f" generation {made.generation}" if made.generation > 1 and made.kind != "fd" else ""
    cache = f" ({alloc.cache})" if alloc.cache else ""
    told = f"  + {duration(alloc.t - start)} {alloc.site}{cache}"
    if free is not None and (word == "freed" or free.t <= moment.event.t):
        since, who = duration(free.t - start), f"{free.comm} ({free.pid})"
        here = "" if word == "freed" else "freed by this step: "
        told += f"  − {here}{since} {free.site} in {who}"
    elif word == "freed":
        told += "  − its free was not seen, but its address was given out again"
    elif leaked:
        word, style = "LEAK", "bold $error"
    return Content.assemble(
        (f"{made.kind:<6} ", "bold"), (f"{word:<5}", style),
        visible(f" {at}{again}"), (visible(told), QUIET),
    )  # fmt: skip


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
    return lines or [text("the recording does not say which probes there were", QUIET)]
