"""A machine frozen at every step (probes/vm/frozen.py), on stock kernels: one VM each."""

from __future__ import annotations

import contextlib
import errno
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from recordings import commands as cmd
from recordings import events as ev
from recordings import isolated
from recordings.story import Story
from recordings.verdict import judge
from tests import ROOT
from tests.agent import LIVING, PROGRAMS, SOCKET_TEST, Agent, agent
from tests.freed import read_after_free
from tests.vms import vm_kernel

FREEZE = ("--freeze", "--backend", "kprobe")
CALL = [
    ("USER_EXEC", "__sys_socket", "entry"),
    ("STEP_09", "sock_alloc", "exit"),
    ("STEP_13", "inet_create", "entry"),
    ("STEP_13", "inet_create", "exit"),
    ("STEP_14", "sock_alloc_file", "exit"),
    ("STEP_16", "fd_install", "entry"),
    ("STEP_17", "__sys_socket", "exit"),
]
CLOSE = [
    ("CLEANUP_FPUT", "__fput", "entry"),
    ("CLEANUP_SOCK_CLOSE", "sock_close", "entry"),
    ("CLEANUP_SOCK_RELEASE", "__sock_release", "entry"),
    ("CLEANUP_INET_RELEASE", "inet_release", "entry"),
    ("CLEANUP_SK_DESTRUCT", "__sk_destruct", "entry"),
    ("CLEANUP_IPUT", "iput", "entry"),
]
RELEASE = ("CLEANUP_SOCK_RELEASE", "CLEANUP_PUT_UNUSED_FD")
RCU = ("CLEANUP_SOCK_FREE_INODE", "sock_free_inode", "entry")  # some time after


@pytest.fixture(scope="module", params=["6.1", "6.12"])
def frozen(request: pytest.FixtureRequest) -> Iterator[Agent]:
    with in_frozen_vm(request.param) as running:
        yield running


@contextlib.contextmanager
def in_frozen_vm(name: str) -> Iterator[Agent]:
    """An agent in a VM that can be frozen, its program before its first instruction."""
    kernel = vm_kernel(name)
    via = isolated.command("probes.vm.cli", "run", "--kernel", kernel.release, "--freeze", "--")
    with agent(SOCKET_TEST, options=FREEZE, via=via) as running:
        running.until(stopped, timeout=200)  # a cold cache compiles
        yield running


def stopped(event: ev.Event) -> bool:
    return isinstance(event, ev.State) and event.state == "stopped"


def restart(running: Agent, *argv: str, stops: tuple[str, ...] = ()) -> None:
    """Anew, to be held at these steps; none: wherever it can be."""
    running.say(cmd.Restart(argv=list(argv)))
    running.until(lambda event: isinstance(event, ev.Header))
    running.until(stopped)
    if stops:
        running.disarm()
    running.say(*(cmd.Arm(step=step, stop=True) for step in stops), cmd.Continue())


def held(running: Agent) -> ev.Held | None:
    """The next hold; None: the program came to its end."""
    found = running.until(lambda event: isinstance(event, ev.Held | ev.End), timeout=60)
    return found if isinstance(found, ev.Held) else None


def place(hold: ev.Held) -> tuple[str, str, str | None]:
    return hold.point, hold.symbol, hold.at


def readings(snap: ev.Snapshot) -> dict[str, object]:
    return {
        f"{layer}.{name}": value
        for layer in ("file", "socket", "sock")
        if (struct := getattr(snap, layer)) is not None
        for name in struct.__struct_fields__
        if (value := getattr(struct, name)) is not None
    }


def functions(story: Story, stack: int | None) -> list[str]:
    """Those of a kernel stack, innermost first, up to the interrupt that it is of, if of one."""
    frames = story.stacks[stack] if stack is not None else []
    names = [frame.partition("+")[0] for frame in frames]
    interrupt = next((n for n, name in enumerate(names) if name.startswith("asm_")), len(names))
    return names[:interrupt]


def test_held_at_every_step_with_what_the_probes_record(frozen: Agent) -> None:
    held_at_every_step(frozen)


@pytest.mark.parametrize("name", ["5.10", "sid"])
def test_so_it_is_on_the_oldest_kernel_and_the_newest(name: str) -> None:
    with in_frozen_vm(name) as running:
        held_at_every_step(running, cut=name == "5.10")


def held_at_every_step(frozen: Agent, cut: bool = False) -> None:
    """`cut`: this kernel cannot unwind through a kretprobe, so the probes' stacks end there."""
    restart(frozen, SOCKET_TEST)
    holds, answers = [], []
    while (hold := held(frozen)) is not None:
        assert hold.how == "frozen"
        assert frozen.story.held
        holds.append(hold)
        if hold.stack not in frozen.story.stacks:  # the agent is asked for the names
            frozen.until(lambda event: isinstance(event, ev.Stack) and event.id == hold.stack)
        asked = time.monotonic()
        frozen.say(cmd.Next())
        frozen.until(lambda event: isinstance(event, ev.Released))
        answers.append(time.monotonic() - asked)
    story = frozen.story
    assert [place(hold) for hold in holds if place(hold) != RCU] == [*CALL, *CLOSE]
    assert place(holds[-1]) == RCU
    assert judge(story).verdict == "PASS", judge(story)
    assert read_after_free(story.log) == []
    assert all(made.free is not None for made in story.ledger)
    compared, stacks = 0, set()
    for hold in holds:
        for moment in story.calls[1].moments:
            step = moment.event
            if isinstance(step, ev.Step) and (step.symbol, step.at) == (hold.symbol, hold.at):
                live, recorded = readings(hold.snap), readings(moment.snap)
                same = live.keys() & recorded.keys()
                assert {name: live[name] for name in same} == {
                    name: recorded[name] for name in same
                }, place(hold)
                compared += len(same)
                assert int(hold.registers["rsp"], 16) > 1 << 63
                live_stack = functions(story, hold.stack)
                recorded_stack = functions(story, step.stack)
                if cut:
                    assert recorded_stack or hold.at == "exit"
                    live_stack = live_stack[: len(recorded_stack)]
                assert live_stack == recorded_stack, place(hold)
                stacks.add(place(hold))
    assert compared > 50
    untold = {*CALL[1:], *CLOSE, RCU} - stacks  # all but USER_EXEC's, where the probe reads none
    if any(moment.id == RCU[0] for moment in story.calls[1].moments):
        untold -= {RCU}  # by the free, where its own probe was skipped amid another one
    assert not untold, [moment.event for moment in story.calls[1].moments]
    assert [fd.number for fd in holds[0].fds] == [0, 1, 2]
    assert [fd.number for fd in holds[6].fds] == [0, 1, 2, 3]
    assert holds[6].fds[3].to.startswith("socket:[")
    assert holds[6].fds[0].to.startswith("/dev/pts/")
    assert statistics.median(answers) < 1, answers


def test_the_clock_of_a_frozen_machine_stands(frozen: Agent) -> None:
    restart(frozen, SOCKET_TEST, stops=("STEP_13",))
    assert held(frozen) is not None  # inet_create's entry
    time.sleep(3)
    frozen.say(cmd.Continue())
    assert held(frozen) is not None
    frozen.say(cmd.Continue())
    assert held(frozen) is None
    first, *_, last = frozen.story.calls[1].moments[:5]
    assert last.event.t - first.event.t < 2_500_000_000
    spans = [hold.end.held for hold in frozen.story.holds if hold.end is not None]
    assert spans[0] > 2_900_000_000


@pytest.mark.parametrize(
    "step", ["USER_EXEC", "STEP_09", "STEP_13", "STEP_14", "STEP_16", "STEP_17"]
)
def test_a_kill_lands_at_the_very_step(frozen: Agent, step: str) -> None:
    restart(frozen, SOCKET_TEST, stops=(step,))
    hold = held(frozen)
    assert hold is not None
    assert hold.point == step
    frozen.say(cmd.Inject(signo=signal.SIGKILL), cmd.Continue())
    while held(frozen) is not None:  # STEP_13 has another place
        frozen.say(cmd.Continue())
    story = frozen.story
    sent = [e for e in story.log if isinstance(e, ev.Inject) and not e.armed]
    assert [(e.step, e.result, e.call) for e in sent] == [(step, 0, 1)]
    entered = next(m.event.t for m in story.calls[1].moments if m.id == step)
    assert sent[0].t >= entered
    killed = story.exits[story.header.pid] if story.header else None
    assert killed is not None
    assert killed.status == -signal.SIGKILL
    assert story.calls[1].result == 3, "the call completes all the same"
    leak_free(story)


def test_a_limit_lowered_while_frozen_is_met_by_this_very_call(frozen: Agent) -> None:
    restart(frozen, str(PROGRAMS / "sock"), "2", "1", "0", "2", "1", "0", stops=("STEP_13",))
    assert held(frozen) is not None
    frozen.say(cmd.Limit(nofile=3), cmd.Continue())
    while held(frozen) is not None:
        frozen.say(cmd.Continue())
    first, second = frozen.story.calls.values()
    assert first.result == -errno.EMFILE
    cleanup = [moment.id for moment in first.moments if moment.id.startswith("CLEANUP")]
    assert cleanup[:2] == ["CLEANUP_SOCK_RELEASE", "CLEANUP_INET_RELEASE"], "R1"
    assert second.result == 3, "and by no other"
    leak_free(frozen.story)


@pytest.mark.parametrize(
    ("step", "hook", "result"),
    [
        ("STEP_09", "security_sk_alloc", -errno.ENOMEM),
        ("STEP_13", "security_socket_post_create", -errno.EACCES),
        ("STEP_13", "security_file_alloc", -errno.EACCES),
    ],
)
def test_what_is_refused_while_frozen_is_met_by_this_very_call(
    frozen: Agent, step: str, hook: str, result: int
) -> None:
    restart(frozen, str(PROGRAMS / "sock"), "2", "1", "0", "2", "1", "0", stops=(step,))
    hold = held(frozen)
    assert hold is not None
    assert (hold.point, hold.call) == (step, 1)
    frozen.say(cmd.Refuse(hook=hook, errno=errno.EACCES), cmd.Continue())
    while held(frozen) is not None:
        frozen.say(cmd.Continue())
    first, second = frozen.story.calls.values()
    assert first.result == result
    assert second.result == 3, "and by no other"
    refused = [e for e in frozen.story.log if isinstance(e, ev.Inject)]
    assert [(e.hook, e.armed, e.call) for e in refused] == [(hook, True, None), (hook, False, 1)]
    leak_free(frozen.story)


def test_what_was_freed_is_not_read_where_it_is_held_next(frozen: Agent) -> None:
    restart(frozen, str(PROGRAMS / "sock"), "2", "1", "0", stops=("STEP_13", *RELEASE))
    assert held(frozen) is not None
    frozen.say(cmd.Refuse(hook="security_file_alloc", errno=errno.EACCES), cmd.Continue())
    holds = {}
    while (hold := held(frozen)) is not None:
        holds[hold.symbol] = hold
        frozen.say(cmd.Continue())
    before, after = holds["__sock_release"].snap, holds["put_unused_fd"].snap
    assert before.socket is not None
    assert before.sock is not None
    assert before.socket.sk == before.sock.at
    assert after.socket == ev.Socket(at=before.socket.at), "only its address"
    assert after.sock == ev.Sock(at=before.sock.at)
    assert read_after_free(frozen.story.log) == []
    leak_free(frozen.story)


def test_what_was_refused_in_vain_is_forgotten_with_the_program(frozen: Agent) -> None:
    restart(frozen, SOCKET_TEST, stops=("STEP_09",))
    assert held(frozen) is not None
    frozen.say(cmd.Refuse(hook="security_socket_create", errno=errno.EACCES))  # it is past that
    restart(frozen, SOCKET_TEST, stops=("STEP_17",))
    assert held(frozen) is not None
    frozen.say(cmd.Continue())
    assert held(frozen) is None
    assert frozen.story.calls[1].result == 3


def test_held_where_a_signal_ends_it_and_where_it_exits(frozen: Agent) -> None:
    restart(frozen, *LIVING, stops=("STEP_17", "CLEANUP_GET_SIGNAL", "CLEANUP_DO_EXIT"))
    hold = held(frozen)
    assert hold is not None
    assert hold.point == "STEP_17"
    frozen.say(cmd.Inject(signo=signal.SIGTERM), cmd.Continue())
    hold = held(frozen)
    assert hold is not None
    assert (place(hold)[:2], hold.call) == (("CLEANUP_GET_SIGNAL", "get_signal"), 1)
    assert signal.SIGTERM in (*hold.pending, *hold.shared)
    frozen.say(cmd.Continue())
    hold = held(frozen)
    assert hold is not None
    assert (place(hold)[:2], hold.call) == (("CLEANUP_DO_EXIT", "do_exit"), 1)
    frozen.say(cmd.Continue())
    assert held(frozen) is None
    leak_free(frozen.story)


def leak_free(story: Story) -> None:
    assert story.ledger
    left = [(made.call, made.kind, made.at) for made in story.ledger if made.free is None]
    assert not left, "\n".join(map(str, story.log[-80:]))


def test_threads_are_held_one_after_the_other(frozen: Agent) -> None:
    """One stands while another is held, and is held when that goes on; else it is told."""
    every = tuple(dict.fromkeys(id for id, *_ in (*CALL, *CLOSE)))
    restart(frozen, str(PROGRAMS / "loop"), "3", "4", stops=every)
    holds = []
    while (hold := held(frozen)) is not None:
        holds.append(hold)
        frozen.say(cmd.Next())
    story = frozen.story
    assert judge(story).verdict == "PASS", judge(story)
    assert len(story.calls) == 12
    leak_free(story)
    counts = Counter(place(hold) for hold in holds)
    missing = sum(max(0, len(story.calls) - counts[at]) for at in CALL)
    untold = [e for e in story.log if isinstance(e, ev.Note) and "it was not held" in e.text]
    assert missing <= len(CALL) * len(untold), (counts, untold)
    inside = [hold for hold in story.holds if place(hold.event) in CALL]
    assert all(story.calls[hold.call].enter.tid == hold.event.tid for hold in inside)
    begun = [hold.call for hold in inside if place(hold.event) == CALL[0]]
    assert len(begun) == len({*begun}), "each call began once"


def test_a_restart_while_frozen_is_not_held_up_by_the_old_program_s_cleanup(frozen: Agent) -> None:
    restart(frozen, *LIVING)
    while (hold := held(frozen)) is not None and hold.point != "STEP_17":
        frozen.say(cmd.Next())
    restart(frozen, SOCKET_TEST, stops=("STEP_16",))
    hold = held(frozen)
    assert hold is not None
    assert (hold.point, hold.call, hold.pid) == ("STEP_16", 1, frozen.story.header.pid)  # type: ignore[union-attr]


def test_detached_while_frozen_it_runs_on(frozen: Agent) -> None:
    """The last: the agent ends, and with it the machine."""
    restart(frozen, *LIVING, stops=("STEP_13",))
    assert held(frozen) is not None
    frozen.say(cmd.Detach())
    end = frozen.until(lambda event: isinstance(event, ev.End), timeout=30)
    assert isinstance(end, ev.End)
    assert end.how == "detached"
    assert frozen.process.wait(30) == 0


def test_only_a_vm_can_be_frozen() -> None:
    from click.testing import CliRunner

    from tui import cli

    for words, said in (
        (["--hold=all", SOCKET_TEST], "--vm"),
        (["--hold=all", "--vm", "--backend=fentry", SOCKET_TEST], "kprobe"),
    ):
        done = CliRunner().invoke(cli.cli, ["record", "-o", str(ROOT / "no"), *words])
        assert done.exit_code != 0
        assert said in done.output
