"""What `pip install` brings: the wheel has all that the packages need, and works on its own."""

from __future__ import annotations

import email
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests import ROOT
from tests.agent import SOCKET_TEST, needs_root
from tests.installed import PACKAGES, build_wheel

SAMPLE = "recordings/samples/socket_test-6.18-tracepoint.jsonl"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the tree stays as it is."""
    return build_wheel(tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path) -> Path:
    """The wheel as it lands in site-packages."""
    folder = wheel.parent / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def sockstep(unpacked: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the wheel's sockstep, from elsewhere, without a terminal."""
    return subprocess.run(
        [sys.executable, "-IS", str(unpacked / "recordings/isolated.py"), "tui.cli", *words],
        cwd=unpacked.parent,
        env=os.environ | {"XDG_STATE_HOME": str(unpacked.parent)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def files(folder: Path) -> set[str]:
    """Every file of the three packages under a folder, but what Python and editors leave there."""
    return {
        str(path.relative_to(folder))
        for name in PACKAGES
        for path in (folder / name).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__" and not path.name.startswith(".")
    }


def test_the_wheel_holds_the_tree(unpacked: Path) -> None:
    assert files(unpacked) == files(ROOT)
    others = {path.name for path in unpacked.iterdir()} - set(PACKAGES)
    assert all(name.endswith(".dist-info") for name in others), "tests and docs stay at home"
    kinds = {Path(name).suffix for name in files(unpacked)}
    assert kinds >= {".c", ".h", ".tcss", ".jsonl", ".py"}


def test_the_wheel_says_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
        scripts = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    needed = [line.lower() for line in metadata.get_all("Requires-Dist", [])]
    assert any(line.startswith("textual") for line in needed)
    assert not [line for line in needed if "bcc" in line], "the bcc on PyPI is something else"
    assert "sockstep = recordings.isolated:main" in scripts
    assert metadata["License-Expression"]


def test_no_makefile_and_no_extra_installs_pypi_s_bcc() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    assert not [line for line in [*project["dependencies"], *extras] if "bcc" in line]
    installs = [line for line in (ROOT / "Makefile").read_text().splitlines() if "pip ins" in line]
    assert installs
    assert not [line for line in installs if "bcc" in line]


def test_the_installed_program_reads_recordings(unpacked: Path) -> None:
    sample = str(unpacked / SAMPLE)
    report = sockstep(unpacked, "report", sample)
    assert report.returncode == 0, report.stderr
    assert "PASS" in report.stdout
    assert sockstep(unpacked, "replay", sample).stdout == report.stdout
    assert sample in sockstep(unpacked, "replay").stdout.splitlines()


def test_the_installed_doctor_answers(unpacked: Path) -> None:
    doctor = sockstep(unpacked, "doctor", "--json")
    found = json.loads(doctor.stdout)
    assert doctor.returncode == (0 if found["live"] else 1)


def test_the_installed_agent_finds_its_sources(unpacked: Path, tmp_path: Path) -> None:
    needs_root()
    path = str(tmp_path / "live.jsonl")
    run = sockstep(unpacked, "record", "-o", path, SOCKET_TEST)
    assert run.returncode == 0, run.stderr
    assert "STEP_17" in run.stdout
    assert sockstep(unpacked, "report", path).returncode == 0


def test_the_readme_s_commands_exist(unpacked: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    used = [line.split() for line in re.findall(r"^sockstep (.+?)\s+#", readme, re.M)]
    assert len(used) > 10
    shown = sockstep(unpacked, "--help").stdout
    known = set(re.findall(r"^  (?:-\w, )?([\w-]+)", shown, re.M))
    programs = ("./", "--")
    assert {words[0] for words in used if not words[0].startswith(programs)} <= known
    assert {word for words in used for word in words if word.startswith("--")} <= known


def test_ci_runs_the_readme_s_test_command() -> None:
    assert re.search(r"^make test\b", (ROOT / "README.md").read_text(), re.M)
    assert (ROOT / ".ci/run").read_text().splitlines()[-1] == "exec make test"
