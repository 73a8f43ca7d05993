"""Holds inside the kernel, on real kernels in VMs: one boot each, hold_guest.py inside."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

import pytest
from click.testing import CliRunner

from recordings import isolated
from tests import ROOT
from tests.vms import in_vm, once, vm_kernel
from tui import cli

KERNELS = ("6.1", "6.12", "sid")
SCENARIOS = [
    *re.findall(r"^def ((?:at|may)_\w+)\(", (ROOT / "tests/vm/hold_guest.py").read_text(), re.M),
    "kernel_log",
]
ONCE = ("may_be_detached", "may_be_recorded")  # not the kernel's doing: on the first one only
HELD = [(k, s) for k in KERNELS for s in SCENARIOS if k == KERNELS[0] or s not in ONCE]
GUEST_PYTHON = sys.executable


def outcomes(kernel: str) -> dict[str, dict[str, object]]:
    """What the scenarios came to on a kernel. A crash of the guest is a failure of all."""
    vm_kernel(kernel)
    folder = Path(mkdtemp(prefix="sockstep-hold-"))
    for name, option in (("static", "-static"), ("nopie", "-no-pie")):
        build = ["gcc", "-w", option, "-o", folder / name, ROOT / "tests/programs/hold.c"]
        subprocess.run(build, check=True)
    names = [scenario for on, scenario in HELD if on == kernel]
    command = ["timeout", "900", GUEST_PYTHON, "tests/vm/hold_guest.py", str(folder), *names]
    done = in_vm(kernel, command, timeout=940)
    found = [json.loads(line) for line in done.stdout.decode().splitlines() if line[:1] == "{"]
    print(done.stderr.decode()[-2000:])
    return {result["name"]: result for result in found}


@pytest.mark.batch(outcomes, "kernel")
@pytest.mark.parametrize(("kernel", "scenario"), HELD)
def test_held(kernel: str, scenario: str) -> None:
    found = once(outcomes, kernel).get(scenario)
    assert found is not None, f"the guest did not come to {scenario}"
    print(found.get("figures"))
    assert found["ok"], found["why"]


def test_5_10_says_why_it_cannot() -> None:
    """And the program runs all the same, with the stops at the border to user mode."""
    agent = isolated.command("tui.cli", "record", "--hold=1s", "-o", "/tmp/r.jsonl")
    done = in_vm("5.10", [*agent, str(ROOT / "examples/socket_test")], timeout=200)
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode()
    assert "no hold in the kernel" in said
    assert "sleepable" in said
    assert "socket() = 3" in said


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("--hold 2s ./x", 2.0),
        ("--hold ./x", 180.0),
        ("--hold=500ms ./x", 0.5),
        ("--hold 3m ./x", 180.0),
    ],
)
def test_how_long_is_said_as_people_say_it(words: str, seconds: float) -> None:
    command = cli.cli.commands["record"]
    found = command.make_context("record", ["-o", "f", "--vm", "6.1", *words.split()])
    assert found.params["hold"] == seconds


def test_a_length_of_time_that_is_none_is_refused() -> None:
    done = CliRunner().invoke(cli.cli, ["record", "-o", "f", "--hold=soon", "./x"])
    assert done.exit_code == 2
    assert "no length of time" in done.output
