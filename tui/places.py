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

SAMPLES = Path(__file__).parent.parent / "recordings" / "samples"


def invoker() -> tuple[int, int] | None:
    """(uid, gid) of the user behind sudo; None when we are nobody else's root."""
    try:
        ids = int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
    except (KeyError, ValueError):
        return None
    return ids if os.geteuid() == 0 and ids[0] != 0 else None


@contextmanager
def as_invoker() -> Iterator[None]:
    """Files made inside belong to the invoking user, and root follows no link of theirs."""
    ids = invoker()
    if ids is None:
        yield
        return
    own = os.geteuid(), os.getegid()
    os.setegid(ids[1])
    os.seteuid(ids[0])
    try:
        yield
    finally:
        os.seteuid(own[0])
        os.setegid(own[1])


def _home() -> Path | None:
    ids = invoker()
    if ids is None:
        return None
    import pwd

    try:
        return Path(pwd.getpwuid(ids[0]).pw_dir)
    except KeyError:
        return None


def recordings() -> Path:
    """The user's recordings (XDG state folder); not made yet, perhaps."""
    if (home := _home()) is not None and "XDG_STATE_HOME" not in os.environ:
        return home / ".local" / "state" / "sockstep" / "recordings"
    return platformdirs.user_state_path("sockstep") / "recordings"


def keymap() -> Path:
    """The user's own keys: a TOML file of `binding id = "key,key"` lines."""
    if (home := _home()) is not None and "XDG_CONFIG_HOME" not in os.environ:
        return home / ".config" / "sockstep" / "keys.toml"
    return platformdirs.user_config_path("sockstep") / "keys.toml"


def new_recording(program: str, pid: int) -> Path:
    """recordings/<date>-<program>-<pid>.jsonl; the folder is made, for the user only."""
    folder = recordings()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
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
    own = sorted(recordings().glob("*.jsonl"), key=lambda path: path.name, reverse=True)
    lab = sorted((recordings() / "lab").glob("*/*.jsonl"))
    return own + lab + sorted(SAMPLES.glob("*.jsonl"))
