"""The event stream: what the agent says, what a recording holds. See docs/recording-format.md.

One JSON object a line, told apart by `ev`. `t` is CLOCK_MONOTONIC in nanoseconds. A kernel
pointer is a string, `0x` and lower-case hex (`0x0` is NULL), so that it is never mistaken for
a number and can be masked without knowing the schema. A field that is absent was not read:
nothing here has a default that could pass for a value.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from recordings.layers import NULL as NULL
from recordings.layers import UNREAD as UNREAD
from recordings.layers import Fd as Fd
from recordings.layers import File as File
from recordings.layers import Kind as Kind
from recordings.layers import Layer as Layer
from recordings.layers import Ptr as Ptr
from recordings.layers import Snapshot as Snapshot
from recordings.layers import Sock as Sock
from recordings.layers import Socket as Socket

FORMAT = "sockstep"
VERSION = 1
READABLE_SINCE = 1  # the lowest schema version whose readers can read what we write
SHAPE = "fe5a20ad487a545d"

Ns = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
At = Literal["entry", "exit", "inside"]
Way = Literal["io_uring", "32-bit", "other"]  # to make a socket without our probes
By = Literal["user", "limit", "signal", "detach"]  # who ended a hold


class Open(msgspec.Struct, kw_only=True):
    """An open descriptor of a process, as /proc/PID/fd has it: its number, what it leads to."""

    number: int
    to: str


class Event(
    msgspec.Struct, omit_defaults=True, kw_only=True, tag_field="ev", tag=str.lower, gc=False
):
    """What every event has: `t`, CLOCK_MONOTONIC nanoseconds.

    `gc`: no event leads back to itself, and a long recording has many.
    """

    t: Ns


class Header(Event):
    """The first line. `wall` is the Unix time at `t`; `uid` the user who asked."""

    format: str
    version: int
    readable_since: int
    tool: str
    kernel: str
    arch: str
    backend: str
    argv: list[str]
    pid: int
    addresses: Literal["raw", "masked", "hashed"]
    wall: float
    host: str = ""


class Probe(Event):
    """One planned probe: attached, or missing with the reason. `steps`: the ids it shows."""

    name: str
    kind: str
    steps: list[str]
    status: Literal["attached", "missing"]
    why: str = ""


class Blind(Event):
    """What this backend cannot observe: the check of `step`, and why."""

    step: str
    why: str


class Ready(Event):
    """All planned probes were tried; `took` ns from the start of compiling to the last attach."""

    took: Ns


class Fired(Event):
    """How often a probe ran so far; `missed`: times the kernel skipped it."""

    name: str
    hits: Count
    missed: Count = 0


class State(Event):
    """The tracee's state. `status` when exited: the exit status, or −signal."""

    pid: int
    state: Literal["running", "stopped", "held", "exited"]
    why: str = ""
    signal: int | None = None
    status: int | None = None


class Held(Event):
    """A thread is held inside the kernel, and this is what was seen of it there.

    `how`: it is asleep, or the whole machine is frozen and its clock stands. `point`: the LSM hook
    where it sleeps (recordings/commands.py, HOLDS), or the step where the machine was frozen: `at`
    of the function `symbol`, with these `registers`, before the probe there. `state`, `wchan`, the
    signals `pending` (for the thread), `shared` (pending for the process) and `blocked`, and `fds`
    are as in /proc; `fds_cut`: there may be more descriptors than these. `snap`: the layers as BPF
    read them on the way in, or as they are in the frozen memory. `since`: when it came; `until`:
    when it will be let go at the latest; absent: never. `module`: what it asks modprobe for. One
    more for the same hold says that a signal came. `call` is 0 where it is not known; so it is at
    USER_EXEC, before the probe: the call is that of the thread's next `enter`.
    """

    call: int
    point: str
    pid: int
    tid: int
    state: str
    wchan: str
    since: Ns
    snap: Snapshot
    how: Literal["asleep", "frozen"] = "asleep"
    symbol: str = ""
    at: At | None = None
    registers: dict[str, Ptr] = {}
    until: Ns | None = None
    stack: int | None = None
    pending: list[int] = []
    shared: list[int] = []
    blocked: list[int] = []
    fds: list[Open] | None = None
    fds_cut: bool = False
    module: str = ""


class Released(Event):
    """A hold is over: the thread goes on in the kernel, after `held` ns (of a frozen machine: ns
    of the clock on the wall, as its own stood; `ret` and `snap` are then absent and empty).

    `by`: "signal": one that kills (`ret`, of bpf_copy_from_user(), is −EFAULT), or one that would
    have kept the thread from sleeping. `snap`: the layers as BPF read them on the way out.
    """

    call: int
    point: str
    pid: int
    tid: int
    by: By
    held: Ns
    snap: Snapshot
    ret: int | None = None


class Enter(Event):
    """A call begins: syscall entry, with the integers that the program passed; none where they
    could not be read.

    `nr`: the number that the program passed (−1: not read), in the table `abi`, or this machine's
    own.
    """

    call: int
    pid: int
    tid: int
    comm: str
    cpu: int
    syscall: str
    nr: int
    args: list[int]
    abi: Literal["i386", "x32"] | None = None
    lowest: int | None = None


class Step(Event):
    """One named point of a call, with what was read there.

    `probe` is the hook that fired, `symbol` the kernel function it tells of and `at` where in
    it; `ret` that function's result where it is an integer (−errno on failure). `stop`: what
    bpf_send_signal() said when this step was armed (0: the signal is pending).
    """

    call: int
    id: str
    pid: int
    tid: int
    comm: str
    cpu: int
    probe: str
    symbol: str
    at: At
    snap: Snapshot
    ret: int | None = None
    stack: int | None = None
    signal: int | None = None
    stop: int | None = None


class Alloc(Event):
    """An object of a call came to be. `site`: the function that asked for it."""

    call: int
    kind: Kind
    at: Ptr
    site: str
    cache: str = ""


class Free(Event):
    """An object of a call was freed, in the context of task `pid` `comm` (RCU: any task)."""

    call: int
    kind: Kind
    at: Ptr
    site: str
    pid: int
    comm: str
    cpu: int
    stack: int | None = None


class Signal(Event):
    """A signal to or in the tracee (tracepoints signal:signal_generate, signal_deliver)."""

    pid: int
    tid: int
    signo: int
    phase: Literal["generated", "delivered"]
    by: str = ""
    handler: Literal["default", "ignored", "handled"] | None = None


class Inject(Event):
    """What sockstep itself did to the tracee, asked for by the user.

    `what`: "signal" (`signo`); "refusal": the function `hook` was made to return −`errno` for this
    call; "limit": RLIMIT_NOFILE's soft limit was set to `limit`; "cgroup": a BPF program of its
    cgroup said no to the sock. `step` None: now. `armed`: it waits, for that step, or for the next
    call that comes to the hook; else it was done, with `result` (0, or −errno).
    """

    what: Literal["signal", "refusal", "limit", "cgroup"]
    pid: int
    signo: int | None = None
    hook: str = ""
    errno: int | None = None
    limit: int | None = None
    step: str | None = None
    call: int | None = None
    armed: bool = False
    result: int | None = None
    why: str = ""


class Fork(Event):
    """The tracee made a child process, which is followed or not."""

    pid: int
    child: int
    followed: bool


class Output(Event):
    """What the tracee wrote to its terminal, decoded as UTF-8 with replacements."""

    text: str


class Symbol(Event):
    """The kernel's name for an address that events mention, sent before its first use."""

    at: Ptr
    name: str


class Stack(Event):
    """A kernel stack, innermost frame first, sent once before the first event that names it.

    That of a frozen hold, `id` below 0, may come after it.
    """

    id: int
    frames: list[str]


class Note(Event):
    """A sentence for the reader of the log."""

    text: str


class Lost(Event):
    """`count` events more were dropped by `what`; the total is the sum of all of these."""

    count: Count
    what: str


class Waited(Event):
    """Processes of the tracee's were stopped until we had caught up, so that nothing is lost:
    `count` of them, for `took` ns from the first stop on."""

    count: Count
    took: Ns


class Uncaptured(Event):
    """The program made `count` sockets more, as it does by socket(), by a way that no probe is on.

    `how`: "other" is not known. The total is the sum of all of these.
    """

    pid: int
    tid: int
    how: Way
    count: Count


class End(Event):
    """The stream is complete. `how`: "detached" where the tracee was let go."""

    why: str
    how: Literal["", "detached"] = ""


AnyEvent = (
    Header | Probe | Blind | Ready | Fired | State | Held | Released | Enter | Step | Alloc | Free
    | Signal | Inject | Fork | Output | Symbol | Stack | Note | Lost | Waited
    | Uncaptured | End
)  # fmt: skip
