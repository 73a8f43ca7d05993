"""The lab on stock kernels: every edge reached, its errno, its cleanup, and nothing leaked."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from recordings import commands as cmd
from recordings import isolated
from recordings.experiments import EXPERIMENTS
from recordings.story import Story
from recordings.stream import read
from recordings.verdict import judge
from tests import ROOT
from tests.agent import needs_root
from tests.freed import read_after_free
from tests.vm.leaks_guest import EDGES, LEFT
from tests.vms import ALL, in_vm, once, tried, vm_kernel

SOCKSTEP = isolated.command("tui.cli")


def sockstep(*words: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SOCKSTEP, *words], cwd=ROOT, capture_output=True, text=True, check=False,
        timeout=timeout, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@dataclass
class Lab:
    outcomes: dict[str, dict[str, Any]]  # by experiment
    status: int
    said: str


def wanted(name: str) -> list[str]:
    """All experiments; on the oldest kernel and the newest a fatal signal is SIGKILL."""
    every = name in ("6.1", "6.12")
    return [known for known in EXPERIMENTS if every or not known.startswith("sigterm-")]


def lab(name: str) -> Lab:
    release = vm_kernel(name).release
    folder = mkdtemp(prefix="sockstep-lab-")
    words = [*wanted(name), f"--vm={release}", "--backend", "kprobe", "-o", folder, "--json"]
    done = tried(name, [*SOCKSTEP, "lab", *words], timeout=900)
    found = json.loads(done.stdout or b"[]")
    outcomes = {outcome["experiment"]: outcome for outcome in found}
    return Lab(outcomes, done.returncode, done.stderr.decode())


@pytest.mark.batch(lab, "name")
@pytest.mark.parametrize(("name", "which"), [(name, x) for name in ALL for x in wanted(name)])
def test_an_experiment_on_a_stock_kernel(name: str, which: str) -> None:
    found = once(lab, name)
    assert which in found.outcomes, found.said
    outcome, experiment = found.outcomes[which], EXPERIMENTS[which]
    release = vm_kernel(name).release
    assert outcome["kernel"] == release
    if not experiment.trigger:
        assert not outcome["reached"], "nobody can reach it on purpose"
        assert outcome["why"]
        return
    for verdict in ("reached", "cleanup_ok", "leak_free"):
        assert outcome[verdict], f"{verdict}: {outcome['why']}"
    assert outcome["errno"] == experiment.expected(release)
    story = Story.of(read(Path(outcome["recording"])))
    assert judge(story).verdict == "PASS"
    assert read_after_free(story.log) == []
    for text in (text for text in experiment.inject if "=" in text):
        fired = [e for e in story.log if getattr(e, "hook", "") == text.partition("=")[0]]
        assert any(not e.armed for e in fired), "the refusal itself is in the recording"


@pytest.mark.batch(lab, "name")
@pytest.mark.parametrize("name", ALL)
def test_a_lab_that_finds_what_it_expects_exits_with_0(name: str) -> None:
    found = once(lab, name)
    assert list(found.outcomes) == wanted(name)
    assert found.status == 0, found.said


@pytest.mark.batch(lab, "name")
@pytest.mark.parametrize("name", ["6.1"])
def test_the_window_is_a_sleep_inside_the_call(name: str) -> None:
    """Edge 8 with a slow modprobe: the signal comes after STEP_09 and before any STEP_14."""
    found = once(lab, name)
    assert "window-sigkill" in found.outcomes, found.said
    story = Story.of(read(Path(found.outcomes["window-sigkill"]["recording"])))
    call = list(story.calls.values())[-1]
    times = {m.id: m.event.t for m in reversed(call.moments)}
    sent = [e for e in story.log if type(e).__name__ == "Inject"]
    assert times["STEP_09"] < sent[0].t < times["CLEANUP_SOCK_RELEASE"]
    assert "STEP_14" not in times
    assert call.result == -errno.EPROTONOSUPPORT
    assert times["CLEANUP_SOCK_RELEASE"] < times["CLEANUP_GET_SIGNAL"]
    stacks = [frame for frames in story.stacks.values() for frame in frames]
    assert any(frame.startswith("call_usermodehelper_exec") for frame in stacks), "shown asleep"


def leaks(name: str) -> dict[str, Any]:
    done = in_vm(name, [sys.executable, "-m", "tests.vm.leaks_guest"], timeout=900)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    return {result["edge"]: result for result in results} | {"said": done.stderr.decode()}


@pytest.mark.batch(leaks, "name")
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", ["6.1"])
def test_a_thousand_times_an_edge_leaks_nothing(name: str, edge: str) -> None:
    """By the kernel's own counts: slab caches and sockstat."""
    results = once(leaks, name)
    assert edge in results, f"the guest did not come to it: {results['said']}"
    result = results[edge]
    assert result["refused"] == 1000
    for cache, before in result["before"].items():
        # A thousand leaks would show; some free objects count while their slab is a CPU's.
        assert result["after"][cache] - before < LEFT, (cache, result)


def test_the_lab_here(tmp_path: Path) -> None:
    """What the kernel at hand lets us do: arguments, limits and signals."""
    needs_root()
    names = ["1", "2", "7", "15", "close", "exit", "sigkill-step_14", "sigusr1-step_09"]
    done = sockstep("lab", *names, "-o", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    assert len(json.loads(done.stdout)) == len(names)


def test_an_injection_is_written_as_people_write_it() -> None:
    assert cmd.injection("TERM@STEP_14") == cmd.Inject(signo=15, step="STEP_14")
    assert cmd.injection("9@USER_EXEC") == cmd.Inject(signo=9, step="USER_EXEC")
    refuse = cmd.Refuse(hook="security_sk_alloc", errno=errno.ENOMEM)
    assert cmd.injection("security_sk_alloc=ENOMEM") == refuse
    assert cmd.injection("SIGRTMIN+2@STEP_14") == cmd.Inject(signo=36, step="STEP_14")
    assert cmd.injection("nofile=3") == cmd.Limit(nofile=3)
    assert cmd.injection("USR1@STEP_09*3") == cmd.Inject(signo=10, step="STEP_09", times=3)
    assert cmd.injection("security_sk_alloc=12*2") == cmd.Refuse(
        hook="security_sk_alloc", errno=errno.ENOMEM, times=2
    )
    for wrong in (
        "nofile=3*2",
        "TERM@STEP_14*x",
        "TERM@STEP_14*0",
        "",
        "SIGFOO@STEP_14",
        "SIGTERM@STEP_99",
        "security_sk_alloc",
        "nofile=x",
        "x=1",
    ):
        with pytest.raises(ValueError, match=r".+") as caught:
            cmd.injection(wrong)
        assert "\n" not in str(caught.value)


def test_bad_words_to_the_lab_are_one_line() -> None:
    done = sockstep("lab", "no-such-thing")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "no-such-thing" in done.stderr
    assert "edge 14" in sockstep("lab").stdout
