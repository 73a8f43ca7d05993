"""What the tests themselves rest on: skips in CI, VMs that fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT, vms

SKIPS = """
import pytest

def test_skipped():
    pytest.skip("no kernel")

@pytest.mark.may_skip("another does it")
def test_allowed():
    pytest.skip("not here")
"""


@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", "1 failed, 1 skipped"), ("", "2 skipped")], ids=["ci", "user"]
)
def test_a_skip_fails_in_ci_unless_it_is_allowed(tmp_path: Path, ci: str, outcome: str) -> None:
    (tmp_path / "test_skips.py").write_text(SKIPS)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider",
         "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, tmp_path / "test_skips.py"],
        cwd=ROOT, env=os.environ | {"CI": ci}, capture_output=True, text=True,
    )  # fmt: skip
    assert outcome in run.stdout
    assert run.returncode == (1 if ci else 0), run.stdout


def fails(folder: Path, times: int, status: int, words: str) -> list[str]:
    """A command that says it and fails so many times, and then says that it is fine."""
    script = (
        f'echo x >>{folder}/tries; test "$(wc -l <{folder}/tries)" -gt {times} && exec echo fine; '
        f"echo '{words}' >&2; exit {status}"
    )
    return ["sh", "-c", script]


@pytest.mark.parametrize(
    "words",
    [
        "sockstep: the guest did not come up: no console",
        "sockstep: the guest died: QEMU ended with status 1",
    ],
)
def test_a_vm_that_fails_is_tried_once_more_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr(vms, "AGAIN", [])
    assert vms.tried("6.1", fails(tmp_path, 1, 2, words)).stdout == b"fine\n"
    assert [f"6.1: {words}"] == vms.AGAIN
    (tmp_path / "tries").unlink()
    done = vms.tried("6.1", fails(tmp_path, 9, 2, words))
    assert (done.returncode, (tmp_path / "tries").read_text()) == (2, "x\nx\n")


@pytest.mark.parametrize(
    ("status", "words"), [(1, "sockstep: the guest died: x"), (2, "sockstep: ./x: no such program")]
)
def test_what_failed_in_the_vm_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, words: str
) -> None:
    monkeypatch.setattr(vms, "AGAIN", [])
    assert vms.tried("6.1", fails(tmp_path, 1, status, words)).returncode == status
    assert vms.AGAIN == []


def test_what_was_said_before_a_time_out_is_kept() -> None:
    done = vms.tried("6.1", ["sh", "-c", "echo early; exec sleep 60"], timeout=2)
    assert done.returncode == vms.TIMED_OUT
    assert done.stdout == b"early\n"
    assert b"no end within 2 s" in done.stderr
