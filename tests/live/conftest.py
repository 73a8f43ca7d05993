"""A user and an installed sockstep, shared by the modules that need real ones."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import accounts, installed
from tests.accounts import Account
from tests.agent import unless
from tests.terminal import Terminal


@pytest.fixture(scope="session")
def user() -> Iterator[Account]:
    """A user who may become root by sudo without a password."""
    with accounts.account() as made:
        yield made


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A folder that every user can read. (pytest's own are its user's only.)"""
    with tempfile.TemporaryDirectory(prefix="sockstep-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def wheel(open_folder: Path) -> Path:
    return installed.build_wheel(open_folder / "tree", open_folder / "wheel")


@pytest.fixture(scope="session")
def installed_sockstep(open_folder: Path, wheel: Path) -> Path:
    """The console script of a wheel in a virtual environment that every user can run."""
    return installed.make_venv(open_folder / "venv", str(wheel))


@pytest.fixture
def terminal(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Terminal]:
    unless(shutil.which("tmux") is not None, "driving a terminal needs tmux")
    columns, rows = getattr(request, "param", (80, 24))
    running = Terminal(tmp_path, columns, rows)
    yield running
    running.close()
