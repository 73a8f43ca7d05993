"""sockstep and a real sshd, on the loopback interface: the agent at its far end, the app in it."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from recordings.story import Story
from recordings.stream import read
from tests.accounts import Account
from tests.agent import SOCKET_TEST, needs_root, unless, wait_for
from tests.terminal import Terminal

SSHD = "/usr/sbin/sshd"


@pytest.fixture(scope="module")
def ssh(user: Account, installed_sockstep: Path, open_folder: Path) -> Iterator[list[str]]:
    """The user's ssh command, without a host, for an sshd that lets them in as anybody."""
    needs_root()
    unless(os.path.exists(SSHD) and shutil.which("ssh") is not None, "there is no OpenSSH server")
    folder = open_folder / "ssh"
    folder.mkdir()
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name],
                       check=True)  # fmt: skip
    os.chown(folder / "key", user.uid, user.gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nPidFile none\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/key.pub\nPermitRootLogin prohibit-password\nUsePAM yes\n"
        f"SetEnv PATH={installed_sockstep.parent}:/usr/bin:/bin LANG=C.UTF-8\n"
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "config"], stderr=log)
    try:
        wait_for(lambda: "listening" in (folder / "log").read_text(), 30)
        yield [
            "ssh", "-F", "none", "-p", str(port), "-i", str(folder / "key"),
            *("-o", "BatchMode=yes", "-o", "LogLevel=ERROR"),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
        ]  # fmt: skip
    finally:
        server.terminate()
        server.wait()


def test_record_via_ssh(user: Account, installed_sockstep: Path, ssh: list[str]) -> None:
    """The program runs over there, as who logged in; the recording is here, and the user's."""
    out = user.home / "ssh.jsonl"
    via = shlex.join([*ssh, "root@127.0.0.1"])
    script = f"echo by $(id -u) over $SSH_CONNECTION; exec {SOCKET_TEST}"
    done = user.run(str(installed_sockstep), "record", "--via", via, "-o", str(out),
                    "sh", "-c", script)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\nby 0 over 127.0.0.1 " in done.stdout
    assert out.stat().st_uid == user.uid
    story = Story.of(read(out))
    assert story.end is not None
    assert [call.result for call in story.calls.values()] == [3]


def test_a_host_that_refuses_is_one_line(
    user: Account, installed_sockstep: Path, ssh: list[str]
) -> None:
    via = shlex.join([*ssh, "-o", "IdentityFile=none", "-o", "IdentitiesOnly=yes",
                      "-i", "/dev/null", "nobody-here@127.0.0.1"])  # fmt: skip
    done = user.run(str(installed_sockstep), "record", "--via", via, "-o", "x", "true")
    assert done.returncode == 2
    assert "Permission denied" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("far", ["root", "user"])
def test_the_app_in_a_session(terminal: Terminal, user: Account, ssh: list[str], far: str) -> None:
    """As root over there, and as a user who has sudo."""
    name = "root" if far == "root" else user.name
    words = [*ssh, "-t", f"{name}@127.0.0.1"]
    sudo = "" if far == "root" else "sudo -n env PATH=$PATH "
    out = f"/tmp/{user.name}-{far}.jsonl"
    command = f"{sudo}sockstep -o {out} {SOCKET_TEST}"
    variables = user.command(*words, command, TERM="tmux-256color")
    terminal.type(f"cd /; {shlex.join(variables)}; echo status=$?\n")
    terminal.debug_and_detach()
    owner = 0 if far == "root" else user.uid
    assert Path(out).stat().st_uid == owner
    assert Story.of(read(Path(out))).end is not None
    os.unlink(out)
