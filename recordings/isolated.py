"""Run a module of ours in an isolated Python: `python -IS isolated.py MODULE ARGS…`.

With -I Python has neither the current folder, nor PYTHONPATH, nor the user's site-packages in its
path, so that no file there takes the place of a module of a program that may run as root. With -S
it has no site-packages at all, and runs neither what their .pth files say nor a sitecustomize.
Added back are: our three packages by name, from the folder that holds this file; and, last, the
site-packages where what we depend on was installed.
"""

from __future__ import annotations

import os
import site
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder

PACKAGES = ("probes", "recordings", "tui")
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def command(module: str, *args: str) -> list[str]:
    """The command that calls main() of a module of ours in an isolated Python."""
    return [sys.executable, "-IS", os.path.abspath(__file__), module, *args]


def main() -> None:
    """The console script: pip has it start a Python that is not isolated, so start one that is."""
    os.execv(sys.executable, command("tui.cli", *sys.argv[1:]))


class _Packages:
    """A finder of our packages, which opens the rest of ROOT to nobody."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [ROOT]) if name in PACKAGES else None


def _site_packages() -> list[str]:
    """The folders that Python installs packages in: its virtual environment's, or the system's."""
    prefix = os.path.dirname(os.path.dirname(sys.executable))
    try:
        with open(f"{prefix}/pyvenv.cfg") as file:
            with_system = "include-system-site-packages = true" in file.read()
    except OSError:
        return site.getsitepackages()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = f"{prefix}/lib/{version}/site-packages"
    return [own, *(site.getsitepackages() if with_system else ())]


def _run(module: str) -> None:
    sys.meta_path.insert(0, _Packages)
    sys.path += _site_packages()
    if os.path.basename(ROOT) == "site-packages" and ROOT not in sys.path:
        sys.path.append(ROOT)  # pip install --user: what we depend on is there, too
    if os.stat(ROOT).st_uid != os.geteuid():
        sys.dont_write_bytecode = True  # root leaves no file of its own in a user's folder
    sys.exit(import_module(module).main())


if __name__ == "__main__":
    _run(sys.argv.pop(1))
