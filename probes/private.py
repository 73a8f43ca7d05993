"""A store of files in a folder that is root's alone, and that nobody else had a hand in.

What is in there goes to the kernel. So the folder is opened component by component, following no
link; each component belongs to us (or root), and nobody else can replace what is in it. A file
has a digest of its content in front, so that a damaged one is no file.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO there blocks nobody
_DIGEST = hashlib.sha256().digest_size


class PrivateError(Exception):
    """The folder cannot be trusted; one line that says why."""


def read(folder: Path, name: str) -> bytes | None:
    """The content of a file; None where there is none, or it is damaged or not ours.

    Raises OSError, and PrivateError.
    """
    try:
        with _opened(folder, make=False) as at, open(os.open(name, _FILE, dir_fd=at), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or not _is_ours(status):
                return None
            digest, data = file.read(_DIGEST), file.read()
    except FileNotFoundError:
        return None
    return data if hashlib.sha256(data).digest() == digest else None


def write(folder: Path, name: str, data: bytes) -> None:
    """Make or replace a file, at once for whoever reads it. Raises OSError, and PrivateError."""
    with _opened(folder, make=True) as at:
        new = f".{name}.{secrets.token_hex(8)}"
        flags = _FILE | os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            with open(os.open(new, flags, 0o600, dir_fd=at), "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(hashlib.sha256(data).digest() + data)
            os.rename(new, name, src_dir_fd=at, dst_dir_fd=at)
        except OSError:
            os.unlink(new, dir_fd=at)
            raise


@contextmanager
def _opened(folder: Path, make: bool) -> Iterator[int]:
    """A descriptor of the folder. `make`: with what is missing of its path, of mode 0700."""
    at = os.open("/", _FOLDER)
    try:
        path = Path("/")
        for part in folder.parts[1:]:
            path /= part
            made = make and _mkdir(part, at)
            try:
                inner = os.open(part, _FOLDER, dir_fd=at)
            except NotADirectoryError:
                raise PrivateError(f"{path} is a link, or no folder: remove it") from None
            os.close(at)
            at = inner
            if made:
                os.fchmod(at, 0o700)  # whatever the umask left of it
            status = os.fstat(at)
            sticky = path != folder and status.st_mode & stat.S_ISVTX  # /tmp: none is replaced
            if not (_is_ours(status) or (sticky and status.st_uid == 0)):
                raise PrivateError(f"others may write in {path}: remove it")
        yield at
    finally:
        os.close(at)


def _mkdir(name: str, at: int) -> bool:
    try:
        os.mkdir(name, 0o700, dir_fd=at)
    except FileExistsError:
        return False
    return True


def _is_ours(status: os.stat_result) -> bool:
    """Whether it is ours or root's, and nobody else may write to it."""
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022
