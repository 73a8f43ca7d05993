"""sockstep as users install it: its wheel, by pip, for a Python that any user can run."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests import ROOT
from tests.agent import unless

PACKAGES = ("recordings", "probes", "tui")


def copy_sources(to: Path) -> None:
    """What an install is made from, as it is in a fresh checkout."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, to)


def build_wheel(tree: Path, out: Path) -> Path:
    copy_sources(tree)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(out), str(tree)], check=True, timeout=120)
    (found,) = out.glob("*.whl")
    return found


@cache
def any_users_python() -> str:
    """A Python of the version that runs the tests, which users other than root can run, too."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (os.path.realpath(sys.executable), f"/usr/bin/python{version}"):
        other = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
        try:
            subprocess.run([python, "-c", "import venv"], check=True, cwd="/", **other)  # type: ignore[call-overload]
            return python
        except (OSError, subprocess.CalledProcessError):
            pass
    unless(False, f"there is no Python {version} that another user can run")
    raise AssertionError


def copy_dependencies(to: Path, *names: str) -> None:
    """Copy these distributions, and all that they need, from where the tests run to `to`."""
    wanted, done = list(names), set()
    while wanted:
        name = wanted.pop()
        if name in done:
            continue
        done.add(name)
        distribution = importlib.metadata.distribution(name)
        for requirement in distribution.requires or []:
            if "extra ==" not in requirement:
                found = re.match(r"[\w.-]+", requirement)
                assert found is not None
                try:
                    importlib.metadata.distribution(found[0])
                except importlib.metadata.PackageNotFoundError:  # for another system or version
                    continue
                wanted.append(found[0])
        if name == "sockstep":
            continue
        for file in distribution.files or []:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                path = to / file
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), path)


def pip_install(python: str, *words: str, **env: str) -> None:
    """Install for another Python, with the pip of this one."""
    command = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps"]
    subprocess.run([*command, "--no-index", *words], check=True, env=os.environ | env, timeout=120)


def make_venv(folder: Path, *words: str, needs: tuple[str, ...] = ("sockstep",)) -> Path:
    """A virtual environment with what `pip install WORDS` brings. Returns its sockstep."""
    subprocess.run([any_users_python(), "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    copy_dependencies(packages, *needs)
    pip_install(str(folder / "bin/python"), *words)
    return folder / "bin/sockstep"
