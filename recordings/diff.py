"""Two recordings side by side: the calls paired in order, aligned by step.

Addresses are never compared, only what they amount to (NULL or not, linked, broken), and times
not at all. What one side could not observe is no difference: `equal` is then None. What was asked
for (program, kernel, backend, arguments, injections) is shown, and is no divergence either: that
is what the kernel made of it.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from difflib import SequenceMatcher
from itertools import zip_longest

from recordings import events as ev
from recordings.claims import functions, watched, within
from recordings.layers import LINK_OF, MADE, NULL
from recordings.steps import CALL_STEPS, CLEANUP_STEPS, SIGNS, STEPS
from recordings.story import Call, LinkState, Moment, Status, Story, readings, told
from recordings.uapi import errno_text
from recordings.verdict import fate, judge
from recordings.words import address, call_text, injected, visible

WIDTH = 80
IN_FULL = 3  # of more pairs of calls, only those that diverge are shown, and so many of them

# What is the table's or the kernel's own numbering, and not this call's doing.
_NOT_COMPARED = ("fd.users",)
_RENUMBERED = ("socket.flags",)  # its bits have other numbers in other kernels
# What a link amounts to, whether or not the way back was read, too.
_LEADS: dict[LinkState, str] = {
    "linked": "leads there", "one-way": "leads there", "broken": "leads elsewhere",
    "freed": "leads to freed memory",
}  # fmt: skip


@dataclass(frozen=True)
class Side:
    """One step on one side. `seen`: whether it was captured; None: it may have been missed."""

    seen: bool | None
    status: Status | None
    evidence: str


@dataclass(frozen=True)
class Row:
    """A step on both sides. `equal`: None where they cannot be compared; `why`: what differs."""

    step: str
    a: Side
    b: Side
    equal: bool | None
    why: str = ""


@dataclass(frozen=True)
class Fact:
    """Something that is no step, such as the result. `equal` as in a row."""

    name: str
    a: str
    b: str
    equal: bool | None


@dataclass(frozen=True)
class Pair:
    """Two calls, by their numbers; None: there is none on this side, as far as was recorded.

    `sure`: it was recorded to the end, so that there is none. `setup`: what was asked for.
    `outcome`: the result, and what became of each object. `first`: the index of the first step that
    differs.
    """

    a: int | None
    b: int | None
    setup: list[Fact] = field(default_factory=list)
    outcome: list[Fact] = field(default_factory=list)
    steps: list[Row] = field(default_factory=list)
    first: int | None = None
    sure: bool = True

    @property
    def diverges(self) -> bool:
        alone = self.sure and (self.a is None or self.b is None)
        return alone or self.first is not None or any(f.equal is False for f in self.outcome)


@dataclass(frozen=True)
class Diff:
    """`setup`: what differs before any call. `first`: the index of the first pair that diverges."""

    setup: list[Fact]
    calls: list[Pair]
    first: int | None

    @property
    def diverges(self) -> bool:
        return self.first is not None


def diff(a: Story, b: Story, call_a: int | None = None, call_b: int | None = None) -> Diff:
    """Compare all calls in order, or one: that of the given numbers (None: the first).

    Raises KeyError where there is no such call.
    """
    calls_a, calls_b = list(a.calls.values()), list(b.calls.values())
    if call_a is not None or call_b is not None:
        calls_a = [a.calls[call_a]] if call_a is not None else calls_a[:1]
        calls_b = [b.calls[call_b]] if call_b is not None else calls_b[:1]
    injected = _injected(a), _injected(b)
    pairs = []
    short = a if len(calls_a) < len(calls_b) else b
    sure = len(calls_a) == len(calls_b) or _all_calls(short)
    for one, other in zip_longest(calls_a, calls_b):
        if one is None or other is None:
            numbers = one.number if one else None, other.number if other else None
            pairs.append(Pair(*numbers, sure=sure))
            continue
        told = injected[0].get(one.number, "nothing"), injected[1].get(other.number, "nothing")
        pairs.append(_pair(a, one, b, other, _fact("injected", *told)))
    first = next((index for index, pair in enumerate(pairs) if pair.diverges), None)
    return Diff(_facts(a, b, injected), pairs, first)


def _all_calls(story: Story) -> bool:
    """Whether no call can be missing from the recording."""
    return not replace(judge(story).missing, unfinished=0, objects=0)


def as_json(diff: Diff) -> dict[str, object]:
    """The diff as one object, for programs: its fields as they are, and what diverges."""
    calls = [{"diverges": pair.diverges, **asdict(pair)} for pair in diff.calls]
    return {"diverges": diff.diverges, **asdict(diff), "calls": calls}


# -- comparing ---------------------------------------------------------------------------------


def _fact(name: str, a: str, b: str) -> Fact:
    return Fact(name, a, b, a == b)


def _facts(a: Story, b: Story, injected: tuple[_Injected, _Injected]) -> list[Fact]:
    def of(story: Story, done: _Injected) -> dict[str, str]:
        header = story.header
        return {
            "program": " ".join(header.argv) if header else "",
            "kernel": f"{header.kernel} {header.arch}" if header else "",
            "backend": _backend(story),
            "calls": str(len(story.calls)),
            "injected": done.get(None, "nothing"),
            "lost events": str(story.lost),
            "end": story.end.why if story.end else "cut off",
        }

    ours, theirs = of(a, injected[0]), of(b, injected[1])
    return [_fact(name, ours[name], theirs[name]) for name in ours]


_Injected = dict[int | None, str]


def _injected(story: Story) -> _Injected:
    """What was injected, by call; None: in none."""
    done: _Injected = {}
    for event in story.log:
        if isinstance(event, ev.Inject) and not event.armed:
            text = injected(event)
            done[event.call] = f"{done[event.call]}; {text}" if event.call in done else text
    return done


def _pair(a: Story, ours: Call, b: Story, theirs: Call, injected: Fact) -> Pair:
    rows = [*_steps(a, ours, b, theirs), *_cleanup(a, ours, b, theirs)]
    return Pair(
        ours.number,
        theirs.number,
        [_fact("call", call_text(ours.enter), call_text(theirs.enter)), injected],
        list(_outcome(a, ours, b, theirs)),
        rows,
        next((index for index, row in enumerate(rows) if row.equal is False), None),
    )


def _outcome(a: Story, ours: Call, b: Story, theirs: Call) -> Iterator[Fact]:
    known = ours.result is not None and theirs.result is not None
    same = ours.result == theirs.result if known else None
    yield Fact("result", _result(ours), _result(theirs), same)
    for kind in MADE:
        one, known = _fate(a, ours, kind)
        other, too = _fate(b, theirs, kind)
        yield Fact(kind, one, other, one == other if known and too else None)


def _result(call: Call) -> str:
    return errno_text(call.result) if call.result is not None else "did not return"


def _fate(story: Story, call: Call, kind: ev.Kind) -> tuple[str, bool]:
    """What became of an object of a call, and whether that is known."""
    made = call.objects.get(kind)
    if made is None:
        return ("none", True) if _never_made(story, call, kind) else ("not seen", False)
    end = fate(story, made)
    if end.status == "unobservable":
        return end.evidence, False
    return ("freed", True) if end.status == "pass" else (f"leaked: {end.evidence}", True)


def _never_made(story: Story, call: Call, kind: ev.Kind) -> bool:
    """Whether a failed call left before it made this, or because it could not."""
    if kind == "fd":
        return (call.result or 0) < 0 and watched(story, "alloc_fd")
    step = call.path.maker[kind]
    return story.left_before(call, step) or (call.edge is not None and call.edge.id == step)


def _steps(a: Story, ours: Call, b: Story, theirs: Call) -> Iterator[Row]:
    outcomes, others = a.steps(ours), b.steps(theirs)
    for id in CALL_STEPS:
        one = _side(a, ours, id, outcomes[id].status, outcomes[id].evidence)
        other = _side(b, theirs, id, others[id].status, others[id].evidence)
        moments = _shown(ours, id), _shown(theirs, id)
        if id == "PROBE_INIT":
            yield Row(id, one, other, None if one.status != other.status else True)
        elif None in (one.seen, other.seen):
            yield Row(id, one, other, None)
        elif one.seen != other.seen:
            yield Row(id, one, other, False)
        elif moments[0] is None or moments[1] is None:
            yield Row(id, one, other, True)  # reached by neither
        else:
            yield Row(id, one, other, *_compared(a, moments[0], b, moments[1]))


def _shown(call: Call, id: str) -> Moment | None:
    """The moment that stands for a step."""
    return call.decided.get(id) or call.first.get(id)


def _side(story: Story, call: Call, id: str, status: Status, evidence: str) -> Side:
    seen: bool | None = True
    if id != "PROBE_INIT" and id not in call.first:
        seen = False if story.left_before(call, id) else None
    moment = _shown(call, id)
    if moment is not None and isinstance(moment.event, ev.Enter):
        evidence = f"by {moment.event.comm}"
    return Side(seen, status, evidence)


def _compared(a: Story, one: Moment, b: Story, other: Moment) -> tuple[bool | None, str]:
    """Two captures of one step: whether they are equal, and what differs."""
    statuses = [m.check.status if m.check is not None else None for m in (one, other)]
    decided = None not in statuses and "unobservable" not in statuses
    if decided and statuses[0] != statuses[1]:
        return False, ""
    if not isinstance(one.event, ev.Step) or not isinstance(other.event, ev.Step):
        return True, ""
    differing = []
    ours, theirs = one.event, other.event
    if ours.ret is not None and theirs.ret is not None and ours.ret != theirs.ret:
        differing.append(f"returned {errno_text(ours.ret)} | {errno_text(theirs.ret)}")
    same_place = (ours.symbol, ours.at) == (theirs.symbol, theirs.at)
    if same_place:
        differing += _differing(a, one, b, other)
    elif _backend(a) == _backend(b) and "inside" not in (ours.at, theirs.at):
        differing.append(f"{told(ours)} | {told(theirs)}")
    if differing:
        return False, "; ".join(differing)
    return (True if same_place or decided else None), ""


def _backend(story: Story) -> str:
    return story.header.backend if story.header else ""


def _kernel(story: Story) -> str:
    return story.header.kernel if story.header else ""


def _differing(a: Story, one: Moment, b: Story, other: Moment) -> Iterator[str]:
    """Each value that both have read and that differs, "layer.field: ours | theirs"."""
    ours = dict(readings(one.snap, everything=True))
    theirs = dict(readings(other.snap, everything=True))
    for name in ours:
        if name not in theirs or name.endswith(".at") or name in _NOT_COMPARED:
            continue
        if name in _RENUMBERED and _kernel(a) != _kernel(b):
            continue
        value, against = ours[name], theirs[name]
        if isinstance(value, str) and isinstance(against, str):
            value, against = _relation(a, one, name, value), _relation(b, other, name, against)
        if value != against:
            yield f"{name}: {value} | {against}"


def _relation(story: Story, moment: Moment, name: str, value: str) -> str:
    """What a pointer amounts to, whatever the address: NULL, set, or where it leads."""
    if value == NULL:
        return "NULL"
    link = moment.links.get(LINK_OF.get(name, ""))
    return _LEADS.get(link.state, "set") if link is not None else "set"


def _cleanup(a: Story, ours: Call, b: Story, theirs: Call) -> Iterator[Row]:
    """The CLEANUP steps in the order in which they came; what RCU does has no order, and is last.

    A step of one side alone, and one that came at another point, stands by itself.
    """
    one, other = _ordered(a, ours), _ordered(b, theirs)
    matcher = SequenceMatcher(None, [m.id for m in one], [m.id for m in other], autojunk=False)
    for what, from_a, to_a, from_b, to_b in matcher.get_opcodes():
        if what == "equal":
            for left, right in zip(one[from_a:to_a], other[from_b:to_b], strict=True):
                yield _both(a, left, b, right)
            continue
        for moment in one[from_a:to_a]:
            side, absent = _told(moment), _absent(b, theirs, moment)
            yield Row(moment.id, side, absent, None if absent.seen is None else False)
        for moment in other[from_b:to_b]:
            side, absent = _told(moment), _absent(a, ours, moment)
            yield Row(moment.id, absent, side, None if absent.seen is None else False)


def _ordered(story: Story, call: Call) -> list[Moment]:
    seen = [moment for moment in call.moments if moment.id in CLEANUP_STEPS]
    late = [moment for moment in seen if _deferred(story, moment)]
    late.sort(key=lambda moment: CLEANUP_STEPS.index(moment.id))
    return [moment for moment in seen if not _deferred(story, moment)] + late


def _deferred(story: Story, moment: Moment) -> bool:
    """Whether RCU ran it."""
    event = moment.event
    stack = functions(story, event.stack) if isinstance(event, ev.Step) else []
    return event.tid != moment.call.enter.tid or any(name.startswith("rcu_") for name in stack)


def _both(a: Story, one: Moment, b: Story, other: Moment) -> Row:
    equal, why = _compared(a, one, b, other)
    inside = [within(moment.call, moment.id) is not None for moment in (one, other)]
    if inside[0] != inside[1] and not (_deferred(a, one) or _deferred(b, other)):
        words = ["before the return" if early else "after the return" for early in inside]
        equal, why = False, "; ".join(w for w in (why, f"{words[0]} | {words[1]}") if w)
    return Row(one.id, _told(one), _told(other), equal, why)


def _told(moment: Moment) -> Side:
    status = moment.check.status if moment.check is not None else None
    event = moment.event
    text = told(event) if isinstance(event, ev.Step) else ""
    evidence = moment.check.evidence if moment.check is not None else text
    early = within(moment.call, moment.id) is not None
    return Side(True, status, f"{evidence}, {'before' if early else 'after'} the return")


_BY_TASK = ("CLEANUP_GET_SIGNAL", "CLEANUP_DO_EXIT")  # their tracepoints are on every backend


def _told_of(story: Story, id: str) -> bool:
    """Whether a probe would have told of a step, and none of its events can be missing."""
    probes = [state for state in story.probes.values() if id in state.probe.steps]
    whole = all(state.probe.status == "attached" and not state.missed for state in probes)
    return bool(probes) and whole and not story.lost and id not in story.blind


def _absent(story: Story, call: Call, moment: Moment) -> Side:
    """The other side of a step: it did not run for this call, or nothing would have told of it.

    What came before the return of the one call must have come before that of the other; what
    came later, before the end of its process.
    """
    id = moment.id
    early = within(moment.call, id) is not None and moment.call.result is not None
    over = call.result is not None if early else call.enter.pid in story.exits
    sure = watched(story, STEPS[id].function) or (id in _BY_TASK and _told_of(story, id))
    if id in call.first:
        return Side(False, None, "at another point")
    if over and sure:
        return Side(False, None, "not for this call")
    why = "not over when the recording ended" if not over else "not observable here"
    return Side(None, "unobservable", why)


# -- printing ----------------------------------------------------------------------------------

_MARKS = {True: " ", False: "≠", None: "?"}
_LABEL = 16  # columns: the longest step, without CLEANUP_
_SAME_WIDTH = str.maketrans("✓✗○≠│─−…→µ", "+xo!|--~>u")
_ADDRESS = re.compile(r"0x[0-9a-f]{7,16}")


def text(diff: Diff, width: int = WIDTH, ascii: bool = False) -> str:
    """Both recordings side by side, `width` columns (60 or more): ≠ differs, ? not comparable."""
    page = "\n".join(lines(diff, width)[0])
    if ascii:
        page = page.translate(_SAME_WIDTH).encode("ascii", "replace").decode()
    return page


def lines(diff: Diff, width: int = WIDTH) -> tuple[list[str], int | None]:
    """The lines of `text`, and the number of the rule above the first step that diverges."""
    page = _Page(max(width, 60))
    found = [*page.facts("recording", "A", "B", diff.setup)]
    diverging = [pair for pair in diff.calls if pair.diverges]
    full = diff.calls if len(diff.calls) <= IN_FULL else diverging[:IN_FULL]
    for index, pair in enumerate(diff.calls):
        if pair in full:
            found += ["", *page.pair(pair, first=index == diff.first)]
    if left := len(diff.calls) - len(full):
        shown = f"{left} more pairs of calls"
        found += ["", f"{shown}: {len(diverging) - len(full)} of them diverge"]
    found += ["", _summary(diff, len(diverging))]
    first = found.index(page.first) if page.first in found else None
    return [visible(line.rstrip()) for line in found], first


def _summary(diff: Diff, diverging: int) -> str:
    if not diff.calls:
        return "No socket() call in either recording."
    if diff.first is None:
        unknown = sum(row.equal is None for pair in diff.calls for row in pair.steps)
        rest = f"; {unknown} steps could not be compared" if unknown else ""
        if alone := sum(not pair.sure for pair in diff.calls):
            calls = "1 call has" if alone == 1 else f"{alone} calls have"
            rest += f"; {calls} none on the other side, as far as that was recorded"
        return f"No divergence{rest}."
    pair = diff.calls[diff.first]
    where = f"in call {pair.a} | call {pair.b}"
    if pair.a is None or pair.b is None:
        where = f"in that there is no call {pair.a or pair.b} on the other side"
    elif pair.first is not None:
        where = f"at {pair.steps[pair.first].step} of call {pair.a} | call {pair.b}"
    many = f" {diverging} of {len(diff.calls)} pairs of calls do." if len(diff.calls) > 1 else ""
    return f"They diverge first {where}.{many}"


class _Page:
    """Lines of so many columns: a mark, a label, and two halves."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.half = (width - _LABEL - 7) // 2
        self.first = self.rule("the first divergence")

    def rule(self, title: str = "") -> str:
        return f"── {title} ".ljust(self.width, "─") if title else "─" * self.width

    def row(self, mark: str, label: str, a: str, b: str) -> Iterator[str]:
        halves = [textwrap.wrap(visible(text), self.half) or [""] for text in (a, b)]
        for number, (left, right) in enumerate(zip_longest(*halves, fillvalue="")):
            name = label if number == 0 else ""
            sign = mark if number == 0 else " "
            yield f"{sign} {name:<{_LABEL}}  {left:<{self.half}} │ {right}"

    def facts(self, title: str, a: str, b: str, facts: list[Fact]) -> Iterator[str]:
        yield from self.row(" ", title, a, b)
        yield self.rule()
        for fact in facts:
            yield from self.row(_MARKS[fact.equal], fact.name, fact.a, fact.b)

    def pair(self, pair: Pair, first: bool) -> Iterator[str]:
        none = "no such call" if pair.sure else "not recorded"
        a, b = (f"call {n}" if n is not None else none for n in (pair.a, pair.b))
        yield from self.facts("", a, b, [*pair.setup, *pair.outcome])
        if pair.steps:
            yield self.rule()
        for index, row in enumerate(pair.steps):
            if first and index == pair.first:
                yield self.first
            label = row.step.removeprefix("CLEANUP_")
            yield from self.row(_MARKS[row.equal], label, _half(row.a), _half(row.b))
            if row.why:
                yield from textwrap.wrap(
                    visible(row.why), self.width,
                    initial_indent=" " * (_LABEL + 4), subsequent_indent=" " * (_LABEL + 4),
                )  # fmt: skip


def _half(side: Side) -> str:
    sign = f"{SIGNS[side.status]} " if side.status is not None else "  "
    return sign + _ADDRESS.sub(lambda found: address(found[0], 4), side.evidence)
