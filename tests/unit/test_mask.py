"""Masking: every comparison still holds, and no address is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings import events as ev
from recordings.events import NULL
from recordings.mask import masked
from recordings.report import as_json
from recordings.story import Story
from recordings.stream import encode, read
from recordings.verdict import judge
from tests import RECORDINGS
from tests.builders import (
    FILE,
    OPS,
    SOCK,
    SOCKET,
    a_header,
    any_event,
    beginning,
    changed,
    emfile,
    ending,
    session,
)
from tests.effort import calls

Events = list[ev.Event]


def outcome(events: Events) -> Any:
    """All that is judged of a stream, without the words."""
    story = Story.of(events)
    found: Any = as_json(story)
    return {
        "verdict": found["verdict"],
        "checks": {name: check["status"] for name, check in found["checks"].items()},
        "steps": [[s["status"] for s in call["steps"]] for call in found["calls"]],
        "links": [[link.state for link in m.links.values()] for m in story.moments],
        "changed": [m.changed for m in story.moments],
        "objects": [(o["kind"], o["generation"], o["status"]) for o in found["ledger"]["objects"]],
        "names": [story.name(at) for at in story.symbols],
    }


def of(event: ev.Event) -> ev.Event:
    """What becomes of one event."""
    header, safe = masked([a_header(), event])
    assert isinstance(header, ev.Header)
    assert header.addresses == "masked"
    return safe


# Faults that a session may have; each must come out of masking as the fault that it was.
FAULTS: list[Events] = [
    session(),
    [*beginning(), *emfile(), *ending()],
    changed(session(), "STEP_15", file__private_data=FILE),
    changed(session(), "STEP_10", socket__sk=SOCK),
    changed(session(), "STEP_17", socket__file=NULL),
    changed(session(), "STEP_13_BACKLINK", sock__sk_socket="0xffff888100000001"),
]


@pytest.mark.parametrize("events", FAULTS, ids=range(len(FAULTS)))
def test_links_verdict_and_report_are_the_same(events: Events) -> None:
    assert outcome(list(masked(events))) == outcome(events)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_real_recording(path: Path) -> None:
    events = list(read(path))
    assert outcome(list(masked(events))) == outcome(events)


ADDRESS = st.integers(0xFFFF888100000000, 0xFFFF8881FFFFFFFF) | st.integers(
    0xFFFFFFFF81000000, 0xFFFFFFFFFFFFFFFF
)
HASHED = st.integers(0xA0000000, 0xFFFFFFFF)  # never the digits of some decimal number


@given(
    st.data(), st.lists(ADDRESS, min_size=6, max_size=6) | st.lists(HASHED, min_size=6, max_size=6)
)
def test_no_address_is_left_and_every_comparison_holds(
    data: st.DataObject, numbers: list[int]
) -> None:
    """A session with any addresses, some of them equal, also in texts and without 0x."""
    raw = data.draw(st.sampled_from(FAULTS))
    names = dict(
        zip((SOCKET, SOCK, FILE, OPS, "0xffff888100000001"), map(hex, numbers), strict=False)
    )
    source = b"\n".join(map(encode, raw)).decode()
    for old, new in names.items():
        source = source.replace(old, new)
    lines = source.splitlines()
    form = data.draw(
        st.sampled_from(("{}", "0x{}", "at {}.", "x{}y", "+{}", "{}{}", "00{}", "{}:{}"))
    )
    for number in numbers:
        told = form.replace("{}", f"{number:x}")
        lines.append(encode(ev.Note(t=1, text=told)).decode())
        lines.append(encode(ev.Output(t=1, text=told.upper())).decode())
        lines.append(encode(ev.Stack(t=1, id=1, frames=[told, hex(number)])).decode())
        lines.append(encode(ev.Symbol(t=1, at=hex(number), name="inet_stream_ops")).decode())
    events = [msgspec.json.decode(line, type=ev.AnyEvent) for line in lines]
    safe = list(masked(events))
    written = b"\n".join(map(encode, safe)).lower()
    for number in numbers:
        assert f"{number:x}".encode() not in written
    assert outcome(safe) == outcome(events)


@given(st.lists(any_event(), max_size=30))
def test_any_events_at_all_can_be_masked(events: Events) -> None:
    safe = list(masked(events))
    assert [type(event) for event in safe] == [type(event) for event in events]
    assert judge(Story.of(safe)).verdict == judge(Story.of(events)).verdict


def test_each_export_has_masks_of_its_own() -> None:
    alloc = ev.Alloc(t=1, call=1, kind="sock", at=SOCK, site="sk_prot_alloc+0x32")
    seen = set()
    for _ in range(8):
        safe = of(alloc)
        assert isinstance(safe, ev.Alloc)
        seen.add(safe.at)
    assert len(seen) == 8


def test_what_is_no_address_is_left_alone() -> None:
    for event in (
        ev.Alloc(t=1, call=1, kind="fd", at="3", site="alloc_fd+0x1e/0x40"),
        ev.Free(t=1, call=1, kind="fd", at="12345678", site="x", pid=1, comm="deadbeef", cpu=0),
        ev.Note(t=1, text="0x0 NULL 0x10 41 0x2a deadbeef 12345678 cafe:affe ÿ \x1b"),
        ev.Output(
            t=1, text="sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        ),
        ev.Output(t=1, text="user space 0x7ffd12345678 0x000055d0deadbeef"),
        ev.Enter(t=1, call=1, pid=1, tid=1, comm="a", cpu=0, syscall="socket", nr=41, args=[2, 1]),
    ):
        assert of(event) == event


def test_a_run_of_nothing_but_addresses() -> None:
    alloc = ev.Alloc(t=1, call=1, kind="sock", at=SOCK, site="x")
    digits = SOCK.removeprefix("0x")
    _, safe, said = masked([a_header(), alloc, ev.Output(t=1, text=f"{digits * 2000}abc")])
    assert isinstance(safe, ev.Alloc)
    assert isinstance(said, ev.Output)
    assert said.text == safe.at.removeprefix("0x") * 2000 + "abc"


def test_an_address_is_masked_however_its_digits_are_written() -> None:
    """0xFFFF…, as printf's %p and %X may have it, of which no other event tells."""
    for text in ("0xFFFFffff81ABCDEF", "ffffffff81abcdef", "FFFFFFFF81ABCDEF."):
        safe = of(ev.Output(t=1, text=text))
        assert isinstance(safe, ev.Output)
        assert "81abcdef" not in safe.text.lower()


def test_a_long_run_of_digits_is_little_work() -> None:
    run = "0123456789abcdef" * 500
    assert calls(lambda: of(ev.Output(t=1, text=run))) < 4 * len(run)


def test_null_stays_null() -> None:
    socket = ev.Socket(at=SOCKET, sk=NULL, ops=NULL, state=1)
    step = next(e for e in session() if isinstance(e, ev.Step) and e.id == "STEP_10")
    safe = of(msgspec.structs.replace(step, snap=ev.Snapshot(socket=socket)))
    assert isinstance(safe, ev.Step)
    assert safe.snap.socket is not None
    assert (safe.snap.socket.sk, safe.snap.socket.ops, safe.snap.socket.state) == (NULL, NULL, 1)
    assert safe.snap.socket.at != SOCKET


def test_masking_twice_is_masking() -> None:
    events = session()
    assert outcome(list(masked(masked(events)))) == outcome(events)
