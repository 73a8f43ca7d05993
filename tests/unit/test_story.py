"""The story: what is known at each step, from events in whatever order calls interleave them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings import events as ev
from recordings.events import NULL, UNREAD, Ptr
from recordings.steps import CALL_STEPS
from recordings.story import LINKS, Call, Check, LinkState, Moment, Story, links
from recordings.stream import Reader, read
from recordings.verdict import judge
from tests import RECORDINGS
from tests.builders import (
    FILE,
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
from tests.long import long


def only(story: Story) -> Call:
    (call,) = story.calls.values()
    return call


# -- links ---------------------------------------------------------------------------------


def states(objects: dict[ev.Kind, tuple[Ptr, bool]] | None = None, **layers: Any) -> dict[str, str]:
    found = links(ev.Snapshot(**layers), objects or {})
    assert list(found) == list(LINKS)
    return {name: link.state for name, link in found.items()}


def test_nothing_read_is_no_link() -> None:
    assert set(states().values()) == {"unread"}
    assert set(states(file=ev.File(at="0x1"), sock=ev.Sock(at="0x2")).values()) == {"unread"}


@pytest.mark.parametrize(
    ("private_data", "back", "freed", "state"),
    [
        (None, "0xf", False, "unread"),
        (NULL, "0xf", False, "absent"),
        ("0x5", "0xf", False, "linked"),
        ("0x5", NULL, False, "one-way"),
        ("0x5", "0xbad", False, "one-way"),
        ("0x5", None, False, "one-way"),
        ("0xbad", "0xf", False, "broken"),
        ("0x5", "0xf", True, "freed"),
    ],
)
def test_each_state_of_a_link(
    private_data: Ptr | None, back: Ptr | None, freed: bool, state: LinkState
) -> None:
    file = ev.File(at="0xf", private_data=private_data)
    socket = ev.Socket(at="0x5", file=back)
    assert states({"socket": ("0x5", freed)}, file=file, socket=socket)["file→socket"] == state


def test_a_link_is_measured_by_the_object_of_the_call() -> None:
    """Where a reading followed the pointer, what it found is no measure of the pointer."""
    followed = {"file": ev.File(at="0xf", private_data="0xbad"), "socket": ev.Socket(at="0xbad")}
    assert states({"socket": ("0x5", False)}, **followed)["file→socket"] == "broken"


def test_a_link_from_a_layer_whose_address_was_not_read() -> None:
    found = states({"socket": ("0x5", False)}, sock=ev.Sock(at=UNREAD, sk_socket="0x5"))
    assert found["sock→socket"] == "one-way"
    unread = Story.of([*beginning(), *changed(good_call(), "STEP_09", socket__at=UNREAD)])
    assert unread.steps(only(unread))["STEP_09"].status == "unobservable"


def test_the_descriptor_needs_no_way_back() -> None:
    slot, file = ev.Fd(number=3, file="0xf"), ev.File(at="0xf")
    assert states({"file": ("0xf", False)}, fd=slot, file=file)["fd→file"] == "linked"
    assert states(fd=ev.Fd(number=3, file=NULL))["fd→file"] == "absent"


def test_links_grow_along_a_call() -> None:
    story = Story.of([*beginning(), *good_call()])
    grown = {m.id: {n: k.state for n, k in m.links.items()} for m in story.moments}
    assert grown["STEP_10"]["socket→sock"] == "absent"
    assert grown["STEP_13"]["socket→sock"] == grown["STEP_13"]["sock→socket"] == "linked"
    assert grown["STEP_14"]["file→socket"] == grown["STEP_14"]["socket→file"] == "linked"
    assert grown["STEP_16"]["fd→file"] == "absent"
    assert set(grown["STEP_17"].values()) == {"linked"}


def test_what_changed() -> None:
    story = Story.of([*beginning(), *good_call()])
    changed = [(m.id, sorted(m.changed)) for m in story.moments if m.changed]
    assert changed == [
        ("STEP_13", ["socket.ops", "socket.sk"]),
        ("STEP_14", ["socket.file"]),
        ("STEP_17", ["fd.file"]),
    ]


# -- calls ---------------------------------------------------------------------------------


def test_all_ten_steps_pass() -> None:
    story = Story.of(session())
    found = story.steps(only(story))
    assert tuple(found) == CALL_STEPS
    assert {check.status for check in found.values()} == {"pass"}


def tasked(events: Iterable[ev.Event], tid: int) -> list[ev.Event]:
    made = []
    for event in events:
        if isinstance(event, ev.Enter | ev.Step):
            event = msgspec.structs.replace(event, tid=tid)
        made.append(event)
    return made


@given(st.randoms(use_true_random=False))
def test_calls_of_several_threads_are_never_mixed(random: Any) -> None:
    """Any interleaving of three calls gives each the story that it has alone."""
    alone = {
        1: tasked([*good_call(1, fd=3), *closed(1, fd=3)], 4711),
        2: tasked(emfile(2), 4712),
        3: tasked([*good_call(3, fd=4), *closed(3, fd=4)], 4713),
    }
    queues = [list(events) for events in alone.values()]
    mixed: list[ev.Event] = []
    while any(queues):
        mixed.append(random.choice([queue for queue in queues if queue]).pop(0))
    story = Story.of([*beginning(), *mixed])
    for number, events in alone.items():
        apart = Story.of([*beginning(), *events])
        mine, same = story.calls[number], apart.calls[number]
        assert story.steps(mine) == apart.steps(same)
        assert [(m.id, m.check, m.links, m.objects, m.changed) for m in mine.moments] == [
            (m.id, m.check, m.links, m.objects, m.changed) for m in same.moments
        ]
        assert {made.free is not None for made in mine.objects.values()} == {True}


def test_a_step_of_no_known_call_is_kept_apart() -> None:
    story = Story.of([*beginning(), *good_call()[5:]])
    assert not story.calls
    assert not story.moments
    assert {step.call for step in story.orphans} == {1}


def test_the_number_of_another_process_is_another_object() -> None:
    """Two processes have an fd 3 each; either order of closing ends the right one."""
    for first, second in ((1, 2), (2, 1)):
        allocs = [ev.Alloc(t=n, call=n, kind="fd", at="3", site="alloc_fd") for n in (1, 2)]
        story = Story.of([*beginning(), *allocs, free(first, 5, "fd", "3", "close_fd")])
        assert [(made.call, made.free is None) for made in story.ledger if made.free] == [
            (first, False)
        ]
        story.feed(free(second, 6, "fd", "3", "close_fd"))
        assert all(made.free for made in story.ledger)
        assert not story.strays
        assert not any(made.reused for made in story.ledger)


def test_generations_of_a_reused_address() -> None:
    def alloc(call: int) -> ev.Alloc:
        return ev.Alloc(t=call, call=call, kind="sock", at=SOCK, site="sk_prot_alloc")

    frees = [free(call, 10 + call, "sock", SOCK, "__sk_destruct") for call in range(4)]
    story = Story.of([alloc(1), frees[1], alloc(2), alloc(3), frees[3]])
    assert [made.generation for made in story.ledger] == [1, 2, 3]
    assert [made.free is not None for made in story.ledger] == [True, False, True]
    assert story.ledger[1].reused is story.ledger[2].alloc, "the address was given out again"
    assert story.ledger[0].reused is None
    story.feed(frees[3])
    assert story.strays == [frees[3]], "a second free is no free of another"


# -- checks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "fields"),
    [
        ("STEP_09", {"socket__at": NULL}),
        ("STEP_10", {"socket__sk": "0x1"}),
        ("STEP_10", {"socket__ops": "0x1"}),
        ("STEP_10", {"socket__state": 3}),
        ("STEP_13", {"ret": -12}),
        ("STEP_14", {"ret": -23}),
        ("STEP_15", {"file__private_data": "0xbad"}),
        ("STEP_15", {"file__private_data": NULL}),
        ("STEP_13_BACKLINK", {"sock__sk_socket": "0xbad"}),
        ("STEP_16", {"fd__number": 4}),
        ("STEP_16", {"file__at": "0xbad"}),
        ("STEP_17", {"ret": 4}),
        ("STEP_17", {"ret": -24}),
        ("STEP_17", {"ret": -5000}),
    ],
)
def test_every_check_can_fail(id: str, fields: dict[str, Any]) -> None:
    events = [*beginning(), *changed(good_call(), id, **fields)]
    if id == "STEP_13":
        events = [
            e for e in events if not (isinstance(e, ev.Step) and e.id == id and e.at == "entry")
        ]
    story = Story.of(events)
    found = story.steps(only(story))[id]
    assert found.status == "fail", found


def test_a_check_that_failed_once_stays_failed() -> None:
    wrong = changed(good_call(), "STEP_15", file__private_data="0xbad")
    story = Story.of([*beginning(), *wrong])
    again = [e for e in good_call() if isinstance(e, ev.Step) and e.id == "STEP_15"]
    story.feed(again[0])
    assert story.moments[-1].check is not None
    assert story.moments[-1].check.status == "pass"
    assert story.steps(only(story))["STEP_15"].status == "fail"


def test_a_followed_pointer_does_not_prove_itself() -> None:
    """All there is was read through file.private_data: no check may pass on that."""
    socket, sock = ev.Socket(at="0xbad", sk="0xb", file="0xf"), ev.Sock(at="0xb", sk_socket="0xbad")
    snap = ev.Snapshot(
        fd=ev.Fd(number=3, file="0xf", lowest=3), file=ev.File(at="0xf", private_data="0xbad"),
        socket=socket, sock=sock,
    )  # fmt: skip
    enter = next(e for e in good_call() if isinstance(e, ev.Enter))
    ids = ("STEP_15", "STEP_13_BACKLINK", "STEP_16", "STEP_17")
    steps = [step(1, T + 9, id, "sys_exit_socket", "exit", snap=snap, ret=3) for id in ids]
    story = Story.of([*beginning(), enter, *steps])
    found = story.steps(only(story))
    assert [found[id].status for id in ids] == ["unobservable"] * 4


WHY_10 = "no tracepoint fires between the return of sock_alloc() and ops"


def traced(file: Ptr | None = FILE) -> list[ev.Event]:
    """A call as the tracepoint backend tells it: by what it allocates, and at its return.

    `file`: the struct file that was seen to be allocated, if it was.
    """
    enter = next(e for e in good_call() if isinstance(e, ev.Enter))
    empty = ev.Socket(at=SOCKET, sk=NULL, ops=NULL, state=1)
    sock = ev.Sock(at=SOCK, sk_socket=SOCKET)
    tied = ev.Snapshot(socket=ev.Socket(at=SOCKET, sk=SOCK, state=1), sock=sock)
    wrap = ev.Snapshot(
        fd=ev.Fd(number=3, file=FILE, lowest=3), file=ev.File(at=FILE, private_data=SOCKET),
        socket=ev.Socket(at=SOCKET, sk=SOCK, file=FILE, state=1), sock=sock,
    )  # fmt: skip
    chassis = ev.Snapshot(socket=empty)
    events = [
        *beginning(), ev.Blind(t=1, step="STEP_10", why=WHY_10), enter,
        ev.Alloc(t=T + 1, call=1, kind="socket", at=SOCKET, site="sock_alloc_inode+0x1e"),
        step(1, T + 1, "STEP_09", "sock_alloc_inode", "inside", snap=chassis),
        step(1, T + 2, "STEP_10", "security_inode_alloc", "inside", snap=chassis),
        step(1, T + 3, "STEP_13", "sk_prot_alloc", "inside", snap=chassis),
        step(1, T + 4, "STEP_13", "__d_alloc", "inside", snap=tied),
    ]  # fmt: skip
    if file is not None:
        events.append(ev.Alloc(t=T + 5, call=1, kind="file", at=file, site="alloc_empty_file"))
        snap = ev.Snapshot(file=ev.File(at=file))
        events.append(step(1, T + 5, "STEP_14", "alloc_empty_file", "inside", snap=snap))
    events.append(ev.Alloc(t=T + 6, call=1, kind="fd", at="3", site="sys_exit_socket"))
    for id in ("STEP_15", "STEP_13_BACKLINK", "STEP_16", "STEP_17"):
        events.append(step(1, T + 6, id, "sys_exit_socket", "exit", snap=wrap, ret=3))
    return events


def test_a_call_told_by_tracepoints() -> None:
    story = Story.of(traced())
    found = story.steps(only(story))
    assert {id for id, check in found.items() if check.status != "pass"} == {"STEP_10"}
    assert found["STEP_10"].evidence == (
        f"{WHY_10}; seen inside security_inode_alloc: sk=0x0, ops=0x0, state=1"
    )
    early, late = (m for m in story.moments if m.id == "STEP_13")
    assert early.check is None, "sk is not due yet inside sk_prot_alloc()"
    assert late.check is not None
    assert story.moments[0].symbol == "sys_enter_socket"


def test_a_descriptor_that_leads_to_another_file() -> None:
    story = Story.of(traced(file="0xffff888100000f00"))
    assert story.steps(only(story))["STEP_16"].status == "fail"
    assert story.steps(only(story))["STEP_17"].status == "unobservable"


@pytest.mark.parametrize(
    ("private_data", "status"), [(SOCKET, "pass"), ("0xbad", "fail"), (None, "unobservable")]
)
def test_a_file_that_nobody_saw_made_is_ours_by_its_socket(
    private_data: Ptr | None, status: str
) -> None:
    events = traced(file=None)
    events = changed(events, "STEP_16", file__private_data=private_data)
    story = Story.of(events)
    assert story.steps(only(story))["STEP_16"].status == status
    other = changed(traced(file=None), "STEP_16", fd__file="0xffff888100000f00")
    story = Story.of(other)
    assert story.steps(only(story))["STEP_16"].status == "unobservable", "of that file: nothing"


def test_a_result_that_is_no_errno() -> None:
    story = Story.of([*beginning(), *changed(emfile(), "STEP_17", ret=-5000)])
    assert story.steps(only(story))["STEP_17"] == Check(
        "fail", "returned −5000 unknown errno: not an errno"
    )


def test_a_step_that_this_version_does_not_know() -> None:
    story = Story.of([*beginning(), *good_call()])
    moment = story.feed(step(1, T * 2, "STEP_99", "sock_hologram"))
    assert moment is not None
    assert moment.check is None
    assert {check.status for check in story.steps(only(story)).values()} == {"pass"}


def test_the_result_of_a_cleanup_function_is_told() -> None:
    story = Story.of([*beginning(), *good_call()])
    moment = story.feed(step(1, T * 2, "CLEANUP_INET_RELEASE", "inet_release", "exit", ret=-5))
    assert moment is not None
    assert moment.check == Check("pass", "inet_release exit, returned −5 EIO")


def test_only_an_end_is_an_exit() -> None:
    stopped = ev.State(t=1, pid=PID, state="stopped")
    ended = ev.State(t=2, pid=PID, state="exited", status=0)
    assert Story.of([stopped]).exits == {}
    assert Story.of([stopped, ended]).exits == {PID: ended}


def test_the_family_of_a_call() -> None:
    enter = next(e for e in good_call() if isinstance(e, ev.Enter))
    assert Call(1, enter, {}).family == 2
    assert Call(1, msgspec.structs.replace(enter, args=[]), {}).family is None


def test_the_lowest_number_of_a_shared_table() -> None:
    """With other tasks at the table the lowest number may have changed since it was read."""
    shared = changed(good_call(), "STEP_16", fd__lowest=2, fd__users=2)
    story = Story.of([*beginning(), *shared])
    assert story.steps(only(story))["STEP_16"].status == "unobservable"
    alone = changed(good_call(), "STEP_16", fd__lowest=2, fd__users=1)
    story = Story.of([*beginning(), *alone])
    assert story.steps(only(story))["STEP_16"].status == "fail"


@pytest.mark.parametrize(("edge", "result", "status"), [
    (-93, -93, "pass"), (-93, -97, "fail"), (-1, -93, "fail"),
])  # fmt: skip
def test_the_errno_is_that_of_the_failing_edge(edge: int, result: int, status: str) -> None:
    enter, alloc, *_ = emfile()
    story = Story.of([
        *beginning(), enter, alloc,
        step(1, T + 5, "STEP_13", "inet_create", "exit", ret=edge),
        step(1, T + 9, "STEP_17", "__sys_socket", "exit", ret=result),
    ])  # fmt: skip
    assert story.steps(only(story))["STEP_17"].status == status


@pytest.mark.parametrize(("result", "status"), [(-23, "pass"), (-12, "fail")])
def test_enfile_hides_enomem(result: int, status: str) -> None:
    """sock_alloc() returns NULL and no errno: __sock_create() makes that ENFILE."""
    snap = ev.Snapshot(socket=ev.Socket(at=NULL))
    story = Story.of([
        *beginning(), emfile()[0],
        step(1, T + 5, "STEP_09", "sock_alloc", "exit", snap=snap),
        step(1, T + 9, "STEP_17", "__sys_socket", "exit", ret=result),
    ])  # fmt: skip
    assert story.steps(only(story))["STEP_17"].status == status


def test_a_cleanup_step_seen_twice_fails() -> None:
    story = Story.of(session())
    twice = step(1, T + 10**9, "CLEANUP_SOCK_RELEASE", "__sock_release")
    moment = story.feed(twice)
    assert moment is not None
    assert moment.check is not None
    assert moment.check.status == "fail"
    ending = msgspec.structs.replace(twice, id="CLEANUP_FPUT", at="exit")
    moment = story.feed(ending)
    assert moment is not None
    assert moment.check is not None
    assert moment.check.status == "pass", "the exit of what was entered once"


def why(events: list[ev.Event], id: str) -> str:
    story = Story.of(events)
    check = story.steps(only(story))[id]
    assert check.status == "unobservable"
    return check.evidence


def test_why_a_step_was_not_seen() -> None:
    blind = [ev.Blind(t=1, step=id, why="no tracepoint") for id in ("STEP_10", "STEP_13")]
    lost = [ev.Lost(t=1, count=7, what="ring buffer")]
    start, rest = beginning(), [*closed(), *ending()]
    hole = without(good_call(), "STEP_14")
    assert why([*start, *good_call()[:5]], "STEP_13") == "not reached so far"
    assert why([*start, *hole, *rest], "STEP_14") == "no probe told of it"
    assert why([*start, *hole, *lost, *rest], "STEP_14").startswith("not captured; 7 events")
    assert why([*start, *blind, *without(good_call(), "STEP_10")], "STEP_10") == "no tracepoint"
    gone = ev.Probe(t=1, name="kprobe:all", kind="kprobe", steps=["STEP_14"], status="missing")
    assert why([*start, gone, *hole, *rest], "STEP_14").endswith("would tell of it is missing")
    assert why([*start, *emfile()], "STEP_14") == "not reached: the call returned −24 EMFILE"
    assert why([*start, *blind, *emfile()[:1], emfile()[-2]], "STEP_10").startswith("not reached")
    failed = without(emfile(), "STEP_10")
    assert why([*start, *blind, *failed], "STEP_10") == "no tracepoint", "STEP_13 was reached"
    inside = without(good_call(), "STEP_17")
    assert (
        why([*start, *inside, *ending()], "STEP_17") == "the call did not return in this recording"
    )


def test_a_step_seen_but_not_read() -> None:
    entry = [step(1, T + 5, "STEP_13", "inet_create")]
    events = [*beginning(), *good_call()[:2], *entry]
    assert why(events, "STEP_13") == "inet_create entry; no more was read there"


@pytest.mark.parametrize("field", ["sk", "ops", "state"])
def test_a_field_that_was_not_read_makes_no_check(field: str) -> None:
    events = changed(good_call(), "STEP_10", **{f"socket__{field}": None})
    assert why([*beginning(), *events], "STEP_10") == "sock_alloc exit; no more was read there"


def test_probes_have_three_states() -> None:
    missing = ev.Probe(
        t=2, name="kprobe:gone", kind="kprobe", steps=["STEP_09"], status="missing", why="no symbol"
    )
    story = Story.of([*beginning(), missing, *good_call()])
    assert story.probes["kprobe:all"].status == "attached"
    story.feed(ev.Fired(t=9, name="kprobe:all", hits=0))
    assert story.probes["kprobe:all"].status == "attached but never reached"
    story.feed(ev.Fired(t=9, name="kprobe:all", hits=2))
    assert story.probes["kprobe:all"].status == "fired"
    check = story.steps(only(story))["PROBE_INIT"]
    assert check.status == "pass"
    assert "missing kprobe:gone: no symbol" in check.evidence
    story.feed(msgspec.structs.replace(missing, why=""))
    assert story.steps(only(story))["PROBE_INIT"].status == "fail", "missing, and nobody says why"


def test_probes_that_all_are_missing() -> None:
    events = [e for e in session() if not isinstance(e, ev.Probe)]
    story = Story.of(events)
    assert story.steps(only(story))["PROBE_INIT"].status == "fail"
    story = Story.of(e for e in events if not isinstance(e, ev.Ready))
    assert story.steps(only(story))["PROBE_INIT"].status == "unobservable"


def test_the_linkage_is_the_last_one_before_release() -> None:
    cut = ev.Snapshot(socket=ev.Socket(at=SOCKET, sk=NULL, file=NULL))
    released = step(1, T * 2, "CLEANUP_SOCK_RELEASE", "__sock_release", "exit", snap=cut)
    story = Story.of([*session(), released])
    snap = only(story).linkage()
    assert snap.socket is not None
    assert (snap.socket.sk, snap.socket.file) == (SOCK, FILE)
    assert snap.fd == ev.Fd(number=3, file=FILE, lowest=3)


def test_a_null_from_before_the_link_is_not_the_link() -> None:
    """STEP_10 reads sk == NULL; where sk is not read again, it is unread and not NULL."""
    kept = without(good_call(), "STEP_13", "STEP_14", "STEP_15", "STEP_13_BACKLINK", "STEP_16")
    events = changed(kept, "STEP_17", snap={})
    snap = only(Story.of([*beginning(), *events])).linkage()
    assert snap.socket is not None
    assert snap.socket.at == SOCKET
    assert snap.socket.sk is None
    failed = only(Story.of([*beginning(), *emfile()[:4]])).linkage()
    assert failed.socket is not None
    assert failed.socket.sk == NULL, "a call that is not there yet"


# -- cost and robustness -------------------------------------------------------------------


def operations(work: Callable[[], object]) -> int:
    """Lines of story.py that run in `work`: a count, so that no slow machine matters."""
    count, story_py = 0, Story.feed.__code__.co_filename

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace if frame.f_code.co_filename == story_py else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_feeding_costs_the_same_however_long_the_stream_is() -> None:
    def later(number: int) -> list[ev.Event]:
        return [*good_call(number, T + number * 10**6), *closed(number, T + number * 10**6 + US)]

    story = Story.of(beginning())
    first = operations(lambda: [story.feed(event) for event in later(1)])
    for number in range(2, 600):
        for event in later(number):
            story.feed(event)
    assert operations(lambda: [story.feed(event) for event in later(600)]) == first


def test_feeding_costs_the_same_however_long_a_call_is() -> None:
    story = Story.of([*beginning(), *good_call()])
    again = step(1, T + 10**6, "CLEANUP_GET_SIGNAL", "get_signal")
    story.feed(again)
    first = operations(lambda: story.feed(again))
    for _ in range(3000):
        story.feed(again)
    assert operations(lambda: story.feed(again)) == first


@given(st.lists(any_event(), max_size=30))
def test_any_events_at_all_make_a_story(events: list[ev.Event]) -> None:
    story = Story.of(events)
    for call in story.calls.values():
        assert tuple(story.steps(call)) == CALL_STEPS
        call.linkage()


def test_a_hold_before_its_call_has_a_number_is_of_the_next_that_its_thread_begins() -> None:
    at_entry = ev.Held(
        t=T, call=0, point="USER_EXEC", pid=PID, tid=PID, state="R", wchan="", how="frozen",
        symbol="__sys_socket", at="entry", since=T, snap=ev.Snapshot(),
    )  # fmt: skip
    go = ev.Released(
        t=T, call=0, point="USER_EXEC", pid=PID, tid=PID, by="user", held=1, snap=ev.Snapshot()
    )
    (enter,) = (event for event in good_call(1) if isinstance(event, ev.Enter))
    elsewhere = msgspec.structs.replace(enter, tid=PID + 1)
    story = Story.of([*beginning(), at_entry, go, elsewhere])
    assert [hold.call for hold in story.holds] == [0]
    for event in (*good_call(2, T + 1), *good_call(3, T + 2)):
        story.feed(event)
    assert [hold.call for hold in story.holds] == [2]


@pytest.mark.parametrize("sample", RECORDINGS, ids=lambda path: path.stem)
def test_a_step_amounts_to_the_same_whenever_it_is_looked_at(sample: Path) -> None:
    """What is worked out late, of all events at once, is what was to be seen when each came."""

    def told(moment: Moment) -> tuple[object, ...]:
        return moment.check, moment.links, moment.objects, moment.changed

    watched = Story()
    moments = (watched.feed(event) for event in read(sample))
    seen = [told(moment) for moment in moments if moment is not None]
    assert seen == [told(moment) for moment in Story.of(read(sample)).moments]


def test_a_long_recording_is_that_of_its_calls() -> None:
    reader = Reader("long")
    story = Story.of(event for line in long(50) if (event := reader.feed(line)) is not None)
    assert len(story.calls) == 50
    found = judge(story)
    assert (found.verdict, found.allocated, found.freed) == ("PASS", 200, 200), found.checks
    at = {call.own("socket") for call in story.calls.values()}
    assert len(at) == 50


def test_a_step_that_is_not_known_may_fail() -> None:
    """One of a later version, or of a damaged recording."""
    later = step(1, 3 * US, "STEP_99", "sock_later", ret=-12)
    call = only(Story.of([*beginning(), *good_call(), later]))
    assert call.edge is None
    assert call.moments[-1].check is None
