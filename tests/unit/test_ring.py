"""The decoder over a ring buffer that was saved in a real run: `python -m tests.ring`."""

from __future__ import annotations

import base64
import ctypes as ct
import gzip
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from probes.bpf_syscall import RING_HEADER, RING_LENGTH
from probes.capture import Raw
from probes.kallsyms import Kallsyms
from recordings import events as ev
from recordings.story import Call, Story
from tests import ROOT
from tests.ring import decoded

SAVED = json.loads(gzip.decompress((ROOT / "tests/unit/data/ring.json.gz").read_bytes()))


@pytest.fixture(scope="module")
def told() -> list[ev.Event]:
    assert SAVED["event"] == ct.sizeof(Raw), "the event has changed: python -m tests.ring"
    symbols = Kallsyms(SAVED["symbols"].encode())
    return decoded(base64.b64decode(SAVED["records"]), symbols, SAVED["f_ref"])


@pytest.fixture(scope="module")
def call(told: list[ev.Event]) -> Call:
    (call,) = Story.of(told).calls.values()
    return call


def test_the_steps_of_the_call(call: Call) -> None:
    assert [moment.id for moment in call.moments] == [
        "USER_EXEC", "STEP_09", "STEP_10", "STEP_13", "STEP_13", "STEP_14", "STEP_15",
        "STEP_13_BACKLINK", "STEP_16", "STEP_17", "CLEANUP_FPUT", "CLEANUP_SOCK_CLOSE",
        "CLEANUP_INET_RELEASE", "CLEANUP_SK_DESTRUCT", "CLEANUP_SOCK_FREE_INODE",
    ]  # fmt: skip
    times = [moment.event.t for moment in call.moments]
    assert times == sorted(times)
    assert (call.enter.comm, call.enter.args, call.result) == ("socket_test", [2, 1, 0], 3)


def test_the_objects_of_the_call(told: list[ev.Event], call: Call) -> None:
    made = {event.kind: event.at for event in told if isinstance(event, ev.Alloc)}
    freed = Counter((event.kind, event.at) for event in told if isinstance(event, ev.Free))
    assert set(made) == {"file", "socket", "sock", "fd"}
    assert freed == Counter(made.items())
    linked = call.linkage()
    assert linked.file is not None
    assert linked.file.private_data == made["socket"]
    assert linked.socket is not None
    assert (linked.socket.file, linked.socket.sk) == (made["file"], made["sock"])
    assert linked.sock is not None
    assert (linked.sock.sk_socket, linked.sock.skc_family) == (made["socket"], 2)
    assert (linked.sock.sk_protocol, linked.sock.sk_type, linked.sock.skc_state) == (6, 1, 7)


def test_names_and_stacks_come_before_what_mentions_them(told: list[ev.Event]) -> None:
    stacks: dict[int, list[str]] = {}
    for event in told:
        if isinstance(event, ev.Stack):
            stacks[event.id] = event.frames
        elif (id := getattr(event, "stack", None)) is not None:
            assert id in stacks, event
    (fput,) = (e for e in told if isinstance(e, ev.Step) and e.id == "CLEANUP_FPUT")
    assert fput.stack is not None
    assert "__fput" in [frame.partition("+")[0] for frame in stacks[fput.stack]]
    assert not any(frame.startswith("0x") for frames in stacks.values() for frame in frames)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: setattr(raw, "have", 0),
        lambda raw: setattr(raw, "t0", raw.t0 + raw.t),
        lambda raw: setattr(raw, "layer", (0, 0, 0)),
    ],
    ids=["nothing read", "each of a call of its own", "no object"],
)
def test_a_fault_would_be_seen(damage: Callable[[Any], None]) -> None:
    """The tests above are no use if they pass whatever comes out of the ring."""
    records = bytearray(base64.b64decode(SAVED["records"]))
    at = 0
    while at < len(records):
        length = int.from_bytes(records[at : at + 4], "little") & RING_LENGTH
        if length == ct.sizeof(Raw):
            damage(Raw.from_buffer(records, at + RING_HEADER))
        at += length + RING_HEADER + 7 & ~7
    symbols = Kallsyms(SAVED["symbols"].encode())
    story = Story.of(decoded(bytes(records), symbols, SAVED["f_ref"]))
    linked = [call.linkage() for call in story.calls.values()]
    assert not any(snap.file and snap.file.private_data and snap.socket for snap in linked)
