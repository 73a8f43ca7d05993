"""The backends: which probes each plans, and what each point of its BPF program tells of.

A backend is data. Its C file (probes/bpf) emits `struct event` with the number of a
point; `points` says which steps that point shows. Loading and attaching is attach.py's.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from typing import Literal

from recordings.events import At, Kind

ProbeKind = Literal["tracepoint", "raw_tracepoint", "kprobe", "kretprobe", "fentry", "fexit"]

X86_64 = platform.machine() == "x86_64"
RELEASE = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
# The raw tracepoints of all system calls have the 32-bit ones, too. From Linux 7 on a program there
# is preempted, and skipped for the next task: it would miss most calls of threads.
RAW_SYSCALLS = X86_64 and RELEASE < (7, 0)
# The kernel skips a program that is entered again, on the same CPU, while it runs: in an interrupt,
# or for another task where it preempts. A second copy is then not skipped; it must do nothing
# where the first has done it.
COPIES = 2


@dataclass(frozen=True)
class Point:
    """A place in the C file that emits events: P_`name` there.

    `makes`, `frees`: the object of the ledger that comes or goes here. `injects`: a signal armed
    at one of its steps is sent here; false where a call has passed another such point before.
    """

    name: str
    symbol: str = ""
    at: At = "inside"
    steps: tuple[str, ...] = ()
    makes: Kind | None = None
    frees: Kind | None = None
    injects: bool = True


@dataclass(frozen=True)
class Planned:
    """A probe to attach: the BPF function `program` on the hook `target`.

    `target` may name several functions, "a|b": the first that this kernel has.
    `points`: the points that it emits, by which it counts as fired. `copies`: how often it is
    attached. `optional`: a kernel without that function does nothing that it would tell of.
    """

    kind: ProbeKind
    target: str
    program: str
    points: tuple[str, ...]
    # For a program that serves several functions: which argument tells the object, and which
    # field (struct, path) of the slab object it points to; ("", ""): to the object itself.
    argument: int = 0
    inside: tuple[str, str] = ("", "")
    copies: int = 1
    optional: bool = False


@dataclass(frozen=True)
class Backend:
    name: str
    source: str
    points: tuple[Point, ...]
    probes: tuple[Planned, ...]
    blind: dict[str, str]
    # SITE_<key> → the functions whose call sites it stands for, inner ones first: the first that is
    # there, and so not inlined, is it.
    sites: dict[str, tuple[str, ...]]


# What every backend has besides its own: probes/bpf/task.c, refuse.c and hold.c.
_TASK_POINTS = (
    Point("SIGNAL_GENERATE"),
    Point("SIGNAL_DELIVER", "get_signal", "inside", ("CLEANUP_GET_SIGNAL",)),
    Point("FORK"),
    Point("TASK_EXIT", "do_exit", "inside", ("CLEANUP_DO_EXIT",)),
    Point("REFUSED"),
    Point("HELD"),
    Point("RELEASED"),
    Point("EXEC"),
    Point("STACK"),
)
_TASK_PROBES = (
    Planned("raw_tracepoint", "signal_generate", "signal_generate", ("SIGNAL_GENERATE",)),
    Planned("raw_tracepoint", "signal_deliver", "signal_deliver", ("SIGNAL_DELIVER",)),
    Planned("raw_tracepoint", "sched_process_fork", "process_fork", ("FORK",)),
    Planned("raw_tracepoint", "sched_process_exit", "process_exit", ("TASK_EXIT",)),
)

# And probes/bpf/ledger.c. KIND_* is added to P_FREE_SOCKET there: FREE_SOCKET, FREE_SOCK and
# FREE_FILE stand in the order of MADE (recordings/layers.py) in every backend.
_LEDGER_PROBES = (
    Planned("tracepoint", "syscalls:sys_enter_close", "enter_close", ("CLOSE",)),
    Planned("tracepoint", "syscalls:sys_exit_close", "exit_close", ("CLOSE",)),
    Planned(
        "raw_tracepoint",
        "kmem_cache_free",
        "cache_free",
        ("FREE_SOCKET", "FREE_SOCK", "FREE_FILE"),
        copies=COPIES,  # RCU frees inodes in an interrupt, which may come amid another task's free
    ),
    Planned("raw_tracepoint", "kfree", "kfree_free", ("FREE_KMALLOC",)),
)

_RELEASE_STEPS = (
    "CLEANUP_FPUT", "CLEANUP_SOCK_CLOSE", "CLEANUP_SOCK_RELEASE", "CLEANUP_INET_RELEASE",
    "CLEANUP_SK_DESTRUCT",
)  # fmt: skip

TRACEPOINT = Backend(
    name="tracepoint",
    source="tracepoint.c",
    points=(
        Point("ENTER", "sys_enter_socket", "entry", ("USER_EXEC",)),
        Point("SOCK_ALLOC", "sock_alloc_inode", "inside", ("STEP_09",), makes="socket"),
        Point("LSM_INODE", "security_inode_alloc", "inside", ("STEP_10",)),
        Point("SK_ALLOC", "sk_prot_alloc", "inside", ("STEP_13",), makes="sock"),
        Point("SK_KMALLOC", "sk_prot_alloc", "inside", ("STEP_13",), makes="sock"),
        Point("DENTRY", "__d_alloc", "inside", ("STEP_13",), injects=False),
        Point("FILE", "alloc_empty_file", "inside", ("STEP_14",), makes="file"),
        Point(
            "EXIT", "sys_exit_socket", "exit",
            ("STEP_15", "STEP_13_BACKLINK", "STEP_16", "STEP_17"),
        ),
        Point("FREE_SOCKET", "sock_free_inode", steps=("CLEANUP_SOCK_FREE_INODE",)),
        Point("FREE_SOCK", "__sk_destruct", steps=_RELEASE_STEPS),
        Point("FREE_FILE", "__fput", steps=("CLEANUP_FPUT",)),
        Point("FREE_KMALLOC", "__sk_destruct", steps=_RELEASE_STEPS),
        Point("CLOSE", "sys_exit_close", "exit"),
        Point("UNCAPTURED", "sock_alloc_inode"),
        *_TASK_POINTS,
    ),
    probes=(
        *(
            (
                Planned("raw_tracepoint", "sys_enter", "enter_socket", ("ENTER",)),
                Planned("raw_tracepoint", "sys_exit", "exit_socket", ("EXIT",)),
            )
            if RAW_SYSCALLS
            else (
                Planned("tracepoint", "syscalls:sys_enter_socket", "enter_socket", ("ENTER",)),
                Planned("tracepoint", "syscalls:sys_exit_socket", "exit_socket", ("EXIT",)),
            )
        ),
        Planned(
            "raw_tracepoint", "kmem_cache_alloc", "cache_alloc",
            ("SOCK_ALLOC", "LSM_INODE", "SK_ALLOC", "DENTRY", "FILE", "UNCAPTURED"),
        ),
        Planned("raw_tracepoint", "kmalloc", "kmalloc_alloc", ("SK_KMALLOC",)),
        *_LEDGER_PROBES,
        *_TASK_PROBES,
    ),
    blind={
        "STEP_10": "no tracepoint fires between the return of sock_alloc() and the moment "
        "inet_create() sets ops",
        "STEP_13": "no tracepoint fired between sk_alloc() and the end of the call",
        **{
            f"CLEANUP_{name}": "seen only where it is on the kernel's stack when memory is freed"
            for name in ("FPUT", "SOCK_CLOSE", "SOCK_RELEASE", "INET_RELEASE")
        },
        "CLEANUP_PUT_UNUSED_FD": "no tracepoint fires in put_unused_fd()",
        "CLEANUP_IPUT": "no tracepoint fires in iput()",
    },
    sites={
        "SOCK_ALLOC": ("sock_alloc_inode",),
        "LSM_INODE": ("lsm_inode_alloc", "security_inode_alloc"),
        "SK_ALLOC": ("sk_prot_alloc", "sk_alloc"),
        "DENTRY": ("__d_alloc",),
        "FILE": ("__alloc_file", "alloc_empty_file"),
    },
)  # fmt: skip

# Function → its argument that tells the object, and what that points into.
CLEANUPS = {
    "__fput": (0, ("", "")),
    "sock_close": (1, ("", "")),
    "__sock_release": (0, ("socket_alloc", "socket")),
    "inet_release": (0, ("socket_alloc", "socket")),
    "__sk_destruct": (0, ("sock", "sk_rcu")),
    "iput": (0, ("socket_alloc", "vfs_inode")),
    "sock_free_inode": (0, ("socket_alloc", "vfs_inode")),
}
_CREATES = ("inet_create", "inet6_create", "unix_create", "netlink_create")


def _on_functions(name: str, entry: ProbeKind, exit: ProbeKind) -> Backend:
    """The backends on the functions themselves: kprobe.c."""

    def at_entry(function: str, *points: str, target: str = "") -> Planned:
        return Planned(entry, target or function, "entry_" + function, points)

    def at_exit(function: str, *points: str, target: str = "") -> Planned:
        return Planned(exit, target or function, "exit_" + function, points)

    points = [
        Point("ENTER", "__sys_socket", "entry", ("USER_EXEC",)),
        Point("SOCK_ALLOC_INODE", "sock_alloc_inode", "exit", makes="socket"),
        Point("SOCK_ALLOC", "sock_alloc", "exit", ("STEP_09", "STEP_10")),
        Point("SOCK_CREATE", "__sock_create", "exit", ("STEP_13",)),
        Point("SK_ALLOC", "sk_alloc", "exit", makes="sock"),
        Point("ALLOC_FD_ENTRY", "alloc_fd", "entry"),
        Point("ALLOC_FD", "alloc_fd", "exit", makes="fd"),
        Point(
            "SOCK_ALLOC_FILE", "sock_alloc_file", "exit",
            ("STEP_14", "STEP_15", "STEP_13_BACKLINK"), makes="file",
        ),
        Point("FD_INSTALL", "fd_install", "entry", ("STEP_16",)),
        Point("EXIT", "__sys_socket", "exit", ("STEP_17",)),
        Point("PUT_UNUSED_FD", "put_unused_fd", "entry", ("CLEANUP_PUT_UNUSED_FD",), frees="fd"),
        # RCU calls it in an interrupt: amid another kprobe's program its own is skipped, uncounted
        # before Linux 6.7. Then the free that it makes, with its stack, is what shows it.
        Point("FREE_SOCKET", "sock_free_inode", steps=("CLEANUP_SOCK_FREE_INODE",), injects=False),
        # So may __sk_destruct be.
        Point("FREE_SOCK", "__sk_destruct", steps=("CLEANUP_SK_DESTRUCT",), injects=False),
        Point("FREE_FILE"),
        Point("FREE_KMALLOC", "__sk_destruct", steps=("CLEANUP_SK_DESTRUCT",), injects=False),
        Point("CLOSE", "sys_exit_close", "exit"),
        Point("UNCAPTURED", "__sys_socket_file", "entry"),
        *_TASK_POINTS,
    ]  # fmt: skip
    probes = [
        at_entry("__sys_socket", "ENTER"),
        at_exit("__sys_socket", "EXIT"),
        Planned(
            entry, "__sys_socket_file", "entry___sys_socket_file", ("UNCAPTURED",), optional=True
        ),
        at_exit("sock_alloc_inode", "SOCK_ALLOC_INODE"),
        at_exit("sock_alloc", "SOCK_ALLOC"),
        at_exit("__sock_create", "SOCK_CREATE"),
        at_exit("sk_alloc", "SK_ALLOC"),
        at_entry("alloc_fd", "ALLOC_FD_ENTRY", target="alloc_fd|__alloc_fd"),
        at_exit("alloc_fd", "ALLOC_FD", target="alloc_fd|__alloc_fd"),
        at_exit("sock_alloc_file", "SOCK_ALLOC_FILE"),
        at_entry("fd_install", "FD_INSTALL"),
        at_entry("put_unused_fd", "PUT_UNUSED_FD"),
    ]
    for function in _CREATES:
        upper = function.upper()
        points.append(Point(f"{upper}_ENTRY", function, "entry", ("STEP_13",)))
        points.append(Point(f"{upper}_EXIT", function, "exit", ("STEP_13",), injects=False))
        probes.append(at_entry("create", f"{upper}_ENTRY", target=function))
        probes.append(at_exit("create", f"{upper}_EXIT", target=function))
    for function, (argument, inside) in CLEANUPS.items():
        point = function.strip("_").upper()
        points.append(Point(point, function, "entry", (f"CLEANUP_{point}",)))
        probes.append(Planned(entry, function, "entry_cleanup", (point,), argument, inside))
    return Backend(
        name=name,
        source="kprobe.c",
        points=tuple(points),
        probes=(*probes, *_LEDGER_PROBES, *_TASK_PROBES),
        blind={},
        sites={},
    )


FENTRY = _on_functions("fentry", "fentry", "fexit")
KPROBE = _on_functions("kprobe", "kprobe", "kretprobe")

# In the order of preference.
BACKENDS: dict[str, Backend] = {b.name: b for b in (FENTRY, KPROBE, TRACEPOINT)}


def steps_of(backend: Backend, planned: Planned) -> list[str]:
    """The steps that a probe shows."""
    points = {point.name: point for point in backend.points}
    return list(dict.fromkeys(step for name in planned.points for step in points[name].steps))
