"""The user behind sudo, for whom root works: whose program it is, and whose files."""

from __future__ import annotations

import os
import pwd
import re
from dataclasses import dataclass
from pathlib import Path


class InvokerError(Exception):
    """sudo's variables name no user; one line that says which one is wrong."""


@dataclass(frozen=True)
class User:
    """The user's ids. `environment`: what a login sets; empty for an id without a passwd entry."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    environment: dict[str, str]

    @property
    def home(self) -> Path:
        return Path(self.environment.get("HOME", "/nonexistent"))


def invoking_user() -> User | None:
    """The user named by SUDO_UID and SUDO_GID; None if we are not root, or root asked itself.

    The real user id decides, which a change of the effective one (`places.as_invoker`) leaves as
    it is. Raises InvokerError for numbers that are none: root must not take itself for the user.
    """
    if os.getuid() != 0 or "SUDO_UID" not in os.environ or (uid := _id("SUDO_UID")) == 0:
        return None
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        gid = _id("SUDO_GID") if "SUDO_GID" in os.environ else uid
        return User(uid, gid, (gid,), {})
    gid = _id("SUDO_GID") if "SUDO_GID" in os.environ else entry.pw_gid
    environment = {
        "HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name,
        "SHELL": entry.pw_shell,
    }  # fmt: skip
    return User(uid, gid, tuple(os.getgrouplist(entry.pw_name, gid)), environment)


def _id(variable: str) -> int:
    text = os.environ[variable]
    if re.fullmatch("[0-9]{1,10}", text) is None or int(text) >= 2**32 - 1:  # -1: "no change"
        raise InvokerError(f"{variable} is {text!r}, which is no id: unset it, or start with sudo")
    return int(text)
