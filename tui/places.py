"""Where sockstep keeps its files, and whose they are.

Under sudo everything is made as the user who asked: in their home, with their permissions.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs  # now: as the invoker we may not be able to read where it is

from recordings.invoker import invoking_user

SAMPLES = Path(__file__).parent.parent / "recordings" / "samples"


@contextmanager
def as_invoker() -> Iterator[None]:
    """Act as the invoking user, with their groups and no others of root's: files made inside
    belong to them, and neither a link nor a group leads where they may not write.
    """
    user = invoking_user()
    if user is None:
        yield
        return
    groups, gid, uid = os.getgroups(), os.getegid(), os.geteuid()
    os.setgroups(user.groups)
    os.setegid(user.gid)
    os.seteuid(user.uid)
    try:
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)
        os.setgroups(groups)


def recordings() -> Path:
    """The user's recordings (XDG state folder); not made yet, perhaps."""
    if (user := invoking_user()) is not None:  # root's XDG folders are not theirs
        return user.home / ".local/state/sockstep/recordings"
    return platformdirs.user_state_path("sockstep") / "recordings"


def keymap() -> Path:
    """The user's own keys: a TOML file of `binding id = "key,key"` lines."""
    if (user := invoking_user()) is not None:
        return user.home / ".config/sockstep/keys.toml"
    return platformdirs.user_config_path("sockstep") / "keys.toml"


def expanded(path: str) -> Path:
    """The path, with the user's home folder in place of a leading ~."""
    if (user := invoking_user()) is not None and path.startswith("~/"):
        return user.home / path[2:]
    return Path(path).expanduser()


def make(folder: Path) -> None:
    """Make a folder and those above it that are missing, for its owner only."""
    if not folder.is_dir():
        make(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def new_recording(program: str, pid: int) -> Path:
    """recordings/<date>-<program>-<pid>.jsonl; the folder is made, for the user only."""
    folder = recordings()
    make(folder)
    name = re.sub(r"[^A-Za-z0-9._+-]", "_", Path(program).name)[:64] or "program"
    return free(folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-{pid}.jsonl")


def free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, … that does not exist."""
    stem, count = path.stem, 1
    while path.exists():
        count += 1
        path = path.with_stem(f"{stem}-{count}")
    return path


def known_recordings() -> list[Path]:
    """The user's recordings, newest first, then those of their lab, then the bundled ones."""
    with as_invoker():
        own = sorted(recordings().glob("*.jsonl"), key=lambda path: path.name, reverse=True)
        lab = sorted((recordings() / "lab").glob("*/*.jsonl"))
        files = [path for path in own + lab if path.is_file()]
    return files + sorted(SAMPLES.glob("*.jsonl"))
