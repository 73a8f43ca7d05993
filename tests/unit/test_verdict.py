"""The verdict: a good session passes, and each fault that one can put in is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings import events as ev
from recordings.events import NULL
from recordings.story import Check, Story
from recordings.verdict import Missing, Verdict, fate, judge, outcome
from tests.builders import (
    PID,
    SOCK,
    SOCKET,
    US,
    T,
    any_event,
    beginning,
    changed,
    closed,
    emfile,
    ending,
    free,
    session,
    step,
    without,
)
from tests.builders import call as good_call

Events = list[ev.Event]


def verdict(events: Events) -> Verdict:
    return judge(Story.of(events))


def check(events: Events, name: str) -> Check:
    return verdict(events).checks[name]


def gone(events: Events, unwanted: Callable[[Any], bool]) -> Events:
    left = [event for event in events if not unwanted(event)]
    assert len(left) < len(events)
    return left


def test_a_good_session() -> None:
    found = verdict(session())
    assert found.verdict == "PASS"
    evidence = found.checks["linear_trace"].evidence
    assert evidence == "10 of 10 steps verified, in the kernel's order"
    assert list(found.checks) == ["linear_trace", "data_integrity", "symmetry", "leak_free"]
    assert {check.status for check in found.checks.values()} == {"pass"}
    assert (found.allocated, found.freed, found.live) == (4, 4, 0)


def test_a_call_that_failed_as_it_should() -> None:
    """An error edge is no reason to reject: the kernel did right."""
    found = verdict([*beginning(), *emfile(), *ending()])
    assert found.verdict == "PASS"
    assert found.checks["leak_free"].status == "pass"
    assert "−24 EMFILE" in found.checks["linear_trace"].evidence


# -- linear trace --------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["STEP_13", "STEP_14", "STEP_16", "STEP_17"])
def test_a_step_that_came_too_early(id: str) -> None:
    found = verdict(changed(session(), id, t=T + 1))
    assert found.checks["linear_trace"].status == "fail"
    assert found.verdict == "REJECT"


def test_steps_of_one_moment_are_in_order() -> None:
    events = session()
    for id in ("STEP_15", "STEP_13_BACKLINK", "STEP_16", "STEP_17"):
        events = changed(events, id, t=T + 37 * US)
    assert verdict(events).verdict == "PASS"


def test_a_step_of_another_thread() -> None:
    found = check(changed(session(), "STEP_14", tid=99), "linear_trace")
    assert found.status == "fail"
    assert "STEP_14 is of thread 99" in found.evidence


def test_a_check_that_failed() -> None:
    found = check(changed(session(), "STEP_10", socket__state=3), "linear_trace")
    assert found.status == "fail"
    assert found.evidence.startswith("STEP_10: ")


def test_a_failed_check_in_a_failed_call() -> None:
    """Only the edge itself may fail there."""
    assert check([*beginning(), *changed(emfile(), "STEP_10", socket__state=3)],
                 "linear_trace").status == "fail"  # fmt: skip
    edge = [
        *beginning(), emfile()[0],
        step(1, T + 5, "STEP_13", "inet_create", "exit", ret=-93),
        step(1, T + 9, "STEP_17", "__sys_socket", "exit", ret=-93),
    ]  # fmt: skip
    story = Story.of(edge)
    assert story.steps(story.calls[1])["STEP_13"].status == "fail"
    assert judge(story).checks["linear_trace"].status == "unobservable", "STEP_09 and 10 are gone"
    assert check(changed(edge, "STEP_17", ret=3), "linear_trace").status == "fail"


def test_a_step_that_is_missing() -> None:
    """The kernel cannot skip a step: what is missing was not seen, which is no proof of order."""
    hole = without(session(), "STEP_14")
    found = verdict(hole)
    assert found.checks["linear_trace"].status == "unobservable"
    assert "STEP_14 not captured: nothing" in found.checks["linear_trace"].evidence
    assert (found.verdict, found.missing.unfinished) == ("UNKNOWN", 1)
    lost = verdict([*hole, ev.Lost(t=1, count=3, what="ring buffer")]).checks["linear_trace"]
    assert "3 events were lost" in lost.evidence
    skipped = ev.Fired(t=1, name="kprobe:all", hits=4, missed=2)
    assert "skipped kprobe:all 2 times" in check([*hole, skipped], "linear_trace").evidence


def test_a_step_that_cannot_be_seen_here() -> None:
    hole = without(session(), "STEP_14")
    blind = ev.Blind(t=1, step="STEP_14", why="no tracepoint")
    found = verdict([*hole, blind])
    assert found.verdict == "PASS"
    assert found.checks["linear_trace"].evidence == (
        "9 of 10 steps verified, in the kernel's order; not observable here: STEP_14"
    )
    missing = ev.Probe(
        t=1, name="x", kind="kprobe", steps=["STEP_14"], status="missing", why="no symbol"
    )
    assert check([*hole, missing], "linear_trace").status == "unobservable", "another one is there"
    only = [e for e in hole if not isinstance(e, ev.Probe)]
    other = msgspec.structs.replace(missing, name="y", status="attached", steps=["STEP_13"])
    assert check([*only, missing, other], "linear_trace").status == "pass"


def test_a_step_missing_before_the_failing_edge() -> None:
    found = check([*beginning(), *without(emfile(), "STEP_09")], "linear_trace")
    assert found.status == "unobservable"
    assert found.evidence.startswith("STEP_09 not captured")


def test_no_call_at_all() -> None:
    found = verdict([*beginning(), *ending()])
    assert found.verdict == "NONE"
    none = Check("unobservable", "no socket() call in this recording")
    assert found.checks["linear_trace"] == none
    lost = ev.Lost(t=5, count=1, what="ring buffer")
    assert check([*beginning(), lost, *ending()], "linear_trace").status == "unobservable"


def test_a_recording_that_is_cut_off() -> None:
    events = session()
    for length in range(len(events)):
        found = verdict(events[:length])
        assert all(check.status != "fail" for check in found.checks.values())
        assert found.verdict == "UNKNOWN", "what is missing proves nothing"
        assert found.missing.cut_off


def test_a_tracee_that_died_inside_a_call() -> None:
    events = without([*beginning(), *good_call()], "STEP_17")
    found = check([*events, *ending()], "linear_trace")
    assert (found.status, found.evidence) == (
        "fail", "it never returned: the task ended inside the call",
    )  # fmt: skip
    detached = ev.End(t=T * 2, why="detached", how="detached")
    assert check([*events, detached], "linear_trace").status == "unobservable"


def test_one_unfinished_call_beside_a_good_one() -> None:
    unfinished = good_call(2, T + 10**6, fd=4)[:6]
    broken_off = check([*beginning(), *unfinished], "linear_trace")
    assert broken_off.evidence == "it had not returned when the recording broke off"
    found = verdict([*session()[:-2], *unfinished])
    assert found.checks["linear_trace"].status == "pass"
    assert "1 of 2 calls not observable" in found.checks["linear_trace"].evidence


def test_steps_that_belong_to_no_call() -> None:
    orphan = step(7, T, "STEP_09", "sock_alloc", "exit")
    assert check([*session(), orphan], "linear_trace").status == "fail"
    lost = ev.Lost(t=5, count=1, what="ring buffer")
    assert check([*session(), orphan, lost], "linear_trace").status == "pass"


# -- data integrity and symmetry -----------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "field"),
    [
        ("STEP_10", "socket__at"),
        ("STEP_13", "socket__sk"),
        ("STEP_13", "sock__at"),
        ("STEP_14", "file__at"),
        ("STEP_14", "file__private_data"),
        ("STEP_16", "sock__sk_socket"),
        ("STEP_16", "socket__file"),
        ("STEP_17", "fd__file"),
    ],
)
def test_an_address_that_does_not_agree(id: str, field: str) -> None:
    events = session()
    if id == "STEP_13":
        events = gone(events, lambda e: isinstance(e, ev.Step) and e.at == "entry" and e.id == id)
    found = verdict(changed(events, id, **{field: "0xbad"}))
    assert found.checks["data_integrity"].status == "fail"
    assert "0xbad" in found.checks["data_integrity"].evidence
    assert found.verdict == "REJECT"


def test_an_address_that_does_not_agree_in_cleanup() -> None:
    events = changed(session(), "CLEANUP_INET_RELEASE", sock__at="0xbad")
    assert check(events, "data_integrity").status == "fail"
    # Where a free may have been missed, the memory may be another object's by then.
    missed = ev.Fired(t=1, name="kprobe:all", hits=9, missed=3)
    found = check([*events, missed], "data_integrity")
    assert found.status == "unobservable"
    assert "0xbad" in found.evidence
    assert "skipped kprobe:all 3 times" in found.evidence
    early = changed(session(), "STEP_16", sock__at="0xbad")
    assert check([*early, missed], "data_integrity").status == "fail"


@pytest.mark.parametrize(
    "field", ["socket__sk", "socket__file", "sock__sk_socket", "file__private_data"]
)
@pytest.mark.parametrize("value", [NULL, "0xbad"])
def test_a_link_without_its_way_back(field: str, value: str) -> None:
    found = verdict(changed(session(), "STEP_17", **{field: value}))
    assert found.checks["symmetry"].status == "fail"
    assert found.verdict == "REJECT"


def test_links_that_were_not_read() -> None:
    events = session()
    for id in ("STEP_13", "STEP_14", "STEP_15", "STEP_13_BACKLINK", "STEP_16", "STEP_17"):
        events = changed(events, id, snap={"socket": {"at": SOCKET}})
    assert check(events, "symmetry").status == "unobservable"
    assert check(events, "data_integrity").status == "unobservable"
    half = changed(events, "STEP_17", snap={"sock": {"at": SOCK, "sk_socket": SOCKET}})
    found = check(half, "symmetry")
    assert found.status == "unobservable"
    assert found.evidence.startswith("sock.sk_socket == socket; not read: file.private_data")


def test_an_early_failure_has_no_links() -> None:
    enter = emfile()[0]
    refused = step(1, T + 2, "STEP_17", "__sys_socket", "exit", ret=-97)
    found = verdict([*beginning(), enter, refused, *ending()])
    assert found.verdict == "PASS"
    assert found.checks["data_integrity"].status == "unobservable"
    assert found.checks["symmetry"].status == "unobservable"
    assert found.checks["leak_free"] == Check("pass", "no call came so far as to allocate anything")
    assert check([*beginning(), *ending()], "leak_free").status == "unobservable"


# -- the ledger ----------------------------------------------------------------------------


DESTROYERS = {
    "socket": "CLEANUP_SOCK_FREE_INODE",
    "sock": "CLEANUP_SK_DESTRUCT",
    "file": "CLEANUP_FPUT",
}


def is_free(kind: str) -> Callable[[Any], bool]:
    """What tells of the end of an object of this kind."""
    return lambda event: (
        (isinstance(event, ev.Free) and event.kind == kind)
        or (isinstance(event, ev.Step) and event.id == DESTROYERS.get(kind))
    )


@pytest.mark.parametrize("kind", ["socket", "sock", "file", "fd"])
def test_a_leak(kind: str) -> None:
    found = verdict(gone(session(), is_free(kind)))
    assert found.checks["leak_free"].status == "fail"
    assert kind in found.checks["leak_free"].evidence
    assert (found.allocated, found.freed, found.live) == (4, 3, 1)
    assert found.verdict == "REJECT"


@pytest.mark.parametrize("kind", ["socket", "sock"])
def test_a_leak_of_a_failed_call(kind: str) -> None:
    """Nobody can hold what a failed call made, whether its process lives or not."""
    leaky = gone([*beginning(), *emfile()], is_free(kind))
    assert check([*leaky, *ending()], "leak_free").status == "fail"
    assert (
        check([*leaky, ev.End(t=T * 3, why="detached", how="detached")], "leak_free").status
        == "fail"
    )
    soon = ev.End(t=T + 900 * US, why="detached", how="detached")
    assert check([*leaky, soon], "leak_free").status == "unobservable", "RCU needs a while"


@pytest.mark.parametrize("kind", ["socket", "sock", "file"])
def test_a_free_that_was_not_seen_though_its_destroyer_was(kind: str) -> None:
    """The function whose last act it is to free the object: it cannot be called a leak."""
    found = verdict(gone(session(), lambda e: isinstance(e, ev.Free) and e.kind == kind))
    assert found.checks["leak_free"].status == "unobservable"
    assert "() ran on it" in found.checks["leak_free"].evidence
    assert (found.allocated, found.freed, found.live) == (4, 3, 0)
    derived = changed(session(), DESTROYERS[kind], symbol="rcu_do_batch")
    gone_free = gone(derived, lambda e: isinstance(e, ev.Free) and e.kind == kind)
    assert check(gone_free, "leak_free").status == "fail", "of that function nothing was seen"


def test_an_open_socket_is_no_leak() -> None:
    found = verdict([*beginning(), *good_call(), ev.End(t=T * 9, why="detached", how="detached")])
    assert found.verdict == "PASS"
    assert found.checks["leak_free"].status == "unobservable"
    assert "still live, and no leak" in found.checks["leak_free"].evidence
    assert (found.allocated, found.freed, found.live) == (4, 0, 4)


def test_an_object_freed_twice() -> None:
    again = free(1, T * 2, "sock", SOCK, "__sk_destruct")
    found = check([*session(), again], "leak_free")
    assert (found.status, found.evidence) == ("fail", f"sock {SOCK} of call 1 was freed twice")
    lost = ev.Lost(t=5, count=1, what="ring buffer")
    assert check([*session(), again, lost], "leak_free").status == "unobservable"


def test_a_free_of_what_nobody_saw_made() -> None:
    events = gone(session(), lambda e: isinstance(e, ev.Alloc) and e.kind == "sock")
    assert check(events, "leak_free").status == "unobservable"


def test_an_address_in_use_again() -> None:
    """Two calls, one address after the other: each object has its own end."""
    second = [
        msgspec.structs.replace(event, at=SOCK) if getattr(event, "kind", "") == "sock" else event
        for event in [*good_call(2, T + 10**7, fd=3), *closed(2, T + 2 * 10**7)]
    ]
    events = [*session()[:-2], *second, *ending(T + 10**9)]
    assert check(events, "leak_free").status == "pass"
    missed = gone(events, lambda e: is_free("sock")(e) and e.call == 1)
    found = check(missed, "leak_free")
    assert found.status == "unobservable"
    assert "given out again" in found.evidence
    leak = gone(events, lambda e: is_free("sock")(e) and e.call == 2)
    assert check(leak, "leak_free").status == "fail"


def test_lost_events_and_deaf_probes_prove_nothing() -> None:
    leaky = gone(session(), is_free("file"))
    deaf = ev.Probe(
        t=1, name="kprobe:__fput", kind="kprobe", steps=["CLEANUP_FPUT"], status="missing", why="x"
    )
    for event, words in (
        (ev.Lost(t=1, count=2, what="ring buffer"), "2 events were lost"),
        (ev.Fired(t=1, name="kprobe:all", hits=9, missed=3), "skipped kprobe:all 3 times"),
        (deaf, "kprobe:__fput is missing"),
    ):
        found = check([*leaky, event], "leak_free")
        assert found.status == "unobservable"
        assert words in found.evidence
    lost = check([*session(), ev.Lost(t=1, count=2, what="x")], "leak_free")
    assert lost.status == "unobservable", "whole objects may be among them"


@pytest.mark.parametrize(
    ("state", "status"), [(7, "fail"), (4, "unobservable"), (9, "unobservable")]
)
def test_a_tcp_sock_outlives_its_socket(state: int, status: str) -> None:
    events = changed(session(), "CLEANUP_INET_RELEASE", sock__skc_state=state)
    events = gone(events, is_free("sock"))
    assert check(events, "leak_free").status == status


def test_a_tcp_sock_whose_state_at_the_release_is_unknown() -> None:
    events = gone(without(session(), "CLEANUP_INET_RELEASE"), is_free("sock"))
    assert check(events, "leak_free").status == "unobservable"


def test_only_a_tcp_sock_has_such_a_life() -> None:
    """Without its TCP state a UDP sock that is still there is a leak all the same."""
    events = gone(without(session(), "CLEANUP_INET_RELEASE"), is_free("sock"))
    for id in ("STEP_13", "STEP_14", "STEP_13_BACKLINK", "STEP_16", "STEP_17"):
        events = changed(events, id, snap={"socket": {"at": SOCKET}, "sock": {"at": SOCK}})
    last = changed(events, "STEP_17", snap={"sock": {"at": SOCK, "sk_protocol": 17}})
    assert check(last, "leak_free").status == "fail"


def test_an_unix_sock_may_be_held_by_its_peer() -> None:
    def unix(event: ev.Event) -> ev.Event:
        made = isinstance(event, ev.Enter)
        return msgspec.structs.replace(event, args=[1, 1, 0]) if made else event

    events = [unix(event) for event in gone(session(), is_free("sock"))]
    assert "peer" in check(events, "leak_free").evidence


def test_a_child_may_hold_what_its_parent_had() -> None:
    fork = ev.Fork(t=T + 500 * US, pid=PID, child=4800, followed=False)
    leaky = gone(session(), is_free("file"))
    found = check([*leaky[:-2], fork, *leaky[-2:]], "leak_free")
    assert found.status == "unobservable"
    assert "child 4800" in found.evidence
    grandchild = ev.Fork(t=T + 600 * US, pid=4800, child=4900, followed=True)
    ended = ev.State(t=T + 700 * US, pid=4800, state="exited", status=0)
    both = [*leaky[:-2], fork, grandchild, ended, *leaky[-2:]]
    assert "child 4900" in check(both, "leak_free").evidence
    assert check([*leaky[:-2], fork, ended, *leaky[-2:]], "leak_free").status == "fail"
    before = msgspec.structs.replace(fork, t=T - 1)
    assert check([*leaky[:-2], before, *leaky[-2:]], "leak_free").status == "fail"


def test_a_backend_that_sees_no_allocations() -> None:
    events = gone(session(), lambda e: isinstance(e, ev.Alloc | ev.Free))
    found = check(events, "leak_free")
    assert (found.status, found.evidence) == (
        "unobservable", "call 1: no probe told who made its socket, sock, file, fd",
    )  # fmt: skip
    assert verdict(events).verdict == "PASS"
    blind = ev.Blind(t=1, step="CLEANUP_SOCK_FREE_INODE", why="a log")
    assert check([*events, blind], "leak_free").evidence == "a log"


def test_many_calls_are_told_in_few_words() -> None:
    events = beginning()
    for number in range(1, 201):
        t = T + number * 10**6
        events += [*good_call(number, t, fd=3), *closed(number, t + US)]
    found = verdict([*events, *ending(T * 3)])
    assert found.verdict == "PASS"
    assert found.allocated == found.freed == 800
    assert all(len(check.evidence) < 300 for check in found.checks.values())
    bad = changed(events, "STEP_15", file__private_data="0xbad")
    found = verdict([*bad, *ending(T * 3)])
    assert found.checks["linear_trace"].evidence.endswith("; and 197 more")


# -- anything ------------------------------------------------------------------------------


@given(st.lists(any_event(), max_size=30))
def test_any_events_at_all_have_a_verdict(events: Events) -> None:
    story = Story.of(events)
    found = judge(story)
    failed = any(check.status == "fail" for check in found.checks.values())
    assert failed == (found.verdict == "REJECT")
    if found.verdict == "PASS":
        assert found.checks["linear_trace"].status == "pass"
        assert not found.missing
    assert found.allocated >= found.freed + found.live
    for made in story.ledger:
        assert fate(story, made).evidence


@given(st.data())
def test_losing_any_lines_never_makes_a_leak(data: st.DataObject) -> None:
    """With the loss counted, whatever is missing: no check fails for want of an event."""
    events = session()
    kept = [event for event in events[3:-2] if data.draw(st.booleans())]
    lost = ev.Lost(t=T, count=len(events) - len(kept), what="ring buffer")
    found = verdict([*events[:3], *kept, lost, *events[-2:]])
    assert {check.status for check in found.checks.values()} <= {"pass", "unobservable"}


# -- what cannot be told ----------------------------------------------------------------------


def test_how_far_a_failed_call_came_is_not_known_where_events_were_lost() -> None:
    """Its steps may be among them: it is not said to have made nothing."""
    bare = [e for e in emfile() if isinstance(e, ev.Enter) or getattr(e, "id", "") == "STEP_17"]
    lost = ev.Lost(t=T, count=7, what="ring buffer")
    found = verdict([*beginning(), *bare, lost, *ending()])
    assert (found.verdict, found.missing.events) == ("UNKNOWN", 7)
    assert found.checks["linear_trace"].evidence.endswith("7 events were lost")
    assert found.checks["leak_free"].status == "unobservable"


def test_a_step_whose_probe_was_skipped_is_not_said_to_be_passed_over() -> None:
    events = [*beginning(), *without(emfile(), "STEP_13"), *ending()]
    story = Story.of(events)
    assert story.steps(story.calls[1])["STEP_13"].evidence.startswith("not reached")
    skipped = ev.Fired(t=1, name="kprobe:all", hits=4, missed=2)
    story = Story.of([*events, skipped])
    assert "skipped kprobe:all 2 times" in story.steps(story.calls[1])["STEP_13"].evidence
    assert "not observable here: STEP_13" in judge(story).checks["linear_trace"].evidence


def test_a_call_that_is_still_inside_may_yet_allocate() -> None:
    found = check([*beginning(), emfile()[0]], "leak_free")
    assert (found.status, found.evidence) == ("unobservable", "call 1 had not returned")


def test_a_free_that_nobody_can_place_hides_no_second_one() -> None:
    stray, again = free(1, T * 2, "sock", "0x1", "x"), free(1, T * 2, "sock", SOCK, "x")
    events = session()
    assert "freed twice" in check([*events[:-1], stray, again, events[-1]], "leak_free").evidence
    assert verdict([*events[:-1], stray, again, events[-1]]).verdict == "REJECT"


def test_a_call_cannot_begin_twice() -> None:
    """A good call with the number of a bad one takes its place nowhere."""
    bad = changed(session(), "STEP_10", socket__sk="0xbad")
    assert check([*bad[:-1], *good_call(1, T * 2), bad[-1]], "linear_trace") == Check(
        "fail", "call 1 began twice"
    )


def test_the_result_in_a_word() -> None:
    def word(events: Events) -> str:
        story = Story.of(events)
        call = story.calls[1]
        return outcome(story, call, [made for made in story.ledger if made.call == 1])

    events = session()
    assert word(events) == "leak-free"
    assert word([*events[:-1], ev.Lost(t=T, count=1, what="x"), events[-1]]) == "not observable"
    assert word(gone(events, lambda e: getattr(e, "kind", "") == "sock")) == "not observable"
    assert word([*events[:-1], free(1, T * 2, "sock", SOCK, "x"), events[-1]]) == "freed twice"
    assert word(gone(events, is_free("file"))) == "leaked"


# -- what is missing, in numbers ---------------------------------------------------------------


def counted(events: Events, **hits: int) -> Events:
    """With these counts of probes before the end: "all", or the name of a tracepoint."""
    found = {"all": "kprobe:all"} | {
        name: f"raw_tracepoint:{name}" for name in hits if name != "all"
    }
    probes: Events = [
        ev.Probe(t=2, name=found[name], kind="raw_tracepoint", steps=[], status="attached")
        for name in hits
        if name != "all"
    ]
    fired = [ev.Fired(t=T, name=found[name], hits=number) for name, number in hits.items()]
    return [*events[:1], *probes, *events[1:-1], *fired, events[-1]]


@pytest.mark.parametrize(
    ("events", "missing"),
    [
        ([*session(), ev.Lost(t=T, count=1_085_020, what="x")], Missing(events=1_085_020)),
        (counted(session(), all=5), Missing(calls=4)),
        (counted(session(), sched_process_fork=984), Missing(children=984)),
        (session()[:-1], Missing(cut_off=True)),
        ([*session(), ev.Fired(t=T, name="kprobe:all", hits=1, missed=2)], Missing(skips=2)),
        (without(session(), "STEP_14"), Missing(unfinished=1)),
        (
            [*session(), ev.Uncaptured(t=T, pid=PID, tid=PID, how="io_uring", count=3)],
            Missing(uncaptured=3),
        ),
    ],
    ids=lambda given: str(given) if isinstance(given, Missing) else "",
)
def test_what_may_hold_a_failure_makes_the_verdict_unknown(
    events: Events, missing: Missing
) -> None:
    found = verdict(events)
    assert (found.verdict, found.missing) == ("UNKNOWN", missing)
    assert not any(check.status == "fail" for check in found.checks.values())
    broken = verdict(changed(events, "STEP_15", file__private_data="0xbad"))
    assert broken.verdict == "REJECT", "a failure that was seen stays"


def test_as_many_calls_as_were_counted() -> None:
    found = verdict(counted(session(), all=1))
    assert (found.verdict, found.counted, found.calls) == ("PASS", 1, 1)
    assert verdict(session()).counted is None, "no count was recorded"


def test_a_skip_in_which_nothing_is_missing_is_no_loss() -> None:
    """The kernel counts the skips of a tracepoint's program for whatever task it was."""
    probe = ev.Probe(
        t=2, name="raw_tracepoint:kmem_cache_free", kind="raw_tracepoint", steps=[],
        status="attached",
    )  # fmt: skip
    skips = [probe, ev.Fired(t=T, name=probe.name, hits=3, missed=12)]
    assert verdict([*session(), *skips]).verdict == "PASS"
    leaky = [*gone(session(), is_free("file")), *skips]
    assert verdict(leaky).missing == Missing(objects=1)
    unmade = gone(session(), lambda e: isinstance(e, ev.Alloc) and e.kind == "sock")
    assert verdict([*unmade, *skips]).missing == Missing(objects=1)


def test_children_that_were_not_followed() -> None:
    def fork(child: int, followed: bool) -> ev.Fork:
        return ev.Fork(t=T + 1, pid=PID, child=child, followed=followed)

    begun, rest = session()[:3], session()[3:]
    followed = verdict([*begun, fork(4800, True), *rest])
    assert (followed.verdict, followed.children) == ("PASS", 1)
    one = verdict([*begun, fork(4800, True), fork(4801, False), *rest])
    assert (one.verdict, one.missing, one.children) == ("UNKNOWN", Missing(children=1), 2)
    unheard = counted([*begun, fork(4800, True), *rest], sched_process_fork=2000)
    assert verdict(unheard).missing == Missing(children=1999)


def test_a_program_without_a_socket() -> None:
    quiet = [*beginning(), *ending()]
    assert verdict(quiet).missing == Missing()
    fork = ev.Fork(t=T, pid=PID, child=4800, followed=False)
    forked = verdict([*beginning(), fork, *ending()])
    assert (forked.verdict, forked.missing) == ("NONE", Missing(children=1))
    assert verdict(counted(quiet, all=1)).verdict == "UNKNOWN", "one was counted"
    lost = ev.Lost(t=T, count=1, what="ring buffer")
    assert verdict([*beginning(), lost, *ending()]).verdict == "UNKNOWN"
    deaf = [
        msgspec.structs.replace(event, status="missing") if isinstance(event, ev.Probe) else event
        for event in quiet
    ]
    assert (verdict(deaf).verdict, verdict(deaf).missing) == ("UNKNOWN", Missing(unprobed=True))
