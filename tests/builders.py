"""MADE-UP streams for tests of the screen: plausible, but no kernel ever sent them.

Real captures are in recordings/samples. These are for what no capture here holds: exact
entry and exit probes, broken links, hostile text, any length.
"""

from __future__ import annotations

from recordings import events as ev
from recordings.events import NULL

SOCKET, FILE, SOCK = "0xffff888104bf8dc0", "0xffff8881024a7b00", "0xffff88810408c400"
OPS, FOPS, PROT = "0xffffffff82345600", "0xffffffff82346700", "0xffffffff82abc000"
US = 1000
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
