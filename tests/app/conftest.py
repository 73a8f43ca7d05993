"""The terminal that the app is in, and a recording to look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import builders
from tests.app.driver import recording


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A capable terminal, and a home of our own."""
    for name in ("NO_COLOR", "LC_ALL", "LC_CTYPE", "SUDO_UID", "SUDO_GID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (
        ("LANG", "C.UTF-8"), ("TERM", "xterm-256color"), ("COLORTERM", "truecolor"),
        ("XDG_STATE_HOME", str(tmp_path / "state")), ("XDG_CONFIG_HOME", str(tmp_path / "config")),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tui.app.LOADING", 0.03)  # what is due then is waited for
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def two_calls(tmp_path: Path) -> Path:
    return recording(tmp_path / "two.jsonl", builders.whole(2))
