"""Importing the kernel log of socket_probe.ko: what it says, and nothing that it does not."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings import events as ev
from recordings.dmesg import events
from recordings.report import as_json, text
from recordings.story import Story
from recordings.stream import Reader, StreamError, encode
from recordings.verdict import judge

# The lines of the forensic report.
LOG = """\
[PROBE] sock_alloc Exit: socket=f1166dcd
[PROBE] Chassis Init: sk=0, ops=0, state=1
[PROBE] inet_create Entry
[PROBE] fd_install Entry: file=3335ec5d
[PROBE] private_data=f1166dcd
[PROBE] sk->sk_socket=f1166dcd
[PROBE] fd_install Entry: fd=3
[PROBE] __sys_socket Return: fd=3
""".splitlines()


def imported(lines: Iterable[str]) -> Story:
    """The story of what a reader gets to see of the import."""
    reader, story = Reader("import"), Story()
    for event in events(lines):
        again = reader.feed(encode(event))
        assert again == event
        story.feed(again)
    return story


def steps(story: Story, call: int = 1) -> dict[str, tuple[str, str]]:
    found = story.steps(story.calls[call])
    return {id: (check.status, check.evidence) for id, check in found.items()}


def prefixed(prefix: str) -> list[str]:
    return [prefix.format(n=n) + line for n, line in enumerate(LOG)]


def test_the_lines_of_the_report() -> None:
    story = imported(LOG)
    found = steps(story)
    assert found["STEP_09"] == ("pass", "socket=0xf1166dcd")
    assert found["STEP_10"] == ("pass", "sk=0x0, ops=0x0, state=1")
    assert found["STEP_14"] == ("pass", "file=0x3335ec5d")
    assert found["STEP_15"] == ("pass", "private_data=0xf1166dcd")
    assert found["STEP_13_BACKLINK"] == ("pass", "sk->sk_socket=0xf1166dcd")
    assert found["STEP_16"] == ("unobservable", "fd=3; the lowest free number was not read")
    assert found["STEP_17"] == ("pass", "returned 3")
    for id, words in (
        ("PROBE_INIT", "does not say when"),
        ("USER_EXEC", "does not say which program"),
        ("STEP_13", "entry of inet_create() only"),
    ):
        assert found[id][0] == "unobservable"
        assert words in found[id][1]


def test_its_verdict() -> None:
    verdict = judge(imported(LOG))
    statuses = {name: check.status for name, check in verdict.checks.items()}
    assert statuses == {
        "linear_trace": "pass",
        "data_integrity": "pass",
        "symmetry": "unobservable",  # socket.sk and socket.file are not in the log
        "leak_free": "unobservable",
    }
    assert verdict.verdict == "PASS"
    assert verdict.allocated == verdict.freed == verdict.live == 0


def test_its_report_says_what_is_not_recorded() -> None:
    report = text(imported(LOG))
    for name in ("program", "pid", "kernel", "recorded"):
        assert re.search(rf"^{name} +not recorded$", report, re.M)
    assert "[Stack Layer: struct sock]      @ not read" in report
    assert re.search(r"socket\.sk +not read", report)
    assert "pid 0" not in report
    found = as_json(imported(LOG))
    (call,) = found["calls"]  # type: ignore[misc]
    assert (call["pid"], call["tid"], call["family"], call["result"]) == (None, None, None, 3)
    assert found["header"]["pid"] is None  # type: ignore[index]


@pytest.mark.parametrize(
    "prefix",
    ["[ 1234.56789{n}] ", "[12345.56789{n}][ T4711] ", "<6>[    0.00000{n}] ",
     "Nov 23 09:17:01 host kernel: [ 1234.56789{n}] ", "kern  :info  : [ 1234.56789{n}] "],
)  # fmt: skip
def test_stamps_are_the_times(prefix: str) -> None:
    story = imported(prefixed(prefix))
    times = [moment.event.t for moment in story.moments]
    assert times == sorted(times)
    assert times[-1] - times[0] == 7000, "microseconds apart, in nanoseconds"
    assert judge(story).verdict == "PASS"
    assert not any(isinstance(event, ev.Note) for event in story.log)


@pytest.mark.parametrize(
    "prefix",
    ["", "[Mon Nov 23 09:17:01 2026] ", "Nov 23 09:17:01 host kernel: ",
     "2026-11-23T09:17:01,123456+00:00 "],
)  # fmt: skip
def test_without_stamps_times_are_line_numbers_and_that_is_said(prefix: str) -> None:
    story = imported(["unrelated", *prefixed(prefix)])
    assert [moment.event.t for moment in story.moments][:2] == [2, 2]
    assert story.moments[-1].event.t == 9
    notes = [event.text for event in story.log if isinstance(event, ev.Note)]
    assert notes == ["not every line has a stamp in seconds: times are line numbers"]
    assert judge(story).verdict == "PASS"


def test_other_lines_in_between() -> None:
    noise = ["usb 1-1: new device", "", "[PROB] fd=9", "audit: [PROBED] x", "\x00\xff"]
    mixed = [line for pair in LOG for line in (*noise, pair)]
    assert judge(imported(mixed)).verdict == "PASS"


def test_several_fields_in_one_line() -> None:
    lines = [
        *LOG[:3],
        "[PROBE] fd_install Entry: file=3335ec5d, private_data=f1166dcd, "
        "sk->sk_socket=f1166dcd, fd=3",
        LOG[-1],
    ]
    assert steps(imported(lines)) == steps(imported(LOG))


def test_several_calls() -> None:
    second = [line.replace("f1166dcd", "0badcafe").replace("fd=3", "fd=4") for line in LOG]
    story = imported([*LOG, *second])
    assert [call.result for call in story.calls.values()] == [3, 4]
    assert steps(story, 2)["STEP_15"] == ("pass", "private_data=0xbadcafe")
    assert judge(story).verdict == "PASS"


def test_calls_of_two_tasks_at_once() -> None:
    """CONFIG_PRINTK_CALLER names the task: its calls are its own."""
    other = [line.replace("f1166dcd", "0badcafe") for line in LOG]
    pairs = zip(LOG, other, strict=True)
    lines = [
        line for a, b in pairs for line in (f"[1.000001][   T7] {a}", f"[1.000001][  T88] {b}")
    ]
    story = imported(lines)
    assert [call.enter.tid for call in story.calls.values()] == [7, 88]
    assert judge(story).verdict == "PASS"


def test_a_call_that_did_not_return() -> None:
    story = imported([*LOG[:3], *LOG])
    assert [call.result for call in story.calls.values()] == [None, 3]


def test_a_call_that_failed_before_anything_was_made() -> None:
    story = imported(["[PROBE] __sys_socket Return: fd=-97"])
    assert story.calls[1].result == -97
    assert steps(story)["STEP_17"][0] == "pass"


@pytest.mark.parametrize(
    ("number", "line", "id"),
    [
        (0, "[PROBE] sock_alloc Exit: socket=0", "STEP_09"),
        (0, "[PROBE] sock_alloc Exit: socket=(null)", "STEP_09"),
        (1, "[PROBE] Chassis Init: sk=f1166dcd, ops=0, state=1", "STEP_10"),
        (1, "[PROBE] Chassis Init: sk=0, ops=0, state=3", "STEP_10"),
        (4, "[PROBE] private_data=3335ec5d", "STEP_15"),
        (4, "[PROBE] private_data=0", "STEP_15"),
        (5, "[PROBE] sk->sk_socket=(null)", "STEP_13_BACKLINK"),
        (7, "[PROBE] __sys_socket Return: fd=4", "STEP_17"),
    ],
)
def test_a_log_that_tells_of_a_fault(number: int, line: str, id: str) -> None:
    lines = LOG.copy()
    lines[number] = line
    story = imported(lines)
    assert steps(story)[id][0] == "fail"
    assert judge(story).verdict == "REJECT"


def test_null_and_zeros_are_null() -> None:
    lines = [line.replace("sk=0,", "sk=(null),").replace("ops=0", "ops=0000000000000000")
             for line in LOG]  # fmt: skip
    assert steps(imported(lines))["STEP_10"] == ("pass", "sk=0x0, ops=0x0, state=1")
    padded = [line.replace("f1166dcd", "00000000f1166dcd", 1) for line in LOG]
    assert judge(imported(padded)).verdict == "PASS"


def test_a_pointer_that_printk_could_not_hash_is_not_a_value() -> None:
    """Early at boot %p prints (____ptrval____) for every pointer: no two can be compared."""
    lines = [line.replace("f1166dcd", "(____ptrval____)") for line in LOG]
    found = steps(imported(lines))
    assert found["STEP_15"][0] == found["STEP_13_BACKLINK"][0] == "unobservable"


def test_lines_that_say_nothing_known_are_kept() -> None:
    story = imported([*LOG[:3], "[PROBE] hello \x1b[31m", *LOG[3:], "[PROBE] private_data=1"])
    notes = [event.text for event in story.log if isinstance(event, ev.Note)]
    assert notes[1:] == [
        "not understood: [PROBE] hello \x1b[31m",
        "outside of any call: [PROBE] private_data=1",
    ]
    assert text(story).replace("\n", "").isprintable()


def test_a_log_of_no_call_is_refused() -> None:
    lines = ["[PROBE] fd_install Entry: file=3335ec5d", "[PROBE] hello"]
    with pytest.raises(StreamError, match="none is of a call that begins here"):
        list(events(lines))


def test_the_report_itself_is_a_log() -> None:
    """Its lines have the module's in brackets."""
    story = imported([f"03. STEP .......... [{line}] ✓" for line in LOG])
    assert judge(story).verdict == "PASS"


@pytest.mark.parametrize("lines", [[], [""], ["usb 1-1: new device", "PROBE", "[probe] x"]])
def test_a_log_without_a_line_of_the_module(lines: list[str]) -> None:
    with pytest.raises(StreamError, match=r"no \[PROBE\] line of socket_probe.ko in this log"):
        list(events(lines))


PIECES = st.sampled_from(
    [*LOG, "[PROBE] ", "=", "fd=-", "socket=zz", "[9.000001]", "file=", "9" * 99]
)


@given(st.lists(st.lists(PIECES | st.text(), max_size=4).map("".join), max_size=12))
def test_any_log(lines: list[str]) -> None:
    try:
        story = imported(lines)
    except StreamError:
        assert not {"[PROBE] sock_alloc Exit: socket=f1166dcd"}.intersection(lines)
    else:
        assert judge(story).verdict in ("PASS", "REJECT", "UNKNOWN")
