"""No file in the current folder, or in PYTHONPATH, runs as part of sockstep."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT, installed
from tests.accounts import Account
from tests.agent import needs_root

SAMPLE = str(ROOT / "recordings/samples/socket_test-6.18-tracepoint.jsonl")
LOG = "[  1.0] [PROBE] sock_alloc Exit: socket=f1166dcd\n"
EMFILE = str(ROOT / "recordings/samples/emfile-6.18-tracepoint.jsonl")
# Python itself looks for these two, before it runs anything of ours.
CUSTOMIZE = {"sitecustomize", "usercustomize"}


class Trap:
    """A folder with a file for every name that we import; each leaves a mark when it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marks = folder / "marks"
        self.marks.mkdir(mode=0o777)
        self.marks.chmod(0o777)  # whoever runs it
        self.names = {*sys.stdlib_module_names, *CUSTOMIZE, *_distributed(), "bcc"}
        self.names -= set(sys.builtin_module_names)  # no file can stand in for these
        self.set(folder, self.names)
        for package in installed.PACKAGES:
            if not (folder / package).exists():
                for path in (ROOT / package).rglob("*.py"):
                    to = folder / path.relative_to(ROOT)
                    to.parent.mkdir(parents=True, exist_ok=True)
                    self._write(to)

    def set(self, folder: Path, names: set[str]) -> None:
        for name in names:
            self._write(folder / f"{name}.py")

    def _write(self, path: Path) -> None:
        path.write_text(
            "import posix\n"
            f"posix.close(posix.open({str(self.marks)!r} + '/{path.stem}', 0o101, 0o666))\n"
        )

    def sprung(self) -> list[str]:
        return sorted(os.listdir(self.marks))


def _distributed() -> set[str]:
    """The top-level names of what is installed beside us."""
    (packages,) = Path(sys.prefix).glob("lib/python3*/site-packages")
    names = {path.name.partition(".")[0] for path in packages.iterdir() if "-" not in path.name}
    return {name for name in names if name.isidentifier()} - set(installed.PACKAGES)


@pytest.fixture
def trap(tmp_path_factory: pytest.TempPathFactory, open_folder: Path) -> Iterator[Trap]:
    folder = open_folder / "trap"
    folder.mkdir()
    yield Trap(folder)
    shutil.rmtree(folder)


def commands(out: Path) -> list[list[str]]:
    return [
        ["--help"],
        ["/bin/true"],
        ["--via", "sudo", "/bin/true"],
        ["record", "-o", str(out / "a"), "/bin/true"],
        ["record", "--via", "sudo", "-o", str(out / "b"), "/bin/true"],
        ["agent", "--", "/bin/true"],
        ["doctor"],
        ["vm", "list"],
        ["lab"],
        ["lab", "flags", "-o", str(out / "lab")],
        ["replay", SAMPLE],
        ["report", SAMPLE],
        ["diff", SAMPLE, EMFILE],
        ["export", SAMPLE, "-o", str(out / "c")],
        ["import", "dmesg", "-", "-o", str(out / "d")],
    ]


def run_all(sockstep: Path, trap: Trap, out: Path, **env: str) -> None:
    """Every command, as root: none springs the trap, and each does what it is for."""
    environment = os.environ | {"XDG_STATE_HOME": str(out), "HOME": str(out)} | env
    for words in commands(out):
        done = subprocess.run(
            [sockstep, *words], cwd=trap.folder, env=environment, input=LOG, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
        assert trap.sprung() == [], words
        assert done.returncode in (0, 1, 3), (words, done.stderr)
        assert "Traceback" not in done.stderr, words


def test_the_current_folder_runs_nothing(
    trap: Trap, installed_sockstep: Path, tmp_path: Path
) -> None:
    needs_root()
    run_all(installed_sockstep, trap, tmp_path)


def test_the_checkout_is_as_safe(trap: Trap, tmp_path: Path) -> None:
    needs_root()
    run_all(Path(sys.executable).with_name("sockstep"), trap, tmp_path)


def test_pythonpath_runs_nothing_once_sockstep_has_begun(
    trap: Trap, installed_sockstep: Path, tmp_path: Path
) -> None:
    """Before that it is Python's own affair: what it loads for the console script is left out."""
    needs_root()
    python = installed_sockstep.with_name("python")
    code = "import re, sys; from recordings.isolated import main; print(*sys.modules)"
    loaded = subprocess.check_output([python, "-c", code], cwd="/", text=True).split()
    for name in {*CUSTOMIZE, *loaded}:
        (trap.folder / f"{name}.py").unlink(missing_ok=True)
    shutil.rmtree(trap.folder / "recordings")
    run_all(installed_sockstep, trap, tmp_path, PYTHONPATH=str(trap.folder))


def test_an_agent_takes_nothing_from_pythonpath(trap: Trap, installed_sockstep: Path) -> None:
    """With every name there is: how the app, sudo and a VM start our other programs."""
    needs_root()
    (start,) = installed_sockstep.parent.parent.glob("lib/*/site-packages/recordings/isolated.py")
    python = str(installed_sockstep.with_name("python"))
    for words in (["probes.cli", "agent", "--", "/bin/true"], ["probes.vm.cli", "list"],
                  ["probes.cli", "doctor"], ["tui.cli", "report", SAMPLE]):  # fmt: skip
        done = subprocess.run(
            [python, "-IS", str(start), *words], cwd=trap.folder, stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(trap.folder)}, capture_output=True, check=False,
        )  # fmt: skip
        assert trap.sprung() == [], words
        assert done.returncode == 0, (words, done.stderr)


def test_a_checkout_and_its_venv_in_the_folder(open_folder: Path, tmp_path: Path) -> None:
    """The names lie in the checkout itself: an editable install takes three folders of it."""
    needs_root()
    folder = open_folder / "in-it"
    folder.mkdir()
    installed.copy_sources(folder)
    sockstep = installed.make_venv(
        folder / ".venv", "--no-build-isolation", "-e", str(folder),
        needs=("sockstep", "hatchling", "editables"),
    )  # fmt: skip
    run_all(sockstep, Trap(folder), tmp_path)


def test_pip_install_user(user: Account, trap: Trap, wheel: Path, tmp_path: Path) -> None:
    """Its packages are in a home: root finds them from there."""
    python = installed.any_users_python()
    base = user.home / ".local"
    words = ["--user", "--break-system-packages", str(wheel)]
    installed.pip_install(python, *words, PYTHONUSERBASE=str(base))
    (packages,) = base.glob("lib/python3*/site-packages")
    installed.copy_dependencies(packages, "sockstep")
    subprocess.run(["chown", "-R", f"{user.uid}:{user.gid}", str(base)], check=True)
    sockstep = str(base / "bin/sockstep")
    for words in (["record", "--via", "sudo", "-o", "a", "/bin/true"], ["report", "a"]):
        out = str(user.home / "a")
        words = [out if word == "a" else word for word in words]
        done = user.run(sockstep, *words, cwd=trap.folder)
        assert trap.sprung() == [], words
        assert done.returncode in (0, 1, 3), (words, done.stderr)
        assert "Traceback" not in done.stderr


def test_as_a_user(user: Account, trap: Trap, installed_sockstep: Path) -> None:
    for words in commands(user.home):
        done = user.run(str(installed_sockstep), *words, cwd=trap.folder, input=LOG)
        assert trap.sprung() == [], words
        needs_sudo = "use --via sudo" in done.stderr
        assert done.returncode in (0, 1) or needs_sudo, (words, done.stderr)
        assert "Traceback" not in done.stderr, words
