"""No recording that ships shows a value of freed memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from recordings import events as ev
from recordings.stream import read
from tests import RECORDINGS
from tests.builders import FILE, SOCKET, T, step, whole
from tests.freed import read_after_free


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_sample_reads_nothing_after_its_free(path: Path) -> None:
    assert read_after_free(read(path)) == []


def test_what_is_read_too_late_is_found() -> None:
    late = {"call": 1, "t": T + 10**9, "id": "CLEANUP_PUT_UNUSED_FD", "symbol": "put_unused_fd"}
    named = ev.Snapshot(file=ev.File(at=FILE), socket=ev.Socket(at=SOCKET))
    assert read_after_free([*whole(), step(**late, snap=named)]) == [], "an address may be named"
    fields = ev.Snapshot(file=ev.File(at=FILE, f_count=0))
    assert len(read_after_free([*whole(), step(**late, snap=fields)])) == 1
