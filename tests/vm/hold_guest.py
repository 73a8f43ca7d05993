"""Runs inside a VM, as root: holds in every way and lets go in every way. One JSON line a scenario.

    hold_guest.py FOLDER [NAME…]

FOLDER has `static`, `nopie`: tests/programs/hold.c, built so. Each scenario is a function below
whose name begins with `at_` or `may_`; what it returns are its figures.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from recordings import commands as cmd
from recordings import events as ev
from recordings import isolated
from recordings.commands import HOLDS
from recordings.story import Call, Story
from tests import ROOT
from tests.agent import PROGRAMS, SOCKET_TEST, Agent, agent, process_state, wait_for

SOCK, LOOP, FORKS, HOLD = (str(PROGRAMS / name) for name in ("sock", "loop", "forks", "hold"))
POST, FREE, MODULE, CREATE = (
    "socket_post_create", "inode_free_security", "kernel_module_request", "socket_create",
)  # fmt: skip
CYCLES = 100
TROUBLE = re.compile(r"\bBUG\b|WARNING:|\bOops\b|\bstall|lockup|hung task|refcount_t|Call Trace")
Figures = dict[str, object] | None


class Session:
    """One agent for most scenarios: each restarts it with its own program."""

    folder: Path

    def __init__(self, running: Agent) -> None:
        self.running = running
        # The first start on a kernel compiles: in emulation, on a busy machine, a minute.
        running.until(lambda e: isinstance(e, ev.State) and e.state == "stopped", timeout=200)

    def begin(self, *argv: str, at: tuple[str, ...] = (POST,), go: bool = True) -> None:
        self.running.say(cmd.Restart(argv=list(argv)))
        self.running.until(lambda e: isinstance(e, ev.Header))
        self.running.until_state("stopped")
        self.running.disarm()
        self.running.say(*(cmd.HoldAt(point=point, on=point in at) for point in HOLDS))
        if go:
            self.running.say(cmd.Continue())

    def held(self) -> ev.Held:
        found = self.running.until(lambda e: isinstance(e, ev.Held))
        assert isinstance(found, ev.Held)
        return found

    def released(self) -> ev.Released:
        found = self.running.until(lambda e: isinstance(e, ev.Released))
        assert isinstance(found, ev.Released)
        return found

    def let_go(self) -> ev.Released:
        self.running.say(cmd.Release())
        return self.released()

    def end(self) -> Story:
        return self.running.until_end(60)

    def frames(self, held: ev.Held) -> list[str]:
        assert held.stack is not None
        return [frame.partition("+")[0] for frame in self.running.story.stacks[held.stack]]


def steps(call: Call) -> list[str]:
    return [moment.id for moment in call.moments]


def all_freed(story: Story) -> None:
    assert story.ledger
    assert all(made.free is not None for made in story.ledger), story.ledger


def seen_asleep(session: Session, held: ev.Held, *functions: str) -> None:
    assert held.state == "S"
    assert held.wchan == "handle_userfault"
    frames = session.frames(held)
    assert "bpf_copy_from_user" in frames, frames
    security = f"security_{held.point}".replace("_inode_free_security", "_inode_free")
    if not hooked_by_jump():
        functions = (f"bpf_lsm_{held.point}", *functions)
    for function in (security, *functions):
        assert function in frames, frames
    state = session.running.until_state("held") if not session.running.story.state or (
        session.running.story.state.state != "held") else session.running.story.state  # fmt: skip
    assert state.why == HOLDS[held.point]


def hooked_by_jump() -> bool:
    """Since Linux 7 a trampoline may be jumped to: then the hook itself has no frame."""
    return int(os.uname().release.partition(".")[0]) >= 7


def at_post_create(session: Session) -> Figures:
    session.begin(SOCKET_TEST)
    held = session.held()
    seen_asleep(session, held, "__sock_create", "__sys_socket")
    socket, sock = held.snap.socket, held.snap.sock
    assert socket is not None
    assert sock is not None
    assert socket.sk == sock.at
    assert sock.sk_socket == socket.at
    assert socket.file == ev.NULL
    assert held.snap.file is None
    assert [fd.number for fd in held.fds] == [0, 1, 2]
    assert "STEP_13" in steps(session.running.story.calls[1])
    assert "STEP_14" not in steps(session.running.story.calls[1])
    time.sleep(0.3)
    assert process_state(held.pid) == "S"  # still
    maps = Path(f"/proc/{held.pid}/maps").read_text().splitlines()
    sizes = [[int(word, 16) for word in line.split()[0].split("-")] for line in maps]
    assert sum(high - low == 16384 * 4096 for low, high in sizes) == 1
    start = time.monotonic_ns()
    session.running.say(cmd.Release())
    step = session.running.until(lambda e: isinstance(e, ev.Step) and e.id == "STEP_14")
    story = session.end()
    assert story.calls[1].result == 3
    end = story.holds[0].end
    assert end is not None
    assert (end.by, end.ret) == ("user", 0)
    assert end.held > 300_000_000
    assert "socket() = 3" in "".join(story.output)
    assert story.lost == 0
    all_freed(story)
    return {"release to step, ms": (step.t - start) / 1e6}


def at_socket_create(session: Session) -> Figures:
    session.begin(SOCKET_TEST, at=(CREATE,))
    held = session.held()
    seen_asleep(session, held, "__sock_create")
    assert held.snap == ev.Snapshot()
    assert steps(session.running.story.calls[1]) == ["USER_EXEC"]
    session.running.say(cmd.Continue())
    assert session.released().by == "user"
    story = session.end()
    assert story.calls[1].result == 3
    all_freed(story)
    return None


def at_inode_free_in_an_error_edge(session: Session) -> Figures:
    session.begin(SOCK, "2", "1", "99", at=(FREE,))
    held = session.held()
    seen_asleep(session, held, "destroy_inode", "__sock_create", "__sys_socket")
    assert held.snap.socket is not None
    assert held.snap.sock is None
    assert "CLEANUP_SOCK_RELEASE" in steps(session.running.story.calls[1])
    session.let_go()
    story = session.end()
    assert story.calls[1].result == -93
    all_freed(story)
    return None


def at_inode_free_in_close(session: Session) -> Figures:
    session.begin(SOCKET_TEST, at=(FREE,))
    held = session.held()
    seen_asleep(session, held, "destroy_inode")
    assert held.call == 1
    assert [fd.number for fd in held.fds] == [0, 1, 2]
    assert session.running.story.calls[1].result == 3
    session.let_go()
    all_freed(session.end())
    return None


def at_module_request(session: Session) -> Figures:
    session.begin(SOCK, "2", "1", "99", at=(MODULE,))
    modules = []
    for _ in range(2):
        held = session.held()
        seen_asleep(session, held, "__request_module", "inet_create")
        assert held.snap.socket is not None
        modules.append(held.module)
        session.let_go()
    assert modules == ["net-pf-2-proto-99-type-1", "net-pf-2-proto-99"]
    story = session.end()
    assert story.calls[1].result == -93
    all_freed(story)
    return None


def may_be_killed(session: Session) -> Figures:
    """SIGKILL, and SIGTERM that nobody handles: the call completes, then the task dies."""
    for signo in (signal.SIGKILL, signal.SIGTERM):
        session.begin(SOCKET_TEST)
        session.held()
        session.running.say(cmd.Inject(signo=signo))
        released = session.released()
        assert (released.by, released.ret) == ("signal", -14)
        story = session.end()
        assert story.calls[1].result == 3
        assert story.exits[released.pid].status == -signo
        all_freed(story)
    return None


def may_be_killed_in_cleanup(session: Session) -> Figures:
    session.begin(SOCK, "2", "1", "99", at=(FREE,))
    session.held()
    session.running.say(cmd.Inject(signo=signal.SIGKILL))
    assert session.released().by == "signal"
    story = session.end()
    assert story.calls[1].result == -93
    all_freed(story)
    return None


def may_be_out_of_descriptors(session: Session) -> Figures:
    """A failure chosen while held is this call's: EMFILE, and all of R1."""
    session.begin(SOCKET_TEST)
    session.held()
    session.running.say(cmd.Limit(nofile=3))
    session.running.until(lambda e: isinstance(e, ev.Inject) and e.what == "limit")
    session.let_go()
    story = session.end()
    assert story.calls[1].result == -24
    seen = steps(story.calls[1])
    for step in ("CLEANUP_SOCK_RELEASE", "CLEANUP_INET_RELEASE", "CLEANUP_SK_DESTRUCT"):
        assert step in seen
    assert "CLEANUP_PUT_UNUSED_FD" not in seen
    assert "STEP_14" not in seen
    all_freed(story)
    return None


def may_have_a_signal_pending(session: Session) -> Figures:
    """One with a handler would have it spin: it is shown as pending, and soon let go."""
    session.begin(HOLD, "handler")
    first = session.held()
    assert not first.shared
    before = cpu_ticks(first.pid)
    session.running.say(cmd.Inject(signo=signal.SIGUSR1))
    again = session.held()
    assert signal.SIGUSR1 in again.shared
    released = session.released()
    assert released.by == "signal"
    assert released.ret == 0
    ticks = cpu_ticks(first.pid) - before
    story = session.end()
    assert story.calls[1].result == 3
    assert len(story.holds) == 1
    assert "USR1" in "".join(story.output)
    return {"ticks burnt": ticks if ticks >= 0 else None}


def cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def may_stop_at_steps_too(session: Session) -> Figures:
    """A stop armed at a step before the hold comes at the return: the hold is a sleep."""
    session.begin(SOCKET_TEST, go=False)
    session.running.say(cmd.Arm(step="STEP_09", stop=True), cmd.Continue())
    held = session.held()
    assert held.state == "S"
    assert not held.shared
    assert not held.pending
    session.running.say(cmd.Continue())
    stopped = session.running.until_state("stopped")
    assert stopped.why == "at the return of socket()"
    assert session.running.story.calls[1].result == 3
    assert [hold.end.by for hold in session.running.story.holds if hold.end] == ["user"]
    session.running.say(cmd.Continue())
    session.end()
    return None


def may_hold_at_every_point_with_next(session: Session) -> Figures:
    session.begin(SOCKET_TEST, at=tuple(HOLDS), go=False)
    points = []
    for _ in range(12):
        session.running.say(cmd.Next())
        event = session.running.until(
            lambda e: (
                isinstance(e, ev.Held | ev.End)
                or (isinstance(e, ev.State) and e.state == "stopped")
            )
        )
        points.append(event.point if isinstance(event, ev.Held) else type(event).__name__)
        if isinstance(event, ev.End):
            break
    assert points[:3] == [CREATE, POST, "State"], points
    assert points[3] == FREE, points
    assert points[-1] == "End", points
    assert all(h.end and h.end.by == "user" for h in session.running.story.holds)
    return None


def may_be_many_threads(session: Session) -> Figures:
    count = 8
    session.begin(LOOP, "1", str(count))
    held = [session.held() for _ in range(count)]
    tids = [one.tid for one in held]
    assert len(set(tids)) == count
    pid = held[0].pid

    def asleep(tid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/task/{tid}/wchan").read_text() == "handle_userfault"
        except OSError:
            return False

    for number, tid in enumerate(tids):
        session.running.say(cmd.Release(tid=tid))
        released = session.released()
        assert released.tid == tid
        assert all(asleep(other) for other in tids[number + 1 :])
    story = session.end()
    assert [call.result is not None for call in story.calls.values()] == [True] * count
    assert story.exits[pid].status == 0
    return None


def may_be_again_and_again(session: Session) -> Figures:
    session.begin(LOOP, str(CYCLES))
    waits = []
    start = time.monotonic()
    for _ in range(CYCLES):
        session.held()
        now = time.monotonic_ns()
        session.running.say(cmd.Release())
        waits.append(session.released().t - now)
    took = time.monotonic() - start
    story = session.end()
    assert len(story.holds) == CYCLES
    assert story.exits[story.header.pid].status == 0 if story.header else False
    waits.sort()
    return {
        "cycles": CYCLES,
        "ms a cycle": round(took / CYCLES * 1000, 2),
        "command to release, ms (median)": round(waits[CYCLES // 2] / 1e6, 2),
    }


def may_exec(session: Session) -> Figures:
    session.begin(HOLD, "exec", SOCK, "2", "1", "0")
    story = session.end()
    assert story.calls[1].result == 3
    assert not story.holds
    notes = [e.text for e in session.running.events if isinstance(e, ev.Note)]
    assert any("execve(2)" in note for note in notes), notes
    return None


def may_fork(session: Session) -> Figures:
    """The child, and the vfork child in the same memory, are never held."""
    for argv in ((FORKS,), (HOLD, "vfork")):
        session.begin(*argv)
        held = session.held()
        assert session.running.story.header is not None
        assert held.pid == session.running.story.header.pid
        session.let_go()
        assert len(session.end().holds) == 1
    return None


def may_use_seccomp(session: Session) -> Figures:
    session.begin(HOLD, "seccomp")
    session.held()
    session.let_go()
    story = session.end()
    assert "".join(story.output).startswith("3")
    return None


def may_be_of_any_build(session: Session) -> Figures:
    for name in ("static", "nopie"):
        session.begin(str(session.folder / name))
        seen_asleep(session, session.held(), "__sys_socket")
        session.let_go()
        story = session.end()
        assert "".join(story.output).startswith("3"), story.output
    return None


def may_be_toggled(session: Session) -> Figures:
    session.begin(LOOP, "3")
    session.held()
    session.running.say(cmd.HoldAt(point=POST, on=False))
    session.let_go()
    assert len(session.end().holds) == 1
    session.begin(SOCKET_TEST, at=(), go=False)
    session.running.say(cmd.HoldAt(point="file_open", on=True), cmd.Release())
    notes = [session.running.until(lambda e: isinstance(e, ev.Note)) for _ in range(2)]
    assert [n.text for n in notes if isinstance(n, ev.Note)] == [
        "nothing can be held at file_open", "no such thread is held",
    ]  # fmt: skip
    session.running.say(cmd.Continue())
    session.end()
    return None


def may_be_quit(session: Session) -> Figures:
    """Restart and quit kill a held tracee. The last scenario of this agent."""
    session.begin(SOCKET_TEST)
    held = session.held()
    session.running.say(cmd.Quit())
    wait_for(lambda: process_state(held.pid) in ("", "Z"))
    assert session.running.process.wait(20) == 0
    return None


# -- each with an agent of its own -----------------------------------------------------------


@contextmanager
def held_in(*argv: str, env: dict[str, str] | None = None) -> Iterator[tuple[Agent, ev.Held]]:
    with agent(*argv, options=("--hold=60",), env=env) as running:
        session = Session(running)
        running.disarm()
        running.say(*(cmd.HoldAt(point=point, on=point == POST) for point in HOLDS))
        running.say(cmd.Continue())
        yield running, session.held()


def goes_on(pid: int) -> None:
    """It was let go, and ran to its end."""
    wait_for(lambda: process_state(pid) in ("", "Z"), timeout=60)


def may_lose_its_agent() -> Figures:
    with held_in(SOCKET_TEST) as (running, held):
        assert process_state(held.pid) == "S"
        start = time.monotonic()
        running.process.kill()
        running.process.wait()
        goes_on(held.pid)
        return {"to its end after kill -9, s": round(time.monotonic() - start, 2)}


def may_be_detached() -> Figures:
    with held_in(SOCKET_TEST) as (running, held):
        running.say(cmd.Detach())
        running.until(lambda e: isinstance(e, ev.Released) and e.by == "detach")
        running.until_end()
        goes_on(held.pid)
    return None


def may_lose_its_app() -> Figures:
    with held_in(SOCKET_TEST) as (running, held):
        assert running.process.stdin is not None
        running.process.stdin.close()
        running.until(lambda e: isinstance(e, ev.Released) and e.by == "detach")
        goes_on(held.pid)
    return None


def may_be_another_users() -> Figures:
    """Without a privilege the tracee has a userfaultfd all the same: through /dev/userfaultfd."""
    sudo = {"SUDO_UID": "65534", "SUDO_GID": "65534"}
    with held_in(SOCKET_TEST, env=sudo) as (running, held):
        assert os.stat(f"/proc/{held.pid}").st_uid == 65534
        assert [fd.number for fd in held.fds] == [0, 1, 2]
        running.say(cmd.Release())
        story = running.until_end()
        assert story.calls[1].result == 3
    return None


def may_be_recorded() -> Figures:
    """`record --hold`: no app, no commands; each ends by its limit; all is in the report."""
    sockstep = isolated.command("tui.cli")
    path = "/tmp/held.jsonl"
    done = subprocess.run(
        [*sockstep, "record", "--hold", "300ms", "-o", path, SOCKET_TEST],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "HELD at socket_post_create" in done.stdout
    report = subprocess.run(
        [*sockstep, "report", "--json", path], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert report.returncode == 0, report.stderr
    holds = json.loads(report.stdout)["holds"]
    assert [hold["point"] for hold in holds] == [CREATE, POST, FREE]
    for hold in holds:
        assert hold["released_by"] == "limit"
        assert hold["held_ms"] > 290
        assert any(frame.startswith("bpf_copy_from_user+") for frame in hold["stack"])
        assert [fd["number"] for fd in hold["fds"]] == [0, 1, 2]
    text = subprocess.run([*sockstep, "report", path], capture_output=True, text=True, cwd=ROOT)
    assert "HELD at socket_post_create" in text.stdout
    return None


def main(folder: str, *names: str) -> None:
    Session.folder = Path(folder)
    scenarios = {
        name: function
        for name, function in globals().items()
        if name.startswith(("at_", "may_")) and (not names or name in names)
    }
    with_session = [n for n, f in scenarios.items() if inspect.signature(f).parameters]
    session: Session | None = None

    def run(name: str, function: Callable[[], Figures]) -> bool:
        start = time.monotonic()
        result: dict[str, object] = {"name": name, "ok": True}
        try:
            result["figures"] = function()
        except BaseException:
            result |= {"ok": False, "why": traceback.format_exc()[-3000:]}
        result["took"] = round(time.monotonic() - start, 1)
        print(json.dumps(result), flush=True)
        return bool(result["ok"])

    opened: ExitStack | None = None

    def in_session(scenario: Callable[[Session], Figures]) -> Figures:
        nonlocal opened, session
        if session is None:
            opened = ExitStack()
            session = Session(opened.enter_context(agent(SOCKET_TEST, options=("--hold=60",))))
        return scenario(session)

    for name in with_session:
        if not run(name, partial(in_session, scenarios[name])) and opened is not None:
            opened.close()
            session = opened = None
    if opened is not None:
        opened.close()
    for name, function in scenarios.items():
        if name not in with_session:
            run(name, function)
    run("kernel_log", kernel_log)


def kernel_log() -> Figures:
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    bad = [line for line in log.splitlines() if TROUBLE.search(line)]
    assert not bad, bad
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
