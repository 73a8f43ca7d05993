"""Unwinder, guest reader, frozen machine and holds over the memory of a real machine, without one.

The dump is of a Linux 6.1 frozen at each step of a socket(2); tests/vm/dump.py makes it anew. What
is read from it is measured by what the BPF programs recorded at the same steps by themselves.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from probes.backends import BACKENDS
from probes.landmarks import Named
from probes.vm.frozen import Frozen
from probes.vm.gdb import Gdb
from probes.vm.guest import Guest
from probes.vm.unwind import Unwinder
from recordings import events as ev
from recordings.stacks import functions
from recordings.stream import Reader, encode
from tests.builders import a_header
from tests.gdbstub import CPUS, Hold, Stub, load, plain

DUMP = load()
HOLDS = {
    f"{number}-{hold.held.point}-{hold.held.symbol}": hold for number, hold in enumerate(DUMP.holds)
}
every = pytest.mark.parametrize("hold", HOLDS.values(), ids=HOLDS)


@contextmanager
def machine(tmp_path: Path, hold: Hold) -> Iterator[tuple[Stub, Gdb, Guest, int]]:
    """A machine that stands at a hold, its reader, and the task that is held."""
    stub = Stub(tmp_path / "gdb", hold)
    gdb = Gdb(stub.path)
    guest = Guest(gdb, DUMP.landmarks, BACKENDS["kprobe"])
    yield stub, gdb, guest, guest.current(gdb.registers(hold.cpu))
    gdb.close()


def readings(snap: ev.Snapshot) -> dict[str, object]:
    layers = msgspec.to_builtins(snap)
    return {
        f"{layer}.{name}": value
        for layer in ("file", "socket", "sock")
        for name, value in (layers.get(layer) or {}).items()
        if value is not None
    }


def test_the_dump_is_of_a_whole_call() -> None:
    steps = [hold.held.point for hold in HOLDS.values()]
    assert {"USER_EXEC", "STEP_09", "STEP_13", "STEP_14", "STEP_16", "STEP_17"} <= set(steps)
    assert {"CLEANUP_FPUT", "CLEANUP_SOCK_RELEASE", "CLEANUP_SOCK_FREE_INODE"} <= set(steps)
    assert sum(hold.probed is not None for hold in HOLDS.values()) > 8


@every
def test_the_stack_is_unwound(tmp_path: Path, hold: Hold) -> None:
    with machine(tmp_path, hold) as (_, _, guest, _):
        found = Unwinder(guest).frames(*hold.entered)
    assert found == [*hold.frames]
    if hold.probed:
        assert functions(hold.frames.values()) == functions(hold.probed), (
            "the kernel's own unwinder"
        )


def test_a_stack_that_cannot_be_read_ends(tmp_path: Path) -> None:
    hold = DUMP.holds[1]
    with machine(tmp_path, hold) as (stub, _, guest, _):
        unwinder = Unwinder(guest)
        sp = hold.entered[1]
        stub.memory = {at: b for at, b in stub.memory.items() if not 0 <= at - sp < 1 << 14}
        assert unwinder.frames(*hold.entered) == [*hold.frames][: 1 + len(hold.entered[3])]


@every
def test_who_is_held_and_what_it_has(tmp_path: Path, hold: Hold) -> None:
    held = hold.held
    with machine(tmp_path, hold) as (_, _, guest, task):
        assert guest.ids(task) == (held.pid, held.tid)
        assert guest.signals(task) == (held.pending, held.shared, held.blocked)
        assert not guest.dies(task)
        assert guest.fds(task) == (held.fds, held.fds_cut)


@every
def test_the_layers(tmp_path: Path, hold: Hold) -> None:
    snap = hold.held.snap
    at = [int(part.at, 16) if part else 0 for part in (snap.file, snap.socket, snap.sock)]
    number = snap.fd.number if snap.fd else None
    unset = {"type"} if hold.held.symbol == "sock_alloc" else set()
    with machine(tmp_path, hold) as (_, _, guest, task):
        found = guest.snapshot(*at, task, number, unset)
    assert found == snap
    if hold.probe is not None:
        live, recorded = readings(found), readings(hold.probe.snap)
        same = live.keys() & recorded.keys()
        assert {name: live[name] for name in same} == {name: recorded[name] for name in same}


def test_what_is_not_there_is_not_read(tmp_path: Path) -> None:
    with machine(tmp_path, DUMP.holds[0]) as (_, gdb, guest, _):
        assert gdb.read(0xDEAD0000, 8) is None
        assert guest.bytes(0xDEAD0000, 8) == b""


def put(stub: Stub, at: int, value: int) -> None:
    """Eight bytes in the machine's memory, which the dump does not have otherwise."""
    stub.memory |= {at + n: byte for n, byte in enumerate(value.to_bytes(8, "little"))}


def test_a_limit_is_lowered_and_what_it_was_is_returned(tmp_path: Path) -> None:
    with machine(tmp_path, DUMP.holds[0]) as (stub, _, guest, task):
        rlim = (
            guest.field(task, "task_struct.signal") + DUMP.landmarks.offsets["signal_struct.rlim"]
        )
        soft = rlim + resource.RLIMIT_NOFILE * 16  # struct rlimit: the soft limit, the hard one
        put(stub, soft, 1024)
        put(stub, soft + 8, 4096)
        assert guest.limit(task, 3) == 1024
        assert (guest.word(soft), guest.word(soft + 8)) == (3, 4096)


@pytest.mark.parametrize(
    ("signo", "handler", "blocked", "dies"),
    [
        (signal.SIGTERM, 0, False, True),
        (signal.SIGKILL, 0, False, True),
        (signal.SIGTERM, 0x401000, False, False),
        (signal.SIGTERM, 0, True, False),
        *((signo, 0, False, False) for signo in (
            signal.SIGCHLD, signal.SIGCONT, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN,
            signal.SIGTTOU, signal.SIGURG, signal.SIGWINCH,
        )),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shared", [False, True])
def test_a_pending_signal_ends_the_task_or_not(
    tmp_path: Path, signo: int, handler: int, blocked: bool, dies: bool, shared: bool
) -> None:
    with machine(tmp_path, DUMP.holds[0]) as (stub, _, guest, task):
        offsets, table = DUMP.landmarks.offsets, 0xFFFF_8880_0000_0000
        put(stub, task + offsets["task_struct.sighand"], table)
        for number in range(1, 65):  # struct k_sigaction: the handler comes first
            action = table + offsets["sighand_struct.action"] + (number - 1) * 32
            put(stub, action, handler if number == signo else 0x401000)
        pending = task + offsets["task_struct.pending.signal"]
        group = guest.field(task, "task_struct.signal")
        of_process = group + offsets["signal_struct.shared_pending.signal"]
        for at, here in ((pending, not shared), (of_process, shared)):
            put(stub, at, (1 << signo - 1) * here)
        put(stub, task + offsets["task_struct.blocked"], (1 << signo - 1) * blocked)
        expected = ([], [signo]) if shared else ([signo], [])
        assert guest.signals(task) == (*expected, [signo] * blocked)
        assert guest.dies(task) is dies


def test_descriptors_beyond_the_table_are_not_read(tmp_path: Path) -> None:
    with machine(tmp_path, DUMP.holds[0]) as (stub, _, guest, task):
        assert guest.fds(task)[1] is False
        files = guest.field(task, "task_struct.files")
        size = guest.field(files, "files_struct.fdt") + DUMP.landmarks.offsets["fdtable.max_fds"]
        room = guest.word(size, 4)
        assert guest.snapshot(0, 0, 0, task, room).fd == ev.Fd(number=room)
        put(stub, size, 257)
        assert guest.fds(task)[1] is True, "there may be more than the 256 that are told"


class Session:
    """`Frozen` between a test, which is the app and the agent, and the machine of a hold."""

    def __init__(self, tmp_path: Path, hold: Hold) -> None:
        self.stub = Stub(tmp_path / "gdb", hold)
        (stdin, self.commands), (self.into, into) = os.pipe(), os.pipe()
        (out, self.agent), (self.said, stdout) = os.pipe(), os.pipe()
        self.frozen = threading.Thread(
            target=Frozen(self.stub.path, stdin, into, out, stdout).run, daemon=True
        )
        self.frozen.start()
        self.reader, self._rest = Reader("frozen"), b""
        landmarks = msgspec.json.encode(DUMP.landmarks)
        self.tell(landmarks, encode(a_header(pid=DUMP.pid, backend="kprobe")))
        self.until(ev.Header)
        assert self.stub.ran.wait(10), "the machine runs on until something is watched"
        self.stub.ran.clear()

    def tell(self, *lines: bytes) -> None:
        os.write(self.agent, b"".join(line + b"\n" for line in lines))

    def next(self) -> ev.Event:
        while b"\n" not in self._rest:
            assert select.select([self.said], [], [], 10)[0], "nothing more is told"
            data = os.read(self.said, 1 << 16)
            assert data, "Frozen ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        event = self.reader.feed(line)
        assert event is not None
        return event

    def until(self, kind: type[ev.Event]) -> ev.Event:
        while not isinstance(event := self.next(), kind):
            pass
        return event


def test_a_hold_is_told_and_ends(tmp_path: Path) -> None:
    """From the agent's landmarks to the hold at __sys_socket(), and on."""
    hold = DUMP.holds[0]
    session = Session(tmp_path, hold)
    watched = [packet for packet in session.stub.asked if packet[:2] == "Z3"]
    assert f"Z3,{hold.watched:x},8" in watched
    session.stub.stop()
    held = session.until(ev.Held)
    assert plain(held) == plain(hold.held)
    state = session.until(ev.State)
    assert isinstance(state, ev.State)
    assert (state.state, state.pid) == ("held", DUMP.pid)
    assert b'"cmd":"name"' in os.read(session.into, 1 << 16), "the agent is asked for the names"
    session.tell(msgspec.json.encode(Named(names=hold.frames)))
    stack = session.until(ev.Stack)
    assert isinstance(stack, ev.Stack)
    assert stack.frames == [*hold.frames.values()]
    os.write(session.commands, b'{"cmd":"next"}\n')
    released = session.until(ev.Released)
    assert isinstance(released, ev.Released)
    assert released.by == "user"
    assert session.stub.ran.wait(10)
    os.close(session.agent)
    session.frozen.join(10)
    assert not session.frozen.is_alive()


def test_two_cpus_stop_at_once(tmp_path: Path) -> None:
    """QEMU tells of one, for something else here; the tracee's has not gone on unseen."""
    hold = DUMP.holds[0]
    session = Session(tmp_path, hold)
    other = next(cpu for cpu in CPUS if cpu != hold.cpu)
    session.stub.standing.add(other)
    session.stub.stop(other, watched=hold.watched + 1)
    assert plain(session.until(ev.Held)) == plain(hold.held)
    os.close(session.agent)
    session.frozen.join(10)
