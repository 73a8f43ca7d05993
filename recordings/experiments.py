"""The experiments of the lab: one for each edge of socket(2), and signals at every step.

Data, and how an outcome is judged; tui/lab.py runs them. The edges are those of the kernel's
`__sys_socket` and `__sock_create` (net/socket.c) and `inet_create` (net/ipv4/af_inet.c); numbers,
errnos and cleanup were read in 5.10, 6.1, 6.12 and 7.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby

from recordings import events as ev
from recordings.story import Call, Story
from recordings.uapi import ERRNO
from recordings.uapi import ERRNO_NUMBERS as E
from recordings.verdict import judge

# A program that does nothing but socket(FAMILY, TYPE, PROTOCOL), with the very integers.
_CALLS = "[libc.socket(*map(int, a.split(','))) for a in sys.argv[1:]]"
_LIBC = "import ctypes, sys; libc = ctypes.CDLL(None); "
SOCKET = _LIBC + _CALLS
CLOSING = _LIBC + "[libc.close(libc.socket(*map(int, a.split(',')))) for a in sys.argv[1:]]"
LIMITED = _LIBC + "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); " + _CALLS
HANDLED = "import signal; signal.signal(signal.SIGUSR1, lambda *_: None); " + SOCKET

# How a socket is taken apart: R0 where no protocol was attached (ops == NULL), else R1.
R0 = ("SOCK_RELEASE", "IPUT", "SOCK_FREE_INODE")
R1 = ("SOCK_RELEASE", "INET_RELEASE", "SK_DESTRUCT", "IPUT", "SOCK_FREE_INODE")
CLOSED = ("FPUT", "SOCK_CLOSE", *R1)
TCP = "2,1,0"


@dataclass(frozen=True, eq=False)
class Experiment:
    """One experiment. `argv`: after the Python that runs it; empty: it has no trigger.

    `result`: what socket() must return: 0 for a descriptor, else the errno (by kernel where they
    differ). `cleanup`: the CLEANUP steps, in order. `ends`: the tracee's end, −signal or status.
    `while_asleep`: a signal for the moment it sleeps inside the call. `why`: what it shows; of one
    without a trigger, why it has none.
    """

    name: str
    why: str
    edge: int | None = None
    script: str = SOCKET
    arguments: tuple[str, ...] = (TCP,)
    inject: tuple[str, ...] = ()
    result: int = 0
    results: dict[str, int] = field(default_factory=dict)
    cleanup: tuple[str, ...] = ()
    ends: int = 0
    prefix: tuple[str, ...] = ()
    while_asleep: str = ""
    trigger: bool = True
    vm_only: bool = False

    def argv(self, python: str) -> list[str]:
        return [*self.prefix, python, "-I", "-S", "-c", self.script, *self.arguments]

    def expected(self, kernel: str) -> int:
        """The errno on this kernel release (0: a descriptor)."""
        for prefix, result in self.results.items():
            if kernel.startswith(prefix):
                return result
        return self.result


def _no_trigger(edge: int, name: str, why: str) -> Experiment:
    return Experiment(name, why, edge, trigger=False)


# A module load that takes its time: the only place between sock_alloc() and fd_install() where
# the task sleeps. 132 is SCTP, which must not be loaded.
_SLOW_MODPROBE = (
    "import os; open('/tmp/slow', 'w').write('#!/bin/sh\\nexec sleep 30\\n'); "
    "os.chmod('/tmp/slow', 0o755); open('/proc/sys/kernel/modprobe', 'w').write('/tmp/slow'); "
)

_EDGES = (
    Experiment("flags", "unknown flag bits in the type: nothing is made", 1,
               arguments=("2,17,0",), result=E["EINVAL"]),
    Experiment("family-range", "a family that cannot be: nothing is made", 2,
               arguments=("99,1,0",), result=E["EAFNOSUPPORT"]),
    Experiment("lsm-create", "security_socket_create() says no: nothing is made", 3,
               inject=("security_socket_create=EACCES",), result=E["EACCES"]),
    _no_trigger(4, "no-memory-inode", "sock_alloc() without memory: no targeted trigger"),
    Experiment("lsm-inode", "security_inode_alloc() says no: ENFILE hides it, and the inode is "
               "freed at once", 5, inject=("security_inode_alloc=EPERM",), result=E["ENFILE"],
               cleanup=("SOCK_FREE_INODE",)),
    Experiment("family-absent", "a family without a module: R0", 6, arguments=("18,1,0",),
               result=E["EAFNOSUPPORT"], cleanup=R0),
    Experiment("protocol-range", "inet_create(): a protocol out of range: R0", 7,
               arguments=("2,1,300",), result=E["EINVAL"], cleanup=R0),
    Experiment("protocol-absent", "inet_create(): no such protocol, after modprobe: R0", 8,
               arguments=("2,1,99",), result=E["EPROTONOSUPPORT"], cleanup=R0),
    Experiment("raw-unprivileged", "SOCK_RAW without CAP_NET_RAW: R0", 9, arguments=("2,3,1",),
               prefix=("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"),
               result=E["EPERM"], cleanup=R0),
    Experiment("lsm-sk", "security_sk_alloc() says no, inside sk_alloc(): R0", 10,
               inject=("security_sk_alloc=EPERM",), result=E["ENOMEM"],
               results={"5.10": E["ENOBUFS"]}, cleanup=R0),
    _no_trigger(11, "prot-init", "TCP's prot->init never fails: no trigger"),
    Experiment("cgroup", "a BPF program of the tracee's cgroup says no to the sock", 12,
               inject=("cgroup",), result=E["EPERM"], cleanup=("SK_DESTRUCT", *R0)),
    _no_trigger(13, "module-gone", "try_module_get() of a built-in family never fails"),
    Experiment("lsm-post-create", "security_socket_post_create() says no: the first edge that "
               "must release a protocol, R1", 14, inject=("security_socket_post_create=EPERM",),
               result=E["EPERM"], cleanup=R1),
    Experiment("emfile", "no descriptor left: R1, and no number to give back", 15,
               script=LIMITED, result=E["EMFILE"], cleanup=R1),
    _no_trigger(16, "no-memory-dentry", "d_alloc_pseudo() without memory: no targeted trigger"),
    Experiment("lsm-file", "security_file_alloc() says no: R1, then the reserved number is given "
               "back", 17, inject=("security_file_alloc=ENOMEM",), result=E["ENOMEM"],
               cleanup=("SOCK_RELEASE", "INET_RELEASE", "SK_DESTRUCT", "IPUT", "PUT_UNUSED_FD",
                        "SOCK_FREE_INODE")),
    Experiment("close", "no failure: close(2) takes it apart", script=CLOSING, cleanup=CLOSED),
    Experiment("exit", "no failure: exit takes apart what was left open",
               cleanup=("DO_EXIT", *CLOSED)),
)  # fmt: skip

_AT = ("USER_EXEC", "STEP_09", "STEP_13", "STEP_14", "STEP_16", "STEP_17")

_SIGNALS = tuple(
    Experiment(
        f"{name.lower()}-{step.lower()}",
        f"{name} sent at {step}: the call completes, then the signal is taken",
        script=script, inject=(f"{name}@{step}",), ends=ends, cleanup=cleanup,
    )
    for name, script, ends, cleanup in (
        ("SIGTERM", SOCKET, -15, ("GET_SIGNAL", "DO_EXIT", *CLOSED)),
        ("SIGKILL", SOCKET, -9, ("GET_SIGNAL", "DO_EXIT", *CLOSED)),
        ("SIGUSR1", HANDLED, 0, ("DO_EXIT", *CLOSED)),
    )
    for step in _AT
)  # fmt: skip

_WINDOW = tuple(
    Experiment(
        f"window-{name.lower()}",
        f"the one true window: {name} while inet_create() waits for modprobe: the wait ends, the "
        "call fails by edge 8, R0, and only then the signal is taken", 8,
        script=_SLOW_MODPROBE + SOCKET, arguments=("2,1,132",), result=E["EPROTONOSUPPORT"],
        cleanup=("SOCK_RELEASE", "IPUT", "GET_SIGNAL", "SOCK_FREE_INODE"), ends=ends,
        while_asleep=name, vm_only=True,
    )
    for name, ends in (("SIGTERM", -15), ("SIGKILL", -9))
)  # fmt: skip

EXPERIMENTS: dict[str, Experiment] = {e.name: e for e in (*_EDGES, *_WINDOW, *_SIGNALS)}


@dataclass(frozen=True)
class Outcome:
    """What became of an experiment. `errno`: 0 for a descriptor; None: no return was seen.

    `reached`: the call returned and the program ended as expected. A figure is None where the
    recording does not tell: what is missing from it may have been as expected.
    """

    experiment: str
    edge: int | None
    kernel: str
    reached: bool | None
    errno: int | None
    cleanup_ok: bool | None
    leak_free: bool | None
    recording: str
    why: str = ""

    @property
    def good(self) -> bool | None:
        """Whether all is as expected."""
        figures = (self.reached, self.cleanup_ok, self.leak_free)
        return None if None in figures and False not in figures else all(figures)


def outcome(experiment: Experiment, story: Story, recording: str) -> Outcome:
    """Judge what was recorded: each figure by itself, `why` tells of what is not as expected.

    Where this kernel did not allow what the experiment injects, it did not run: no `recording`.
    """
    kernel = story.header.kernel if story.header else ""
    for event in story.log:
        if isinstance(event, ev.Inject) and event.why and not event.armed:
            why_not = f"not allowed here: {event.hook or event.step}: {event.why}"
            return Outcome(experiment.name, experiment.edge, kernel, False, None, False, False, "",
                           why_not)  # fmt: skip
    call = list(story.calls.values())[-1] if story.calls else None
    result = call.result if call else None
    number = None if result is None else max(0, -result)
    seen = cleanup_steps(call) if call else ()
    # What the backend cannot see, and did not see, is no deviation.
    blind = [id for id in experiment.cleanup if f"CLEANUP_{id}" in story.blind and id not in seen]
    cleanup = tuple(id for id in experiment.cleanup if id not in blind)
    told = tuple(id for id in cleanup if id in seen or not story.silence(f"CLEANUP_{id}"))
    wanted = experiment.expected(kernel)
    left = judge(story).checks["leak_free"]
    status = story.state.status if story.state else None
    why = []
    if number != wanted:
        why.append(f"returned {_named(number)}, expected {_named(wanted)}")
    if status != experiment.ends:
        why.append(f"the tracee ended with {status}, expected {experiment.ends}")
    if seen != cleanup:
        why.append(f"cleanup {' '.join(seen) or 'none'}, expected {' '.join(cleanup) or 'none'}")
    if left.status != "pass":
        why.append(left.evidence)
    reached: bool | None = number == wanted and status == experiment.ends
    if number is None and status == experiment.ends and story.silence("STEP_17"):
        reached = None
    return Outcome(
        experiment.name,
        experiment.edge,
        kernel,
        reached,
        number,
        True if seen == cleanup else None if seen == told else False,
        {"pass": True, "fail": False, "unobservable": None}[left.status],
        recording,
        "; ".join(why),
    )


def cleanup_steps(call: Call) -> tuple[str, ...]:
    """The CLEANUP steps of a call as they came, without their prefix, repetitions once."""
    ids = [m.id.removeprefix("CLEANUP_") for m in call.moments if m.id.startswith("CLEANUP_")]
    return tuple(id for id, _ in groupby(ids))


def _named(number: int | None) -> str:
    if number is None:
        return "nothing"
    return ERRNO.get(number, str(number)) if number else "a descriptor"
