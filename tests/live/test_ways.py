"""Sockets that no 64-bit socket(2) makes, on the kernel at hand."""

from __future__ import annotations

import pytest

from probes.backends import RAW_SYSCALLS
from recordings.report import text
from tests.agent import PROGRAMS, capture, unless
from tests.ways import URING, WAYS, check_calls, check_uncaptured, results


def test_each_way_is_captured_or_named() -> None:
    story = capture(*WAYS)
    printed = results(story)
    unless(min(printed.values()) >= 0, f"this kernel has no such calls: {printed}")
    unless(RAW_SYSCALLS, "32-bit calls are named only, where raw tracepoints are preempted")
    check_calls(story)
    check_uncaptured(story, io_uring=len(URING))
    workers = {event.tid for event in story.uncaptured} - {event.pid for event in story.uncaptured}
    assert len(workers) == 1, "a thread of the kernel's made one"
    assert "the program made 4 sockets past the probes: 4 by io_uring." in text(story)


@pytest.mark.parametrize("way", ["uring", "worker"])
def test_a_program_with_such_sockets_alone_is_no_reject(way: str) -> None:
    story = capture(str(PROGRAMS / "ways"), way)
    unless(min(results(story).values()) >= 0, "no io_uring here")
    assert not story.calls
    check_uncaptured(story, io_uring=1)


def test_who_accepts_and_pairs_makes_no_socket_past_the_probes() -> None:
    story = capture(str(PROGRAMS / "ways"), "accept", "pair")
    assert [call.enter.nr for call in story.calls.values()] == [41, 41]
    check_uncaptured(story)


def test_the_kernel_s_own_sockets_are_not_the_program_s() -> None:
    """A new network namespace has some from the start."""
    assert not capture("unshare", "-n", "true").uncaptured
