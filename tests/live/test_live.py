"""Real captures on the kernel at hand, by the best backend it allows."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from probes.attach import may_load, why_no_kprobes
from probes.bpf_syscall import program_ids
from recordings import commands as cmd
from recordings import events as ev
from recordings import isolated
from recordings.story import Call, Story
from recordings.verdict import judge, outcome
from tests import ROOT
from tests.agent import (
    LIVING,
    PROGRAMS,
    RACING,
    SOCKET_TEST,
    agent,
    capture,
    needs_root,
    process_state,
    sent,
    wait_for,
)


@pytest.fixture(scope="module")
def plain() -> Story:
    """./socket_test, run through."""
    return capture(SOCKET_TEST)


def only(story: Story) -> Call:
    assert len(story.calls) == 1
    return story.calls[1]


def test_every_step_of_the_call_is_judged(plain: Story) -> None:
    checks = plain.steps(only(plain))
    assert {id: c.status for id, c in checks.items() if c.status != "pass"} in (
        {},
        {"STEP_10": "unobservable"},
    ), checks
    if plain.header and plain.header.backend == "tracepoint":
        assert "no tracepoint fires" in checks["STEP_10"].evidence


def test_the_pointers_agree_with_proc(plain: Story) -> None:
    """The call's numbers are the program's: fd 3, AF_INET, SOCK_STREAM."""
    call = only(plain)
    assert call.enter.args == [socket.AF_INET, socket.SOCK_STREAM, 0]
    assert call.result == 3
    assert "socket() = 3" in "".join(plain.output)
    last = call.moments[-1]
    returned = next(m for m in call.moments if m.id == "STEP_17")
    assert returned.links["file→socket"].state == "linked"
    assert returned.links["socket→sock"].state == "linked"
    assert returned.snap.sock is not None
    assert returned.snap.sock.skc_family == socket.AF_INET
    assert returned.snap.sock.sk_protocol == socket.IPPROTO_TCP
    assert last.event.t >= returned.event.t


def test_close_frees_every_object_once(plain: Story) -> None:
    assert sorted(o.kind for o in plain.ledger) == ["fd", "file", "sock", "socket"]
    assert all(o.free is not None for o in plain.ledger)
    sock = next(o for o in plain.ledger if o.kind == "sock")
    assert sock.free is not None
    assert sock.free.stack is not None
    frames = plain.stacks[sock.free.stack]
    assert any(frame.startswith("inet_release+") for frame in frames), frames


def test_what_fired_and_what_did_not_is_told(plain: Story) -> None:
    statuses = {state.status for state in plain.probes.values()}
    assert "fired" in statuses
    assert "attached but never reached" in statuses
    assert plain.lost == 0


def test_the_inode_is_the_one_in_proc() -> None:
    """An independent figure: /proc/PID/fd/3 names the inode, whose number we never read."""
    with agent(SOCKET_TEST) as running:
        running.until_state("stopped")
        running.say(cmd.Continue())
        stopped = running.until_state("stopped")
        assert stopped.why == "at the return of socket()"
        assert process_state(stopped.pid) == "T"
        link = os.readlink(f"/proc/{stopped.pid}/fd/3")
        assert link.startswith("socket:[")
        call = only(running.story)
        assert call.result == 3
        assert all(m.event.stop == 0 for m in call.moments if isinstance(m.event, ev.Step)), (
            "each step sent SIGSTOP"
        )
        running.say(cmd.Continue())
        closed = running.until_state("stopped")
        assert "cleanup" in closed.why
        assert not Path(f"/proc/{closed.pid}/fd/3").exists()


@pytest.mark.parametrize(
    ("family", "type", "protocol", "result"),
    [
        (socket.AF_INET6, socket.SOCK_STREAM, 0, 3),
        (socket.AF_INET, socket.SOCK_DGRAM, 0, 3),
        (socket.AF_UNIX, socket.SOCK_STREAM, 0, 3),
        (socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0, 3),
        (socket.AF_NETLINK, socket.SOCK_RAW, 0, 3),
        (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP, 3),
        (socket.AF_INET, socket.SOCK_STREAM, 250, -errno.EPROTONOSUPPORT),
        (socket.AF_INET, socket.SOCK_STREAM, 300, -errno.EINVAL),
        (99, socket.SOCK_STREAM, 0, -errno.EAFNOSUPPORT),
        (socket.AF_INET, 77, 0, -errno.EINVAL),
    ],
)
def test_any_family_and_type(family: int, type: int, protocol: int, result: int) -> None:
    story = capture(str(PROGRAMS / "sock"), *map(str, (family, type, protocol)))
    call = only(story)
    assert call.enter.args == [family, type, protocol]
    assert call.result == result
    assert f"{result}\r\n" in "".join(story.output)
    checks = story.steps(call)
    assert checks["STEP_17"].status == "pass"
    if result >= 0:
        bad = {id: c for id, c in checks.items() if c.status != "pass" and id != "STEP_10"}
        assert not bad
        kinds = sorted(o.kind for o in story.ledger)
        assert kinds == ["fd", "file", "sock", "socket"]
    assert all(o.free for o in story.ledger), "exit freed everything"


def test_calls_of_threads_never_mix() -> None:
    story = capture(str(PROGRAMS / "loop"), "50", "4")
    assert len(story.calls) == 200
    assert len({call.enter.tid for call in story.calls.values()}) == 4
    for call in story.calls.values():
        sockets = {m.snap.socket.at for m in call.moments if m.snap.socket}
        assert len(sockets) == 1, "one call, one socket"
        assert {m.event.tid for m in call.moments if m.id.startswith("STEP_")} == {call.enter.tid}
        bad = {id: c for id, c in story.steps(call).items() if c.status == "fail"}
        assert not bad
    assert story.lost == 0


def test_the_lowest_free_number_at_every_size_of_the_table() -> None:
    """Full tables, which grow, and holes far apart: find_next_fd() of fs/file.c."""
    story = capture(str(PROGRAMS / "table"))
    results = [call.result for call in story.calls.values()]
    assert results == [int(line) for line in "".join(story.output).split()]
    assert {63, 64, 65, 127, 128, 129, 16383, 16384, 16385, 5, 4096, 19000} <= {*results}
    for call in story.calls.values():
        assert call.enter.lowest in (call.result, None)  # None: read later, in alloc_fd()
        check = story.steps(call)["STEP_16"]
        assert check.status == "pass", (call.result, check)


def test_forks_are_followed_only_if_asked() -> None:
    alone = capture(str(PROGRAMS / "forks"))
    assert [call.enter.args[1] for call in alone.calls.values()] == [socket.SOCK_STREAM]
    both = capture(str(PROGRAMS / "forks"), options=("--follow-forks",))
    assert {c.enter.args[1] for c in both.calls.values()} == {socket.SOCK_STREAM, socket.SOCK_DGRAM}
    assert len({call.enter.pid for call in both.calls.values()}) == 2


def test_a_followed_child_is_stopped_and_resumed() -> None:
    with agent(str(PROGRAMS / "forks"), options=("--follow-forks",)) as running:
        running.until_state("stopped")
        running.say(cmd.Continue())
        fork = running.until(lambda e: isinstance(e, ev.Fork))
        assert isinstance(fork, ev.Fork)
        wait_for(lambda: process_state(fork.child) == "T")
        running.say(cmd.Continue())
        wait_for(lambda: process_state(fork.child) in ("", "Z"))


def test_a_child_that_stands_is_told_and_goes_on() -> None:
    with agent(str(PROGRAMS / "forks"), options=("--follow-forks",)) as running:
        running.until_state("stopped")
        running.say(cmd.Continue())
        fork = running.until(lambda e: isinstance(e, ev.Fork))
        assert isinstance(fork, ev.Fork)
        state = running.until(lambda e: isinstance(e, ev.State) and e.pid == fork.child)
        assert isinstance(state, ev.State)
        assert (state.state, state.why) == ("stopped", "at the return of socket()")
        assert process_state(fork.child) == "T"
        running.say(cmd.Continue())
        state = running.until(lambda e: isinstance(e, ev.State) and e.pid == fork.child)
        assert isinstance(state, ev.State)
        assert state.state == "running"
        running.disarm()
        wait_for(lambda: process_state(fork.child) in ("", "Z"))


OUTLIVED = """
import os, time, _socket
program = os.getpid()
ready, tell = os.pipe()
if os.fork():
    os.read(ready, 1)
else:
    os.setsid()  # the end of the program's session brings SIGHUP
    os.write(tell, b"x")
    while os.path.exists(f"/proc/{program}"):  # the agent waits for it
        time.sleep(0.01)
    time.sleep(0.1)
    _socket.socket().close()
"""


def test_a_followed_child_that_outlives_the_program_is_seen_to_its_end() -> None:
    story = capture("/usr/bin/python3", "-S", "-c", OUTLIVED, options=("--follow-forks",))
    call = only(story)
    assert story.header is not None
    assert call.enter.pid != story.header.pid
    assert call.enter.t > story.tasks[story.header.pid].t, "the program had ended"
    assert call.result is not None
    assert all(made.free for made in story.ledger)


@pytest.mark.parametrize(
    ("options", "typed", "wrote"),
    [
        ((), "a\n", "a\r\na\r\n"),
        ((), "b", "bb"),
        (("--stdin=quiet",), "a\n", "a\r\n"),
        (("--stdin=pipe",), "a\nb", "a\r\nb"),
    ],
)
def test_the_program_reads_what_is_given(options: tuple[str, ...], typed: str, wrote: str) -> None:
    """Its terminal, which echoes it or does not, or a pipe; and the end of it."""
    with agent("cat", options=options) as running:
        running.until_state("stopped")
        running.disarm()
        running.say(cmd.Continue(), cmd.Input(text=typed), cmd.Input(end=True))
        story = running.until_end()
    assert "".join(story.output) == wrote
    assert story.state is not None
    assert story.state.status == 0


def test_a_limit_waits_for_the_loader() -> None:
    """Which opens files, too: the program itself would not come to its first call."""
    with agent(SOCKET_TEST) as running:
        running.until_state("stopped")
        running.disarm()
        running.say(cmd.Limit(nofile=3), cmd.Continue())
        story = running.until_end()
    limits = [e for e in running.events if isinstance(e, ev.Inject) and e.what == "limit"]
    assert [(e.armed, e.result) for e in limits] == [(True, None), (False, 0)]
    assert only(story).result == -errno.EMFILE
    assert "CLEANUP_SOCK_RELEASE" in [moment.id for moment in only(story).moments]
    assert all(made.free for made in story.ledger)


def test_a_cgroup_refuses_as_often_as_it_is_asked_and_after_a_restart() -> None:
    three = [str(PROGRAMS / "sock"), *("2", "1", "0") * 3]
    with agent(*three) as running:
        for _ in range(2):
            running.until_state("stopped")
            running.disarm()
            running.say(cmd.Refuse(hook="cgroup"))
            armed = running.until(lambda e: isinstance(e, ev.Inject))
            assert isinstance(armed, ev.Inject)
            if armed.why:
                pytest.skip(f"no cgroup of its own here: {armed.why}")
            running.say(cmd.Arm(step="USER_EXEC", stop=True))
            for _ in range(2):
                running.say(cmd.Continue())
                running.until_state("stopped")  # at last at the second call's end
            running.say(cmd.Refuse(hook="cgroup"), cmd.Arm(step="USER_EXEC", stop=False))
            running.say(cmd.Continue())
            story = running.until_end()
            assert [call.result for call in story.calls.values()] == [-errno.EPERM, 3, -errno.EPERM]
            assert all(made.free for made in story.ledger)
            running.say(cmd.Restart(argv=three))
            running.until(lambda e: isinstance(e, ev.Header))


def test_a_signal_is_sent_as_often_as_it_is_asked_whichever_threads_come() -> None:
    with agent(*RACING) as running:
        for _ in range(5):
            running.until_state("stopped")
            assert sent(running, signal.SIGWINCH, "STEP_14", 20) == 20
            running.say(cmd.Restart())
            running.until(lambda e: isinstance(e, ev.Header))


def test_a_cgroup_refuses_as_often_as_it_is_asked_whichever_threads_come() -> None:
    with agent(*RACING) as running:
        running.until_state("stopped")
        running.disarm()
        running.say(cmd.Refuse(hook="cgroup", times=50), cmd.Continue())
        story = running.until_end()
    armed = next(e for e in story.log if isinstance(e, ev.Inject))
    if armed.why:
        pytest.skip(f"no cgroup of its own here: {armed.why}")
    results = [call.result for call in story.calls.values()]
    assert len(results) == 160
    assert results.count(-errno.EPERM) == 50


def test_a_backend_that_cannot_be_is_refused() -> None:
    needs_root()
    for backend, there in (("kprobe", not why_no_kprobes()), ("fentry", may_load("tracing"))):
        command = isolated.command("probes.cli", "agent", "--backend", backend, "--", "true")
        if not there:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            assert done.returncode == 2
            assert done.stdout == ""
            assert done.stderr.startswith(f"sockstep: backend {backend}: ")
            assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("wrap", "word"),
    [
        (["setpriv", "--bounding-set=-sys_admin,-bpf", "--inh-caps=-all"], "CAP_SYS_ADMIN"),
        (["unshare", "--pid", "--fork", "--mount-proc"], "container"),
    ],
)
def test_where_probes_would_see_nothing_none_is_attached(wrap: list[str], word: str) -> None:
    needs_root()
    command = [*wrap, *isolated.command("probes.cli", "agent", "--", "true")]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert word in done.stderr
    assert done.stderr.count("\n") == 1


def test_curl_and_a_python_server() -> None:
    """Real programs: a server under capture, curl under capture against it."""
    with agent(sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1") as server:
        server.until_state("stopped")
        server.disarm()
        server.say(cmd.Continue())
        server.until(lambda e: isinstance(e, ev.Output) and "port " in e.text)
        port = "".join(server.story.output).partition("port ")[2].split()[0]
        story = capture("curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{port}/")
        assert story.state is not None
        assert story.state.status == 0
        tcp = [c for c in story.calls.values() if c.enter.args[0] == socket.AF_INET]
        assert tcp
        assert all(story.steps(c)["STEP_15"].status == "pass" for c in tcp)
        server.say(cmd.Inject(signo=signal.SIGINT))
        ended = server.until_end()
    listening = [c for c in ended.calls.values() if c.enter.args[0] == socket.AF_INET]
    assert listening
    assert ended.state is not None
    assert ended.state.state == "exited"


def test_a_signal_now_and_a_signal_at_a_step() -> None:
    with agent(SOCKET_TEST) as running:
        running.until_state("stopped")
        running.say(cmd.Inject(signo=signal.SIGTERM, step="STEP_14"), cmd.Continue())
        story = running.until_end()
        sent = [e for e in running.events if isinstance(e, ev.Inject) and e.call == 1]
        assert [(e.signo, e.step, e.result) for e in sent] == [(signal.SIGTERM, "STEP_14", 0)]
    call = only(story)
    assert call.result == 3, "a signal does not make socket() fail"
    assert "CLEANUP_GET_SIGNAL" in [m.id for m in call.moments]
    assert story.state is not None
    assert story.state.status == -signal.SIGTERM
    assert all(o.free for o in story.ledger), "exit closed what the signal left open"
    with agent("sleep", "100") as running:
        running.until_state("stopped")
        running.say(cmd.Inject(signo=signal.SIGKILL))
        assert running.until_state("exited").status == -signal.SIGKILL


def test_next_stops_at_any_step_continue_only_at_armed_ones() -> None:
    with agent(SOCKET_TEST) as running:
        running.until_state("stopped")
        running.disarm()
        running.say(cmd.Next())
        assert running.until_state("stopped").why == "at the return of socket()"
        running.say(cmd.Continue())
        assert running.until_state("exited").status == 0


def test_restart_begins_a_new_stream() -> None:
    with agent(SOCKET_TEST) as running:
        running.until_state("stopped")
        first = running.story.header
        running.say(cmd.Restart())
        running.until(lambda e: isinstance(e, ev.Header))
        assert running.story.header is not None
        assert first is not None
        assert running.story.header.pid != first.pid
        assert process_state(first.pid) == ""
        running.until_state("stopped")
        running.disarm()
        running.say(cmd.Continue())
        assert only(running.until_end()).result == 3


def test_detach_leaves_the_program_running() -> None:
    with agent("sleep", "3") as running:
        pid = running.until_state("stopped").pid
        running.say(cmd.Detach())
        running.until_end()
        assert running.process.wait(10) == 0
        wait_for(lambda: process_state(pid) == "S")


@pytest.mark.parametrize("victim", ["agent", "app"])
def test_no_way_to_die_leaves_a_trace(victim: str) -> None:
    """kill -9 at random points: no tracee stopped, no program attached, and it lives on."""
    needs_root()
    before = program_ids()
    chance = random.Random(4711)
    for _ in range(8):
        with agent(str(PROGRAMS / "loop"), "300") as running:
            pid = running.until_state("stopped").pid
            for _ in range(chance.randrange(4)):
                running.say(cmd.Next())
                running.until_state("stopped")
            if chance.random() < 0.5:
                running.say(cmd.Continue())
                time.sleep(chance.random() / 100)
            if victim == "agent":
                running.process.kill()
            else:
                assert running.process.stdin is not None
                running.process.stdin.close()
            running.process.wait(10)
            wait_for(lambda pid=pid: process_state(pid) not in ("T", "t"))
            time.sleep(0.1)
            assert process_state(pid) not in ("T", "t")
            wait_for(lambda pid=pid: process_state(pid) == "", timeout=20)
    wait_for(lambda: not program_ids() - before)


def test_a_program_that_outruns_us_can_be_let_go() -> None:
    """It never ends, and makes sockets as fast as it can: the agent still hears us, and goes."""
    with agent(str(PROGRAMS / "loop"), "1000000000", "2") as running:
        pid = running.until_state("stopped").pid
        running.disarm()
        running.say(cmd.Continue())
        running.until(lambda event: isinstance(event, ev.Enter))
        time.sleep(1)
        running.process.send_signal(signal.SIGTERM)
        end = running.until_end()
        assert end.end is not None
        assert end.end.how == "detached"
        assert running.process.wait(10) == 0
        assert process_state(pid) in "RSD"


def soft_limit(pid: int) -> int:
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]


@pytest.mark.parametrize("how", ["detached", "killed"])
def test_a_lowered_limit_is_put_back_however_we_go(how: str) -> None:
    with agent(*LIVING) as running:
        pid = running.until_state("stopped").pid
        running.say(cmd.Continue())
        running.until_state("stopped")
        before = soft_limit(pid)
        running.say(cmd.Limit(nofile=3))
        running.until(lambda event: isinstance(event, ev.Inject))
        assert soft_limit(pid) == 3
        if how == "killed":
            running.process.kill()
        else:
            running.say(cmd.Detach())
        wait_for(lambda: soft_limit(pid) == before)
        wait_for(lambda: process_state(pid) == "S")


def test_a_program_that_dies_in_its_loader_is_told_with_its_status(tmp_path: Path) -> None:
    library, program = tmp_path / "libgone.so", tmp_path / "program"
    (tmp_path / "a.c").write_text("int gone(void) { return 0; }\n")
    (tmp_path / "b.c").write_text("int gone(void); int main(void) { return gone(); }\n")
    subprocess.run(["gcc", "-shared", "-o", library, tmp_path / "a.c"], check=True)
    subprocess.run(["gcc", "-o", program, tmp_path / "b.c", library], check=True)
    library.unlink()
    with agent(str(program)) as running:
        running.until_state("stopped")
        running.say(cmd.Limit(nofile=64), cmd.Continue())
        assert running.until_state("exited").status == 127


def test_a_restarted_program_is_heard_at_once() -> None:
    script = "import time; print('heard', flush=True); time.sleep(99)"
    with agent("true") as running:
        running.until_state("stopped")
        for _ in range(2):
            running.say(cmd.Restart(argv=["/usr/bin/python3", "-S", "-c", script]))
            running.until(lambda event: isinstance(event, ev.Header))
            running.until_state("stopped")
            running.say(cmd.Continue())
            running.until(lambda event: isinstance(event, ev.Output) and "heard" in event.text, 10)


def test_a_restart_that_fails_is_told() -> None:
    with agent("true") as running:
        running.until_state("stopped")
        running.say(cmd.Restart(argv=["/nowhere"]))
        running.until(lambda event: isinstance(event, ev.End) and "/nowhere" in event.why)
        assert running.process.wait(10) == 0


def test_numbers_that_the_kernel_would_choke_on_are_refused() -> None:
    with agent(SOCKET_TEST) as running:
        running.until_state("stopped")
        assert running.process.stdin is not None
        for line in (
            '{"cmd":"refuse","hook":"security_socket_create","errno":-5}',
            '{"cmd":"refuse","hook":"security_file_alloc","errno":5000}',
            '{"cmd":"refuse","hook":"security_file_alloc"}',
            '{"cmd":"inject","signo":-1,"step":"STEP_14"}',
            '{"cmd":"inject","signo":9,"step":"STEP_14","times":4294967296}',
            '{"cmd":"limit","nofile":18446744073709551615}',
        ):
            running.process.stdin.write(line.encode() + b"\n")
            running.process.stdin.flush()
            note = running.until(lambda event: isinstance(event, ev.Note))
            assert isinstance(note, ev.Note)
            assert note.text.startswith("a command was not understood: ")
        running.disarm()
        running.say(cmd.Continue())
        assert only(running.until_end()).result == 3


def test_an_agent_whom_nobody_can_command_detaches() -> None:
    needs_root()
    done = subprocess.run(
        isolated.command("probes.cli", "agent", "--", "true"),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert '"why":"detached"' in done.stdout.splitlines()[-1]


def test_ended_before_it_began_it_leaves_no_program() -> None:
    """A signal while the probes are attached: the program never runs."""
    needs_root()
    for delay in (0.0, 0.02, 0.05, 0.1):
        with agent("sleep", "98765") as running:
            wait_for(lambda: sleepers() != [])
            time.sleep(delay)
            running.process.send_signal(signal.SIGTERM)
            status = running.process.wait(10)
            assert status in (0, 128 + signal.SIGTERM)
            assert b"Traceback" not in running.process.communicate()[1]
            if status:  # nothing had begun
                wait_for(lambda: sleepers() == [])
            for pid in sleepers():
                wait_for(lambda pid=pid: process_state(pid) not in ("T", "t"))
                os.kill(pid, signal.SIGKILL)


def sleepers() -> list[int]:
    found = subprocess.run(["pgrep", "-f", "^sleep 98765"], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def test_privileges_are_dropped_to_the_invoking_user() -> None:
    needs_root()
    with agent("sh", "-c", "id; echo $HOME", env={"SUDO_UID": "65534", "SUDO_GID": "65534"}) as it:
        said = "".join(it.run_through().output)
    assert "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)" in said
    assert "/nonexistent" in said


def test_bad_input_is_one_line_and_status_2() -> None:
    needs_root()

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = isolated.command("probes.cli", "agent", *args)
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    for args in (("--", "/no/such/program"), ("--backend", "magic", "--", "true"), ("--", "/tmp")):
        done = run(*args)
        assert done.returncode == 2
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_output_is_text_even_when_it_is_not() -> None:
    script = r"printf 'a\033[31m[b]x[/b]\377\n'"
    story = capture("sh", "-c", script)
    assert "".join(story.output) == "a\x1b[31m[b]x[/b]�\r\n"


def test_the_doctor_knows_the_backend() -> None:
    import json

    needs_root()
    done = subprocess.run(
        isolated.command("probes.cli", "doctor", "--json"),
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found["live"] is True
    names = {finding["name"]: finding for finding in found["findings"]}
    assert names["bcc"]["have"]
    for finding in names.values():
        assert finding["have"] or finding["remedy"], "each lack has its remedy"
    story = capture(SOCKET_TEST)
    assert story.header is not None
    assert story.header.backend == found["backend"]


# The agent, with a cache of compiled programs that is not the machine's.
OWN_CACHE = """
import sys, pathlib, probes.compile
probes.compile.CACHE = pathlib.Path(sys.argv.pop(1))
from probes.cli import main
sys.exit(main())
"""


def test_damaged_probes_are_compiled_anew(tmp_path: Path) -> None:
    """A flipped bit anywhere in what is kept is never loaded; a linked cache is said, and left."""
    needs_root()
    cache = tmp_path / "cache"

    def compiles(folder: Path) -> str:
        command = [sys.executable, "-c", OWN_CACHE, str(folder), "agent", "--", "true"]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "compiling the probes, once for this kernel" in compiles(cache)
    assert compiles(cache) == ""
    for path in cache.iterdir():
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)
    assert "compiling the probes, once for this kernel" in compiles(cache)
    assert compiles(cache) == ""
    link = tmp_path / "link"
    link.symlink_to(cache)
    assert f"they cannot be kept: {link} is a link" in compiles(link)


def test_losses_are_counted() -> None:
    """An agent that is not listening: the program does not wait for it, and what the ring buffer
    could not hold is counted."""
    with agent(str(PROGRAMS / "loop"), "20000", options=("--lossy",)) as running:
        running.until_state("stopped")
        running.disarm()
        running.say(cmd.Continue())
        pid = running.until_state("running").pid
        running.process.send_signal(signal.SIGSTOP)
        os.kill(pid, signal.SIGCONT)  # the agent may not have got so far
        wait_for(lambda: process_state(pid) == "Z", timeout=60)
        running.process.send_signal(signal.SIGCONT)
        story = running.until_end(timeout=120)
    returned = sum(call.result is not None for call in story.calls.values())
    assert 0 < returned < 20000
    assert story.lost >= 20000 - returned
    assert not story.waits


def test_descriptors_that_a_program_leaves_open_are_no_leak_of_the_kernel() -> None:
    """Five sockets, one of them closed: the end of the program closes four."""
    script = "[libc.socket(2, 1, 0) for _ in range(5)]; libc.close(5)"
    program = f"import ctypes; libc = ctypes.CDLL(None); {script}"
    story = capture("/usr/bin/python3", "-S", "-c", program)
    check = judge(story).checks["leak_free"]
    assert check.status == "pass"
    assert "the program ended with 4 descriptors open" in check.evidence
    call = next(iter(story.calls.values()))
    assert outcome(story, call, story.ledger) == "leak-free"


def test_what_close_range_closed_was_not_left_open() -> None:
    script = "[libc.socket(2, 1, 0) for _ in range(5)]; libc.syscall(436, 3, 6, 0)"
    program = f"import ctypes; libc = ctypes.CDLL(None); {script}"
    story = capture("/usr/bin/python3", "-S", "-c", program)
    check = judge(story).checks["leak_free"]
    assert check.status == "pass"
    assert "the program ended with 1 descriptor open" in check.evidence
    exits = ["CLEANUP_DO_EXIT" in call.first for call in story.calls.values()]
    assert exits == [False] * 4 + [True]


def test_a_thread_that_ends_is_not_the_process(tmp_path: Path) -> None:
    """Its descriptors stay open, and its process is followed on: even if it is the first."""
    source, program = tmp_path / "leader.c", tmp_path / "leader"
    source.write_text("""
        #include <pthread.h>
        #include <sys/socket.h>
        #include <unistd.h>
        static void *second(void *first) {
            pthread_join(*(pthread_t *)first, 0);
            return (void *)(long)close(socket(AF_INET, SOCK_DGRAM, 0));
        }
        static pthread_t first, other;
        int main(void) {
            first = pthread_self();
            socket(AF_INET, SOCK_STREAM, 0);
            pthread_create(&other, 0, second, &first);
            pthread_exit(0);
        }
    """)
    subprocess.run(["gcc", "-pthread", "-o", program, source], check=True)
    story = capture(str(program))
    stream, datagram = story.calls.values()
    assert datagram.enter.args[1] == 2
    assert datagram.result is not None
    assert "CLEANUP_DO_EXIT" not in datagram.first
    assert stream.first["CLEANUP_DO_EXIT"].event.t > datagram.objects["fd"].free.t  # type: ignore[union-attr]
    assert judge(story).checks["leak_free"].status == "pass"


def test_the_probes_of_a_session_that_ended_are_taken_away_after_the_agent_s_end() -> None:
    before = program_ids()
    with agent("/bin/true") as running:
        running.run_through()
        assert program_ids() - before
        running.say(cmd.Quit())
        running.process.wait(timeout=30)
        wait_for(lambda: not program_ids() - before)
