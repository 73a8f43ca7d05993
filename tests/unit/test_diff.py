"""Two recordings side by side: what differs, what does not, and what cannot be told."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings import events as ev
from recordings import isolated
from recordings.diff import IN_FULL, Diff, Pair, Row, as_json, diff, text
from recordings.events import NULL
from recordings.mask import masked
from recordings.story import Story
from recordings.stream import read
from tests import RECORDINGS, ROOT, SAMPLES
from tests.builders import (
    FILE,
    GOOD,
    HOSTILE,
    INET,
    IPUT,
    PID,
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
    hostile,
    in_call,
    kept,
    on_functions,
    session,
    stacked,
    step,
    window,
    without,
)
from tests.builders import call as good_call

Events = list[ev.Event]
WATCHED = (
    "__fput", "sock_close", "__sock_release", "inet_release", "__sk_destruct", "iput",
    "sock_free_inode", "alloc_fd", "put_unused_fd",
)  # fmt: skip


def of(events: Iterable[ev.Event], *, end: bool = True, **header: Any) -> Story:
    """A whole recording of these events, with probes on the cleanup functions."""
    probes = [
        ev.Probe(t=2, name=f"kprobe:{name}", kind="kprobe", steps=[], status="attached")
        for name in WATCHED
    ]
    told = list(events)
    last = max((event.t for event in told), default=T)
    ended = any(isinstance(event, ev.State) and event.state == "exited" for event in told)
    rest = ending(last + 1) if end and not ended else []
    return Story.of([*beginning(**header), *probes, *told, *rest])


def only(found: Diff) -> Pair:
    (pair,) = found.calls
    return pair


def rows(found: Diff) -> dict[str, Row]:
    return {row.step: row for row in only(found).steps}


def first(found: Diff) -> str | None:
    pair = only(found)
    return pair.steps[pair.first].step if pair.first is not None else None


def moved(events: Iterable[ev.Event], by: int) -> Events:
    return [msgspec.structs.replace(event, t=event.t + by) for event in events]


# -- what is no difference -----------------------------------------------------------------


@pytest.mark.parametrize("events", [GOOD, in_call(INET, IPUT), window(), session()])
def test_no_address_and_no_time_is_compared(events: Events) -> None:
    """Another run of the same: other addresses, other times."""
    later = list(masked(moved(events, 12345)))
    for found in (diff(of(events), of(later)), diff(of(later), of(events))):
        assert not found.diverges
        assert {row.equal for row in only(found).steps} == {True}
        assert not any(row.why for row in only(found).steps)
        assert text(found).endswith("\n\nNo divergence.")


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_real_recording_with_itself(path: Path) -> None:
    events = list(read(path))
    found = diff(Story.of(events), Story.of(masked(events)))
    assert not found.diverges


def test_a_field_that_one_side_did_not_read() -> None:
    less = changed(GOOD, "STEP_17", sock__skc_state=None)
    assert not diff(of(GOOD), of(less)).diverges


def test_bits_that_other_kernels_number_otherwise() -> None:
    other = changed(GOOD, "STEP_14", socket__flags=32)
    assert rows(diff(of(GOOD), of(other)))["STEP_14"].why == "socket.flags: 0 | 32"
    assert not diff(of(GOOD), of(other, kernel="6.12")).diverges


def test_the_way_back_need_not_have_been_read() -> None:
    """A link whose way back was not read leads there all the same."""
    less = changed(GOOD, "STEP_15", socket__file=None)
    assert not diff(of(GOOD), of(less)).diverges


def test_the_order_of_what_rcu_frees() -> None:
    """A grace period ends when it ends: before the return, after it, in any order."""
    early = in_call(INET, IPUT)
    gone = step(1, T + 8 * US, "CLEANUP_SOCK_FREE_INODE", "sock_free_inode")
    gone = msgspec.structs.replace(gone, tid=0, pid=0)
    late = msgspec.structs.replace(gone, t=T + 10_000 * US)
    found = diff(of([*early[:-2], gone, *early[-2:]]), of([*early, late]))
    assert not found.diverges


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("close", None),
        ("emfile", "STEP_14"),
        ("lsm-file", "STEP_14"),
        ("lsm-sk", "STEP_13"),
        ("protocol-absent", "STEP_13"),
        ("lsm-inode", "STEP_09"),
        ("lsm-create", "STEP_09"),
        ("exit", "CLEANUP_DO_EXIT"),
        ("sigterm-step_14", "CLEANUP_GET_SIGNAL"),
    ],
)
def test_the_lab_against_the_good_path(name: str, where: str | None) -> None:
    """On a real kernel: each experiment leaves the good path at its edge."""
    good, other = (Story.of(read(SAMPLES / f"lab-6.1-{one}.jsonl")) for one in ("close", name))
    assert first(diff(good, other)) == where


# -- what is ---------------------------------------------------------------------------------


def test_the_good_path_and_an_error_edge() -> None:
    found = diff(of(GOOD), of(in_call(INET, IPUT)))
    row = rows(found)
    assert first(found) == "STEP_14"
    assert [row[f"STEP_{id}"].equal for id in ("09", "10", "13")] == [True] * 3
    assert row["STEP_14"].b.seen is False
    assert "not reached" in row["STEP_14"].b.evidence
    assert row["STEP_17"].why == "returned 3 | −24 EMFILE"
    assert row["CLEANUP_FPUT"].b.evidence == "not for this call"
    assert row["CLEANUP_SOCK_RELEASE"].why == "after the return | before the return"
    outcome = {fact.name: (fact.a, fact.b, fact.equal) for fact in only(found).outcome}
    assert outcome == {
        "result": ("3", "−24 EMFILE", False),
        "socket": ("freed", "freed", True),
        "sock": ("freed", "freed", True),
        "file": ("freed", "none", False),
        "fd": ("freed", "none", False),
    }


@pytest.mark.parametrize("pair", [(GOOD, in_call(INET, IPUT)), (in_call(INET), window())])
def test_the_other_way_round(pair: tuple[Events, Events]) -> None:
    there, back = diff(of(pair[0]), of(pair[1])), diff(of(pair[1]), of(pair[0]))
    assert first(there) == first(back)
    assert {row.step: row.equal for row in only(there).steps} == {
        row.step: row.equal for row in only(back).steps
    }


@pytest.mark.parametrize(
    ("id", "fields", "why"),
    [
        ("STEP_13", {"socket__ops": NULL}, "socket.ops: set | NULL"),
        ("STEP_14", {"socket__file": NULL}, "socket.file: leads there | NULL"),
        ("STEP_14", {"socket__file": "0xbad"}, "socket.file: leads there | leads elsewhere"),
        ("STEP_16", {"fd__file": FILE}, "fd.file: NULL | leads there"),
        ("STEP_16", {"file__f_count": 2}, "file.f_count: 1 | 2"),
        ("STEP_17", {"sock__skc_state": 1}, "sock.skc_state: 7 | 1"),
        ("STEP_13", {"symbol": "unix_create"}, "inet_create exit | unix_create exit"),
    ],
)
def test_a_value_that_differs(id: str, fields: dict[str, Any], why: str) -> None:
    found = diff(of(GOOD), of(changed(GOOD, id, **fields)))
    assert first(found) == id
    assert why in rows(found)[id].why


def test_a_check_that_fails_on_one_side() -> None:
    found = diff(of(GOOD), of(changed(GOOD, "STEP_15", file__private_data="0xbad")))
    assert rows(found)["STEP_15"].equal is False
    assert rows(found)["STEP_15"].b.status == "fail"


def test_another_number() -> None:
    found = diff(of(GOOD), of([*good_call(fd=5), *closed(fd=5)]))
    assert rows(found)["STEP_16"].why == "fd.number: 3 | 5; fd.lowest: 3 | 5"
    assert rows(found)["STEP_17"].equal is False


def test_the_order_of_the_cleanup() -> None:
    late = msgspec.structs.replace(INET, t=IPUT.t + US)
    found = diff(of(in_call(INET, IPUT)), of(in_call(IPUT, late)))
    where = [(r.step, r.equal, r.a.seen, r.b.seen) for r in only(found).steps[-4:]]
    assert {id for id, equal, *_ in where if equal is False} <= {"CLEANUP_INET_RELEASE",
                                                                 "CLEANUP_IPUT"}  # fmt: skip
    assert found.diverges
    assert "at another point" in text(found).replace("\n", " ")


def test_a_leak() -> None:
    leaky = without(kept(GOOD, "free sock"), "CLEANUP_SK_DESTRUCT")
    found = diff(of(GOOD), of(leaky))
    (fact,) = [fact for fact in only(found).outcome if fact.equal is False]
    assert (fact.name, fact.a) == ("sock", "freed")
    assert fact.b.startswith("leaked: never freed")


# -- what cannot be told ------------------------------------------------------------------------


def test_another_backend_sees_other_places() -> None:
    """What both decided is compared; where they read is not."""
    other = changed(GOOD, "STEP_13", symbol="sk_prot_alloc", at="inside")
    assert rows(diff(of(GOOD), of(other, backend="tracepoint")))["STEP_13"].equal is True
    undecided = changed(other, "STEP_13", socket__sk=NULL)
    found = diff(of(GOOD), of(undecided, backend="tracepoint"))
    assert rows(found)["STEP_13"].equal is None
    assert not found.diverges


def test_results_are_compared_whatever_tells_of_them() -> None:
    other = changed(emfile(), "STEP_17", symbol="sys_exit_socket")
    found = diff(of(GOOD), of(other, backend="tracepoint"))
    assert rows(found)["STEP_17"].equal is False


@pytest.mark.parametrize("id", ["STEP_14", "CLEANUP_IPUT"])
def test_what_one_side_is_blind_to(id: str) -> None:
    events = [*GOOD, *[msgspec.structs.replace(IPUT, t=GOOD[-1].t)]]
    blind = [ev.Blind(t=1, step=id, why="no tracepoint"), *without(events, id)]
    other = Story.of([*beginning(backend="tracepoint"), *blind, *ending(GOOD[-1].t + 1)])
    found = diff(of(events), other)
    assert rows(found)[id].equal is None
    assert not found.diverges


def test_events_that_were_lost() -> None:
    lost = [ev.Lost(t=3, count=1, what="x"), *without(GOOD, "CLEANUP_FPUT", "STEP_14")]
    found = diff(of(GOOD), of(lost))
    assert rows(found)["STEP_14"].equal is None
    assert rows(found)["CLEANUP_FPUT"].equal is None
    assert not found.diverges


def test_a_recording_that_stops_before_the_cleanup() -> None:
    found = diff(of(GOOD), of(good_call(), end=False))
    assert rows(found)["CLEANUP_FPUT"].b.evidence == "not over when the recording ended"
    assert not found.diverges
    assert "could not be compared" in text(found)
    cut = diff(of(GOOD), of(good_call()[:8], end=False))
    assert not cut.diverges
    assert {fact.equal for fact in only(cut).outcome} == {None}


def test_an_exit_that_was_not_is_known() -> None:
    """Its probe is a tracepoint, and on every backend: that it did not fire says something."""
    died = step(1, T + 900 * US, "CLEANUP_DO_EXIT", "do_exit", "inside")
    probe = ev.Probe(
        t=1, name="raw_tracepoint:sched_process_exit", kind="raw_tracepoint",
        steps=["CLEANUP_DO_EXIT"], status="attached",
    )  # fmt: skip
    for told, equal in (([probe], False), ([], None)):
        found = diff(of([*GOOD, died]), of([*told, *GOOD]))
        assert rows(found)["CLEANUP_DO_EXIT"].equal is equal


# -- calls ------------------------------------------------------------------------------------


def several(count: int, *bad: int) -> Story:
    """So many calls; of some the check of STEP_15 fails."""
    events: Events = []
    for number in range(1, count + 1):
        made = good_call(number, T + number * 10**6, fd=number + 2)
        if number in bad:
            made = changed(made, "STEP_15", file__private_data="0xbad")
        events += made
    return of(events)


def test_calls_are_paired_in_order() -> None:
    found = diff(several(3), several(2))
    assert [(pair.a, pair.b) for pair in found.calls] == [(1, 1), (2, 2), (3, None)]
    assert [pair.diverges for pair in found.calls] == [False, False, True]
    assert found.first == 2
    assert "no call 3 on the other side" in text(found)


def test_the_calls_can_be_chosen() -> None:
    a, b = several(3, 2), several(3)
    assert [(p.a, p.b) for p in diff(a, b, call_a=2).calls] == [(2, 1)]
    assert [(p.a, p.b) for p in diff(a, b, 1, 3).calls] == [(1, 3)]
    for wrong in ({"call_a": 9}, {"call_b": 9}):
        with pytest.raises(KeyError):
            diff(a, b, **wrong)


def test_recordings_without_calls() -> None:
    assert not diff(Story(), Story()).diverges
    assert "No socket() call in either recording." in text(diff(Story(), Story()))
    assert diff(of(GOOD), of([])).diverges


def test_a_call_that_one_side_did_not_record_is_no_divergence() -> None:
    lost = ev.Lost(t=T, count=40, what="ring buffer")
    count = ev.Fired(t=T, name="kprobe:all", hits=2)
    for cut in (of(good_call(), end=False), of([*good_call(), lost]), of([*good_call(), count])):
        found = diff(several(2), cut)
        assert not found.calls[1].sure
        assert not found.diverges
        assert "1 call has none on the other side, as far as" in text(found)


def test_of_many_calls_those_that_diverge_are_shown() -> None:
    count = IN_FULL + 4
    page = text(diff(several(count), several(count, 2, 5)))
    assert page.count("private_data=") == 4
    assert f"{count - 2} more pairs of calls: 0 of them diverge" in page
    assert f"They diverge first at STEP_15 of call 2 | call 2. 2 of {count} pairs" in page
    assert page.count("the first divergence") == 1


# -- what was asked for -----------------------------------------------------------------------


def test_what_was_asked_for_is_shown_and_no_divergence() -> None:
    """Kernel, backend, program, injections, arguments."""
    inject = ev.Inject(t=T + US, what="signal", pid=PID, signo=15, step="STEP_09", call=1, result=0)
    armed = ev.Inject(t=1, what="limit", pid=PID, limit=9, result=0)
    other = [
        msgspec.structs.replace(e, args=[2, 1, 6]) if isinstance(e, ev.Enter) else e for e in GOOD
    ]
    found = diff(of(GOOD), of([armed, *other, inject], kernel="6.12", argv=["./other"]))
    assert not found.diverges
    setup = {fact.name: fact for fact in [*found.setup, *only(found).setup] if not fact.equal}
    assert (setup["kernel"].b, setup["program"].b) == ("6.12 x86_64", "./other")
    assert setup["call"].b == "socket(AF_INET, SOCK_STREAM, IPPROTO_TCP)"
    assert setup["injected"].b == "SIGTERM at STEP_09: sent"
    page = text(found)
    assert "RLIMIT_NOFILE = 9: done" in page
    assert "≠ kernel" in page


# -- as text and as JSON ------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_page(width: int) -> None:
    page = text(diff(of(GOOD), of(in_call(INET, IPUT))), width)
    lines = page.splitlines()
    assert max(map(len, lines)) <= width
    (mark,) = [n for n, line in enumerate(lines) if "the first divergence" in line]
    assert lines[mark + 1].startswith("≠ STEP_14 ")
    assert lines[-1] == "They diverge first at STEP_14 of call 1 | call 1."
    assert SOCKET not in page, "addresses are no longer than is of use"


def test_in_ascii_it_is_the_same_picture() -> None:
    found = diff(of(GOOD), of(in_call(INET, IPUT)))
    page, plain = text(found), text(found, ascii=True)
    assert plain.isascii()
    assert [len(line) for line in page.splitlines()] == [len(line) for line in plain.splitlines()]
    assert "! STEP_14" in plain


def test_no_control_character_of_a_recording_is_printed() -> None:
    page = text(diff(hostile(), of(GOOD)))
    assert all(line.isprintable() for line in page.split("\n"))
    assert HOSTILE not in page


def test_the_json() -> None:
    found: Any = json.loads(json.dumps(as_json(diff(of(GOOD), of(in_call(INET, IPUT))))))
    assert (found["diverges"], found["first"]) == (True, 0)
    (pair,) = found["calls"]
    assert (pair["diverges"], pair["a"], pair["b"]) == (True, 1, 1)
    row = pair["steps"][pair["first"]]
    assert (row["step"], row["equal"]) == ("STEP_14", False)
    assert row["a"] == {"seen": True, "status": "pass", "evidence": f"file={FILE}"}
    same: Any = as_json(diff(of(GOOD), of(GOOD)))
    assert (same["diverges"], same["first"]) == (False, None)


@given(st.lists(any_event(), max_size=30), st.lists(any_event(), max_size=30))
def test_any_events_at_all(one: Events, other: Events) -> None:
    assert not diff(Story.of(one), Story.of(one)).diverges
    found = diff(Story.of(one), Story.of(other))
    assert json.dumps(as_json(found))
    for ascii in (False, True):
        assert all(line.isprintable() for line in text(found, ascii=ascii).split("\n"))


@given(st.data())
def test_any_values_in_a_session(data: st.DataObject) -> None:
    events = [*on_functions(), *session(), *in_call(INET, IPUT), *stacked(window(), "x", "y")]
    for at in data.draw(st.lists(st.integers(0, len(events) - 1), max_size=5)):
        other = data.draw(any_event(type(events[at])))
        keep = {name: getattr(events[at], name) for name in ("call", "id") if hasattr(other, name)}
        events[at] = msgspec.structs.replace(other, **keep)
    story = Story.of(events)
    assert not diff(story, story).diverges
    found = diff(story, of(GOOD))
    assert text(found)
    assert found.diverges == as_json(found)["diverges"]


def test_a_second_free_is_not_in_the_way() -> None:
    again = free(1, T * 2, "sock", "0x1", "x")
    assert not diff(of(GOOD), of([*GOOD, again])).diverges


# -- the command --------------------------------------------------------------------------------


def sockstep(*args: object) -> subprocess.CompletedProcess[str]:
    """The command line, in 80 columns of ASCII."""
    return subprocess.run(
        isolated.command("tui.cli", *map(str, args)),
        capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | {"LC_ALL": "C", "COLUMNS": "80"}, cwd=ROOT,
    )  # fmt: skip


def test_the_command(tmp_path: Path) -> None:
    good, bad = (
        next(p for p in RECORDINGS if p.stem.startswith(n)) for n in ("socket_t", "emfile")
    )
    found = sockstep("diff", good, bad)
    assert (found.returncode, found.stderr) == (1, "")
    assert found.stdout.isascii()
    assert "\n! STEP_14" in found.stdout
    assert sockstep("diff", good, good).returncode == 0
    made = sockstep("diff", good, bad, "--json", "--call-a", 1)
    assert json.loads(made.stdout)["diverges"] is True
    (tmp_path / "no").write_text("this is no recording\n")
    for args in ((good, tmp_path / "no"), (good, tmp_path / "absent"), (good, bad, "--call-b", 9)):
        found = sockstep("diff", *args)
        assert found.returncode == 2
        assert found.stdout == ""
        assert len(found.stderr.splitlines()) == 1
