"""A real terminal for the tests: tmux, which knows what is on its screen."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from recordings.isolated import command
from tests.agent import wait_for


class Terminal:
    """A tmux server of our own with one shell in it."""

    def __init__(self, home: Path, columns: int, rows: int) -> None:
        self._socket = str(home / "tmux")
        self.home = home
        variables = [f"{name}={value}" for name, value in self.environment().items()]
        size = ["-x", str(columns), "-y", str(rows)]
        self.tmux("-f", "/dev/null", "new-session", "-d", *size, "env", "-i", *variables, "sh")
        self.type("PS1='ready$ '\n")
        self.until("ready$")

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8",
            "TERM": "tmux-256color", "TMPDIR": str(self.home),
        }  # fmt: skip

    def tmux(self, *args: str) -> str:
        command = ["tmux", "-S", self._socket, *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def run(self, *args: str, **env: str) -> None:
        """Start sockstep in the shell; its exit status is printed after it."""
        words = [*(f"{name}={value}" for name, value in env.items()), *command("tui.cli", *args)]
        self.type(shlex.join(["env", *words]) + "; echo status=$?\n")

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def screen(self) -> str:
        """What is to be seen, lines that the terminal wrapped joined again."""
        return "\n".join(map(str.rstrip, self.tmux("capture-pane", "-pJ").splitlines())) + "\n"

    def until(self, *words: str, timeout: float = 30) -> str:
        try:
            wait_for(lambda: all(word in self.screen() for word in words), timeout)
        except AssertionError:
            pytest.fail(f"waited in vain for {words} on this screen:\n{self.screen()}")
        return self.screen()

    def at_rest(self) -> str:
        """The screen with its colours, once nothing moves on it."""
        seen = [""]

        def same() -> bool:
            seen.append(self.tmux("capture-pane", "-p", "-e"))
            time.sleep(0.2)
            return seen[-1] == seen[-2]

        wait_for(same)
        return seen[-1]

    def pid(self) -> int:
        """The app's process."""
        shell = self.tmux("display-message", "-p", "#{pane_pid}").strip()
        children = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        return int(children[-1])

    def is_sane(self) -> None:
        """The shell works again, and nothing of the app is left on the terminal."""
        self.type("stty -a | grep -c -- ' echo '; echo alive\n")
        self.until("1\nalive\n", timeout=10)
        flags = "#{alternate_on} #{mouse_any_flag} #{cursor_flag} #{keypad_flag}"
        assert self.tmux("display-message", "-p", flags).split()[:3] == ["0", "0", "1"]

    def debug_and_detach(self) -> None:
        """The app, from its program's first stop to its end."""
        self.until("STOPPED  before its first instruction", "q quit")
        self.press("n")
        self.until("STOPPED  at the return of socket()")
        self.press("q")
        self.until("Detach and resume")
        self.press("Enter")
        self.until("status=0", "recorded in")

    def close(self) -> None:
        subprocess.run(["tmux", "-S", self._socket, "kill-server"], check=False)
