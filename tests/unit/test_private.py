"""What root keeps for itself: of a fixed mode, through no link, and never damaged."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from probes import private


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not made yet, in a place like /var/cache."""
    with TemporaryDirectory(dir="/var/tmp") as parent:
        yield Path(parent) / "sockstep" / "bpf"


def test_what_is_written_is_read(folder: Path) -> None:
    assert private.read(folder, "a") is None
    private.write(folder, "a", b"one")
    private.write(folder, "a", b"two")
    assert private.read(folder, "a") == b"two"
    assert os.listdir(folder) == ["a"]


@pytest.mark.parametrize("umask", [0, 0o022, 0o277])
def test_the_umask_decides_nothing(folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        private.write(folder, "a", b"one")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder.parent, folder, folder / "a")]
    assert modes == [0o700, 0o700, 0o600]


@pytest.mark.parametrize("depth", [0, 1])
def test_a_linked_folder_is_not_followed(folder: Path, depth: int) -> None:
    elsewhere = folder.parent.parent / "elsewhere"
    private.write(elsewhere / "bpf", "a", b"planted")
    link = (folder, folder.parent)[depth]
    if depth == 0:
        folder.parent.mkdir(0o700)
    link.symlink_to((elsewhere / "bpf", elsewhere)[depth])
    for use in (lambda: private.read(folder, "a"), lambda: private.write(folder, "b", b"x")):
        with pytest.raises(private.PrivateError, match=f"{link} is a link"):
            use()
    assert os.listdir(elsewhere / "bpf") == ["a"]


@pytest.mark.parametrize("depth", [0, 1])
def test_a_folder_that_others_write_in_is_not_trusted(folder: Path, depth: int) -> None:
    private.write(folder, "a", b"one")
    (folder, folder.parent)[depth].chmod(0o777)
    with pytest.raises(private.PrivateError, match="others may write in"):
        private.read(folder, "a")
    with pytest.raises(private.PrivateError, match="others may write in"):
        private.write(folder, "a", b"two")


def test_a_linked_file_is_neither_read_nor_written_through(folder: Path) -> None:
    private.write(folder, "a", b"one")
    (folder / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        private.read(folder, "b")
    private.write(folder, "b", b"two")
    assert private.read(folder, "a") == b"one"
    assert not (folder / "b").is_symlink()


def test_a_fifo_or_another_s_file_is_none(folder: Path) -> None:
    private.write(folder, "a", b"one")
    os.mkfifo(folder / "b", 0o600)
    assert private.read(folder, "b") is None
    (folder / "a").chmod(0o622)
    assert private.read(folder, "a") is None


def test_every_flipped_bit_is_seen(folder: Path) -> None:
    private.write(folder, "a", b"one")
    whole = (folder / "a").read_bytes()
    for at in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        (folder / "a").write_bytes(damaged)
        assert private.read(folder, "a") is None
    (folder / "a").write_bytes(whole[:10])
    assert private.read(folder, "a") is None
