"""Pictures of the app over real recordings: what a user sees may change, but not unseen.

The recordings are copies of bundled ones, so that making those anew changes no picture.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot

from recordings.stream import read
from tests import RECORDINGS
from tui.app import Sockstep
from tui.source import Replay

PICTURED = Path(__file__).parent / "pictured"
OPENED, REFUSED = PICTURED / "opened.jsonl", PICTURED / "refused.jsonl"
NARROW, WIDE, VAST = (80, 24), (100, 30), (160, 45)

Compare = Callable[..., bool]


def pressing(*keys: str) -> Callable[[Pilot[None]], Awaitable[None]]:
    """Press these, and wait until what they opened has been drawn."""

    async def press(pilot: Pilot[None]) -> None:
        await pilot.pause()
        await pilot.press(*keys)
        before, now = "", pilot.app.export_screenshot()
        while now != before:
            await pilot.pause(0.4)
            before, now = now, pilot.app.export_screenshot()

    return press


@pytest.mark.parametrize(
    ("recording", "size", "keys"),
    [
        pytest.param(OPENED, NARROW, ["n"] * 6, id="80-step-15"),
        pytest.param(OPENED, WIDE, ["n"] * 6, id="100-step-15"),
        pytest.param(OPENED, VAST, ["end"], id="160-freed"),
        pytest.param(REFUSED, WIDE, ["n"] * 6, id="100-emfile"),
        pytest.param(OPENED, NARROW, ["n", "enter"], id="80-details"),
        pytest.param(OPENED, WIDE, ["end", "d"], id="100-changes"),
        pytest.param(OPENED, NARROW, ["question_mark"], id="80-help"),
        pytest.param(OPENED, WIDE, ["slash", *"inet"], id="100-find"),
    ],
)
def test_screen(
    snap_compare: Compare, recording: Path, size: tuple[int, int], keys: list[str]
) -> None:
    app = Sockstep(Replay(recording))
    assert snap_compare(app, run_before=pressing(*keys), terminal_size=size)


def test_screen_in_ascii(snap_compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    app = Sockstep(Replay(OPENED))
    assert snap_compare(app, run_before=pressing(*"nnnnnn"), terminal_size=NARROW)


def test_screen_without_colour(snap_compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = Sockstep(Replay(OPENED))
    assert snap_compare(app, run_before=pressing(*"nnnnnn"), terminal_size=WIDE)


@pytest.mark.parametrize("sample", RECORDINGS, ids=lambda path: path.stem)
def test_every_bundled_recording_can_be_read(sample: Path) -> None:
    assert list(read(sample))
