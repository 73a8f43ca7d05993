"""The app in a real terminal, driven through tmux: replay, and live on this machine's kernel."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from recordings import events as ev
from recordings.story import Story
from recordings.stream import encode, read
from tests import builders
from tests.agent import SOCKET_TEST, needs_root, process_state, wait_for
from tests.emulator import Emulator, Screen
from tests.terminal import Terminal


@pytest.fixture
def two_calls(tmp_path: Path) -> str:
    path = tmp_path / "two.jsonl"
    path.write_bytes(b"".join(encode(event) + b"\n" for event in builders.whole(2)))
    return str(path)


# -- replay --------------------------------------------------------------------------------


@pytest.mark.parametrize("terminal", [(80, 24), (100, 30), (160, 45)], indirect=True)
def test_a_replay_walks_and_quits(terminal: Terminal, two_calls: str) -> None:
    terminal.run("replay", two_calls)
    terminal.until("REPLAY  2/21", "▶ ✓ STEP_09", "struct sock", "q quit")
    terminal.press(*"nnnnn")
    terminal.until("▶ ✓ STEP_15", "linked", "› STEP_15", "49.0 µs before the stop")
    terminal.press("q")
    terminal.until("status=0")
    terminal.is_sane()


def seen(terminal: Terminal) -> Screen:
    """The characters with their colours; tmux does not tell of all that are blank."""
    emulator = Emulator()
    emulator.write(terminal.at_rest())
    return {place: cell for place, cell in emulator.cells.items() if cell[0] != " "}


@pytest.mark.parametrize("terminal", [(80, 24), (160, 45)], indirect=True)
def test_what_was_drawn_piece_by_piece_is_what_is_drawn_anew(
    terminal: Terminal, two_calls: str
) -> None:
    """Only cells that differ are sent; a new size draws all of them."""
    terminal.run("replay", two_calls)
    terminal.until("REPLAY  2/21", "q quit")
    for keys, place in (
        (["n"] * 9, "REPLAY  11/21"),
        (["Enter", "Tab", "p", "q", "p"], "REPLAY  9/21"),
        (["?", "PageDown", "q", "]"], "REPLAY  11/21"),
    ):
        terminal.press(*keys)
        terminal.until(place, "THREE OBJECTS")
        before = seen(terminal)
        size = terminal.tmux("display-message", "-p", "#{window_width} #{window_height}")
        columns, rows = map(int, size.split())
        for width in (columns - 1, columns):
            terminal.tmux("resize-window", "-x", str(width), "-y", str(rows))
            terminal.at_rest()
        wait_for(lambda before=before: seen(terminal) == before)  # type: ignore[misc]


def test_ctrl_l_draws_over_what_another_program_wrote(terminal: Terminal, two_calls: str) -> None:
    terminal.run("replay", two_calls)
    terminal.until("REPLAY  2/21", "q quit")
    terminal.at_rest()
    clean = terminal.screen()
    tty = Path(terminal.tmux("display-message", "-p", "#{pane_tty}").strip())
    tty.write_text("\x1b[5;10Hkernel: something happened")
    terminal.until("something happened")
    terminal.press("C-l")
    wait_for(lambda: terminal.screen() == clean, timeout=20)


def test_the_linux_console_gets_ascii(terminal: Terminal, two_calls: str) -> None:
    terminal.run("replay", two_calls, TERM="linux")
    assert terminal.until("REPLAY  2/21", "+. struct file ...", "q quit").isascii()


def test_no_color_sends_no_colour(terminal: Terminal, two_calls: str) -> None:
    terminal.run("replay", two_calls, NO_COLOR="1")
    terminal.until("REPLAY  2/21", "q quit")
    terminal.press("n", "n")
    terminal.until("REPLAY  4/21")
    raw = terminal.tmux("capture-pane", "-p", "-e")
    colours = [
        code
        for sequence in raw.split("\x1b[")[1:]
        for code in sequence.partition("m")[0].split(";")
        if code.isdigit() and (30 <= int(code) <= 48 or 90 <= int(code) <= 107) and code != "39"
    ]
    assert not colours


def test_a_dumb_terminal_gets_text(terminal: Terminal, two_calls: str) -> None:
    terminal.run("replay", two_calls, TERM="dumb")
    terminal.until("status=")
    assert "CUT OFF" not in terminal.screen()
    assert terminal.tmux("display-message", "-p", "#{alternate_on}").strip() == "0"


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_sane(
    terminal: Terminal, two_calls: str, signo: signal.Signals
) -> None:
    terminal.run("replay", two_calls)
    terminal.until("REPLAY  2/21", "q quit")
    os.kill(terminal.pid(), signo)
    terminal.until(f"status={128 + signo}")
    terminal.is_sane()


def test_garbage_is_one_line(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "g.jsonl").write_text("garbage\n")
    terminal.run("replay", str(tmp_path / "g.jsonl"))
    terminal.until("not a sockstep recording", "status=2")
    assert "Traceback" not in terminal.screen()


def test_a_size_that_no_terminal_has(terminal: Terminal, two_calls: str) -> None:
    """COLUMNS and LINES are believed by Textual, which would draw that many."""
    terminal.run("replay", two_calls, COLUMNS="99999999", LINES="99999999")
    terminal.until("REPLAY  ", "q quit")
    terminal.press("q")
    terminal.until("status=0")


def test_a_fifo_for_keys_is_one_line(terminal: Terminal, two_calls: str) -> None:
    keys = terminal.home / ".config/sockstep/keys.toml"
    keys.parent.mkdir(parents=True)
    os.mkfifo(keys)
    terminal.run("replay", two_calls)
    assert "keys.toml: it is no regular file" in terminal.until("status=2")


def test_a_fifo_among_the_recordings_is_none(terminal: Terminal) -> None:
    folder = terminal.home / ".local/state/sockstep/recordings"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "fifo.jsonl")
    terminal.run("replay")
    assert "fifo" not in terminal.until("REPLAY which recording?", "emfile-6.1-kprobe")


# -- live ----------------------------------------------------------------------------------


@pytest.fixture
def live(terminal: Terminal) -> Terminal:
    needs_root()
    return terminal


def tracee(terminal: Terminal) -> int:
    """The pid that the app shows."""
    return int(terminal.screen().partition("  pid ")[2].split()[0])


def start(terminal: Terminal, *program: str) -> int:
    terminal.run("-o", str(terminal.home / "live.jsonl"), *program)
    terminal.until("STOPPED  before its first instruction", "q quit")
    return tracee(terminal)


def recorded(terminal: Terminal) -> Story:
    return Story.of(read(terminal.home / "live.jsonl"))


def test_stepping_through_a_real_call(live: Terminal) -> None:
    pid = start(live, SOCKET_TEST)
    assert process_state(pid) == "T"
    live.press("n")
    live.until("STOPPED  at the return of socket()", "▶ ✓ USER_EXEC")
    for id in ("STEP_09", "STEP_10", "STEP_13", "STEP_13", "STEP_14", "STEP_15"):
        live.press("n")
        live.until(f"· {id}")
    live.until("▼ private_data   linked          *file │")
    live.press("End")
    live.until("· STEP_17", "▼ fd 3  linked")
    live.press("n")
    live.until("STOPPED  on the way back to user mode, in cleanup")
    live.press("c")
    live.until("EXITED  with status 0")
    live.press("r")
    live.until("STOPPED  before its first instruction")
    assert tracee(live) != pid
    live.press("q")
    live.until("Detach and resume")
    live.press("Down", "Enter")
    screen = live.until("status=0", "recorded in")
    assert "live-2.jsonl" in screen, "the restart has a recording of its own"
    live.is_sane()
    story = recorded(live)
    assert story.end is not None
    assert story.calls[1].result == 3


def test_quitting_detaches_and_the_program_goes_on(live: Terminal) -> None:
    pid = start(live, "sh", "-c", f"{SOCKET_TEST}; exec sleep 60")
    assert process_state(pid) == "T"
    live.press("q")
    live.until("Detach and resume")
    live.press("Enter")
    live.until("status=0")
    live.is_sane()
    wait_for(lambda: process_state(pid) in ("S", "R"))
    os.kill(pid, signal.SIGKILL)
    assert isinstance(recorded(live).end, ev.End)


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_resumes_the_tracee_and_keeps_the_recording(
    live: Terminal, signo: signal.Signals
) -> None:
    pid = start(live, "sleep", "60")
    assert process_state(pid) == "T"
    os.kill(live.pid(), signo)
    live.until(f"status={128 + signo}")
    live.is_sane()
    wait_for(lambda: process_state(pid) == "S")
    os.kill(pid, signal.SIGKILL)
    story = recorded(live)
    assert story.end is not None
    assert story.end.how == "detached"


def test_a_killed_app_leaves_no_stopped_tracee(live: Terminal) -> None:
    pid = start(live, "sleep", "60")
    os.kill(live.pid(), signal.SIGKILL)
    live.until("status=137")
    wait_for(lambda: process_state(pid) == "S")
    os.kill(pid, signal.SIGKILL)
    assert recorded(live).header is not None, "what came before is kept"


@pytest.mark.parametrize("key", ["i", "l"])
def test_a_terminal_that_is_gone_leaves_nothing(live: Terminal, key: str) -> None:
    pid = start(live, "sleep", "60")
    app = live.pid()
    live.press(key)
    live.tmux("kill-session")
    wait_for(lambda: process_state(app) in ("", "Z"), timeout=30)
    wait_for(lambda: process_state(pid) == "S")
    os.kill(pid, signal.SIGKILL)


def test_a_signal_injected_now_and_at_a_step(live: Terminal) -> None:
    start(live, SOCKET_TEST)
    live.press("i")
    live.until("INJECT")
    before = live.at_rest()
    live.press("Enter")  # SIGTERM
    wait_for(lambda: live.at_rest() != before)  # the other list's turn
    live.press("Down", "Enter")  # at STEP_09
    live.press("l")
    live.until("inject SIGTERM: armed at STEP_09")
    live.press("q", "c")
    # The kernel takes the lowest pending signal first: SIGTERM before the SIGSTOP of the stop.
    live.until("KILLED  by SIGTERM", "▶ ✓ USER_EXEC")
    live.press("q")
    live.until("status=0")
    story = recorded(live)
    assert story.calls[1].result == 3, "a signal does not make socket() fail"
    assert any(isinstance(event, ev.Inject) and event.result == 0 for event in story.log)


def test_an_agent_behind_a_command_is_there_before_the_app(live: Terminal) -> None:
    live.run("--via", "env X=1", "-o", str(live.home / "live.jsonl"), SOCKET_TEST)
    live.until("STOPPED  before its first instruction", "q quit")
    live.press("c")
    live.until("STOPPED  at the return of socket()")
    live.press("q")
    live.until("Detach and resume")
    live.press("Enter")
    live.until("status=0")
    live.is_sane()
    wait_for(lambda: recorded(live).end is not None)


def test_a_lost_agent_is_said(live: Terminal) -> None:
    pid = start(live, "sleep", "60")
    live.press("c")
    wait_for(lambda: process_state(pid) == "S", timeout=20)
    os.kill(pid, signal.SIGSTOP)
    live.until("STOPPED  by a signal")
    children = Path(f"/proc/{live.pid()}/task/{live.pid()}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    live.until("AGENT LOST")
    wait_for(lambda: process_state(pid) == "S", timeout=20)  # the guardian resumed it
    live.press("q")
    live.until("status=0")
    live.is_sane()
    os.kill(pid, signal.SIGKILL)


def test_a_program_that_is_none_of_ours_to_run(live: Terminal, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"\x7fELF nonsense")
    bad.chmod(0o755)
    live.run(str(bad))
    live.until("status=2")
    assert "Traceback" not in live.screen()
    live.is_sane()


def test_a_full_disk_is_said_on_the_screen(live: Terminal) -> None:
    live.run("-o", "/dev/full", SOCKET_TEST)
    live.until("the recording is cut short: No space left on device")
    live.until("STOPPED  before its first instruction")
    live.press("q")
    live.until("Detach and resume")
    live.press("Enter")
    live.until("status=2")
