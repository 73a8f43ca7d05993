"""A real user of this machine, with sudo, for the time of a test run."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.agent import needs_root, unless

SUDOERS = Path("/etc/sudoers.d")


@dataclass(frozen=True)
class Account:
    """A user: `name` is also the name of their group."""

    name: str
    uid: int
    gid: int
    home: Path

    def command(self, *argv: str, **env: str) -> list[str]:
        """The command by which root starts `argv` as this user, as after a login."""
        variables = {"HOME": str(self.home), "USER": self.name, "LOGNAME": self.name,
                     "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"} | env  # fmt: skip
        words = [f"{name}={value}" for name, value in variables.items()]
        drop = ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--init-groups"]
        return [*drop, "env", "-i", *words, *argv]

    def run(
        self, *argv: str, cwd: Path | None = None, input: str | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*argv, **env), cwd=cwd or self.home, input=input, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip


@contextlib.contextmanager
def account(password: str | None = None) -> Iterator[Account]:
    """A new user, who may use sudo: without a password, or with this one."""
    name = f"sockstep-{os.getpid()}{'-typed' if password else ''}"  # others may test here, too
    needs_root()
    for tool in ("sudo", "useradd", "setpriv"):
        unless(shutil.which(tool) is not None, f"{tool} is not installed")
    home = Path("/home") / name
    subprocess.run(["useradd", "-m", "-s", "/bin/sh", "-d", str(home), name], check=True)
    rule = SUDOERS / name
    try:
        if password is not None:
            subprocess.run(["chpasswd"], input=f"{name}:{password}\n", text=True, check=True)
        tag = "" if password else "NOPASSWD: "
        rule.touch(mode=0o440)
        # Debian's own default; written down since another distribution may keep the user's HOME.
        rule.write_text(f"Defaults:{name} always_set_home\n{name} ALL=(ALL) {tag}ALL\n")
        ids = [int(subprocess.check_output(["id", option, name])) for option in ("-u", "-g")]
        yield Account(name, ids[0], ids[1], home)
    finally:
        _remove(name)


def _remove(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SUDOERS / name)
    subprocess.run(["userdel", "-f", "-r", name], capture_output=True, check=False)
