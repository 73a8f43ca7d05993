"""The report: every line from what was recorded, as text that is safe to print and as JSON."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings import events as ev
from recordings.report import IN_FULL, ROWS, WIDTH, as_json, text
from recordings.steps import CALL_STEPS
from recordings.story import Story
from recordings.stream import read
from recordings.verdict import judge
from tests import RECORDINGS
from tests.builders import (
    FILE,
    PID,
    SOCK,
    SOCKET,
    T,
    any_event,
    beginning,
    changed,
    emfile,
    ending,
    free,
    hostile,
    session,
    step,
    without,
)
from tests.builders import call as good_call
from tests.effort import calls


def many(count: int) -> Story:
    events = beginning()
    for number in range(1, count + 1):
        events += good_call(number, T + number * 10**6, fd=number + 2)
    return Story.of(events)


def test_the_whole_report() -> None:
    """The form of the forensic report: ten numbered lines, the map, the cleanup, the verdict."""
    lines = text(Story.of(session())).splitlines()
    assert lines[0] == "FORENSIC KERNEL TRACE REPORT: socket(AF_INET, SOCK_STREAM, 0)"
    numbered = [line for line in lines if re.match(r"\d\d\. ", line)]
    assert [line[:3] for line in numbered] == [f"{number:02}." for number in range(1, 11)]
    assert [line.split()[1].rstrip(":") for line in numbered] == list(CALL_STEPS)
    assert all(re.search(r" \.{3,} (\[.*\] )?✓$", line) for line in numbered)
    joined = "\n".join(lines)
    for evidence in (
        f"[sock_alloc exit: socket={SOCKET}]",
        "[sock_alloc exit: sk=0x0, ops=0x0, state=1]",
        f"[inet_create exit: socket.sk={SOCK}]",
        f"[sock_alloc_file exit: private_data={SOCKET}]",
        "[fd_install entry: fd=3, lowest free was 3]",
        "[__sys_socket exit: returned 3]",
        f"[VFS Layer: struct file]        @ {FILE}",
        f"[Socket Layer: struct socket]   @ {SOCKET}",
        f"[Stack Layer: struct sock]      @ {SOCK}",
        "✓ Result: leak-free. 4 objects made, 4 freed. Zero memory leak, no zombie",
        "REJECTION STATUS: PASS",
        "✓ Linear Trace    10 of 10 steps verified, in the kernel's order",
        "✓ Leak Free       4 objects allocated, 4 freed, each once",
    ):
        assert evidence in joined, evidence
    assert joined.count("  linked") == 5
    order = ["FPUT", "SOCK_CLOSE", "SOCK_RELEASE", "INET_RELEASE", "SK_DESTRUCT", "SOCK_FREE_INODE"]
    found = [line.split()[3] for line in lines if re.match(r"✓ +[\d.]+ [µm]s", line)]
    assert found == order
    assert max(map(len, lines)) <= WIDTH


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_real_recording(path: Path) -> None:
    story = Story.of(read(path))
    report = text(story)
    assert report.count("REJECTION STATUS: PASS") == 1
    assert max(map(len, report.splitlines())) <= 100
    assert text(story, ascii=True).isascii()
    found = json.loads(json.dumps(as_json(story)))
    assert found["verdict"] == "PASS"
    assert found["lost"] == 0
    for call in found["calls"]:
        assert [step["id"] for step in call["steps"]] == list(CALL_STEPS)


def test_a_rejected_recording() -> None:
    story = Story.of(changed(session(), "STEP_15", file__private_data="0xbad"))
    report = text(story)
    assert "REJECTION STATUS: REJECT" in report
    assert "✗ Linear Trace    STEP_15: private_data=0xbad, not 0xffff888104bf8dc0" in report
    assert f"[sock_alloc_file exit: private_data=0xbad, not {SOCKET}]" in report
    assert re.search(r"07\. STEP_15.* ✗$", report, re.M)


def test_a_link_that_leads_elsewhere_is_in_the_map() -> None:
    report = text(Story.of(changed(session(), "STEP_17", socket__sk="0xbad")))
    assert re.search(r"socket\.sk +0xbad +LEADS ELSEWHERE", report)


def test_an_error_edge() -> None:
    report = text(Story.of([*beginning(), *emfile(), *ending()]))
    assert "REJECTION STATUS: PASS" in report
    assert re.search(r"06\. STEP_14.* ○\n +not reached: the call", report)
    assert re.search(r"10\. STEP_17.* result == −24 EMFILE \.+ ✓", report)
    assert "[VFS Layer: struct file]        @ none was seen" in report
    assert "✓ Result: leak-free. 2 objects made, 2 freed. Zero memory leak" in report


def test_what_is_not_known_is_not_said() -> None:
    report = text(
        Story.of([*beginning(), *good_call(), ev.End(t=T * 9, why="detached", how="detached")])
    )
    assert "○ Result: still live. 4 objects made, 0 freed. An open socket is no leak." in report
    assert "no zombie" not in report
    assert "No cleanup step of this call was seen." in report
    cut = text(Story.of(session()[:-1]))
    assert "it is CUT OFF: it has no end" in cut.replace("\n", " ")
    lost = text(Story.of([*session(), ev.Lost(t=1, count=5, what="ring buffer")]))
    assert "5 events were LOST" in lost
    assert "○ Leak Free       not observable: 4 objects freed, but 5 events were lost" in lost


def test_what_waiting_cost_is_said() -> None:
    waits = [ev.Waited(t=1, count=1, took=2_000_000), ev.Waited(t=2, count=3, took=500_000)]
    story = Story.of([*session(), *waits])
    assert "So that none is, the program waited for sockstep 2 times, 2.50 ms in all." in text(
        story
    ).replace("\n", " ")
    assert as_json(story)["waited"] == {"times": 2, "ns": 2_500_000}


def test_probes_in_their_three_states() -> None:
    gone = ev.Probe(t=1, name="kprobe:gone", kind="kprobe", steps=[], status="missing", why="why")
    idle = msgspec.structs.replace(gone, name="kprobe:idle", status="attached")
    counts = [
        ev.Fired(t=9, name="kprobe:all", hits=7, missed=1),
        ev.Fired(t=9, name="kprobe:idle", hits=0),
    ]
    report = text(Story.of([gone, idle, *session(), *counts]))
    assert "✓ fired 7 ×  kprobe:all" in report
    assert "the kernel skipped it 1 times" in report
    assert "○ attached but never reached  kprobe:idle" in report
    assert "✗ missing  kprobe:gone: why" in report
    deaf = msgspec.structs.replace(gone, steps=["CLEANUP_IPUT", "CLEANUP_SOCK_RELEASE"])
    report = text(Story.of([deaf, *session()]))
    assert "○ IPUT not observable here: the probe is missing (see PROBES)" in report


def test_what_this_recording_says_of_the_puzzle() -> None:
    """Only from evidence: the stack of the free, the signal in the middle of the call."""
    stack = ev.Stack(t=1, id=5, frames=["kmem_cache_free+0x1", "inet_release+0x3f", "sock_close"])
    events = [
        msgspec.structs.replace(event, stack=5) if getattr(event, "kind", "") == "sock"
        and isinstance(event, ev.Free) else event
        for event in session()
    ]  # fmt: skip
    signal = ev.Signal(t=T + 5000, pid=PID, tid=PID, signo=15, phase="generated", by="me")
    at = next(i for i, e in enumerate(events) if isinstance(e, ev.Step))
    report = text(Story.of([stack, *events[:at], signal, *events[at:]]))
    assert "• The sock was freed inside inet_release(): its stack has no iput()." in report
    assert "• SIGTERM came during the call, which returned 3 all the same." in report
    plain = text(Story.of(session()))
    assert "its stack" not in plain
    assert "came during" not in plain


def test_several_calls_and_very_many() -> None:
    few = text(many(3))
    assert "CALL 3 of 3: socket(AF_INET, SOCK_STREAM, 0)" in few
    assert few.count("01. PROBE_INIT") == 3
    table = text(many(IN_FULL + 1))
    assert f"{IN_FULL + 1} CALLS (--call N shows one in full)" in table
    assert "PROBE_INIT" not in table
    one = text(many(IN_FULL + 1), 5)
    assert f"CALL 5 of {IN_FULL + 1}" in one
    assert one.count("01. PROBE_INIT") == 1
    assert f"… and {2 * ROWS} more: --json has them all" in text(many(3 * ROWS))


def test_no_control_character_of_a_recording_is_printed() -> None:
    report = text(hostile())
    assert all(line.isprintable() for line in report.split("\n"))
    assert "^[[31m[bold]\\u202egnp.exe" in report
    assert report.count("REJECTION STATUS") == 1


def test_ascii() -> None:
    for story in (Story.of(session()), hostile(), many(IN_FULL + 1)):
        report = text(story, ascii=True)
        assert report.isascii()
    assert "07. STEP_15: PRIVATE_DATA_PROBE -> file->private_data == socket" in text(
        Story.of(session()), ascii=True
    )
    assert " ok\n" in text(Story.of(session()), ascii=True)


def test_the_json() -> None:
    story = Story.of([*session()[:-2], *emfile(2, T * 2), *ending(T * 3)])
    found: dict[str, Any] = json.loads(json.dumps(as_json(story)))
    assert found["verdict"] == "PASS"
    assert list(found["checks"]) == ["linear_trace", "data_integrity", "symmetry", "leak_free"]
    assert all(set(check) == {"status", "why"} for check in found["checks"].values())
    assert found["lost"] == 0
    first, second = found["calls"]
    assert (first["pid"], first["tid"], first["call"]) == (PID, PID, 1)
    assert (first["family"], first["type"], first["protocol"], first["result"]) == (2, 1, 0, 3)
    assert second["result"] == -24
    assert [step["id"] for step in first["steps"]] == list(CALL_STEPS)
    assert {step["status"] for step in first["steps"]} == {"pass"}
    assert {step["status"] for step in second["steps"]} == {"pass", "unobservable"}
    assert first["cleanup"][0] == "CLEANUP_FPUT"
    ledger = found["ledger"]
    assert (ledger["allocated"], ledger["freed"], ledger["live"]) == (6, 6, 0)
    assert ledger["objects"][0]["freed"]["comm"] == "swapper/0"
    assert found["header"]["pid"] == PID
    assert found["probes"][0]["status"] == "attached"
    assert found["end"] == "the tracee exited"


def test_the_json_of_one_call() -> None:
    story = Story.of([*session()[:-2], *emfile(2, T * 2), *ending(T * 3)])
    found: Any = as_json(story, 2)
    assert [call["call"] for call in found["calls"]] == [2]
    assert {made["call"] for made in found["ledger"]["objects"]} == {2}
    assert found["ledger"]["allocated"] == 6, "the counts are the whole recording's"


def test_the_json_has_every_status() -> None:
    broken = changed(without(session(), "STEP_14"), "STEP_10", socket__state=2)
    found: Any = as_json(Story.of(broken))
    steps = {step["id"]: step["status"] for step in found["calls"][0]["steps"]}
    assert steps["STEP_10"] == "fail"
    assert steps["STEP_14"] == "unobservable"
    assert steps["STEP_15"] == "pass"
    assert found["verdict"] == "REJECT"


def test_an_empty_story() -> None:
    assert "no socket() call in this recording" in text(Story())
    found: Any = as_json(Story())
    assert (found["verdict"], found["calls"], found["end"]) == ("UNKNOWN", [], None)


@given(st.lists(any_event(), max_size=30))
def test_any_events_at_all_have_a_report(events: list[ev.Event]) -> None:
    story = Story.of(events)
    for ascii in (False, True):
        report = text(story, ascii=ascii)
        assert all(line.isprintable() for line in report.split("\n"))
    assert json.loads(json.dumps(as_json(story)))["verdict"] == judge(story).verdict
    for number in story.calls:
        assert text(story, number)
        as_json(story, number)


@given(st.data())
def test_any_values_in_a_session_have_a_report(data: st.DataObject) -> None:
    """A session with some events replaced by others of their kind, so that calls go on."""
    events = session()
    for at in data.draw(st.lists(st.integers(0, len(events) - 1), max_size=4)):
        other = data.draw(any_event(type(events[at])))
        keep = {name: getattr(events[at], name) for name in ("call", "id") if hasattr(other, name)}
        events[at] = msgspec.structs.replace(other, **keep)
    story = Story.of(events)
    report = text(story)
    assert all(line.isprintable() for line in report.split("\n"))
    assert json.dumps(as_json(story))


def test_a_leak_is_told_with_its_object() -> None:
    kept = [e for e in session() if not (isinstance(e, ev.Free) and e.kind == "sock")]
    leaky = without(kept, "CLEANUP_SK_DESTRUCT")
    report = text(Story.of(leaky))
    assert "✗ Result: LEAKED. 4 objects made, 3 freed." in report
    assert f"✗ Leak Free       sock {SOCK} of call 1: never freed" in report
    assert "Zero memory leak" not in report
    again = [
        *session(),
        free(1, T * 2, "sock", SOCK, "x"),
        step(1, T * 2, "CLEANUP_FPUT", "__fput"),
    ]
    assert "was freed twice" in text(Story.of(again))
    assert re.search(r"✗ .* FPUT .* a second time", text(Story.of(again)))


def flat(story: Story) -> str:
    """The report without its line breaks."""
    return " ".join(text(story).split())


def test_the_verdict_is_first_and_says_what_is_missing() -> None:
    begun, rest = session()[:3], session()[3:]
    events = [
        *begun,
        ev.Probe(t=2, name="raw_tracepoint:sched_process_fork", kind="raw_tracepoint", steps=[],
                 status="attached"),
        ev.Fork(t=T, pid=PID, child=4800, followed=True),
        *rest,
        ev.Fired(t=T, name="kprobe:all", hits=100_000),
        ev.Fired(t=T, name="raw_tracepoint:sched_process_fork", hits=2000),
        ev.Lost(t=T, count=1_085_020, what="ring buffer"),
    ]  # fmt: skip
    story = Story.of(events)
    why = (
        "no check failed, but a failure may be in what is missing: 99999 of 100000 calls, 1085020 "
        "lost events, what 1999 of 2000 child processes did; 100000 calls counted at entry, 1 "
        "recorded"
    )
    report = text(story)
    assert report.splitlines()[2].startswith("verdict     UNKNOWN: no check failed, but")
    assert f"verdict UNKNOWN: {why} program" in flat(story)
    assert "REJECTION STATUS: UNKNOWN" in report
    found: Any = as_json(story)
    assert list(found)[:3] == ["verdict", "why", "missing"]
    assert (found["verdict"], found["why"], found["counted"]) == ("UNKNOWN", why, 100_000)
    assert {name: n for name, n in found["missing"].items() if n} == {
        "calls": 99_999, "events": 1_085_020, "children": 1999,
    }  # fmt: skip


def test_a_verdict_on_no_socket_at_all_is_one_sentence() -> None:
    story = Story.of([*beginning(), *ending()])
    assert "verdict NONE: no socket() call came by the probes program" in flat(story)
    fork = ev.Fork(t=T, pid=PID, child=4800, followed=False)
    forked = flat(Story.of([*beginning(), fork, *ending()]))
    assert (
        "NONE: no socket() call came by the probes; missing: what 1 child process did "
        "(see --follow-forks) program"
    ) in forked


def test_a_verdict_that_all_is_there() -> None:
    count = ev.Fired(t=T, name="kprobe:all", hits=1)
    report = flat(Story.of([*session(), count]))
    assert "verdict PASS: no check failed; 1 call counted at entry, 1 recorded program" in report
    broken = changed(session(), "STEP_15", file__private_data="0xbad")
    lost = ev.Lost(t=1, count=5, what="ring buffer")
    assert (
        "verdict REJECT: Linear Trace, Data Integrity failed; 1 call recorded; missing: "
        "5 lost events program"
    ) in flat(Story.of([*broken, lost]))


def made_again(count: int) -> Story:
    """A call whose sock is allocated, released and held over and over, as no kernel does it."""
    events = session()
    alloc = next(e for e in events if isinstance(e, ev.Alloc) and e.kind == "sock")
    released = next(e for e in events if getattr(e, "id", "") == "CLEANUP_SOCK_RELEASE")
    held = [
        ev.Held(t=T + n, call=1, point="socket_create", pid=PID, tid=PID, state="S", wchan="",
                since=T + n, snap=ev.Snapshot())
        for n in range(count)
    ]  # fmt: skip
    at = events.index(alloc)
    return Story.of([*events[:at], *[alloc] * count, *events[at:], *[released] * count, *held])


def test_a_report_is_no_longer_for_what_comes_over_and_over() -> None:
    few, many = (text(made_again(count)).splitlines() for count in (100, 200))
    assert len(few) == len(many)
    for listed in (4, 6, 0):  # the ledger, the cleanup and the holds of a good call
        assert f"      … and {200 + listed - ROWS} more: --json has them all" in many
    found: Any = as_json(made_again(100))
    assert len(found["ledger"]["objects"]) == 104


def test_twice_the_allocations_are_twice_the_work_at_most() -> None:
    few, many = made_again(1000), made_again(2000)
    for report in (text, as_json):
        assert calls(partial(report, many)) < 2.2 * calls(partial(report, few))
