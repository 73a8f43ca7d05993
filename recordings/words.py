"""Values and events in words: what the kernel's numbers are called, one line for each event.

The tables are Linux's (include/linux/socket.h, net.h, tcp_states.h), not the host's: a
recording reads the same wherever it is replayed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from recordings import events as ev
from recordings.commands import HOLDS
from recordings.events import NULL, Ptr
from recordings.steps import CALL_STEPS, CLEANUP_STEPS, STEPS
from recordings.story import Moment, Story, failed
from recordings.uapi import SIGNALS, SIGRTMAX, SIGRTMIN, errno_text, signal_name

FAMILIES = {
    0: "AF_UNSPEC", 1: "AF_UNIX", 2: "AF_INET", 3: "AF_AX25", 4: "AF_IPX", 5: "AF_APPLETALK",
    6: "AF_NETROM", 7: "AF_BRIDGE", 8: "AF_ATMPVC", 9: "AF_X25", 10: "AF_INET6", 11: "AF_ROSE",
    13: "AF_NETBEUI", 14: "AF_SECURITY", 15: "AF_KEY", 16: "AF_NETLINK", 17: "AF_PACKET",
    18: "AF_ASH", 19: "AF_ECONET", 20: "AF_ATMSVC", 21: "AF_RDS", 22: "AF_SNA", 23: "AF_IRDA",
    24: "AF_PPPOX", 25: "AF_WANPIPE", 26: "AF_LLC", 27: "AF_IB", 28: "AF_MPLS", 29: "AF_CAN",
    30: "AF_TIPC", 31: "AF_BLUETOOTH", 32: "AF_IUCV", 33: "AF_RXRPC", 34: "AF_ISDN",
    35: "AF_PHONET", 36: "AF_IEEE802154", 37: "AF_CAIF", 38: "AF_ALG", 39: "AF_NFC",
    40: "AF_VSOCK", 41: "AF_KCM", 42: "AF_QIPCRTR", 43: "AF_SMC", 44: "AF_XDP", 45: "AF_MCTP",
}  # fmt: skip
TYPES = {
    1: "SOCK_STREAM", 2: "SOCK_DGRAM", 3: "SOCK_RAW", 4: "SOCK_RDM", 5: "SOCK_SEQPACKET",
    6: "SOCK_DCCP", 10: "SOCK_PACKET",
}  # fmt: skip
TYPE_FLAGS = {0o4000: "SOCK_NONBLOCK", 0o2000000: "SOCK_CLOEXEC"}
TYPE_MASK = 0xF
PROTOCOLS = {
    0: "IPPROTO_IP", 1: "IPPROTO_ICMP", 2: "IPPROTO_IGMP", 6: "IPPROTO_TCP", 17: "IPPROTO_UDP",
    33: "IPPROTO_DCCP", 41: "IPPROTO_IPV6", 47: "IPPROTO_GRE", 50: "IPPROTO_ESP",
    58: "IPPROTO_ICMPV6", 89: "IPPROTO_OSPF", 132: "IPPROTO_SCTP", 136: "IPPROTO_UDPLITE",
    255: "IPPROTO_RAW", 262: "IPPROTO_MPTCP",
}  # fmt: skip
SOCKET_STATES = {
    0: "SS_FREE", 1: "SS_UNCONNECTED", 2: "SS_CONNECTING", 3: "SS_CONNECTED",
    4: "SS_DISCONNECTING",
}  # fmt: skip
TCP_STATES = {
    1: "TCP_ESTABLISHED", 2: "TCP_SYN_SENT", 3: "TCP_SYN_RECV", 4: "TCP_FIN_WAIT1",
    5: "TCP_FIN_WAIT2", 6: "TCP_TIME_WAIT", 7: "TCP_CLOSE", 8: "TCP_CLOSE_WAIT",
    9: "TCP_LAST_ACK", 10: "TCP_LISTEN", 11: "TCP_CLOSING", 12: "TCP_NEW_SYN_RECV",
}  # fmt: skip
OPEN_FLAGS = {0o1: "O_WRONLY", 0o2: "O_RDWR", 0o2000: "O_APPEND", 0o4000: "O_NONBLOCK",
              0o20000: "FASYNC", 0o2000000: "O_CLOEXEC"}  # fmt: skip
INTERNET = (2, 10)  # AF_INET, AF_INET6: the families whose protocol numbers are IPPROTO_*

_DEFAULTS = {
    "ends the program": (1, 2, 9, 10, 12, 13, 14, 15, 16, 26, 27, 29, 30),
    "ends it with a core dump": (3, 4, 5, 6, 7, 8, 11, 24, 25, 31),
    "stops it": (19, 20, 21, 22),
    "continues it": (18,),
    "is ignored": (17, 23, 28),
}  # signal(7)
_DOES = {signo: what for what, signals in _DEFAULTS.items() for signo in signals}
SIGNAL_DEFAULTS = [  # (number, name, what it does by default); 32 and 33 are the C library's own
    (signo, signal_name(signo), _DOES.get(signo, "ends the program"))
    for signo in sorted({*SIGNALS, *range(SIGRTMIN, SIGRTMAX + 1)})
]


def visible(text: str) -> str:
    """Text from outside with everything that is not plain text spelled out: ESC as ^[.

    No escape sequence, bidirectional override or other invisible character survives.
    """
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x20 or code == 0x7F:
        return f"^{chr(code ^ 0x40)}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else "\ufffd"


def duration(ns: int) -> str:
    """Three figures and a unit: 41.2 µs."""
    amount = float(ns)
    for unit in ("ns", "µs", "ms"):
        if abs(amount) < 999.5:
            return f"{amount:.0f} ns" if unit == "ns" else f"{_three(amount)} {unit}"
        amount /= 1000
    return f"{_three(amount)} s"


def since(ns: int) -> str:
    """How long after something: +3.94 ms; +0 for at once."""
    return f"{'−' if ns < 0 else '+'}{duration(abs(ns)) if ns else 0}"


def _three(amount: float) -> str:
    return f"{amount:.{2 if abs(amount) < 9.995 else 1 if abs(amount) < 99.95 else 0}f}"


def named(value: int, names: Mapping[int, str]) -> str:
    """1 → "SOCK_STREAM (1)"; a number without a name as it is."""
    return f"{names[value]} ({value})" if value in names else str(value)


def flagged(value: int, names: Mapping[int, str]) -> str:
    """The names of the bits that are set, then what is left as octal; "0" for none."""
    words = [name for bit, name in names.items() if value & bit]
    rest = value & ~sum(names)
    if rest or not words:
        words.append(f"0{rest:o}" if rest else "0")
    return "|".join(words)


def socket_type(value: int) -> str:
    """The second argument of socket(): SOCK_STREAM|SOCK_CLOEXEC."""
    kind = TYPES.get(value & TYPE_MASK, str(value & TYPE_MASK))
    rest = value & ~TYPE_MASK
    return f"{kind}|{flagged(rest, TYPE_FLAGS)}" if rest else kind


def call_text(enter: ev.Enter) -> str:
    """The call as one would write it: socket(AF_INET, SOCK_STREAM, 0)."""
    if enter.syscall == "socket" and len(enter.args) == 3:
        family, type, protocol = enter.args
        words = [FAMILIES.get(family, str(family)), socket_type(type), str(protocol)]
        if protocol and family in INTERNET:
            words[2] = PROTOCOLS.get(protocol, str(protocol))
    else:
        words = [str(arg) for arg in enter.args] or ["?"]
    return visible(f"{enter.syscall}({', '.join(words)})")


def pointer(value: Ptr, story: Story, digits: int | None = None) -> str:
    """NULL, the kernel's name for it, or the address (its last `digits` where given)."""
    if value == NULL:
        return "NULL"
    return visible(story.name(value)) or address(value, digits)


def address(value: Ptr, digits: int | None = None) -> str:
    short = digits is not None and len(value) > digits + 2
    return visible(f"…{value[-digits:]}" if short and digits else value)


def reading(
    name: str, value: object, story: Story, family: int | None = None, digits: int | None = None
) -> str:
    """A field as read, decoded: `name` is "layer.field", `family` the call's address family."""
    if isinstance(value, str):
        return pointer(value, story, digits)
    if not isinstance(value, int):
        return visible(str(value))
    match name:
        case "socket.state":
            return named(value, SOCKET_STATES)
        case "socket.type" | "sock.sk_type":
            return named(value, TYPES)
        case "sock.skc_family":
            return named(value, FAMILIES)
        case "sock.skc_state" if family in (1, *INTERNET):  # AF_UNIX borrows TCP's states
            return named(value, TCP_STATES)
        case "sock.sk_protocol" if family in INTERNET:
            return named(value, PROTOCOLS)
        case "file.f_flags":
            return f"{flagged(value, OPEN_FLAGS)} (0{value:o})"
        case "socket.flags":
            return f"0x{value:x}"
    return str(value)


def state_text(state: ev.State) -> str:
    """RUNNING, STOPPED at …, EXITED with status 0, KILLED by SIGKILL."""
    why = f" {visible(state.why)}" if state.why else ""
    if state.state != "exited":
        return state.state.upper() + why
    if state.status is None:
        return f"EXITED{why}"
    if state.status < 0:
        return f"KILLED by {signal_name(-state.status)}"
    return f"EXITED with status {state.status}"


def step_text(moment: Moment) -> str:
    """One line for a captured step: its id, name and evidence."""
    if isinstance(moment.event, ev.Enter):
        return f"USER_EXEC  {call_text(moment.event)} by {visible(moment.event.comm)}"
    kind = STEPS.get(moment.id)
    name = kind.name if kind and not kind.cleanup else ""
    evidence = moment.check.evidence if moment.check else ""
    if not evidence and isinstance(moment.event, ev.Step):
        evidence = _where(moment.event)
    return visible("  ".join(word for word in (moment.id, name, evidence) if word))


def sentence(moment: Moment) -> str:
    """What the step does, in a sentence: as far as it had come when it was captured."""
    kind, event = STEPS.get(moment.id), moment.event
    if isinstance(event, ev.Held):
        return f"{hold_how(event).capitalize()} {hold_place(event)}."
    if kind is None:
        return visible(f"{moment.id}: a step that this version does not know")
    if isinstance(event, ev.Enter):
        return kind.sentence.format(call=call_text(event))
    words = kind.sentence
    if kind.failed and failed(event):
        words = kind.failed
    elif kind.entry and event.at == "entry":
        words = kind.entry
    fd, result = moment.snap.fd, event.ret
    return visible(
        words.format(
            call=call_text(moment.call.enter),
            fd=fd.number if fd else moment.objects.get("fd", ("fd", False))[0],
            symbol=event.symbol,
            result=errno_text(result) if result is not None else "",
        )
    )


def object_word(kind: ev.Kind, moment: Moment, story: Story) -> str:
    """What is known of a call's object at one of its moments; the same word wherever it is shown.

    "not made yet", "live" or "freed"; "not made": the call is being undone before it would have
    made it; "not read": it must have been made by now, and nobody has seen it.
    """
    at, gone = moment.objects.get(kind, (None, False))
    if gone:
        return "freed"
    read = getattr(moment.snap, kind)
    if at is not None or (read is not None and getattr(read, "at", "") != NULL):
        return "live"
    own = moment.call.moments
    passed = [each for each in own if each.line <= moment.line]
    undone = any(isinstance(m.event, ev.Step) and failed(m.event) for m in passed)
    if undone or any(each.id in CLEANUP_STEPS for each in passed):
        seen = bool(moment.objects) or story.left_before(moment.call, "STEP_09")
        return "not made" if seen else "not read"
    made = any(each.id in _MADE_BEFORE[kind] for each in (*passed, moment))
    return "not read" if made else "not made yet"


# Steps by which a call that has not failed has made its object of a kind.
_MADE_BEFORE = {
    "socket": CALL_STEPS[2:],
    "sock": CALL_STEPS[CALL_STEPS.index("STEP_14") :],
    "fd": CALL_STEPS[CALL_STEPS.index("STEP_14") :],
    "file": CALL_STEPS[CALL_STEPS.index("STEP_15") :],
}


def _where(event: ev.Step) -> str:
    text = f"{event.symbol} {event.at}"
    return f"{text}, returned {errno_text(event.ret)}" if event.ret is not None else text


def describe(event: ev.Event, moment: Moment | None = None) -> str:
    """One line for the log. `moment`: the one this event made, if it made one."""
    if moment is not None:
        return f"call {moment.call.number}: {step_text(moment)}"
    return visible(_describe(event))


def _describe(event: ev.Event) -> str:
    match event:
        case ev.Header():
            return (
                f"{' '.join(event.argv)}: pid {event.pid}, Linux {event.kernel} {event.arch}, "
                f"backend {event.backend}, addresses {event.addresses}, {event.tool}"
            )
        case ev.Ready():
            return f"probes ready after {duration(event.took)}"
        case ev.State():
            return f"tracee {event.pid} {state_text(event)}"
        case ev.Held():
            return _held(event)
        case ev.Released():
            return (
                f"{_of_call(event)}released at {event.point} after {duration(event.held)} "
                f"({_BY[event.by]}), thread {event.tid}"
            )
        case ev.Enter():
            return f"call {event.call}: {call_text(event)}"
        case ev.Step():
            return f"call {event.call}: {event.id} (of a call whose beginning is not here)"
        case ev.Alloc():
            return f"call {event.call}: + {event.kind} {event.at} by {event.site} {event.cache}"
        case ev.Free():
            return (
                f"call {event.call}: − {event.kind} {event.at} by {event.site} "
                f"in {event.comm} ({event.pid})"
            )
        case ev.Signal():
            words = [signal_name(event.signo), event.phase, f"pid {event.pid} tid {event.tid}"]
            if event.by:
                words.append(f"by {event.by}")
            if event.handler:
                words.append(f"({event.handler})")
            return " ".join(words)
        case ev.Inject():
            return f"inject {injected(event)}"
        case ev.Fork():
            return f"fork: child {event.child} {'' if event.followed else 'not '}followed"
        case ev.Note():
            return event.text
        case ev.Lost():
            return f"LOST {event.count} events: {event.what}"
        case ev.Waited():
            return waited_text([event])
        case ev.Uncaptured():
            return uncaptured_text([event])
        case ev.End():
            return f"end of the stream: {event.why}"
        case ev.Output():
            return f"output: {event.text}"
    return type(event).__name__.lower()


def waited_text(waits: Sequence[ev.Waited]) -> str:
    """How often and how long the program was stopped so that nothing is lost."""
    times = "once" if len(waits) == 1 else f"{len(waits)} times"
    took = duration(sum(event.took for event in waits))
    return f"the program waited for sockstep {times}, {took} in all"


_WAYS: dict[ev.Way, str] = {
    "io_uring": "by io_uring", "32-bit": "by 32-bit system calls", "other": "by an unknown way",
}  # fmt: skip


def uncaptured_text(events: Sequence[ev.Uncaptured]) -> str:
    """What sockets the program made that no probe is on, and how."""
    counts = {
        words: sum(event.count for event in events if event.how == how)
        for how, words in _WAYS.items()
    }
    total = sum(counts.values())
    ways = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
    return f"the program made {total} socket{'' if total == 1 else 's'} past the probes: {ways}"


_BY = {
    "user": "by the user", "limit": "its time was over", "signal": "by a signal",
    "detach": "sockstep let go",
}  # fmt: skip


def hold_how(event: ev.Held) -> str:
    return "machine frozen" if event.how == "frozen" else "asleep in the kernel"


def hold_place(event: ev.Held) -> str:
    """Where a hold is: "at socket_create, in __sock_create, before sock_alloc"."""
    if event.how == "frozen":
        return f"at {event.point}, {event.symbol} {event.at}"
    return f"at {event.point}" + (f", {HOLDS[event.point]}" if event.point in HOLDS else "")


def hold_where(event: ev.Held) -> str:
    """Where a hold is, in short: "in __sock_create, before sock_alloc", "at fd_install entry"."""
    if event.how == "frozen":
        return visible(f"at {event.symbol} {event.at}")
    return HOLDS.get(event.point, visible(f"at {event.point}"))


def recorded_at(header: ev.Header) -> datetime | None:
    """When a recording began, by the clock on the wall; None: not told, or no time."""
    try:
        return datetime.fromtimestamp(header.wall, UTC) if header.wall else None
    except (OverflowError, ValueError, OSError):
        return None


def open_descriptors(event: ev.Held) -> str:
    """Those of the process that is held: "0, 1, 2"."""
    if event.fds is None:
        return "not read"
    numbers = ", ".join(str(fd.number) for fd in event.fds) or "none"
    return f"{numbers}; those above were not looked at" if event.fds_cut else numbers


def _of_call(event: ev.Held | ev.Released) -> str:
    return f"call {event.call}: " if event.call else ""


def _held(event: ev.Held) -> str:
    where = hold_place(event) if event.how == "frozen" else f"at {event.point}"
    text = f"{_of_call(event)}HELD {where}, {hold_how(event)}, thread {event.tid}"
    text += f": {event.state} in {event.wchan}" if event.wchan else ""
    if event.fds is not None:
        text += f", {len(event.fds)}{' or more' * event.fds_cut} open fds"
    if signals := [*event.pending, *event.shared]:
        text += f", pending: {', '.join(map(signal_name, signals))}"
    return text


def injected(event: ev.Inject) -> str:
    """What sockstep did to the tracee, or will."""
    match event.what:
        case "signal":
            what = signal_name(event.signo) if event.signo else "signal"
        case "refusal":
            what = f"{event.hook} = {errno_text(-(event.errno or 0))}"
        case "limit":
            what = f"RLIMIT_NOFILE = {event.limit}"
        case _:
            what = "refusal by the cgroup's BPF program"
    if event.armed:
        return f"{what}: armed" + (f" at {event.step}" if event.step else "")
    where = f" at {event.step}" if event.step else ""
    if event.result is None:
        done = "not done"
    elif event.result:
        done = f"failed with {errno_text(event.result)}"
    else:
        done = "sent" if event.what == "signal" else "done"
    return f"{what}{where}: {done}" + (f" ({event.why})" if event.why else "")
