"""Judges a story by four checks that each give their reason, and by what it does not hold.

A check has three outcomes and no others. *fail* needs evidence against, *pass* evidence for; what
the recording does not hold is *unobservable*, and so is what may be among lost events. The verdict
is PASS only if nothing is missing in which a failure could be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, replace
from itertools import pairwise
from typing import Literal

from recordings import events as ev
from recordings.layers import DESTROYERS, LINKS, MADE, NULL, STRUCTS, UNREAD, Ptr
from recordings.steps import CALL_STEPS, CLEANUP_STEPS
from recordings.story import Call, Check, Object, Story
from recordings.uapi import errno_text
from recordings.words import TCP_STATES

# A failed call's inode waits for an RCU grace period; the agent awaits one only at the end of the
# tracee. Nanoseconds between such a call and the end of the stream from which on it counts.
GRACE = 1_000_000_000

_TCP, _TCP_CLOSE, _AF_UNIX = 6, 7, 1
_SHOWN = 3  # reasons of one kind that are spelled out
NO_CALL = "no socket() call in this recording"
_FORKS = "sched_process_fork"  # the tracepoint of the probe that counts the children


@dataclass(frozen=True)
class Missing:
    """What a recording does not hold and a failure may be in; false if it is whole.

    `calls`: counted at their entry, but not recorded. `unfinished`: recorded, but a step that they
    must have passed was not, or their return. `objects`: of which neither the free was seen nor
    that they are still in use, or whose allocation was not. `events`: lost. `skips`: of the probe
    at the entry of a call, by the kernel. `uncaptured`: sockets that were made by no call that a
    probe is on. `children`: not followed. `unprobed`: no probe told of the entry of calls.
    `cut_off`: there is no `end`.
    """

    calls: int = 0
    unfinished: int = 0
    objects: int = 0
    events: int = 0
    skips: int = 0
    uncaptured: int = 0
    children: int = 0
    unprobed: bool = False
    cut_off: bool = False

    def __bool__(self) -> bool:
        return any(astuple(self))


@dataclass(frozen=True)
class Verdict:
    """`checks`: linear_trace, data_integrity, symmetry and leak_free, in this order.

    REJECT: a check failed. NONE: there was no call, and nothing is missing but children that were
    not followed. PASS: there was one, and nothing is missing. UNKNOWN: else. `calls`: recorded;
    `counted`: by the probe at their entry (None: no count was recorded); `children`: forked.
    The other counts are of the ledger's objects: `live` are those that are known to be, leaked or
    not, `unseen` those whose free may have been missed.
    """

    verdict: Literal["PASS", "REJECT", "UNKNOWN", "NONE"]
    missing: Missing
    checks: dict[str, Check]
    calls: int
    counted: int | None
    children: int
    allocated: int
    freed: int
    live: int
    unseen: int


@dataclass(frozen=True, slots=True)
class Fate(Check):
    """What became of an object: freed (pass), leaked (fail), or why that cannot be told.

    `live`: it is known to be in use. `missed`: its free may have come and gone unseen.
    """

    live: bool = False
    missed: bool = False


def judge(story: Story) -> Verdict:
    """The verdict on all calls of a story. Raises nothing: bad input is a failed check."""
    fates = [(made, fate(story, made)) for made in story.ledger]
    traces = [(call, _linear(story, call)) for call in story.calls.values()]
    freed = sum(made.free is not None for made in story.ledger)
    live = sum(_fails(end) or end.live for _, end in fates)
    checks = {
        "linear_trace": _linear_trace(story, traces),
        "data_integrity": _of_calls(story, _integrity),
        "symmetry": _of_calls(story, _symmetry),
        "leak_free": _leak_free(story, fates),
    }
    entries = [state for state in story.probes.values() if "USER_EXEC" in state.probe.steps]
    attached = [state for state in entries if state.status != "missing"]
    counted = None
    if attached and all(state.counted for state in attached):
        counted = sum(state.hits for state in attached)
    children = max(len(story.forks), _forks_counted(story))
    missing = Missing(
        calls=max((counted or 0) - len(story.calls), 0),
        unfinished=sum(check.status == "unobservable" for _, check in traces),
        objects=sum(end.missed for _, end in fates) + _never_allocated(story),
        events=story.lost,
        skips=sum(state.missed for state in entries),
        uncaptured=sum(event.count for event in story.uncaptured),
        children=children - sum(fork.followed for fork in story.forks),
        unprobed=bool(entries) and not attached,
        cut_off=story.end is None,
    )
    return Verdict(
        verdict=_word(story, checks, missing),
        missing=missing,
        checks=checks,
        calls=len(story.calls),
        counted=counted,
        children=children,
        allocated=len(story.ledger),
        freed=freed,
        live=live,
        unseen=len(fates) - freed - live,
    )


def _word(
    story: Story, checks: dict[str, Check], missing: Missing
) -> Literal["PASS", "REJECT", "UNKNOWN", "NONE"]:
    if any(map(_fails, checks.values())):
        return "REJECT"
    if not story.calls:
        return "UNKNOWN" if replace(missing, children=0) else "NONE"
    return "UNKNOWN" if missing else "PASS"


def _forks_counted(story: Story) -> int:
    counts = (state.hits for name, state in story.probes.items() if name.endswith(f":{_FORKS}"))
    return max(counts, default=0)


def _never_allocated(story: Story) -> int:
    """The objects of calls whose allocation was not seen, where those of others were."""
    return sum(len(_unseen(call)) for call in story.calls.values()) if story.ledger else 0


def _of_calls(story: Story, judge_call: Callable[[Story, Call], Check]) -> Check:
    return _of_all([(call, judge_call(story, call)) for call in story.calls.values()])


def _of_all(outcomes: list[tuple[Call, Check]]) -> Check:
    """One failed call fails all; one that passed is enough, and the others are named."""
    if not outcomes:
        return Check("unobservable", NO_CALL)
    for status in ("fail", "pass", "unobservable"):
        found = [(call, check) for call, check in outcomes if check.status == status]
        if not found:
            continue
        if status == "fail":
            text = _listed(f"call {call.number}: {check.evidence}" for call, check in found)
            return Check("fail", text if len(outcomes) > 1 else found[0][1].evidence)
        text = _grouped((check.evidence for _, check in found), len(outcomes), "calls")
        if status == "pass" and len(found) < len(outcomes):
            text += f"; {len(outcomes) - len(found)} of {len(outcomes)} calls not observable"
        return Check("pass" if status == "pass" else "unobservable", text)
    raise AssertionError("a call without an outcome")


def _listed(texts: Iterable[str]) -> str:
    texts = list(texts)
    more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more


def _grouped(texts: Iterable[str], total: int, what: str) -> str:
    """Equal reasons once, with how many there are of each."""
    groups = Counter(texts)
    if total == 1:
        return next(iter(groups))
    return _listed(f"{count} of {total} {what}: {text}" for text, count in groups.most_common())


def _linear_trace(story: Story, traces: list[tuple[Call, Check]]) -> Check:
    if story.again:
        return Check("fail", f"call {story.again[0].call} began twice")
    if story.orphans and story.silence("USER_EXEC") is None:
        count, call = len(story.orphans), story.orphans[0].call
        return Check("fail", f"{count} steps of calls that never began here, such as call {call}")
    if not story.calls:
        if story.lost:
            return Check("unobservable", f"no call captured; {story.lost} events were lost")
        if story.unprobed(["USER_EXEC"]):
            return Check("unobservable", "the probe that tells of socket() calls is missing")
    return _of_all(traces)


def _linear(story: Story, call: Call) -> Check:
    """The steps of a call, in the kernel's order, up to its return or its failing edge."""
    steps = story.steps(call)
    seen = [(id, call.first[id].event) for id in CALL_STEPS if id in call.first]
    for (earlier, before), (later, after) in pairwise(seen):
        if after.t < before.t:
            return Check("fail", f"{later} came {before.t - after.t} ns before {earlier}")
    for id, event in seen:
        if event.tid != call.enter.tid:
            return Check("fail", f"{id} is of thread {event.tid}, not {call.enter.tid}")
    for id, check in steps.items():
        if check.status == "fail" and not _is_edge(call, id):
            return Check("fail", f"{id}: {check.evidence}")
    if call.result is None:
        return _unfinished(story, call)
    if gaps := _gaps(story, call):
        return Check("unobservable", f"{', '.join(gaps)} not captured: {_why_not(story, gaps)}")
    if call.result < 0 and story.lost and call.edge is None:
        text = f"how far it came is not known: {story.lost} events were lost"
        return Check("unobservable", f"it returned {errno_text(call.result)}; {text}")
    passed = sum(check.status == "pass" for check in steps.values())
    text = f"{passed} of {len(CALL_STEPS)} steps verified, in the kernel's order"
    if call.result < 0:
        text += f", up to the edge that returned {errno_text(call.result)}"
        unseen = [id for id in CALL_STEPS[2:-1] if id not in call.first and story.silence(id)]
        unseen = [id for id in unseen if not story.left_before(call, id)]
        return Check("pass", text + _besides(unseen))
    if passed < len(CALL_STEPS):
        unseen = [id for id, check in steps.items() if check.status == "unobservable"]
        text += _besides(unseen)
    return Check("pass", text)


def _besides(unseen: list[str]) -> str:
    return f"; not observable here: {', '.join(unseen)}" if unseen else ""


def _is_edge(call: Call, id: str) -> bool:
    """Whether a failed check is that of the edge by which a failed call left: no fault of it."""
    return call.edge is not None and call.edge.id == id and (call.result is None or call.result < 0)


def _unfinished(story: Story, call: Call) -> Check:
    if story.lost:
        return Check("unobservable", f"no return captured; {story.lost} events were lost")
    if story.end is None:
        return Check("unobservable", "it had not returned when the recording broke off")
    if call.enter.pid in story.exits:
        return Check("fail", "it never returned: the task ended inside the call")
    return Check("unobservable", "it had not returned when the recording ended")


def _why_not(story: Story, ids: list[str]) -> str:
    """Why no probe told of steps that must have been."""
    if story.lost:
        return f"{story.lost} events were lost"
    for state in story.probes.values():
        if state.missed and not set(ids).isdisjoint(state.probe.steps):
            return f"the kernel skipped {state.probe.name} {state.missed} times"
    return "nothing in the recording says why"


def _gaps(story: Story, call: Call) -> list[str]:
    """Steps that the call must have passed, which no probe told of and no reason excuses."""
    ids = CALL_STEPS[2:-1]
    if call.result is not None and call.result < 0:
        reached = [number for number, id in enumerate(ids) if id in call.first]
        ids = ids[: max(reached, default=0)]
    excused = {*story.blind, *story.unprobed(ids)}
    return [id for id in ids if id not in call.first and id not in excused]


def _integrity(story: Story, call: Call) -> Check:
    """Each object has one address, whatever pointer leads to it."""
    found: dict[ev.Kind, tuple[Ptr, str]] = {}
    sources: dict[ev.Kind, list[str]] = {}
    for kind in MADE[:-1]:
        if own := call.own(kind):
            found[kind], sources[kind] = (own, "where it was made"), ["where made"]
    for moment in call.moments:
        for kind, at, name in _addresses(moment.snap, moment.id in CLEANUP_STEPS):
            if at in (NULL, UNREAD, None):
                continue
            if kind not in found:
                found[kind] = (at, f"{name} at {moment.id}")
            first, origin = found[kind]
            if at != first:
                text = f"{kind} is {first} ({origin}) and {at} ({name}, {moment.id})"
                if moment.id in CLEANUP_STEPS and (why := _deaf(story)):
                    return Check("unobservable", f"{text}; but it may be another's by then: {why}")
                return Check("fail", text)
            known = sources.setdefault(kind, [])
            if name not in known and not name.startswith("struct"):
                known.append(name)
    agreed = [f"{kind} ({', '.join(known)})" for kind, known in sources.items() if len(known) > 1]
    if not agreed:
        return Check("unobservable", "no address was read by two ways")
    return Check("pass", f"one address each, however reached: {', '.join(agreed)}")


def _addresses(snap: ev.Snapshot, cleanup: bool) -> Iterator[tuple[ev.Kind, Ptr | None, str]]:
    """Each reading of an object's address; in cleanup only its own, as links are cut there."""
    for kind in STRUCTS:
        if (layer := getattr(snap, kind)) is not None:
            yield kind, layer.at, f"struct {kind}"
    if cleanup:
        return
    for pointer in LINKS.values():
        if (layer := getattr(snap, pointer.source)) is not None:
            name = "fd table" if pointer.source == "fd" else pointer.name
            yield pointer.target, getattr(layer, pointer.field), name


def _symmetry(story: Story, call: Call) -> Check:
    """Both directions of both links, at the last reading before anything was released."""
    complete = call.result is not None and call.result >= 0
    equal, unread = [], []
    for pointer in LINKS.values():
        if pointer.back is None:
            continue
        name, kind = pointer.name, pointer.target
        value = call.linked(pointer.source, pointer.field)
        own = call.own(kind)
        if value is None or own is None:
            unread.append(name)
        elif value == own:
            equal.append(f"{name} == {kind}")
        elif value != NULL or complete:
            return Check("fail", f"{name} is {value}, not the {kind} {own}")
    if not equal:
        return Check("unobservable", "no link between two layers was read")
    text = ", ".join(equal)
    if complete and unread:
        return Check("unobservable", f"{text}; not read: {', '.join(unread)}")
    return Check("pass", text if complete else f"{text}, as far as the call came")


def _leak_free(story: Story, fates: list[tuple[Object, Fate]]) -> Check:
    if bad := [f"{_named(made)}: {check.evidence}" for made, check in fates if _fails(check)]:
        return Check("fail", _listed(bad))
    unknown = [check.evidence for _, check in fates if check.status == "unobservable"]
    total = len(fates)
    if story.twice and not story.lost:
        return Check("fail", _listed(f"{_named(stray)} was freed twice" for stray in story.twice))
    for stray in story.strays:
        text = f"{_named(stray)} was freed, but its allocation was not seen"
        return Check("unobservable", text)
    if unknown:
        return Check("unobservable", _grouped(unknown, total, "objects"))
    if unseen := [call for call in story.calls.values() if _unseen(call)]:
        if blind := story.blind.get("CLEANUP_SOCK_FREE_INODE"):
            return Check("unobservable", blind)
        kinds = ", ".join(_unseen(unseen[0]))
        return Check("unobservable", f"call {unseen[0].number}: no probe told who made its {kinds}")
    if story.lost:
        return Check("unobservable", f"{total} objects freed, but {story.lost} events were lost")
    if not story.calls:
        return Check("unobservable", NO_CALL)
    if not total:
        if inside := [call for call in story.calls.values() if call.result is None]:
            return Check("unobservable", f"call {inside[0].number} had not returned")
        if silence := story.silence("STEP_09"):
            return Check("unobservable", f"what allocates: {silence}")
        return Check("pass", "no call came so far as to allocate anything")
    text = f"{total} objects allocated, {total} freed, each once"
    if count := left_open(story):
        text += f"; the program ended with {count} descriptor{'s' if count > 1 else ''} open, and "
        text += "that end freed what was behind: no leak of the kernel's"
    return Check("pass", text)


Outcome = Literal["leak-free", "leaked", "freed twice", "still live", "not observable"]


def outcome(story: Story, call: Call, objects: Iterable[Object]) -> Outcome:
    """What became of the objects of a call, in a word or two."""
    checks = [fate(story, made) for made in objects]
    whole = not story.lost and not _unseen(call)
    if any(map(_fails, checks)):
        return "leaked"
    if not story.lost and any(stray.call == call.number for stray in story.twice):
        return "freed twice"
    if whole and all(check.status == "pass" for check in checks):
        return "leak-free"
    unknown = [check for check in checks if check.status == "unobservable"]
    live = unknown and all(check.live for check in unknown)
    return "still live" if live else "not observable"


def left_open(story: Story) -> int:
    """The descriptors that were open at their process's end, and went with it."""
    return sum(
        made.kind == "fd" and made.free is not None and made.free.site == "do_exit"
        for made in story.ledger
    )


def _fails(check: Check) -> bool:
    return check.status == "fail"


def _named(made: Object | ev.Free) -> str:
    return f"{made.kind} {made.at} of call {made.call}"


def _unseen(call: Call) -> list[ev.Kind]:
    """What a call must have made, though no allocation of it was seen."""
    kinds: list[ev.Kind] = list(call.made)
    if call.result is not None and call.result >= 0:
        kinds = list(MADE)
    return [kind for kind in kinds if kind not in call.objects]


def fate(story: Story, made: Object) -> Fate:
    """What became of an object of the ledger."""
    if made.free is not None:
        return Fate("pass", "freed")
    if made.reused is not None:
        return Fate("unobservable", "its free was not seen, but its address was given out again")
    if destroyer := _destroyer(story, made):
        return Fate("unobservable", f"its free was not seen, but {destroyer}() ran on it")
    if why := _deaf(story):
        return Fate("unobservable", f"its free was not seen: {why}", missed=True)
    if story.end is None:
        return Fate("unobservable", "still live where the recording stops", live=True)
    call = story.calls.get(made.call)
    if call is None:
        return Fate("unobservable", "its call is not in the recording")
    if call.result is not None and call.result < 0:
        returned = call.first["STEP_17"].event.t
        if story.end.t - returned < GRACE and call.enter.pid not in story.exits:
            text = "still live when the recording ended, soon after"
            return Fate("unobservable", text, live=True)
        text = f"never freed, though its call failed ({errno_text(call.result)})"
        return Fate("fail", text + _last_seen(made, call))
    if call.enter.pid not in story.exits:
        text = "still live, and no leak: its process had not ended"
        return Fate("unobservable", text, live=True)
    if alive := sorted(_heirs(story, made, call) - story.exits.keys()):
        children = ", ".join(map(str, alive[:_SHOWN]))
        children += f" or {len(alive) - _SHOWN} more" if len(alive) > _SHOWN else ""
        return Fate("unobservable", f"child {children}, forked since, may still hold it")
    if made.kind == "sock" and (why := _outlives(call)):
        return Fate("unobservable", why, live=True)
    return Fate("fail", "never freed, though its process ended" + _last_seen(made, call))


def _last_seen(made: Object, call: Call) -> str:
    """Who held a leaked object last, as far as that was read."""
    for moment in reversed(call.moments):
        layer = getattr(moment.snap, made.kind)
        event = moment.event
        if made.kind == "fd" or layer is None or layer.at != made.at or isinstance(event, ev.Held):
            continue
        text = f"; last seen at {moment.id}, in {event.comm} tid {event.tid}"
        count = getattr(layer, "f_count", None) or getattr(layer, "skc_refcnt", None)
        return text + (f", references: {count}" if count is not None else "")
    return f"; last seen when {made.alloc.site} made it"


def _destroyer(story: Story, made: Object) -> str | None:
    """The function that was seen to take the object apart for good, or None."""
    call = story.calls.get(made.call)
    symbol = DESTROYERS.get(made.kind)
    for moment in call.first.values() if call else ():
        if moment.symbol == symbol:
            return symbol
    return None


# What tells of frees in every backend, whether or not it shows a step too.
_FREES = ("kmem_cache_free", "kfree", "sys_enter_close", "sys_exit_close")


def _deaf(story: Story) -> str | None:
    """Why a free may have gone unseen, or None."""
    if story.lost:
        return f"{story.lost} events were lost"
    for state in story.probes.values():
        target = state.probe.name.rpartition(":")[2]
        if target in _FREES or any(id in CLEANUP_STEPS for id in state.probe.steps):
            if state.status == "missing":
                return f"the probe {state.probe.name} is missing"
            if state.missed:
                return f"the kernel skipped {state.probe.name} {state.missed} times"
    return None


def _heirs(story: Story, made: Object, call: Call) -> set[int]:
    """The processes that may hold an object: the caller, and children forked from then on."""
    pids = {call.enter.pid}
    for fork in story.forks:
        if fork.t >= made.alloc.t and fork.pid in pids:
            pids.add(fork.child)
    return pids


def _outlives(call: Call) -> str | None:
    """Why the protocol may rightly keep the sock after its socket is gone; None: it may not."""
    if call.family == _AF_UNIX:
        return "still live: a peer may hold it (AF_UNIX)"
    if call.last("sock.sk_protocol") != _TCP:
        return None
    states = [
        moment.snap.sock.skc_state
        for moment in call.moments
        if moment.id in CLEANUP_STEPS and moment.snap.sock and moment.snap.sock.skc_state
    ]
    if not states:
        return "still live: its TCP state at the release was not read, so TCP may hold it"
    if states[-1] == _TCP_CLOSE:
        return None
    return f"still live: {TCP_STATES.get(states[-1], 'its TCP state')}, which TCP itself ends"
