"""The command line: what it starts, what it prints, and one clear line for bad input."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from probes.attach import may_load
from recordings import events as ev
from recordings import isolated
from recordings.story import Story
from recordings.stream import encode, read
from tests import ROOT, builders
from tests.agent import SOCKET_TEST, needs_root, unless
from tui import cli, plain
from tui.options import Options


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LC_")}
    return clean | {
        "LANG": "C.UTF-8", "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "state"), "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }  # fmt: skip


def sockstep(
    *args: str, env: dict[str, str], input: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command = isolated.command("tui.cli", *args)
    return subprocess.run(
        command, env=env, cwd=cwd, input=input, capture_output=True, text=True, timeout=90,
        check=False,
    )  # fmt: skip


@pytest.fixture
def two_calls(tmp_path: Path) -> Path:
    path = tmp_path / "two.jsonl"
    path.write_bytes(b"".join(encode(event) + b"\n" for event in builders.whole(2)))
    return path


def refused(run: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on stderr, status 2, no traceback, nothing that a terminal would obey."""
    assert run.returncode == 2, run
    assert run.stdout == ""
    assert run.stderr.count("\n") == 1, run.stderr
    assert run.stderr.startswith("sockstep: ")
    assert run.stderr.rstrip("\n").isprintable()
    for word in words:
        assert word in run.stderr


# -- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("no-such-program-here",), "no such program"),
        (("./also/not/there",), "no such program"),
        (("--", "replay"), "replay: no such program"),
        (("--bogus", "ls"), "No such option"),
        (("--backend",), "requires an argument"),
        (("record", "ls"), "record needs -o FILE"),
        (("record", "-o", "x.jsonl"), "Missing argument"),
        (("report",), "Missing argument"),
        (("report", "/nowhere/x.jsonl"), "No such file"),
        (("report", "/etc"), "is a directory"),
        (("replay", "/nowhere/x.jsonl"), "No such file"),
        (("export", "/etc/passwd", "-o", "x"), "not a sockstep recording"),
        (("import", "dmesg", "/nowhere"), "No such file"),
        (("import", "tea", "x"), "No such command"),
        (("\x1b[31m", "x"), "^[[31m: no such program"),
        (("record", "-o", "x", "--via", 'a "b', "ls"), "No closing quotation"),
        (("record", "-o", "x", "--inject", "security_sk_alloc=__doc__", "ls"), "no errno"),
        (("record", "-o", "x", "--inject", "nofile=9223372036854775808", "ls"), "no such"),
        (("record", "-o", "x", "--inject", "TERM@STEP_14*²", "ls"), "no number of times"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    args: tuple[str, ...], word: str, env: dict[str, str], tmp_path: Path
) -> None:
    refused(sockstep(*args, env=env, cwd=tmp_path), word)


@pytest.mark.parametrize("command", ["replay", "report"])
@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"garbage\n", "not a sockstep recording"),
        (b"\x00\xff\xfe" * 1000, "not a sockstep recording"),
        (b'{"ev":"step"}\n', "not a sockstep recording"),
        (b"[" * 100_000, "not a sockstep recording"),
        (
            b'{"ev":"header","format":"sockstep","version":9,"readable_since":7}\n',
            "schema version 9, readable since version 7",
        ),
    ],
)
def test_what_is_no_recording(
    command: str, data: bytes, word: str, env: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    refused(sockstep(command, str(path), env=env), word)


def test_a_malformed_line_is_named(two_calls: Path, env: dict[str, str]) -> None:
    lines = two_calls.read_bytes().splitlines(keepends=True)
    lines[7] = b'{"ev":"step","t":"soon"}\n'
    two_calls.write_bytes(b"".join(lines))
    refused(sockstep("report", str(two_calls), env=env), f"{two_calls}:8: malformed event")


def test_a_cut_off_recording_is_read_and_says_so(two_calls: Path, env: dict[str, str]) -> None:
    two_calls.write_bytes(two_calls.read_bytes()[:-20])
    run = sockstep("report", str(two_calls), env=env)
    assert run.returncode == 3
    assert "cut off" in run.stdout.lower()


def test_without_arguments_it_says_what_it_can(env: dict[str, str]) -> None:
    run = sockstep(env=env)
    assert run.returncode == 2
    assert "record" in run.stdout + run.stderr
    help = sockstep("--help", env=env)
    assert help.returncode == 0
    assert "--via" in help.stdout
    assert "-- NAME" in help.stdout


# -- reading recordings --------------------------------------------------------------------


def test_a_replay_into_a_pipe_is_the_report(two_calls: Path, env: dict[str, str]) -> None:
    replay = sockstep("replay", str(two_calls), env=env)
    report = sockstep("report", str(two_calls), env=env)
    assert replay.stdout == report.stdout
    assert "STEP_13_BACKLINK" in report.stdout
    assert replay.returncode == report.returncode


def test_a_report_in_the_c_locale_is_ascii(two_calls: Path, env: dict[str, str]) -> None:
    for locale in ({"LC_ALL": "C"}, {"LANG": "POSIX"}, {"LANG": ""}):
        run = sockstep("report", str(two_calls), env=env | locale)
        assert run.stdout.isascii(), locale
    assert not sockstep("report", str(two_calls), env=env).stdout.isascii()


def test_report_as_json_and_one_call(two_calls: Path, env: dict[str, str]) -> None:
    run = sockstep("report", str(two_calls), "--json", "--call", "2", env=env)
    found = json.loads(run.stdout)
    assert [call["result"] for call in found["calls"]] == [4]
    refused(sockstep("report", str(two_calls), "--call", "9", env=env), "no call 9")


@pytest.mark.parametrize(
    ("events", "verdict", "status"),
    [
        (builders.session(), "PASS", 0),
        (builders.changed(builders.session(), "STEP_10", socket__state=3), "REJECT", 1),
        (builders.session()[:-1], "UNKNOWN", 3),
        ([*builders.beginning(), *builders.ending()], "NONE", 3),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_the_exit_status_of_a_report_is_its_verdict(
    env: dict[str, str], tmp_path: Path, events: list[ev.Event], verdict: str, status: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(encode(event) + b"\n" for event in events))
    for command in ("report", "replay"):  # without a terminal a replay is the report
        run = sockstep(command, str(path), env=env)
        assert (run.returncode, run.stderr) == (status, "")
        assert run.stdout.splitlines()[2].startswith(f"verdict     {verdict}: ")


def test_export_masks_consistently(two_calls: Path, env: dict[str, str], tmp_path: Path) -> None:
    to = tmp_path / "masked.jsonl"
    assert sockstep("export", str(two_calls), "-o", str(to), env=env).returncode == 0
    assert builders.SOCKET[4:] not in to.read_text()
    assert stat.S_IMODE(to.stat().st_mode) == 0o600
    before, after = Story.of(read(two_calls)), Story.of(read(to))
    states = [[link.state for link in m.links.values()] for m in before.moments]
    assert [[link.state for link in m.links.values()] for m in after.moments] == states


def test_import_dmesg(env: dict[str, str], tmp_path: Path) -> None:
    log = "[  1.0] [PROBE] sock_alloc Exit: socket=f1166dcd\n"
    run = sockstep("import", "dmesg", "-", env=env, input=log)
    assert run.returncode == 0, run.stderr
    path = Path(run.stdout.strip())
    assert path.is_relative_to(tmp_path / "state")
    assert next(iter(Story.of(read(path)).moments))


def test_the_report_needs_no_textual(two_calls: Path, env: dict[str, str]) -> None:
    code = (
        "import sys, tui.cli\n"
        f"sys.argv = ['sockstep', 'report', {str(two_calls)!r}]\n"
        "try: tui.cli.main()\n"
        "except SystemExit: pass\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('textual', 'probes', 'bcc')])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "[]"


# -- starting the agent --------------------------------------------------------------------


def test_the_agents_command_is_never_a_shells() -> None:
    program = ("./a b", "$(x)", ";")
    python = [sys.executable, "-IS", str(ROOT / "recordings/isolated.py")]
    here = [*python, "probes.cli", "agent"]
    tail = ["--", *program]
    assert Options(program).agent() == [*here, *tail]
    assert Options(program, backend="kprobe", follow_forks=True).agent() == [
        *here, "--backend", "kprobe", "--follow-forks", *tail,
    ]  # fmt: skip
    assert Options(program, via="sudo -u 'x y'").agent() == [
        "sudo", "-u", "x y", *here, *tail,
    ]  # fmt: skip
    assert Options(program, via="ssh -p 2 host").agent() == [
        "ssh", "-p", "2", "host", "sockstep agent -- './a b' '$(x)' ';'",
    ]  # fmt: skip
    assert Options(program, vm="6.1").agent() == [
        *python, "probes.vm.cli", "run", "--kernel", "6.1", "--", *here, *tail,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "vm", "program"),
    [
        (["./x"], None, ["./x"]),
        (["--vm", "./x", "--vm"], "", ["./x", "--vm"]),
        (["--vm", "6.1", "./x", "-o", "y"], "6.1", ["./x", "-o", "y"]),
        (["--vm=6.12", "./x"], "6.12", ["./x"]),
        (["-o", "f", "--vm", "--", "6.1"], "", ["6.1"]),
        (["./x", "--vm", "6.1"], None, ["./x", "--vm", "6.1"]),
        (["--", "--vm"], None, ["--vm"]),
    ],
)
def test_what_is_the_programs_stays_the_programs(
    words: list[str], vm: str | None, program: list[str]
) -> None:
    command = cli.cli.commands[cli.LIVE]
    found = command.make_context("sockstep", list(words)).params
    assert (found["vm"], list(found["program"])) == (vm, program)


def test_an_agent_that_cannot_start_is_one_line(env: dict[str, str], tmp_path: Path) -> None:
    out = str(tmp_path / "x.jsonl")
    run = sockstep("record", "--via", "no-such-helper", "-o", out, "ls", env=env)
    refused(run, "cannot start no-such-helper")
    run = sockstep("record", "--via", "sh -c 'echo first >&2; echo why >&2; exit 3' x", "-o", out,
                   "ls", env=env)  # fmt: skip
    assert run.returncode == 2
    assert run.stderr.splitlines() == ["sockstep: first", "sockstep: why"], "each line once"


def test_an_agent_that_talks_nonsense_is_one_line(env: dict[str, str], tmp_path: Path) -> None:
    out = str(tmp_path / "x.jsonl")
    run = sockstep("record", "--via", "echo nonsense", "-o", out, "ls", env=env)
    refused(run, "not a sockstep recording")


def fake_agent(path: Path, events: list[ev.Event], wait: bool = True) -> str:
    """A --via that says these events, then waits for its commands to end."""
    script = path / "agent.py"
    stream = path / "agent.jsonl"
    stream.write_bytes(b"".join(encode(event) + b"\n" for event in events))
    waits = "sys.stdin.buffer.read()" if wait else ""
    script.write_text(
        "import sys\n"
        f"sys.stdout.buffer.write(open({str(stream)!r}, 'rb').read())\n"
        f"sys.stdout.flush()\n{waits}\n"
    )
    return f"{sys.executable} {script}"


def test_every_line_is_recorded_as_it_came(env: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    via = fake_agent(tmp_path, builders.whole())
    run = sockstep("record", "--via", via, "-o", str(out), "x", env=env)
    assert run.returncode == 0, run.stderr
    assert out.read_bytes() == (tmp_path / "agent.jsonl").read_bytes()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_the_recording_ends_where_the_agent_was_lost(env: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    via = fake_agent(tmp_path, builders.header() + builders.call(), wait=False)
    run = sockstep("record", "--via", via, "-o", str(out), "x", env=env)
    assert run.returncode == 2
    assert "the agent ended before the program did" in run.stderr.splitlines()[-1]
    assert out.read_bytes() == (tmp_path / "agent.jsonl").read_bytes()


def test_output_of_the_tracee_obeys_no_terminal(env: dict[str, str], tmp_path: Path) -> None:
    events = builders.header() + builders.call()
    events += [ev.Output(t=1_011_000_000, text="\x1b[2Jred\r\nno end")]
    events += builders.end()
    via = fake_agent(tmp_path, events)
    run = sockstep("record", "--via", via, "-o", str(tmp_path / "o"), "x", env=env)
    assert "\n^[[2Jred\n" in run.stdout
    assert "no endsocket() = 3\n" in run.stdout
    assert "\x1b" not in run.stdout


@pytest.mark.parametrize("command", [["report"], ["diff", "{}"], ["replay"], ["doctor"]])
def test_nobody_reads_on(command: list[str], two_calls: Path, env: dict[str, str]) -> None:
    """A broken pipe is no verdict: 1 would be REJECT."""
    words = isolated.command("tui.cli", *(word.format(two_calls) for word in command))
    words += [] if command == ["doctor"] else [str(two_calls)]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(words, env=env, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == b""


@pytest.mark.parametrize("command", [["report", "{}"], ["diff", "{}", "{}"], ["lab"], ["--help"]])
def test_an_output_that_is_full_is_one_line(
    command: list[str], two_calls: Path, env: dict[str, str]
) -> None:
    words = isolated.command("tui.cli", *(word.format(two_calls) for word in command))
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(words, env=env, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (2, b"sockstep: No space left on device\n")


def test_a_file_that_cannot_be_written_further_is_named(
    two_calls: Path, env: dict[str, str]
) -> None:
    done = sockstep("export", str(two_calls), "-o", "/dev/full", env=env)
    refused(done, "/dev/full: No space left on device")


@pytest.mark.parametrize("command", ["report", "doctor"])
def test_without_a_standard_output(command: str, two_calls: Path, env: dict[str, str]) -> None:
    program = shlex.join(isolated.command("tui.cli", command))
    program += f" {two_calls}" if command == "report" else ""
    done = subprocess.run(["sh", "-c", f"{program} >&-"], env=env, capture_output=True, check=False)
    # report: the verdict; doctor: whether live capture is possible
    assert done.returncode in ((3,) if command == "report" else (0, 1))
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["export"], ["import", "dmesg"]])
def test_what_a_recording_is_made_of_is_not_replaced(
    command: list[str], two_calls: Path, env: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.write_text("[PROBE] sock_alloc Exit: socket=f1166dcd\n")
    source = log if command[0] == "import" else two_calls
    before = source.read_bytes()
    refused(sockstep(*command, str(source), "-o", str(source), env=env), "choose another -o")
    assert source.read_bytes() == before


# -- where files go ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value"), [("SUDO_UID", "²"), ("SUDO_UID", "-1"), ("SUDO_UID", "4294967295"),
                            ("SUDO_UID", ""), ("SUDO_GID", "users")],
)  # fmt: skip
def test_an_invoker_that_is_none_is_refused(
    variable: str, value: str, env: dict[str, str], tmp_path: Path
) -> None:
    """Root never takes itself for the user, nor another user for them."""
    needs_root()
    env = env | {"SUDO_UID": "65534", "SUDO_GID": "65534"} | {variable: value}
    mark = tmp_path / "it-ran"
    refused(sockstep("record", "-o", str(tmp_path / "x"), "touch", str(mark), env=env), variable)
    agent = isolated.command("probes.cli", "agent", "--", "touch", str(mark))
    done = subprocess.run(agent, env=env, input="", capture_output=True, text=True, check=False)
    refused(done, variable)
    assert not mark.exists()


def test_root_boots_no_kernel_of_a_user_s_home(env: dict[str, str], tmp_path: Path) -> None:
    """Where sudo keeps HOME, or XDG_CACHE_HOME, root still looks in its own cache."""
    needs_root()
    (tmp_path / ".cache/sockstep/kernels/99.1.0").mkdir(parents=True)
    env = {k: v for k, v in env.items() if k != "XDG_CACHE_HOME"}
    assert "99.1.0" in sockstep("vm", "list", env=env).stdout
    for kept in ({}, {"XDG_CACHE_HOME": str(tmp_path / ".cache")}):
        listed = sockstep("vm", "list", env=env | kept | {"SUDO_UID": "65534", "SUDO_GID": "65534"})
        assert listed.returncode == 0, listed.stderr
        assert "99.1.0" not in listed.stdout


def test_the_kernels_cache_is_nobody_else_s_to_write(env: dict[str, str], tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        refused(sockstep("vm", "rm", "99.9", env=env | {"XDG_CACHE_HOME": str(tmp_path / "c")}))
    finally:
        os.umask(before)
    made = [tmp_path / "c", *(tmp_path / "c").rglob("*")]
    assert (tmp_path / "c/sockstep/kernels") in made
    assert [path for path in made if path.stat().st_mode & 0o022] == []


def test_a_keymap_with_a_mistake_is_one_line(
    two_calls: Path, env: dict[str, str], tmp_path: Path
) -> None:
    from tui import keys

    path = tmp_path / "keys.toml"
    for content, word in (
        ("fly = 'x'", "no action 'fly'"),
        ("find = 'n'", "n is bound to next and to find"),
        ("next = 3", "needs a key"),
        ("next", "keys.toml"),
    ):
        path.write_text(content)
        with pytest.raises(keys.KeymapError, match=word):
            keys.load(path)
    path.write_text("next = 'j,n'")
    assert keys.load(path) == {"next": "j,n"}
    assert keys.load(tmp_path / "none.toml") == {}


@pytest.mark.parametrize(
    ("variables", "ascii"),
    [
        ({"LANG": "C.UTF-8"}, False),
        ({"LANG": "de_DE.utf8"}, False),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "C"}, True),
        ({"LANG": "en_US.UTF-8", "LC_CTYPE": "POSIX"}, True),
        ({"LANG": "en_US.ISO-8859-1"}, True),
        ({}, True),
        ({"LANG": "C.UTF-8", "TERM": "linux"}, True),
    ],
)
def test_the_locale_decides(
    variables: dict[str, str], ascii: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert plain.ascii_wanted() is ascii


def test_ascii_keeps_every_cell() -> None:
    from rich.cells import cell_len

    picture = "┌─▼──┐ ✓ … µs 世界 −3 → é"
    assert plain.to_ascii(picture).isascii()
    assert len(plain.to_ascii(picture)) == cell_len(picture)


# -- for real ------------------------------------------------------------------------------


def test_record_a_real_program(env: dict[str, str], tmp_path: Path) -> None:
    needs_root()
    out = tmp_path / "real.jsonl"
    run = sockstep("record", "-o", str(out), "--", SOCKET_TEST, env=env)
    assert run.returncode == 0, run.stderr
    for id in ("USER_EXEC", "STEP_09", "STEP_13", "STEP_14", "STEP_16", "STEP_17"):
        assert f" {id}  " in run.stdout
    assert "socket() = 3\n" in run.stdout
    story = Story.of(read(out))
    assert story.end is not None
    assert story.calls[1].result == 3


def test_what_cannot_be_recorded_does_not_run(env: dict[str, str], tmp_path: Path) -> None:
    needs_root()
    mark = tmp_path / "it-ran"
    run = sockstep("record", "-o", str(tmp_path / "no" / "x"), "touch", str(mark), env=env)
    assert run.returncode == 2
    assert "cannot record to" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
    assert not mark.exists()


def test_record_exits_with_the_programs_status(env: dict[str, str], tmp_path: Path) -> None:
    needs_root()
    for number, (script, status) in enumerate((("exit 7", 7), ("kill -9 $$", 128 + 9))):
        out = str(tmp_path / f"{number}.jsonl")
        run = sockstep("record", "-o", out, "sh", "-c", script, env=env)
        assert run.returncode == status, run.stderr


def test_record_passes_its_input_on(env: dict[str, str], tmp_path: Path) -> None:
    needs_root()
    out = str(tmp_path / "in.jsonl")
    done = sockstep("record", "-o", out, "rev", env=env, input="abc\nxyz\n")
    assert done.returncode == 0, done.stderr
    assert "cba\nzyx\n" in done.stdout


def test_a_recording_that_is_cut_short_is_no_success(env: dict[str, str]) -> None:
    needs_root()
    done = sockstep("record", "-o", "/dev/full", "true", env=env)
    assert done.returncode == 2
    told = done.stderr.splitlines()[-2:]  # the first one ever is told that it compiles
    short = "the recording is cut short: No space left on device"
    assert told == [f"sockstep: {short}", f"sockstep: recorded in /dev/full, but {short}"]


def with_little_room(script: str, env: dict[str, str], room: Path) -> str:
    """What a shell prints that has a disk of 48 KiB at `room`, which nobody else sees."""
    needs_root()
    room.mkdir()
    mount = f"mount -t tmpfs -o size=48k none {shlex.quote(str(room))}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{mount} || exit 77; {script}"], env=env, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    unless(done.returncode != 77, "a tmpfs cannot be mounted here")
    return done.stdout


LOOP = [str(ROOT / "tests/programs/bin/loop"), "100"]
SHORT = "the recording is cut short: No space left on device"


def test_a_full_disk_is_said_at_once_and_the_program_goes_on(
    env: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "disk/a.jsonl"
    record = isolated.command("tui.cli", "record", "-o", str(out), *LOOP)
    report = isolated.command("tui.cli", "report", str(out))
    script = f"{shlex.join(record)}; echo status=$?; {shlex.join(report)}; echo status=$?"
    told = with_little_room(script, env, out.parent)
    _, cut, after = told.partition(f"sockstep: {SHORT}\n")
    assert cut
    assert "call 100 " in after, "it went on"
    assert "EXITED with status 0" in after
    assert f"sockstep: recorded in {out}, but {SHORT}\nstatus=2\n" in after
    assert "verdict     UNKNOWN: " in after, "what there is can be read"
    assert after.endswith("status=3\n")


def test_a_program_that_must_be_recorded_ends_with_the_room(
    env: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "disk/a.jsonl"
    program = ["/usr/bin/python3", "-c", "import socket, time\nwhile True: socket.socket()"]
    record = isolated.command("tui.cli", "record", "--must-record", "-o", str(out), *program)
    told = with_little_room(f"{shlex.join(record)}; echo status=$?", env, out.parent)
    assert f"sockstep: {SHORT}\n" in told
    assert "sockstep: the program is ended, as it cannot be recorded\n" in told
    assert told.endswith("status=2\n"), "though the program would never have ended"


@pytest.mark.parametrize("size", ["99999999", "1001", "0", "-1", "wide", "²", ""])
def test_a_size_that_no_terminal_has_is_ignored(
    size: str, two_calls: Path, env: dict[str, str]
) -> None:
    env = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES")}
    for command in (["diff", str(two_calls), str(two_calls)], ["lab", "4"], ["--help"]):
        plain = sockstep(*command, env=env)
        sized = sockstep(*command, env=env | {"COLUMNS": size, "LINES": size})
        assert sized.stdout == plain.stdout
        assert sized.stderr == plain.stderr


def test_the_program_has_the_size_that_we_ignore(env: dict[str, str], tmp_path: Path) -> None:
    needs_root()
    out = str(tmp_path / "a.jsonl")
    show = ("sh", "-c", "echo columns=$COLUMNS")
    done = sockstep("record", "-o", out, *show, env=env | {"COLUMNS": "99999999"})
    assert "columns=99999999\n" in done.stdout


@pytest.mark.parametrize("reader", [False, True])
@pytest.mark.parametrize("command", [["export"], ["import", "dmesg"], ["record"]])
def test_a_fifo_is_no_place_for_a_recording(
    command: list[str], reader: bool, two_calls: Path, env: dict[str, str], tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    log = tmp_path / "log"
    log.write_text("[PROBE] sock_alloc Exit: socket=f1166dcd\n")
    source = {"export": str(two_calls), "import": str(log), "record": "true"}[command[0]]
    if command == ["record"]:
        needs_root()
    held = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK) if reader else None
    done = sockstep(*command, "-o", str(fifo), source, env=env)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("it is a FIFO, and a recording is a file")
    if held is not None:
        os.close(held)


def test_record_that_is_ended_says_what_it_leaves(env: dict[str, str], tmp_path: Path) -> None:
    needs_root()
    out = tmp_path / "t.jsonl"
    command = isolated.command("tui.cli", "record", "-o", str(out), "sleep", "2")
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        for line in running.stdout:
            if "RUNNING" in line:
                break
        running.terminate()
        said = running.stderr.read()
        assert running.wait(timeout=30) == 128 + signal.SIGTERM
    assert f"recorded in {out}" in said
    assert "what it traced runs on" in said


@pytest.mark.may_skip("tests/vm/test_lab.py runs what is refused here")
def test_what_this_kernel_does_not_allow_did_not_run(env: dict[str, str], tmp_path: Path) -> None:
    needs_root()
    if may_load("tracing"):
        pytest.skip("this kernel allows refusals: tests/vm/test_lab.py runs them")
    done = sockstep("lab", "lsm-sk", "1", "--json", "-o", str(tmp_path), env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    refusal, flags = json.loads(done.stdout)
    assert refusal["recording"] == ""
    assert refusal["why"].startswith("not allowed here: security_sk_alloc: ")
    assert flags["reached"]


def test_record_passes_ctrl_c_on(env: dict[str, str], tmp_path: Path) -> None:
    needs_root()
    out = tmp_path / "c.jsonl"
    command = isolated.command("tui.cli", "record", "-o", str(out), "sleep", "60")
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if "RUNNING" in line:
                break
        running.send_signal(signal.SIGINT)
        running.stdout.read()
        assert running.wait(timeout=30) == 128 + signal.SIGINT


def test_live_into_a_pipe_is_plain_text(env: dict[str, str]) -> None:
    needs_root()
    run = sockstep(SOCKET_TEST, env=env)
    assert run.returncode == 0, run.stderr
    assert "STEP_16" in run.stdout
    assert "\x1b" not in run.stdout


def test_a_hostile_program_name(env: dict[str, str], tmp_path: Path) -> None:
    needs_root()
    evil = tmp_path / "\x1b[31m[red]evil"
    evil.symlink_to(SOCKET_TEST)
    out = tmp_path / "evil.jsonl"
    run = sockstep("record", "-o", str(out), str(evil), "\x1b]0;x\x07", env=env)
    assert run.returncode == 0, run.stderr
    assert "\x1b" not in run.stdout + run.stderr
    assert not sockstep("report", str(out), env=env).stdout.count("\x1b")
