"""MADE-UP streams for the tests: plausible, but no kernel ever sent them.

Real captures are in recordings/samples. These are for what no capture here holds: exact
entry and exit probes, broken links, hostile text, any length.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, get_args

import msgspec
from hypothesis import strategies as st

from recordings import events as ev
from recordings.events import NULL, Ptr
from recordings.steps import CALL_STEPS
from recordings.story import Story

Events = list[ev.Event]

SOCKET, FILE, SOCK = "0xffff888104bf8dc0", "0xffff8881024a7b00", "0xffff88810408c400"
OPS, FOPS, PROT = "0xffffffff82345600", "0xffffffff82346700", "0xffffffff82abc000"
US = 1000
PID = 4711
T = 1_010_000_000  # when tests.builders lets its first call begin
RETURN = T + 37 * US  # of tests.builders' call
MS = 1000 * US
WATCHED = ("__sock_release", "fd_install", "alloc_fd", "iput", "inet_release", "put_unused_fd")
HOSTILE = "\x1b]0;title\x07\x1b[31m[bold]\u202egnp.exe\r\n\x9b1m\u2028"
STEPS = ("STEP_09", "STEP_10", "STEP_13", "STEP_14", "STEP_15", "STEP_13_BACKLINK", "STEP_16",
         "STEP_17")  # fmt: skip


def header(argv: tuple[str, ...] = ("./socket_test",), pid: int = 4711) -> list[ev.Event]:
    """The beginning of a stream: header, probes, symbols, the tracee stopped."""
    t = 1_000_000_000
    head = ev.Header(
        t=t, format=ev.FORMAT, version=ev.VERSION, readable_since=ev.READABLE_SINCE,
        tool="sockstep made up", kernel="6.1.0", arch="x86_64", backend="kprobe",
        argv=list(argv), pid=pid, addresses="raw", wall=1_700_000_000.0,
    )  # fmt: skip
    probes = [
        ev.Probe(t=t, name=f"kretprobe:{name}", kind="kretprobe", steps=[step], status="attached")
        for name, step in (("sock_alloc", "STEP_09"), ("sock_alloc_file", "STEP_14"))
    ]
    probes.append(
        ev.Probe(
            t=t, name="kprobe:sock_release", kind="kprobe", steps=["CLEANUP_SOCK_RELEASE"],
            status="missing", why="no such symbol",
        )
    )  # fmt: skip
    names = ((OPS, "inet_stream_ops"), (FOPS, "socket_file_ops"), (PROT, "tcp_prot"))
    return [
        head,
        *probes,
        ev.Ready(t=t + 5000 * US, took=231_000 * US),
        *(ev.Symbol(t=t, at=at, name=name) for at, name in names),
        ev.State(t=t + 5001 * US, pid=pid, state="stopped", signal=19,
                 why="before its first instruction"),
    ]  # fmt: skip


def call(number: int = 1, t: int = 1_010_000_000, pid: int = 4711, fd: int = 3) -> list[ev.Event]:
    """One socket(AF_INET, SOCK_STREAM, 0) that succeeds, with the stop after it."""
    common = {"call": number, "pid": pid, "tid": pid, "comm": "socket_test", "cpu": 1}
    # Each call has objects of its own.
    shift = (number - 1) * 0x1000
    socket, file, sock = (f"0x{int(at, 16) + shift:x}" for at in (SOCKET, FILE, SOCK))
    empty = ev.Socket(at=socket, state=1, sk=NULL, ops=NULL, file=NULL)
    linked = ev.Socket(at=socket, state=1, type=1, sk=sock, ops=OPS, file=NULL)
    whole = ev.Socket(at=socket, state=1, type=1, sk=sock, ops=OPS, file=file, flags=0)
    wrap = ev.File(at=file, private_data=socket, f_op=FOPS, f_count=1, f_flags=2)
    stack = ev.Sock(
        at=sock, sk_socket=socket, skc_family=2, skc_state=7, skc_refcnt=1, sk_type=1,
        sk_protocol=6, skc_prot=PROT,
    )  # fmt: skip

    def step(id: str, us: int, symbol: str, at: ev.At, ret: int | None = None, **snap: object):  # type: ignore[no-untyped-def]
        return ev.Step(
            t=t + us * US, id=id, probe=f"kretprobe:{symbol}", symbol=symbol, at=at, ret=ret,
            snap=ev.Snapshot(**snap), stop=0, **common,
        )  # type: ignore[arg-type]  # fmt: skip

    def alloc(kind: ev.Kind, at: str, us: int, site: str, cache: str = "") -> ev.Alloc:
        return ev.Alloc(t=t + us * US, call=number, kind=kind, at=at, site=site, cache=cache)

    slot = ev.Fd(number=fd, file=NULL, lowest=fd)
    return [
        ev.State(t=t - US, pid=pid, state="running"),
        ev.Enter(t=t, syscall="socket", nr=41, args=[2, 1, 0], lowest=fd, **common),  # type: ignore[arg-type]
        alloc("socket", socket, 3, "sock_alloc_inode", "sock_inode_cache"),
        step("STEP_09", 4, "sock_alloc", "exit", socket=ev.Socket(at=socket)),
        step("STEP_10", 4, "sock_alloc", "exit", socket=empty),
        step("STEP_13", 6, "inet_create", "entry", socket=empty),
        alloc("sock", sock, 11, "sk_prot_alloc", "TCP"),
        step("STEP_13", 19, "inet_create", "exit", 0, socket=linked, sock=stack),
        alloc("fd", str(fd), 21, "alloc_fd"),
        alloc("file", file, 23, "alloc_empty_file", "filp"),
        step("STEP_14", 29, "sock_alloc_file", "exit", file=wrap, socket=whole),
        step("STEP_15", 29, "sock_alloc_file", "exit", file=wrap, socket=whole),
        step("STEP_13_BACKLINK", 29, "sock_alloc_file", "exit", socket=whole, sock=stack),
        step("STEP_16", 33, "fd_install", "entry", fd=slot, file=wrap, socket=whole, sock=stack),
        step("STEP_17", 37, "__sys_socket", "exit", fd, socket=whole, sock=stack, file=wrap,
             fd=ev.Fd(number=fd, file=file, lowest=fd)),
        ev.State(t=t + 78 * US, pid=pid, state="stopped", signal=19,
                 why="at the return of socket()"),
    ]  # fmt: skip


def end(t: int = 1_020_000_000, pid: int = 4711, calls: int = 1) -> list[ev.Event]:
    """The program prints, exits, and what it had is freed."""
    common = {"call": 1, "pid": pid, "tid": pid, "comm": "socket_test", "cpu": 1}
    frames = ["__sock_release", "sock_close", "__fput", "task_work_run", "do_syscall_64"]
    return [
        ev.Output(t=t, text="socket() = 3\r\n"),
        ev.Stack(t=t + US, id=1, frames=frames),
        ev.Step(t=t + US, id="CLEANUP_SOCK_RELEASE", probe="kprobe:__sock_release",
                symbol="__sock_release", at="entry", stack=1,
                snap=ev.Snapshot(socket=ev.Socket(at=SOCKET, sk=SOCK, state=1)), **common),
        ev.Free(t=t + 2 * US, call=1, kind="sock", at=SOCK, site="__sk_destruct", pid=pid,
                comm="socket_test", cpu=1),
        ev.Free(t=t + 3 * US, call=1, kind="file", at=FILE, site="file_free_rcu", pid=0,
                comm="swapper/1", cpu=1),
        ev.State(t=t + 9 * US, pid=pid, state="exited", status=0),
        ev.Free(t=t + 9000 * US, call=1, kind="socket", at=SOCKET, site="sock_free_inode", pid=0,
                comm="swapper/1", cpu=1),
        ev.End(t=t + 9001 * US, why="the tracee exited"),
    ]  # type: ignore[arg-type]  # fmt: skip


def whole(calls: int = 1) -> list[ev.Event]:
    """A session of so many calls, from its header to its end."""
    events = header()
    for number in range(1, calls + 1):
        events += call(number, t=1_010_000_000 + number * 100_000, fd=2 + number)
    return events + end(t=1_020_000_000 + calls * 100_000)


# -- any event that the schema allows -------------------------------------------------------


KINDS: tuple[type[ev.Event], ...] = get_args(ev.AnyEvent)


def strategy(kind: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    """Any value that the schema allows."""
    match kind:
        case msgspec.inspect.IntType(ge=least, le=most):
            least = -(2**63) if least is None else least
            most = 2**63 - 1 if most is None else most
            return st.integers(max(least, -9), min(most, 99)) | st.integers(least, most)
        case msgspec.inspect.FloatType():
            return st.floats(allow_nan=False, allow_infinity=False)
        case msgspec.inspect.StrType():
            return st.sampled_from(("0x0", "0xffff888104bf8dc0", "STEP_09", "")) | st.text()
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case msgspec.inspect.ListType(item_type=item):
            return st.lists(strategy(item), max_size=4)
        case msgspec.inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(strategy(key), strategy(value), max_size=4)
        case msgspec.inspect.UnionType(types=types):
            return st.one_of(*map(strategy, types))
        case msgspec.inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: strategy(field.type) for field in fields})
    raise AssertionError(f"no strategy for {kind}")


@cache
def any_event(*kinds: type[ev.Event]) -> st.SearchStrategy[ev.Event]:
    return st.one_of(*(strategy(msgspec.inspect.type_info(kind)) for kind in kinds or KINDS))


# -- a recording with a probe on everything ------------------------------------------------


def at_shift(at: Ptr, number: int) -> Ptr:
    """The address that tests.builders gives the object of the `number`-th call."""
    return hex(int(at, 16) + (number - 1) * 0x1000)


def a_header(**changed: Any) -> ev.Header:
    facts: dict[str, Any] = {
        "t": 1, "format": ev.FORMAT, "version": ev.VERSION,
        "readable_since": ev.READABLE_SINCE, "tool": "test", "kernel": "6.1", "arch": "x86_64",
        "backend": "kprobe", "argv": ["./t"], "pid": 7, "addresses": "raw", "wall": 1e9,
    }  # fmt: skip
    return ev.Header(**facts | changed)


def beginning(**header: Any) -> list[ev.Event]:
    probe = ev.Probe(
        t=2, name="kprobe:all", kind="kprobe", steps=[*CALL_STEPS, "CLEANUP_SOCK_RELEASE"],
        status="attached",
    )  # fmt: skip
    return [a_header(pid=PID, **header), probe, ev.Ready(t=3, took=5)]


def task(call: int, pid: int = PID) -> dict[str, Any]:
    return {"call": call, "pid": pid, "tid": pid, "comm": "socket_test", "cpu": 1}


def step(call: int, t: int, id: str, symbol: str, at: ev.At = "entry", **more: Any) -> ev.Step:
    more.setdefault("snap", ev.Snapshot())
    return ev.Step(t=t, id=id, probe=f"kprobe:{symbol}", symbol=symbol, at=at, **task(call), **more)


def free(call: int, t: int, kind: ev.Kind, at: Ptr, site: str, **more: Any) -> ev.Free:
    who = {"pid": PID, "comm": "socket_test", "cpu": 1} | more
    return ev.Free(t=t, call=call, kind=kind, at=at, site=site, **who)


def closed(call: int = 1, t: int = T + 1000 * US, fd: int = 3) -> list[ev.Event]:
    """close(2) of what a call made, and RCU 20 ms later."""
    socket, sock, file = (at_shift(at, call) for at in (SOCKET, SOCK, FILE))
    released = ev.Snapshot(sock=ev.Sock(at=sock, skc_state=7))
    return [
        free(call, t, "fd", str(fd), "close_fd"),
        step(call, t + 1 * US, "CLEANUP_FPUT", "__fput"),
        step(call, t + 2 * US, "CLEANUP_SOCK_CLOSE", "sock_close"),
        step(call, t + 3 * US, "CLEANUP_SOCK_RELEASE", "__sock_release"),
        step(call, t + 4 * US, "CLEANUP_INET_RELEASE", "inet_release", "exit", snap=released),
        step(call, t + 5 * US, "CLEANUP_SK_DESTRUCT", "__sk_destruct"),
        free(call, t + 5 * US, "sock", sock, "__sk_destruct"),
        free(call, t + 8 * US, "file", file, "__fput"),
        step(call, t + 20_000 * US, "CLEANUP_SOCK_FREE_INODE", "sock_free_inode"),
        free(call, t + 20_000 * US, "socket", socket, "sock_free_inode", pid=0, comm="swapper/0"),
    ]  # fmt: skip


def ending(t: int = T + 100_000 * US) -> list[ev.Event]:
    return [
        ev.State(t=t, pid=PID, state="exited", status=0),
        ev.End(t=t + 50_000 * US, why="the tracee exited"),
    ]


def session() -> list[ev.Event]:
    """One socket() that succeeds, its close(), the end: nothing is wrong with it."""
    return [*beginning(), *call(), *closed(), *ending()]


def emfile(call: int = 1, t: int = T) -> list[ev.Event]:
    """Edge 15: no number to be had, and all is released again."""
    socket, sock = at_shift(SOCKET, call), at_shift(SOCK, call)
    linked = ev.Snapshot(
        socket=ev.Socket(at=socket, sk=sock), sock=ev.Sock(at=sock, sk_socket=socket)
    )
    empty = ev.Snapshot(socket=ev.Socket(at=socket, sk=NULL, ops=NULL, state=1))
    return [
        ev.Enter(t=t, syscall="socket", nr=41, args=[2, 1, 0], lowest=3, **task(call)),
        ev.Alloc(t=t + 1 * US, call=call, kind="socket", at=socket, site="sock_alloc_inode"),
        step(call, t + 1 * US, "STEP_09", "sock_alloc", "exit", snap=empty),
        step(call, t + 1 * US, "STEP_10", "sock_alloc", "exit", snap=empty),
        ev.Alloc(t=t + 2 * US, call=call, kind="sock", at=sock, site="sk_prot_alloc"),
        step(call, t + 3 * US, "STEP_13", "inet_create", "exit", snap=linked, ret=0),
        step(call, t + 5 * US, "CLEANUP_SOCK_RELEASE", "__sock_release"),
        free(call, t + 6 * US, "sock", sock, "__sk_destruct"),
        step(call, t + 9 * US, "STEP_17", "__sys_socket", "exit", ret=-24),
        free(call, t + 9000 * US, "socket", socket, "sock_free_inode", pid=0, comm="swapper/0"),
    ]  # fmt: skip


# -- the same, altered --------------------------------------------------------------------


def changed(events: list[ev.Event], id: str, **fields: Any) -> list[ev.Event]:
    """The events, with fields ("ret", or "layer.field") of each step `id` changed."""
    made = []
    for event in events:
        if isinstance(event, ev.Step) and event.id == id:
            plain = msgspec.to_builtins(event)
            for name, value in fields.items():
                layer, _, field = name.rpartition("__")
                place = plain["snap"][layer] if layer else plain
                place[field] = value
            event = msgspec.convert(plain, ev.Step)
        made.append(event)
    return made


def without(events: Iterable[ev.Event], *ids: str) -> list[ev.Event]:
    return [e for e in events if not (isinstance(e, ev.Step) and e.id in ids)]


def kept(events: Iterable[ev.Event], *kinds: str) -> Events:
    """Without the allocations or frees of these kinds: "alloc fd", "free sock"."""
    return [
        event
        for event in events
        if f"{type(event).__name__.lower()} {getattr(event, 'kind', '')}" not in kinds
    ]


def in_call(*steps: ev.Step) -> Events:
    """EMFILE, with more steps after its release."""
    events = emfile()
    at = next(i for i, e in enumerate(events) if getattr(e, "id", "") == "STEP_17")
    return [*events[:at], *steps, *events[at:]]


def stacked(events: Iterable[ev.Event], what: str, *frames: str) -> Events:
    """With this kernel stack at each step `what`, or each free of the kind `what`."""
    made: Events = [ev.Stack(t=1, id=len(frames) * 100 + len(what), frames=list(frames))]
    for event in events:
        if isinstance(event, ev.Step | ev.Free) and what in (
            getattr(event, "id", None), getattr(event, "kind", None),
        ):  # fmt: skip
            event = msgspec.structs.replace(event, stack=len(frames) * 100 + len(what))
        made.append(event)
    return made


def on_functions() -> Events:
    """Probes on the functions themselves, so that what did not happen would have been told."""
    return [
        ev.Probe(t=2, name=f"kprobe:{name}", kind="kprobe", steps=[], status="attached")
        for name in WATCHED
    ]


# -- a call that a signal or an error meets ------------------------------------------------


def signal(t: int, signo: int = 15, phase: Any = "generated", **more: Any) -> ev.Signal:
    return ev.Signal(t=t, **{"pid": PID, "tid": PID, "signo": signo, "phase": phase} | more)


def died(events: Events, signo: int = 15) -> Events:
    """The process ended of a signal."""
    last = max(event.t for event in events) + 5
    return [*events, ev.State(t=last, pid=PID, state="exited", status=-signo)]


def taken(t: int = RETURN + 9 * US, **more: Any) -> ev.Signal:
    return signal(t, phase="delivered", **{"handler": "default"} | more)


def window(slept: int = 1500 * MS, left: int = 2 * MS, result: int = -93) -> Events:
    """SIGTERM while inet_create() waits for a module."""
    begun = emfile()[:4]
    t = T + 1 * US + slept
    return died([
        *begun, signal(t),
        step(1, t + left, "STEP_13", "inet_create", "exit", ret=result),
        step(1, t + left + US, "CLEANUP_SOCK_RELEASE", "__sock_release"),
        step(1, t + left + 9 * US, "STEP_17", "__sys_socket", "exit", ret=result),
        taken(t + left + 20 * US, signo=9),
        free(1, t + left + 9 * MS, "socket", SOCKET, "sock_free_inode", pid=0, comm="swapper/0"),
    ])  # fmt: skip


def hostile() -> Story:
    events = beginning(argv=[HOSTILE, "x"], kernel=HOSTILE, tool=HOSTILE, host=HOSTILE)
    for event in [*call(), *closed()]:
        if isinstance(event, ev.Enter | ev.Step | ev.Free):
            event = msgspec.structs.replace(event, comm=HOSTILE)
        if isinstance(event, ev.Alloc):
            event = msgspec.structs.replace(event, cache=HOSTILE, site=HOSTILE)
        events.append(event)
    events += [
        ev.Symbol(t=1, at="0xffffffff82345600", name=HOSTILE),
        ev.Probe(t=1, name=HOSTILE, kind="k", steps=[HOSTILE], status="missing", why=HOSTILE),
        ev.Blind(t=1, step="CLEANUP_IPUT", why=HOSTILE),
        ev.Output(t=1, text=HOSTILE),
        ev.State(t=2, pid=1, state="stopped", why=HOSTILE),
        ev.End(t=T * 2, why=HOSTILE),
    ]
    return Story.of(events)


def iput(t: int, **more: Any) -> ev.Step:
    return step(1, t, "CLEANUP_IPUT", "iput", **more)


GOOD = [*call(), *closed()]
INET = step(1, T + 6 * US, "CLEANUP_INET_RELEASE", "inet_release")
IPUT = iput(T + 7 * US, snap=ev.Snapshot(socket=ev.Socket(at=SOCKET, sk=NULL)))
