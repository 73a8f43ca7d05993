"""The forensic report of a story, as text and as JSON: every line from what was recorded.

The text is at most WIDTH columns wide, save for what cannot be broken, and plain: nothing from
outside reaches the terminal but printable characters.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sized
from dataclasses import asdict

from recordings import events as ev
from recordings.claims import Claim, claims, functions
from recordings.layers import LABELS, LINKS, MADE, NAMES, NULL, STRUCTS, UNREAD, Ptr
from recordings.steps import CLEANUP_STEPS, SIGNS, STEPS
from recordings.story import (
    Call,
    Check,
    Hold,
    LinkState,
    Moment,
    Object,
    Story,
    links,
    told,
)
from recordings.uapi import errno_text, signal_name
from recordings.verdict import Verdict, fate, judge, outcome
from recordings.words import (
    call_text,
    duration,
    hold_how,
    hold_place,
    open_descriptors,
    recorded_at,
    state_text,
    uncaptured_text,
    visible,
    waited_text,
)

WIDTH = 80
IN_FULL = 8  # more calls than this are a table
ROWS = 40  # of that table, and of what is listed of one call

TITLES = {
    "linear_trace": "Linear Trace",
    "data_integrity": "Data Integrity",
    "symmetry": "Symmetry",
    "leak_free": "Leak Free",
}
_ASCII = str.maketrans({
    "✓": "ok", "✗": "FAIL", "○": "o", "→": "->", "←": "<-", "−": "-", "·": "-", "…": "...",
    "µ": "u", "═": "=", "─": "-", "│": "|", "└": "+", "▲": "^", "▼": "v",
})  # fmt: skip


def text(
    story: Story, call: int | None = None, *, ascii: bool = False, verdict: Verdict | None = None
) -> str:
    """The report. `call`: the number of the one call to show; KeyError if there is none such.

    `verdict`: that of the story, where it is known already.
    """
    verdict = verdict or judge(story)
    shown = list(story.calls.values()) if call is None else [story.calls[call]]
    lines = [*_header(story, verdict, shown), ""]
    if len(shown) > IN_FULL:
        lines += [*_table(story, shown), ""]
    else:
        for one in shown:
            lines += _call(story, one, of_several=len(story.calls) > 1)
    lines += [*_claims(story, verdict), "", *_status(story, verdict), ""]
    lines += [*_probes(story), "", *_complete(story)]
    report = "\n".join(visible(line.rstrip()) for line in lines)
    if ascii:
        report = report.translate(_ASCII).encode("ascii", "backslashreplace").decode()
    return report


def _rule(title: str, sign: str) -> list[str]:
    return [title, sign * WIDTH]


def _wrapped(text: str, indent: str, first: str | None = None) -> list[str]:
    return textwrap.wrap(
        visible(text),
        WIDTH,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )


def _header(story: Story, verdict: Verdict, shown: list[Call]) -> Iterator[str]:
    what = call_text(shown[0].enter) if len(shown) == 1 else f"{len(shown)} socket() calls"
    yield from _rule(f"FORENSIC KERNEL TRACE REPORT: {what}", "═")
    facts = _facts(story)
    kernel = ", ".join(str(facts[name]) for name in ("kernel", "arch") if facts[name])
    argv = facts["argv"]
    for name, value in (
        ("verdict", f"{verdict.verdict}: {why(verdict)}"),
        ("program", " ".join(argv) if isinstance(argv, list) else None),
        ("pid", facts["pid"]),
        ("kernel", f"Linux {kernel}" if kernel else None),
        ("host", facts["host"]),
        ("backend", facts["backend"]),
        ("recorded", facts["recorded"]),
        ("by", facts["tool"]),
        ("addresses", _ADDRESSES.get(str(facts["addresses"]))),
    ):
        yield from _wrapped(str(value or "not recorded"), " " * 12, f"{name:<12}")


def why(verdict: Verdict) -> str:
    """The verdict's reason in one sentence, with the numbers of what is missing."""
    calls = f"{_some(verdict.calls, 'call')} recorded"
    if verdict.counted is not None:
        calls = f"{_some(verdict.counted, 'call')} counted at entry, {verdict.calls} recorded"
    lacks = ", ".join(_lacks(verdict))
    match verdict.verdict:
        case "PASS":
            return f"no check failed; {calls}"
        case "REJECT":
            failed = [TITLES[name] for name, one in verdict.checks.items() if one.status == "fail"]
            return f"{', '.join(failed)} failed; {calls}" + (f"; missing: {lacks}" if lacks else "")
        case "UNKNOWN":
            return f"no check failed, but a failure may be in what is missing: {lacks}; {calls}"
        case "NONE":
            return "no socket() call came by the probes" + (f"; missing: {lacks}" if lacks else "")


def _lacks(verdict: Verdict) -> Iterator[str]:
    missing = verdict.missing
    if missing.calls:
        yield f"{missing.calls} of {_some(verdict.counted or 0, 'call')}"
    if missing.unfinished:
        yield f"steps of {_some(missing.unfinished, 'recorded call')}"
    if missing.objects:
        yield f"the making or the end of {_some(missing.objects, 'object')}"
    if missing.events:
        yield _some(missing.events, "lost event")
    if missing.skips:
        yield f"{_some(missing.skips, 'run')} of the probe at entry that the kernel skipped"
    if missing.uncaptured:
        yield f"{_some(missing.uncaptured, 'socket')} made past the probes"
    if missing.children:
        children = _some(verdict.children, "child process", "child processes")
        if missing.children == verdict.children:
            yield f"what {children} did (see --follow-forks)"
        else:
            yield f"what {missing.children} of {children} did"
    if missing.unprobed:
        yield "all calls, as the probe at entry is missing"
    if missing.cut_off:
        yield "what came after the recording breaks off"


def _some(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or f'{one}s'}"


_ADDRESSES = {
    "raw": "as the kernel has them",
    "masked": "masked: equal ones are equal, and say no more",
    "hashed": "hashed by the kernel's %p: equal ones are equal, and say no more",
}


def _facts(story: Story) -> dict[str, object]:
    """The header, with None for what it does not tell."""
    header = story.header
    if header is None:
        names = ("format", "version", "tool", "kernel", "arch", "backend", "argv", "pid")
        return dict.fromkeys((*names, "addresses", "recorded", "host"))
    recorded = recorded_at(header)
    return {
        "format": header.format,
        "version": header.version,
        "tool": header.tool or None,
        "kernel": header.kernel or None,
        "arch": header.arch or None,
        "backend": header.backend or None,
        "argv": header.argv or None,
        "pid": header.pid or None,
        "addresses": header.addresses,
        "recorded": f"{recorded:%Y-%m-%d %H:%M:%S} UTC" if recorded else None,
        "host": header.host or None,
    }


def _call(story: Story, call: Call, of_several: bool) -> Iterator[str]:
    if of_several:
        yield from _rule(f"CALL {call.number} of {len(story.calls)}: {call_text(call.enter)}", "═")
        yield f"{_who(call.enter)}, returned {_result(call)}"
        yield ""
    backend = story.header.backend if story.header else ""
    yield from _rule(f"PHASE 1: LIVE PROBE VERIFICATION ({backend})", "─")
    for number, (id, check) in enumerate(story.steps(call).items(), 1):
        yield from _step(story, call, number, id, check)
    yield ""
    yield from _rule("PHASE 2: MEMORY LINKAGE MAP (each link as last read before any release)", "─")
    yield from _map(story, call)
    yield ""
    yield from _rule("PHASE 3: THE HARDER PUZZLE (what cleanup really did)", "─")
    yield from _cleanup(story, call)
    yield from _holds(story, call)
    yield ""


def _who(event: ev.Enter | ev.Step | ev.Free) -> str:
    """A task: "curl (pid 4711)", with its thread id where it has another."""
    if not event.pid and not event.comm:
        return "a task that was not recorded"
    tid = getattr(event, "tid", event.pid)
    return f"{event.comm} (pid {event.pid}{f', tid {tid}' if tid != event.pid else ''})"


def _result(call: Call) -> str:
    return "nothing so far" if call.result is None else errno_text(call.result)


def _step(story: Story, call: Call, number: int, id: str, check: Check) -> Iterator[str]:
    """One numbered line, its sign at the right edge; the evidence below where it is too long."""
    kind = STEPS[id]
    left = f"{number:02}. {id}: {kind.name} " if id.startswith("STEP_") else f"{number:02}. {id} "
    left = visible(left + _subject(story, call, id))
    seen = visible(f"[{_evidence(call, id, check)}]")
    sign = SIGNS[check.status]
    if check.status == "unobservable":
        yield _dotted(left, sign)
        why = check.evidence if check.unreached else f"not observable here: {check.evidence}"
        yield from _wrapped(why, " " * 6)
    elif len(left) + len(seen) + 7 <= WIDTH:
        yield _dotted(left, f"{seen} {sign}")
    else:
        yield _dotted(left, sign)
        yield from _wrapped(seen, " " * 6)


def _dotted(left: str, right: str) -> str:
    room = WIDTH - len(right) - 5
    left = left if len(left) <= room else f"{left[: room - 1]}…"
    return f"{left} {'.' * (WIDTH - 2 - len(left) - len(right))} {right}"


def _subject(story: Story, call: Call, id: str) -> str:
    fd = call.linkage().fd
    return STEPS[id].subject.format(
        backend=story.header.backend if story.header else "unknown",
        program=" ".join(story.header.argv if story.header else []) or "program not recorded",
        creator=_creator(story, call),
        fd=fd.number if fd is not None else "?",
        result=_result(call),
    )


def _creator(story: Story, call: Call) -> str:
    """The family's create function, where a symbol or a kernel stack of the step names it."""
    for moment in call.moments:
        if moment.id == "STEP_13" and isinstance(moment.event, ev.Step):
            frames = functions(story, moment.event.stack)
            for name in (moment.event.symbol, *frames):
                if name.endswith("_create") and not name.endswith("sock_create"):
                    return name
    return "inet_create" if call.family == 2 else "pf->create"


def _evidence(call: Call, id: str, check: Check) -> str:
    """What a check rests on, with where it was seen: "sock_alloc exit: socket=0x…"."""
    moment = call.decided.get(id)
    if check.status == "unobservable" or moment is None or not isinstance(moment.event, ev.Step):
        return check.evidence
    return f"{told(moment.event)}: {check.evidence}"


_STATES: dict[LinkState, str] = {
    "absent": "NULL",
    "one-way": "one way only",
    "linked": "linked",
    "broken": "LEADS ELSEWHERE",
    "freed": "to freed memory",
    "unread": "not read",
}


def _map(story: Story, call: Call) -> Iterator[str]:
    snap = call.linkage()
    objects = {kind: (at, False) for kind in STRUCTS if (at := call.own(kind))}
    found = links(snap, objects)

    def layer(title: str, kind: ev.Kind) -> str:
        return f"{title:<32}@ {_address(call, snap, kind)}"

    def link(arrow: str, name: str, link: str, back: str | None = None) -> str:
        state, value = found[link].state, found[link].value
        shown = "" if value in (None, NULL) else value
        text = _STATES[state]
        if state == "one-way" and back is not None and found[back].state == "unread":
            text = "leads there (way back not read)"
        return f"   {arrow} {name:<22} {shown or '':<20}{text}"

    number = f"fd {snap.fd.number}" if snap.fd else "no descriptor"
    yield f"{'[Descriptor table]':<32}{number}"
    above = "fd"
    for kind in STRUCTS:
        down, back = f"{above}→{kind}", f"{kind}→{above}"
        if back in LINKS:
            yield "   │  ▲"
            yield link("│  └", f"{LINKS[back].name} (back)", back, down)
            yield link("└───", LINKS[down].name, down, back)
        else:
            yield link("└───", f"fdt->fd[{snap.fd.number if snap.fd else '?'}]", down)
        yield "   ▼"
        yield layer(f"[{NAMES[kind]} Layer: {LABELS[kind]}]", kind)
        above = kind
    if snap.socket and (name := story.name(snap.socket.ops)):
        yield f"   socket.ops → {name}"


def _address(call: Call, snap: ev.Snapshot, kind: ev.Kind) -> Ptr:
    own = call.own(kind) or getattr(getattr(snap, kind), "at", None)
    if own not in (None, UNREAD):
        return str(own)
    if call.result is not None and call.result < 0:
        return "none was seen"
    return "not read"


def _cleanup(story: Story, call: Call) -> Iterator[str]:
    seen = [moment for moment in call.moments if moment.id in CLEANUP_STEPS]
    start = call.enter.t
    if not seen:
        yield "No cleanup step of this call was seen."
    for moment in seen[:ROWS]:
        event = moment.event
        assert isinstance(event, ev.Step)
        sign = SIGNS[moment.check.status] if moment.check else "·"
        left = f"{sign} {duration(event.t - start):>8}  {moment.id.removeprefix('CLEANUP_'):<16}"
        seen_there = moment.check.evidence if moment.check else told(event)
        yield from _wrapped(f"{seen_there}, in {_who(event)}", " " * 29, f"{left}  ")
    yield from _rest(seen)
    whys: dict[str, list[str]] = {}
    for id in CLEANUP_STEPS:
        if id in story.blind and id not in call.first:
            whys.setdefault(story.blind[id], []).append(id.removeprefix("CLEANUP_"))
    for why, ids in whys.items():
        names = "cleanup" if len(ids) == len(CLEANUP_STEPS) else ", ".join(ids)
        yield from _wrapped(f"{names} not observable here: {why}", "  ", "○ ")
    if deaf := [id.removeprefix("CLEANUP_") for id in story.unprobed(CLEANUP_STEPS)]:
        text = f"{', '.join(deaf)} not observable here: the probe is missing (see PROBES)"
        yield from _wrapped(text, "  ", "○ ")
    objects = [made for made in story.ledger if made.call == call.number]
    if objects:
        yield ""
        yield f"The ledger (times since call {call.number} was entered):"
    for made in objects[:ROWS]:
        yield from _entry(story, call, made)
    yield from _rest(objects)
    lessons = list(_lessons(story, call, objects))
    if lessons:
        yield ""
    for line in lessons:
        yield from _wrapped(line, "  ", "• " if line[0] not in "✓✗○" else "")


def _entry(story: Story, call: Call, made: Object) -> Iterator[str]:
    again = f", the {made.generation}. here" if made.generation > 1 and made.kind != "fd" else ""
    yield f"  {made.kind:<7} {made.at}{again}"
    start = call.enter.t
    made_by = made.alloc.site or "site not recorded"
    if made.alloc.cache:
        made_by += f", from {made.alloc.cache}"
    indent = " " * 21
    yield from _wrapped(made_by, indent, f"    made  {duration(made.alloc.t - start):>9}  ")
    if made.free is None:
        end = fate(story, made)
        yield from _wrapped(end.evidence, " " * 6, f"    {SIGNS[end.status]} ")
        return
    yield f"    freed {duration(made.free.t - start):>9}  {made.free.site}"
    context = f"in {_who(made.free)} on CPU {made.free.cpu}"
    released = _released(call)
    if made.kind != "fd" and released is not None and made.free.t > released:
        context += f", {duration(made.free.t - released)} after the release"
    yield from _wrapped(context, indent)


def _holds(story: Story, call: Call) -> Iterator[str]:
    """What was seen while the call, or its cleanup, was held inside the kernel."""
    holds = [hold for hold in story.holds if hold.call == call.number]
    for hold in holds[:ROWS]:
        event, end = hold.event, hold.end
        yield ""
        how = f"for {duration(end.held)}, until {_ENDED[end.by]}" if end else "to the very end"
        yield from _wrapped(f"HELD {hold_place(event)}, {hold_how(event)}, {how}", "  ")
        signals = [*event.pending, *event.shared]
        facts = [
            f"thread {event.tid}, {_where(event)}",
            f"signals pending: {', '.join(map(signal_name, signals)) or 'none'}",
            f"open descriptors: {open_descriptors(event)}",
            "objects: " + (", ".join(_there(event.snap)) or "none yet"),
        ]
        if event.module:
            facts.append(f"about to ask modprobe for {event.module}")
        for fact in facts:
            yield from _wrapped(fact, " " * 6, "    · ")
        frames = _kernels(story.stacks.get(event.stack, []) if event.stack is not None else [])
        if frames or event.how == "asleep":
            yield from _wrapped(" ← ".join(frames) or "its stack was not read", " " * 6, "    · ")
    yield from _rest(holds)


def _where(event: ev.Held) -> str:
    if event.how == "frozen":
        return f"rip {event.registers.get('rip', 'not read')}"
    return f"state {event.state or 'not read'}, in {event.wchan or 'unknown'}"


def _kernels(frames: list[str]) -> list[str]:
    """The functions of a held call, without the page fault that it sleeps in and BPF's frames."""
    names = [frame.partition("+")[0] for frame in frames]
    program = [i for i, name in enumerate(names) if name.startswith("bpf_prog_")][:1] or [-1]
    kept = [name for name in names[program[0] + 1 :] if not name.startswith("bpf_trampoline_")]
    return [name for i, name in enumerate(kept) if name not in kept[i + 1 : i + 2]]


def _there(snap: ev.Snapshot) -> Iterator[str]:
    for kind in MADE[:-1]:
        layer: ev.Layer | None = getattr(snap, kind)
        if layer is not None and layer.at not in (NULL, UNREAD):
            yield f"{kind} {layer.at}"


_ENDED = {
    "user": "the user let it go", "limit": "its time was over", "signal": "a signal came",
    "detach": "sockstep let go",
}  # fmt: skip


def _released(call: Call) -> int | None:
    """When the first object of a call was released."""
    task = ("CLEANUP_GET_SIGNAL", "CLEANUP_DO_EXIT")
    return next(
        (m.event.t for m in call.moments if m.id in CLEANUP_STEPS and m.id not in task), None
    )


def _lessons(story: Story, call: Call, objects: list[Object]) -> Iterator[str]:
    """What this recording itself says of the puzzle, and the result."""
    returned: Moment | None = call.first.get("STEP_17")
    if returned is not None and call.result is not None and call.result >= 0:
        pending = [
            event
            for event in story.log[call.moments[0].line : returned.line]
            if isinstance(event, ev.Signal)
            and event.tid == call.enter.tid
            and event.phase == "generated"
            and event.t < returned.event.t
        ]
        if pending:
            names = ", ".join(sorted({signal_name(event.signo) for event in pending}))
            yield f"{names} came during the call, which returned {call.result} all the same."
    for made in objects:
        if made.free is None:
            continue
        stack = functions(story, made.free.stack)
        if made.kind == "sock" and "iput" not in stack:
            release = next((name for name in stack if name.endswith("_release")), "")
            if release:
                yield f"The sock was freed inside {release}(): its stack has no iput()."
        if made.kind == "socket" and "rcu_do_batch" in stack:
            yield "The struct socket was freed by RCU (rcu_do_batch), after a grace period."
    if not objects:
        return
    freed = sum(made.free is not None for made in objects)
    count = f"{len(objects)} object{'s' if len(objects) > 1 else ''} made, {freed} freed"
    match outcome(story, call, objects):
        case "leak-free":
            yield f"✓ Result: leak-free. {count}. Zero memory leak, no zombie socket."
        case "leaked":
            yield f"✗ Result: LEAKED. {count}."
        case "freed twice":
            yield f"✗ Result: FREED TWICE. {count}."
        case "still live":
            yield f"○ Result: still live. {count}. An open socket is no leak."
        case _:
            yield f"○ Result: {count}. Whether all are freed in the end is not observable here."


def _claims(story: Story, verdict: Verdict) -> Iterator[str]:
    """What the whole recording says of the report's sentences and of the facts behind them."""
    yield from _rule("PHASE 3: THE CLAIMS (of the whole recording, whatever call is shown)", "─")
    open: dict[str, None] = {}
    for claim in claims(story, verdict):
        yield from _wrapped(claim.text, " " * 14, f"{claim.status:<12}")
        yield from _wrapped(claim.why, " " * 14)
        if claim.status == "not tested":
            open[claim.tests] = None
    if open:
        yield from _wrapped(f"To test the others: sockstep lab --vm 6.1 {' '.join(open)}", "  ", "")


def _table(story: Story, shown: list[Call]) -> Iterator[str]:
    yield from _rule(f"{len(shown)} CALLS (--call N shows one in full)", "─")
    yield f"{'call':>5} {'task':<16} {'what':<45} result"
    for call in shown[:ROWS]:
        what, who = call_text(call.enter), visible(f"{call.enter.comm} {call.enter.tid}")
        result = "inside" if call.result is None else errno_text(call.result)
        counts = [check.status for check in story.steps(call).values()]
        bad = f" {SIGNS['fail']}" if "fail" in counts and not (call.result or 0) < 0 else ""
        what = what if len(what) <= 45 else f"{what[:44]}…"
        yield f"{call.number:>5} {who[:16]:<16} {what:<45} {result}{bad}"
    yield from _rest(shown)


def _rest(rows: Sized) -> Iterator[str]:
    if len(rows) > ROWS:
        yield f"      … and {len(rows) - ROWS} more: --json has them all"


def _status(story: Story, verdict: Verdict) -> Iterator[str]:
    yield from _rule(f"REJECTION STATUS: {verdict.verdict}", "═")
    for name, check in verdict.checks.items():
        left = f"{SIGNS[check.status]} {TITLES[name]:<15} "
        why = f"not observable: {check.evidence}" if check.status == "unobservable" else ""
        yield from _wrapped(why or check.evidence, " " * 18, left)
    if verdict.counted is not None:
        yield f"  {'Calls':<15} {verdict.counted} counted at entry, {verdict.calls} recorded"
    counts = f"{verdict.allocated} allocated, {verdict.freed} freed, {verdict.live} live"
    counts += f", {verdict.unseen} whose end was not seen" if verdict.unseen else ""
    yield f"  {'Ledger':<15} {counts}"


def _probes(story: Story) -> Iterator[str]:
    yield from _rule("PROBES", "─")
    if not story.probes:
        yield "The recording names none."
    for state in story.probes.values():
        name = visible(state.probe.name)
        match state.status:
            case "fired":
                yield f"✓ fired {state.hits} ×  {name}"
            case "missing":
                yield from _wrapped(f"missing  {name}: {state.probe.why}", "    ", "✗ ")
            case "attached":
                yield f"· attached  {name}"
            case status:
                yield f"○ {status}  {name}"
        if state.missed:
            yield f"    the kernel skipped it {state.missed} times"


def _complete(story: Story) -> Iterator[str]:
    """Whether the recording is whole, and how the tracee ended."""
    counted = story.end is not None and story.header and story.header.backend != "dmesg"
    lost = "no event was lost" if counted else "no event is counted as lost"
    if story.lost:
        lost = f"{story.lost} events were LOST"
    end = f"it ends: {story.end.why}" if story.end else "it is CUT OFF: it has no end"
    yield from _wrapped(f"Of this recording {lost}; {end}.", "")
    if story.waits:
        yield from _wrapped(f"So that none is, {waited_text(story.waits)}.", "")
    if story.uncaptured:
        yield from _wrapped(f"{uncaptured_text(story.uncaptured)}.", "")
    if story.state is not None:
        yield from _wrapped(f"The tracee, last seen: {state_text(story.state)}", "")


def as_json(
    story: Story, call: int | None = None, *, verdict: Verdict | None = None
) -> dict[str, object]:
    """The report as one object, for programs: see docs/recording-format.md.

    The verdict, what is missing, checks and counts are those of the whole recording, whatever
    `call` is shown.
    Text is as recorded: JSON's escapes are the only ones.
    """
    verdict = verdict or judge(story)
    shown = list(story.calls.values()) if call is None else [story.calls[call]]
    numbers = {one.number for one in shown}
    return {
        "verdict": verdict.verdict,
        "why": why(verdict),
        "missing": asdict(verdict.missing),
        "counted": verdict.counted,
        "checks": {
            name: {"status": check.status, "why": check.evidence}
            for name, check in verdict.checks.items()
        },
        "calls": [_call_json(story, one) for one in shown],
        "ledger": {
            "allocated": verdict.allocated,
            "freed": verdict.freed,
            "live": verdict.live,
            "unseen": verdict.unseen,
            "objects": [_object(story, made) for made in story.ledger if made.call in numbers],
        },
        "claims": [_claim_json(claim) for claim in claims(story, verdict)],
        "holds": [_hold_json(story, hold) for hold in story.holds if hold.call in numbers],
        "lost": story.lost,
        "uncaptured": [
            {"pid": event.pid, "tid": event.tid, "how": event.how, "count": event.count}
            for event in story.uncaptured
        ],
        "waited": {"times": len(story.waits), "ns": sum(wait.took for wait in story.waits)},
        "probes": [
            {
                "name": state.probe.name,
                "kind": state.probe.kind,
                "steps": state.probe.steps,
                "status": state.status,
                "hits": state.hits if state.counted else None,
                "missed": state.missed if state.counted else None,
                "why": state.probe.why,
            }
            for state in story.probes.values()
        ],
        "header": _facts(story),
        "end": story.end.why if story.end else None,
    }


def _call_json(story: Story, call: Call) -> dict[str, object]:
    args = call.enter.args if len(call.enter.args) == 3 else [None, None, None]
    recorded = call.enter.tid != 0
    return {
        "call": call.number,
        "pid": call.enter.pid if recorded else None,
        "tid": call.enter.tid if recorded else None,
        "comm": call.enter.comm,
        "syscall": call.enter.syscall,
        "family": args[0],
        "type": args[1],
        "protocol": args[2],
        "result": call.result,
        "steps": [
            {"id": id, "status": check.status, "evidence": _evidence(call, id, check)}
            for id, check in story.steps(call).items()
        ],
        "cleanup": [moment.id for moment in call.moments if moment.id in CLEANUP_STEPS],
    }


def _claim_json(claim: Claim) -> dict[str, object]:
    return {
        "id": claim.id,
        "text": claim.text,
        "status": claim.status,
        "evidence": [asdict(one) for one in claim.evidence],
        "count": claim.count,
        "source": claim.source,
        "tests": claim.tests,
    }


def _hold_json(story: Story, hold: Hold) -> dict[str, object]:
    event, end = hold.event, hold.end
    return {
        "call": event.call,
        "pid": event.pid,
        "tid": event.tid,
        "point": event.point,
        "how": event.how,
        "symbol": event.symbol or None,
        "at": event.at,
        "registers": event.registers,
        "held_ms": round(end.held / 1e6, 3) if end else None,
        "released_by": end.by if end else None,
        "stack": story.stacks.get(event.stack, []) if event.stack is not None else [],
        "fds": event.fds and [{"number": fd.number, "to": fd.to} for fd in event.fds],
        "fds_cut": event.fds_cut,
        "state": event.state,
        "wchan": event.wchan,
        "pending": sorted({*event.pending, *event.shared}),
        "blocked": event.blocked,
        "module": event.module or None,
    }


def _object(story: Story, made: Object) -> dict[str, object]:
    end = fate(story, made)
    free = made.free
    return {
        "call": made.call,
        "kind": made.kind,
        "at": made.at,
        "generation": made.generation,
        "allocated": {"t": made.alloc.t, "site": made.alloc.site, "cache": made.alloc.cache},
        "freed": free
        and {
            "t": free.t, "site": free.site, "pid": free.pid, "comm": free.comm, "cpu": free.cpu,
        },
        "status": end.status,
        "why": end.evidence,
    }  # fmt: skip
