"""The claims: what confirms each, what refutes it, and what leaves it untested."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings import events as ev
from recordings.claims import Claim, claims
from recordings.events import NULL
from recordings.experiments import EXPERIMENTS
from recordings.report import as_json, text
from recordings.story import Story
from recordings.stream import read
from tests import SAMPLES
from tests.builders import (
    FILE,
    GOOD,
    INET,
    IPUT,
    MS,
    OPS,
    PID,
    RETURN,
    SOCKET,
    US,
    WATCHED,
    T,
    any_event,
    beginning,
    changed,
    closed,
    died,
    emfile,
    ending,
    free,
    in_call,
    iput,
    kept,
    on_functions,
    session,
    signal,
    stacked,
    step,
    taken,
    window,
    without,
)
from tests.builders import call as good_call

Events = list[ev.Event]


def of(*events: Iterable[ev.Event], probes: Events | None = None, end: bool = True) -> Story:
    told = [event for some in events for event in some]
    last = max((event.t for event in told), default=T)
    ended = any(isinstance(event, ev.State) and event.state == "exited" for event in told)
    rest = ending(last + 1) if end and not ended else []
    return Story.of([*beginning(), *(on_functions() if probes is None else probes), *told, *rest])


def found(story: Story) -> dict[str, Claim]:
    return {claim.id: claim for claim in claims(story)}


def freed_late(events: Events) -> Events:
    return [
        msgspec.structs.replace(e, t=T + 500_000 * US)
        if isinstance(e, ev.Free) and e.kind == "sock" else e
        for e in events
    ]  # fmt: skip


PUT = step(1, T + 7 * US, "CLEANUP_PUT_UNUSED_FD", "put_unused_fd")


def numbered(events: Events) -> Events:
    """A call that reserved the number 3, after its entry."""
    number = ev.Alloc(t=T + 4 * US, call=1, kind="fd", at="3", site="alloc_fd")
    return [events[0], number, *events[1:]]


def released_with(ops: str, *more: ev.Step) -> Events:
    """EMFILE, its release having read these operations."""
    snap = ev.Snapshot(socket=ev.Socket(at=SOCKET, ops=ops))
    return [
        msgspec.structs.replace(e, snap=snap) if getattr(e, "id", "") == "CLEANUP_SOCK_RELEASE"
        else e for e in in_call(*more)
    ]  # fmt: skip


def failed(inner: int, result: int, *more: ev.Event) -> Events:
    """inet_create() fails, and so does the call."""
    events = changed(emfile(), "STEP_13", ret=inner)
    events = changed(events, "STEP_17", ret=result)
    return [*events[:3], *more, *events[3:]]


def refusal(hook: str, errno: int, **more: Any) -> ev.Inject:
    given = {"call": 1, "result": 0} | more
    return ev.Inject(t=T + 2 * US, what="refusal", pid=PID, hook=hook, errno=errno, **given)


def signalled(*more: ev.Event, close: Events | None = None) -> Events:
    """SIGTERM after STEP_14, a descriptor, the delivery, the exit."""
    events = good_call()
    at = next(i for i, e in enumerate(events) if getattr(e, "id", "") == "STEP_16")
    exit = closed() if close is None else close
    return died([*events[:at], signal(T + 30 * US), *events[at:], *more, *exit])


UNDER_EXIT = stacked(closed(), "CLEANUP_FPUT", "__fput", "task_work_run", "do_exit")


CASES: dict[str, tuple[list[Events], list[Events]]] = {  # what confirms, what refutes
    "1-state": ([GOOD, emfile()], [changed(GOOD, "STEP_16", fd__file="0xbad")]),
    "2-threat": (
        [GOOD],
        [
            changed(GOOD, "STEP_16", fd__file="0xbad"),
            [*good_call()[:-2], free(1, T + 25 * US, "fd", "3", "close"), *good_call()[-2:]],
        ],
    ),
    "2-number": ([kept(GOOD, "alloc fd")], [GOOD]),
    "3-file": (
        [changed(changed(GOOD, "STEP_13", socket__file=FILE), "STEP_10", socket__file=FILE)],
        [GOOD, changed(emfile(), "STEP_13", socket__file=NULL)],
    ),
    "3-later": (
        [GOOD],
        [
            changed(GOOD, "STEP_16", file__f_count=2),
            changed(GOOD, "STEP_16", file__private_data="0xbad"),
            changed(GOOD, "STEP_16", fd__file=FILE),
        ],
    ),
    "4-trap": ([emfile()], [without(emfile(), "CLEANUP_SOCK_RELEASE")]),
    "5-iput": (
        [in_call(IPUT)],
        [emfile(), in_call(msgspec.structs.replace(IPUT, tid=99))],
    ),
    "5-socket": ([in_call(IPUT)], [emfile(), [*emfile(), iput(T + 10_000 * US)]]),
    "5-sock": (
        [stacked(GOOD, "sock", "kmem_cache_free", "evict", "iput")],
        [
            stacked(GOOD, "sock", "kmem_cache_free", "inet_release", "sock_close"),
            in_call(IPUT),
            freed_late(in_call(IPUT)),
        ],
    ),
    "release-sock": (
        [
            stacked(GOOD, "sock", "kmem_cache_free", "inet_release", "sock_close"),
            freed_late(in_call(INET, IPUT)),
        ],
        [stacked(GOOD, "sock", "kmem_cache_free", "evict", "iput")],
    ),
    "6-leak": ([GOOD], [without(kept(GOOD, "free sock"), "CLEANUP_SK_DESTRUCT")]),
    "6-zombie": (
        [emfile(), signalled(taken())],
        [kept(emfile(), "free socket")],
    ),
    "fd-install": (
        [GOOD],
        [changed(GOOD, "STEP_17", ret=-24), changed(GOOD, "STEP_17", ret=4)],
    ),
    "socket-first": ([emfile()], [without(emfile(), "CLEANUP_SOCK_RELEASE")]),
    "rcu": (
        [stacked(emfile(), "socket", "kmem_cache_free", "rcu_do_batch", "rcu_core")],
        [stacked(emfile(), "socket", "kmem_cache_free", "evict", "iput")],
    ),
    "close-inode": (
        [stacked([*GOOD, IPUT], "CLEANUP_IPUT", "iput", "__dentry_kill", "__fput")],
        [
            stacked([*GOOD, IPUT], "CLEANUP_IPUT", "iput", "sock_close", "__fput"),
            stacked([*GOOD, IPUT], "CLEANUP_IPUT", "iput", "__sock_release", "__fput"),
        ],
    ),
    "same-step": (
        [stacked(emfile(), "CLEANUP_SOCK_RELEASE", "__sock_release", "__sys_socket")],
        [stacked(emfile(), "CLEANUP_SOCK_RELEASE", "__sock_release", "sock_release", "x")],
    ),
    "early-error": ([released_with(NULL)], [released_with(NULL, INET)]),
    "late-error": ([released_with(OPS, INET), in_call(INET)], [released_with(OPS)]),
    "number-back": ([numbered(in_call(PUT))], [numbered(emfile())]),
    "nothing-back": ([emfile(), GOOD], [in_call(PUT), [*GOOD, PUT]]),
    "errno": (
        [
            failed(-93, -93),
            failed(0, -13, refusal("security_socket_post_create", 13)),
        ],
        [failed(-93, -22), failed(0, -12, refusal("security_file_alloc", 13))],
    ),
    "errno-hidden": (
        [
            failed(0, -23, refusal("security_inode_alloc", 1)),
            failed(0, -105, refusal("security_sk_alloc", 1)),
        ],
        [failed(0, -1, refusal("security_inode_alloc", 1))],
    ),
    "signal": ([signalled(taken()), signalled()], [window()]),
    "signal-later": (
        [signalled(taken()), signalled(taken(signo=9)), window()],
        [[*good_call()[:6], signal(T + 5 * US, phase="delivered"), *good_call()[6:]]],
    ),
    "signal-exit": ([signalled(taken(), close=UNDER_EXIT)], [window()]),
    "signal-window": ([window()], [window(left=1600 * MS, result=3)]),
}


def cases(side: int) -> list[Any]:
    return [
        pytest.param(id, events, id=f"{id}-{number}")
        for id, sides in CASES.items()
        for number, events in enumerate(sides[side])
    ]


def test_every_claim_has_both_cases() -> None:
    assert list(CASES) != []
    assert set(CASES) == {claim.id for claim in claims(Story())}
    assert all(all(sides) for sides in CASES.values())


@pytest.mark.parametrize(("id", "events"), cases(0))
def test_what_confirms(id: str, events: Events) -> None:
    claim = found(of(events))[id]
    assert claim.status == "confirmed", claim
    assert claim.evidence
    assert claim.count >= len(claim.evidence)


@pytest.mark.parametrize(("id", "events"), cases(1))
def test_what_refutes(id: str, events: Events) -> None:
    claim = found(of(events))[id]
    assert claim.status == "refuted", claim
    assert claim.evidence


@pytest.mark.parametrize("id", CASES)
def test_one_call_against_it_refutes(id: str) -> None:
    """Whatever other calls say: a claim is about every call."""
    later = []
    for event in [*good_call(2, T + 10**9, fd=9), *closed(2, T + 10**9 + MS, fd=9)]:
        later.append(event)
    story = of(CASES[id][1][0], later)
    assert found(story)[id].status == "refuted"


def test_without_calls_nothing_is_tested() -> None:
    for story in (Story(), of([])):
        assert {claim.status for claim in claims(story)} == {"not tested"}
        assert not any(claim.evidence or claim.why for claim in claims(story))


# What rests on something that did not happen: the claim, and the events.
ABSENCES = {
    "1-state": emfile(),
    "2-number": kept(GOOD, "alloc fd"),
    "4-trap": without(emfile(), "CLEANUP_SOCK_RELEASE"),
    "5-iput": emfile(),
    "5-socket": emfile(),
    "socket-first": without(emfile(), "CLEANUP_SOCK_RELEASE"),
    "early-error": released_with(NULL),
    "late-error": released_with(OPS),
    "number-back": CASES["number-back"][1][0],
    "nothing-back": GOOD,
}


@pytest.mark.parametrize("id", ABSENCES)
def test_absence_counts_only_where_a_probe_would_have_told(id: str) -> None:
    assert found(of(ABSENCES[id]))[id].status != "not tested"
    probes = on_functions()
    missing = [msgspec.structs.replace(p, status="missing", why="x") for p in probes]  # type: ignore[type-var]
    skipped = [ev.Fired(t=9, name=f"kprobe:{name}", hits=1, missed=1) for name in WATCHED]
    elsewhere = [msgspec.structs.replace(p, kind="raw_tracepoint") for p in probes]  # type: ignore[type-var]
    for spoilt in ([], missing, [*probes, *skipped], elsewhere,
                   [*probes, ev.Lost(t=9, count=1, what="x")]):  # fmt: skip
        assert found(of(ABSENCES[id], probes=spoilt))[id].status == "not tested"


def test_a_call_whose_sock_alloc_failed_released_nothing() -> None:
    """Edge 5: __sock_release() is not run for a socket that never was."""
    events = without(changed(emfile(), "STEP_09", socket__at=NULL), "CLEANUP_SOCK_RELEASE")
    for gone in ("STEP_10", "STEP_13"):
        events = without(events, gone)
    claim = found(of(events))
    for id in ("1-state", "4-trap", "socket-first", "nothing-back"):
        assert claim[id].status == "not tested", id


def test_a_probe_inside_sock_alloc_does_not_tell_that_it_succeeded() -> None:
    """Tracepoints: what came later does."""
    inside = changed(emfile(), "STEP_09", symbol="sock_alloc_inode", at="inside")
    inside = without(inside, "CLEANUP_SOCK_RELEASE")
    assert found(of(inside))["4-trap"].status == "refuted"
    assert found(of(without(inside, "STEP_13")))["4-trap"].status == "not tested"


def test_which_reading_tells_that_there_is_no_file() -> None:
    """The last one between sock_alloc() and the allocation of the struct file."""
    assert found(of(GOOD))["3-file"].evidence[0].at == "inet_create exit"
    early = changed(without(GOOD, "STEP_13"), "STEP_10", symbol="security_inode_alloc")
    assert found(of(early))["3-file"].status == "not tested"
    file = ev.Alloc(t=T + 5 * US, call=1, kind="file", at=FILE, site="alloc_empty_file")
    late = [file, *kept(GOOD, "alloc file")]
    assert found(of([late[2], late[0], *late[3:]]))["3-file"].evidence[0].step == "STEP_10"
    unread = changed(without(emfile(), "STEP_10"), "STEP_13", socket__file=None)
    assert found(of(unread))["3-file"].status == "not tested"


@pytest.mark.parametrize(
    "field", ["file__f_count", "file__private_data", "fd__file"], ids=lambda name: str(name)
)
def test_a_field_that_was_not_read(field: str) -> None:
    claim = found(of(changed(GOOD, "STEP_16", **{field: None})))
    assert claim["3-later"].status == "not tested"
    assert (claim["1-state"].status == "not tested") == (field == "fd__file")


@pytest.mark.parametrize(
    "event",
    [
        ev.Blind(t=1, step="STEP_14", why="x"),
        ev.Lost(t=1, count=1, what="x"),
        ev.Probe(t=2, name="kprobe:all", kind="k", steps=["STEP_14"], status="missing", why="x"),
    ],
)
def test_a_file_that_may_have_been(event: ev.Event) -> None:
    assert found(of([event], emfile()))["socket-first"].status == "not tested"


def test_whose_release_it_is() -> None:
    """__sock_release() alone is not the family's; unix_release() is."""
    general = stacked(emfile(), "sock", "kmem_cache_free", "__sock_release", "__sys_socket")
    assert found(of(general))["5-sock"].status == "not tested"
    unix = stacked(emfile(), "sock", "kmem_cache_free", "unix_release", "__sock_release")
    assert found(of(unix))["release-sock"].why == (
        "call 1: the sock was freed inside unix_release(), no iput() on the stack"
    )


def test_another_family_has_another_release() -> None:
    for events in (released_with(NULL), released_with(OPS)):
        unix = [
            msgspec.structs.replace(e, args=[1, 1, 0]) if isinstance(e, ev.Enter) else e
            for e in events
        ]
        claim = found(of(unix))
        assert claim["early-error"].status == claim["late-error"].status == "not tested"


def test_whether_it_leaks_may_not_be_known() -> None:
    claim = found(of(good_call(), end=False))
    assert claim["6-leak"].status == "not tested"
    never = [e for e in good_call() if isinstance(e, ev.Enter)]
    refused = step(1, RETURN, "STEP_17", "__sys_socket", "exit", ret=-22)
    assert found(of([*never, refused]))["6-leak"].status == "not tested", "nothing was allocated"


def test_what_an_interrupt_came_amid_is_no_evidence() -> None:
    amid = stacked(emfile(), "sock", "__sk_destruct", "rcu_do_batch", "asm_sysvec_x", "iput")
    assert found(of(amid))["5-sock"].status != "confirmed"


def test_a_stack_that_was_not_read_refutes_nothing() -> None:
    assert found(of(stacked(emfile(), "socket")))["rcu"].status == "not tested"


def test_how_late_rcu_frees() -> None:
    claim = found(of(stacked(emfile(), "socket", "kmem_cache_free", "rcu_do_batch")))["rcu"]
    assert claim.why.endswith("in swapper/0 (pid 0), 8.99 ms after the release")
    alone = without(emfile(), "CLEANUP_SOCK_RELEASE")
    claim = found(of(stacked(alone, "socket", "kmem_cache_free", "rcu_do_batch")))["rcu"]
    assert claim.why.endswith("in swapper/0 (pid 0)")


def test_a_file_that_was_begun_is_a_file() -> None:
    """Edge 17 made a struct file: it says nothing of the time before."""
    at = step(1, T + 4 * US, "STEP_14", "sock_alloc_file", "exit", ret=-12)
    assert found(of(in_call(at)))["socket-first"].status == "not tested"


def test_a_create_that_fails_frees_its_sock_itself() -> None:
    """Edge 12: not by iput(), but by no release either."""
    claim = found(of(in_call(IPUT)))
    assert claim["5-sock"].status == "refuted"
    assert claim["release-sock"].status == "not tested"


def test_signals_that_test_nothing() -> None:
    for events in (
        signalled(taken(handler="ignored")),  # it was ignored, and not what it died of
        [e for e in signalled() if not isinstance(e, ev.State)],  # nothing shows that it was taken
        [signal(T - US), *died(GOOD)],  # before the call
        died([*good_call(), signal(RETURN + US), taken(), *closed()]),  # after it
        died([*good_call()[:8], signal(T + 20 * US, tid=99), *good_call()[8:], *closed()]),
    ):
        claim = found(of(events, end=False))
        for id in ("signal", "signal-exit", "signal-window"):
            assert claim[id].status == "not tested", (id, claim[id])


@pytest.mark.parametrize(
    "events",
    [
        window(slept=5 * MS, left=US),  # too short to be a sleep
        window(left=300 * MS),  # it went on too late for the signal to be why
        window(result=-22),  # another cause
        [e for e in window() if not isinstance(e, ev.State)],  # the signal was not fatal
    ],
)
def test_a_failure_with_a_cause_of_its_own(events: Events) -> None:
    claim = found(of(events))
    for id in ("signal", "signal-exit", "signal-window"):
        assert claim[id].status == "not tested", (id, claim[id])


def test_a_signal_is_taken_when_it_is_delivered() -> None:
    """Another that is generated later is no delivery, nor is the delivery of another."""
    for other in (signal(RETURN + 9 * US), taken(signo=10)):
        assert found(of(signalled(other)))["signal-later"].status == "not tested"


def test_a_handled_signal_is_not_fatal() -> None:
    """SIGTERM handled in the call; another one ended the process later."""
    handled = taken(handler="handled")
    claim = found(of(signalled(handled, close=UNDER_EXIT)))
    assert claim["signal"].status == "confirmed"
    assert claim["signal-exit"].status == "not tested"


def test_refusals_that_show_nothing() -> None:
    for event in (
        refusal("security_file_alloc", 1),  # its errno is not hidden
        refusal("security_inode_alloc", 23),  # hidden by what it said itself
        refusal("security_inode_alloc", 1, armed=True),
        refusal("security_inode_alloc", 1, call=2),
    ):
        assert found(of(failed(0, -23, event)))["errno-hidden"].status == "not tested"


def test_the_evidence_names_call_step_and_reading() -> None:
    claim = found(of(GOOD))["1-state"]
    (evidence,) = claim.evidence
    assert (evidence.call, evidence.step, evidence.at) == (1, "STEP_16", "fd_install entry")
    assert (
        claim.why == f"call 1 STEP_16 fd_install entry: fdt->fd[3] is NULL, the socket is {SOCKET}"
    )
    many = [e for n in range(1, 6) for e in good_call(n, T + n * 10**6, fd=n + 2)]
    assert found(of(many, end=False))["fd-install"].why.endswith("; and 3 more")


@pytest.mark.parametrize(
    ("point", "number", "result", "status"),
    [
        ("socket_post_create", 2, 3, "confirmed"),
        ("socket_create", 2, 3, "not tested"),  # before sock_alloc()
        ("socket_post_create", 3, 3, "not tested"),
        ("socket_post_create", 2, -24, "not tested"),
    ],
)
def test_the_open_descriptors_while_it_is_held(
    point: str, number: int, result: int, status: str
) -> None:
    held = ev.Held(
        t=T + 20 * US, call=1, point=point, pid=PID, tid=PID, state="S", wchan="handle_userfault",
        since=T + 20 * US, until=T + 10**9, snap=ev.Snapshot(),
        fds=[ev.Open(number=number, to="/dev/pts/0")],
    )  # fmt: skip
    events = without(changed(GOOD, "STEP_17", ret=result), "STEP_16")
    claim = found(of([*events[:8], held, *events[8:]], probes=[]))["1-state"]
    assert claim.status == status
    if status == "confirmed":
        assert claim.why == (
            f"call 1 held at socket_post_create: /proc/{PID}/fd has 2; the call returned 3"
        )


def test_each_claim_names_an_experiment_that_tests_it() -> None:
    assert {claim.tests for claim in claims(Story())} <= set(EXPERIMENTS)


@pytest.mark.parametrize("claim", claims(Story()), ids=lambda claim: claim.id)
def test_the_experiment_does_test_it(claim: Claim) -> None:
    """On the lab's recordings of a real kernel, which ship as samples."""
    story = Story.of(read(SAMPLES / f"lab-6.1-{claim.tests}.jsonl"))
    expected = "refuted" if claim.id in ("2-number", "3-file", "5-sock") else "confirmed"
    assert found(story)[claim.id].status == expected


@pytest.mark.parametrize("name", ["sigkill", "sigterm"])
def test_the_true_window_refutes_the_absolute_form(name: str) -> None:
    claim = found(Story.of(read(SAMPLES / f"lab-6.1-window-{name}.jsonl")))
    assert claim["signal"].status == claim["signal-exit"].status == "refuted"
    assert claim["signal-window"].status == claim["signal-later"].status == "confirmed"
    assert name.upper() in claim["signal"].why
    assert "returned −93 EPROTONOSUPPORT" in claim["signal"].why


EXPECTED = {
    "emfile-6.18-tracepoint": (
        {"4-trap", "6-leak", "6-zombie", "socket-first", "release-sock", "rcu", "same-step",
         "late-error"},
        {"3-file", "5-sock"},
    ),
    "socket_test-6.18-tracepoint": ({"6-leak", "release-sock", "rcu"}, {"3-file", "5-sock"}),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_a_real_recording(name: str) -> None:
    claim = claims(Story.of(read(SAMPLES / f"{name}.jsonl")))
    confirmed = {one.id for one in claim if one.status == "confirmed"}
    refuted = {one.id for one in claim if one.status == "refuted"}
    assert (confirmed, refuted) == EXPECTED[name]


def test_the_report_has_the_claims() -> None:
    story = of(GOOD)
    lines = text(story).splitlines()
    assert "confirmed   1 State: allocated, but no descriptor leads to it" in lines
    assert "refuted     2 Threat: before fd_install() the number does not exist" in lines
    assert "not tested  4 Trap: an error after sock_alloc() runs sock_release()" in lines
    assert any(line.startswith("To test the others: sockstep lab --vm 6.1 ") for line in lines)
    made: Any = json.loads(json.dumps(as_json(story)))
    assert [one["id"] for one in made["claims"]] == list(found(story))
    one = made["claims"][0]
    assert (one["status"], one["evidence"][0]["step"]) == ("confirmed", "STEP_16")


@given(st.lists(any_event(), max_size=30))
def test_any_events_at_all(events: Events) -> None:
    for claim in claims(Story.of(events)):
        assert (claim.status == "not tested") == (not claim.evidence)


@given(st.data())
def test_any_values_in_a_session(data: st.DataObject) -> None:
    events = [*on_functions(), *signalled(taken()), *session(), *in_call(INET, IPUT, PUT)]
    for at in data.draw(st.lists(st.integers(0, len(events) - 1), max_size=5)):
        other = data.draw(any_event(type(events[at])))
        keep = {name: getattr(events[at], name) for name in ("call", "id") if hasattr(other, name)}
        events[at] = msgspec.structs.replace(other, **keep)
    for claim in claims(Story.of(events)):
        assert (claim.status == "not tested") == (not claim.evidence)
