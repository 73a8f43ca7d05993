"""Sockets that no 64-bit socket(2) makes, on stock kernels."""

from __future__ import annotations

import pytest

from recordings import commands as cmd
from recordings import events as ev
from tests.agent import agent
from tests.vms import vm_command, vm_kernel
from tests.ways import CALLS, URING, WAYS, check_calls, check_uncaptured, results


@pytest.mark.parametrize(
    ("name", "backend"),
    [("5.10", "kprobe"), ("5.10", "tracepoint"), ("6.1", "kprobe"), ("6.1", "tracepoint"),
     ("6.12", "fentry"), ("sid", "tracepoint")],
)  # fmt: skip
def test_each_way_is_captured_or_named(name: str, backend: str) -> None:
    via = vm_command(vm_kernel(name).release, [])
    with agent(*WAYS, options=("--backend", backend), via=via) as running:
        running.until(lambda e: isinstance(e, ev.State), timeout=200)
        running.disarm()
        running.say(cmd.Continue())
        story = running.until_end(timeout=120)
    missing = [state.probe for state in story.probes.values() if state.status == "missing"]
    assert not missing, missing
    ways = {}
    if min(results(story)[way] for way in URING) >= 0:
        ways["io_uring"] = len(URING)
    assert bool(ways) == (name != "5.10"), results(story)
    if (name, backend) == ("sid", "tracepoint"):
        ways["32-bit"] = len(CALLS)
        assert len(story.calls) == 2
    else:
        check_calls(story)
    check_uncaptured(story, **ways)
