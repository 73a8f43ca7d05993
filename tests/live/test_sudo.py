"""sockstep by sudo, of a real user: with sudo's own environment, HOME=/root among it."""

from __future__ import annotations

import grp
import os
import re
import shlex
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from recordings.story import Story
from recordings.stream import read
from tests import ROOT, accounts
from tests.accounts import Account
from tests.agent import SOCKET_TEST
from tests.terminal import Terminal

SAMPLE = str(ROOT / "recordings/samples/socket_test-6.18-tracepoint.jsonl")
LOG = "[  1.0] [PROBE] sock_alloc Exit: socket=f1166dcd\n"
RECORDINGS = ".local/state/sockstep/recordings"


def belongs_to(user: Account, *paths: Path) -> None:
    for path in paths:
        found = path.stat()
        assert (found.st_uid, found.st_gid) == (user.uid, user.gid), path
        mode = stat.S_IMODE(found.st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))


def sudo(user: Account, sockstep: Path, *words: str, **run: object) -> str:
    """What `sudo sockstep WORDS` prints; it must succeed."""
    done = user.run("sudo", "-n", str(sockstep), *words, **run)  # type: ignore[arg-type]
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def start(terminal: Terminal, user: Account, *command: str) -> None:
    words = user.command(*command, TERM="tmux-256color")
    terminal.type(f"cd {user.home}; {shlex.join(words)}; echo status=$?\n")


def test_sudo_has_root_s_home(user: Account) -> None:
    """Else the tests below would show nothing."""
    shown = user.run("sudo", "-n", "sh", "-c", "echo $HOME $SUDO_UID").stdout
    assert shown == f"/root {user.uid}\n"


def test_a_recording_goes_to_the_user(user: Account, installed_sockstep: Path) -> None:
    """Without a terminal `sockstep PROGRAM` records, in the user's own state folder."""
    said = sudo(user, installed_sockstep, SOCKET_TEST)
    path = Path(re.search(r"recorded in (.+)", said)[1])  # type: ignore[index]
    assert path.parent == user.home / RECORDINGS
    belongs_to(user, path, *path.parents[:3])  # ~/.local is pip's, too
    assert Story.of(read(path)).end is not None
    assert str(path) in sudo(user, installed_sockstep, "replay").splitlines()
    by_user = user.run(str(installed_sockstep), "report", str(path))
    assert by_user.returncode == 0, by_user.stderr


def test_record_lab_and_import_write_for_the_user(user: Account, installed_sockstep: Path) -> None:
    out = user.home / "out.jsonl"
    sudo(user, installed_sockstep, "record", "-o", str(out), SOCKET_TEST)
    sudo(user, installed_sockstep, "lab", "flags")
    lab = user.home / RECORDINGS / "lab/here/flags.jsonl"
    imported = Path(sudo(user, installed_sockstep, "import", "dmesg", "-", input=LOG).strip())
    assert imported.parent == user.home / RECORDINGS
    belongs_to(user, out, lab, lab.parent, lab.parent.parent, imported)


def test_via_sudo(user: Account, installed_sockstep: Path) -> None:
    out = user.home / "via.jsonl"
    done = user.run(str(installed_sockstep), "record", "--via", "sudo -n", "-o", str(out),
                    "sh", "-c", "id -u")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"\n{user.uid}\n" in done.stdout
    belongs_to(user, out)


def test_the_user_s_keys_are_read(
    terminal: Terminal, user: Account, installed_sockstep: Path
) -> None:
    keys = user.home / ".config/sockstep/keys.toml"
    keys.parent.mkdir(parents=True)
    keys.write_text("fly = 'x'\n")
    start(terminal, user, "sudo", "-n", str(installed_sockstep), "replay", SAMPLE)
    terminal.until("there is no action 'fly'", "status=2")
    keys.unlink()


def test_root_s_groups_write_nothing_for_the_user(
    user: Account, installed_sockstep: Path, open_folder: Path
) -> None:
    """A folder that root's own group, and not the user, may write to stays empty."""
    folder = open_folder / "root-group"
    folder.mkdir()
    os.chown(folder, 65534, 0)
    folder.chmod(0o775)
    assert grp.getgrgid(0).gr_gid == 0
    done = user.run("sudo", "-n", str(installed_sockstep), "export", SAMPLE, "-o",
                    str(folder / "x"))  # fmt: skip
    assert (done.returncode, list(folder.iterdir())) == (2, [])
    assert "Permission denied" in done.stderr
    # A link that the user planted leads root nowhere either.
    (user.home / "planted").symlink_to("/etc")
    done = user.run("sudo", "-n", str(installed_sockstep), "export", SAMPLE, "-o",
                    str(user.home / "planted/sockstep-was-here"))  # fmt: skip
    assert done.returncode == 2
    assert not Path("/etc/sockstep-was-here").exists()


@pytest.mark.parametrize("words", [["sudo", "-n", "{}"], ["{}", "--via", "sudo -n"]])
def test_the_app_in_a_terminal(
    terminal: Terminal, user: Account, installed_sockstep: Path, words: list[str]
) -> None:
    before = set((user.home / RECORDINGS).glob("*.jsonl"))
    command = [word.format(installed_sockstep) for word in words]
    start(terminal, user, *command, SOCKET_TEST)
    terminal.debug_and_detach()
    (made,) = set((user.home / RECORDINGS).glob("*.jsonl")) - before
    belongs_to(user, made)


@pytest.fixture(scope="module")
def with_password() -> Iterator[Account]:
    with accounts.account(password="sesame 1") as made:
        yield made


@pytest.mark.parametrize("words", [["sudo", "{}"], ["{}", "--via", "sudo"]])
def test_a_password_is_typed(
    terminal: Terminal, with_password: Account, installed_sockstep: Path, words: list[str]
) -> None:
    subprocess.run(["rm", "-rf", f"/run/sudo/ts/{with_password.name}"], check=True)
    command = [word.format(installed_sockstep) for word in words]
    start(terminal, with_password, *command, SOCKET_TEST)
    terminal.until(f"password for {with_password.name}")
    terminal.type("sesame 1\n")
    terminal.debug_and_detach()
    belongs_to(with_password, *(with_password.home / RECORDINGS).glob("*.jsonl"))
