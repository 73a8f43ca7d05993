"""Makes a recording of what the report's socket_probe.ko wrote to the kernel log.

Its lines begin with `[PROBE]`, after whatever dmesg, syslog or journalctl puts before them. The
pointers are those of printk's %p: hashed, so that they can be compared and nothing more. What
the log does not hold is told by `blind` events, and never filled in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from recordings import events as ev
from recordings.events import UNREAD, Ptr
from recordings.steps import CLEANUP_STEPS
from recordings.stream import StreamError

_LINE = re.compile(r"^(?P<before>.*?)\[PROBE\]\s*(?P<said>.*?)\s*$", re.DOTALL)
_STAMP = re.compile(r"\[\s*(\d{1,9})\.(\d{6})\]")
_CALLER = re.compile(r"\[\s*T(\d{1,9})\]")  # CONFIG_PRINTK_CALLER: the task that printed
_FIELD = re.compile(
    r"(sk->sk_socket|socket|file|private_data|sk|ops|state|fd)\s*=\s*([^\s\],]+)[\],]*(?=\s|$)"
)
_HEX = re.compile(r"(?:0x)?([0-9a-f]{1,16})", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d{1,10}")

BLIND = {
    "PROBE_INIT": "the log does not say when the module's probes were in place",
    "USER_EXEC": "the log does not say which program called socket(), nor with what arguments",
    "STEP_13": "the log tells of the entry of inet_create() only, not of what it made",
} | dict.fromkeys(CLEANUP_STEPS, "the log tells nothing of cleanup")

_BEGINS = ("sock_alloc Exit", "Chassis Init", "inet_create Entry")


@dataclass
class _Line:
    number: int
    said: str
    stamp: int | None
    tid: int


@dataclass
class _Call:
    """What the log told of a call so far: `known` are addresses and numbers by field."""

    number: int
    tid: int
    known: dict[str, str] = field(default_factory=dict)


def events(lines: Iterable[str]) -> Iterator[ev.Event]:
    """The events of a kernel log. Times are its stamps, or line numbers where a stamp is missing.

    Raises StreamError if there is no `[PROBE]` line, or at the end if none was understood.
    """
    found = [line for number, text in enumerate(lines, 1) if (line := _line(number, text))]
    if not found:
        raise StreamError("no [PROBE] line of socket_probe.ko in this log")
    stamped = all(line.stamp is not None for line in found)
    times = [line.stamp if stamped and line.stamp is not None else line.number for line in found]
    start = times[0]
    # pid 0 and wall 0: not in the log.
    yield ev.Header(
        t=start, format=ev.FORMAT, version=ev.VERSION, readable_since=ev.READABLE_SINCE,
        tool="socket_probe.ko, by way of the kernel log", kernel="", arch="", backend="dmesg",
        argv=[], pid=0, addresses="hashed", wall=0.0,
    )  # fmt: skip
    for step, why in BLIND.items():
        yield ev.Blind(t=start, step=step, why=why)
    if not stamped:
        yield ev.Note(t=start, text="not every line has a stamp in seconds: times are line numbers")
    understood = 0
    for event in _calls(zip(times, found, strict=True)):
        understood += isinstance(event, ev.Step)
        yield event
    if not understood:
        raise StreamError(f"of {len(found)} [PROBE] lines none is of a call that begins here")
    yield ev.End(t=times[-1], why=f"the last of {len(found)} [PROBE] lines")


def _line(number: int, text: str) -> _Line | None:
    match = _LINE.match(text.rstrip("\r\n"))
    if match is None:
        return None
    stamp, caller = _STAMP.search(match["before"]), _CALLER.search(match["before"])
    return _Line(
        number=number,
        said=match["said"],
        stamp=int(stamp[1]) * 10**9 + int(stamp[2]) * 1000 if stamp else None,
        tid=int(caller[1]) if caller else 0,
    )


def _calls(lines: Iterable[tuple[int, _Line]]) -> Iterator[ev.Event]:
    """Calls one after the other; those of several tasks apart where the log names the tasks."""
    open_calls: dict[int, _Call] = {}
    count = 0
    for t, line in lines:
        values = dict(_FIELD.findall(line.said))
        call = open_calls.get(line.tid)
        returns = line.said.startswith("__sys_socket Return")
        again = line.said.startswith("sock_alloc Exit") and call is not None and call.known
        if call is None or again:
            if not returns and not line.said.startswith(_BEGINS):
                yield ev.Note(t=t, text=f"outside of any call: [PROBE] {line.said}")
                continue
            count += 1
            call = open_calls[line.tid] = _Call(count, line.tid)
            yield ev.Enter(
                t=t, call=count, pid=0, tid=line.tid, comm="", cpu=-1, syscall="socket", nr=-1,
                args=[],
            )  # fmt: skip
        steps = list(_steps(t, line, call, values))
        if not steps:
            yield ev.Note(t=t, text=f"not understood: [PROBE] {line.said}")
        yield from steps
        if returns:
            del open_calls[line.tid]


def _steps(t: int, line: _Line, call: _Call, values: dict[str, str]) -> Iterator[ev.Step]:
    """The steps that a line tells of: it may hold one field, or several."""
    call.known |= values
    known = call.known

    def step(id: str, symbol: str, at: ev.At, snap: ev.Snapshot, ret: int | None = None) -> ev.Step:
        return ev.Step(
            t=t, call=call.number, id=id, pid=0, tid=call.tid, comm="", cpu=-1,
            probe=f"socket_probe.ko:{symbol}", symbol=symbol, at=at, snap=snap, ret=ret,
        )  # fmt: skip

    def file() -> ev.File:
        return ev.File(
            at=_pointer(known.get("file")) or UNREAD,
            private_data=_pointer(values.get("private_data")),
        )

    if line.said.startswith("sock_alloc Exit") and (at := _pointer(values.get("socket"))):
        yield step("STEP_09", "sock_alloc", "exit", ev.Snapshot(socket=ev.Socket(at=at)))
    if line.said.startswith("Chassis Init"):
        socket = ev.Socket(
            at=_pointer(known.get("socket")) or UNREAD,
            sk=_pointer(values.get("sk")),
            ops=_pointer(values.get("ops")),
            state=_number(values.get("state")),
        )
        yield step("STEP_10", "sock_alloc", "exit", ev.Snapshot(socket=socket))
    if line.said.startswith("inet_create Entry"):
        yield step("STEP_13", "inet_create", "entry", ev.Snapshot())
    if "file" in values:
        yield step("STEP_14", "fd_install", "entry", ev.Snapshot(file=file()))
    if "private_data" in values:
        yield step("STEP_15", "fd_install", "entry", ev.Snapshot(file=file()))
    if "sk->sk_socket" in values:
        sock = ev.Sock(at=UNREAD, sk_socket=_pointer(values["sk->sk_socket"]))
        yield step("STEP_13_BACKLINK", "fd_install", "entry", ev.Snapshot(sock=sock))
    number = _number(values.get("fd"))
    if line.said.startswith("__sys_socket Return") and number is not None:
        yield step("STEP_17", "__sys_socket", "exit", ev.Snapshot(), number)
    elif number is not None:
        snap = ev.Snapshot(fd=ev.Fd(number=number), file=file())
        yield step("STEP_16", "fd_install", "entry", snap)


def _pointer(text: str | None) -> Ptr | None:
    """`f1166dcd`, `00000000f1166dcd`, `0`, `(null)`; None for what is no value."""
    if text is None:
        return None
    if text in ("(null)", "(nil)", "NULL"):
        return ev.NULL
    match = _HEX.fullmatch(text)
    return hex(int(match[1], 16)) if match else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None
