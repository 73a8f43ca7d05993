"""tests/programs/ways: what must be in the recording of sockets that no 64-bit socket(2) makes."""

from __future__ import annotations

from collections import Counter

from recordings.story import Story
from recordings.verdict import judge
from tests.agent import PROGRAMS

CALLS = ("int80", "socketcall")
URING = ("uring", "worker", "slot", "uring")
WAYS = (str(PROGRAMS / "ways"), *CALLS, *URING, "accept", "pair")


def results(story: Story) -> dict[str, int]:
    """Way → the socket's number, or −errno, as the program printed it."""
    lines = "".join(story.output).split("\n")
    return {way: int(result) for way, result in (line.split() for line in lines if line)}


def check_calls(story: Story) -> None:
    """The 32-bit calls and those of `accept`, each with the number that the program passed."""
    calls = [(call.enter.nr, call.enter.abi, call.result) for call in story.calls.values()]
    printed = results(story)
    assert calls[:2] == [(359, "i386", printed["int80"]), (102, "i386", printed["socketcall"])]
    assert [(nr, abi) for nr, abi, _ in calls[2:]] == [(41, None)] * 2, calls
    assert all(call.enter.args == [2, 1, 0] for call in story.calls.values())


def check_uncaptured(story: Story, **ways: int) -> None:
    """So many sockets by each way, and what that makes of the verdict."""
    found = Counter[str]()
    for event in story.uncaptured:
        found[event.how] += event.count
    assert found == ways
    verdict = judge(story)
    assert verdict.missing.uncaptured == sum(ways.values())
    assert verdict.verdict == ("UNKNOWN" if ways else "PASS"), verdict
