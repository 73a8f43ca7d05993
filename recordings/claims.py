"""The claims: what is said of the kernel, each confirmed or refuted by events, or not tested.

The six numbered sentences of the report's Phase 3 ("a signal between sock_alloc and fd_install"),
split where one half is true and the other is not, and the kernel facts behind them. A rule finds
what speaks for a claim and what against it. One finding against refutes, for a claim is about
every call; without any finding it is not tested. That something did not happen is found only
where a probe on that very function would have told.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import wraps
from typing import Literal

from recordings import events as ev
from recordings import stacks
from recordings.events import NULL, Ptr
from recordings.steps import CLEANUP_STEPS
from recordings.story import Call, Moment, Object, Story, told
from recordings.uapi import errno_text, signal_name
from recordings.verdict import Verdict, fate, judge, outcome
from recordings.words import INTERNET, duration

Status = Literal["confirmed", "refuted", "not tested"]

_SHOWN = 2  # findings that are kept of one claim
_SLEPT = 10_000_000  # ns in one place of a call, from which on it was asleep there
_AFTER_SOCK_ALLOC = ("kernel_module_request", "socket_post_create")  # of the holds, in socket()
# What socket() returns where no module brought the protocol or the family (edges 8 and 6).
_NO_MODULE = (-93, -94, -97)
# Refusals whose errno is lost, as their callers say only NULL; and what is made of that (ENFILE;
# ENOMEM, on 5.10 ENOBUFS).
_HIDDEN = {"security_inode_alloc": (-23,), "security_sk_alloc": (-12, -105)}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was read: in which call (None: all of them), at which step ("": none), and where."""

    call: int | None
    step: str
    at: str
    read: str

    def __str__(self) -> str:
        call = f"call {self.call}" if self.call is not None else ""
        step = self.step.removeprefix("CLEANUP_")
        where = " ".join(word for word in (call, step, self.at) if word)
        return f"{where}: {self.read}" if where else self.read


@dataclass(frozen=True, slots=True)
class Claim:
    """`evidence`: the first of the `count` findings that decided; none where it is not tested.

    `source`: who says so: a sentence of the report, or a kernel function and its file.
    `tests`: the experiment of `sockstep lab` whose recording, on functions, tests it.
    """

    id: str
    text: str
    status: Status
    evidence: tuple[Evidence, ...]
    source: str
    tests: str
    count: int

    @property
    def why(self) -> str:
        """The evidence as one line."""
        more = self.count - len(self.evidence)
        return "; ".join(map(str, self.evidence)) + (f"; and {more} more" if more else "")


Finding = tuple[bool, Evidence]  # whether it speaks for the claim
_Rule = Callable[[Story, Verdict], Iterator[Finding]]


def claims(story: Story, verdict: Verdict | None = None) -> list[Claim]:
    """All claims, always in the same order. `verdict`: that of the story, if it is known."""
    verdict = verdict or judge(story)
    return [_decide(claim, rule(story, verdict)) for claim, rule in _CLAIMS]


def _decide(claim: Claim, findings: Iterator[Finding]) -> Claim:
    counts = {True: 0, False: 0}
    kept: dict[bool, list[Evidence]] = {True: [], False: []}
    for good, evidence in findings:
        counts[good] += 1
        if len(kept[good]) < _SHOWN:
            kept[good].append(evidence)
    side = not counts[False]
    if not counts[side]:
        return claim
    status: Status = "confirmed" if side else "refuted"
    return replace(claim, status=status, evidence=tuple(kept[side]), count=counts[side])


def _each_call(rule: Callable[[Story, Call], Iterator[Finding]]) -> _Rule:
    """A rule that looks at one call after the other."""

    @wraps(rule)
    def of_story(story: Story, verdict: Verdict) -> Iterator[Finding]:
        for call in story.calls.values():
            yield from rule(story, call)

    return of_story


# -- what the rules look at --------------------------------------------------------------------


def functions(story: Story, stack: int | None) -> list[str]:
    """The functions of a kernel stack, innermost first, up to an interrupt."""
    return stacks.functions(story.stacks.get(stack, []) if stack is not None else [])


def watched(story: Story, function: str) -> bool:
    """Whether a probe sat on the function itself, and none of its events can be missing."""
    states = [
        state for name, state in story.probes.items()
        if name.rpartition(":")[2] == function and "tracepoint" not in state.probe.kind
    ]  # fmt: skip
    whole = all(state.probe.status == "attached" and not state.missed for state in states)
    return bool(states) and whole and not story.lost


def within(call: Call, id: str) -> Moment | None:
    """The first moment of this step that came before the call returned."""
    moment, returned = call.first.get(id), call.first.get("STEP_17")
    return moment if moment and (returned is None or moment.index < returned.index) else None


def _at(moment: Moment, read: str) -> Evidence:
    where = told(moment.event) if isinstance(moment.event, ev.Step) else ""
    return Evidence(moment.call.number, moment.id, where, read)


def _of(call: Call, read: str, step: str = "") -> Evidence:
    return Evidence(call.number, step, "", read)


def _failed(call: Call) -> bool:
    return call.result is not None and call.result < 0


def _returned(call: Call) -> str:
    return f"returned {errno_text(call.result or 0)}"


def _null(value: Ptr) -> str:
    return "NULL" if value == NULL else value


def _stack(story: Story, moment: Moment) -> list[str]:
    return functions(story, moment.event.stack if isinstance(moment.event, ev.Step) else None)


def _chassis(call: Call) -> Moment | None:
    """A moment that tells that sock_alloc() gave the call its socket."""
    moment = call.first.get("STEP_09")
    if moment is not None and moment.symbol == "sock_alloc":
        socket = moment.snap.socket
        return moment if socket is not None and socket.at != NULL else None
    return call.first.get("STEP_13")  # another probe may fire inside it, before it fails


def _install(call: Call) -> tuple[Moment, ev.Fd] | None:
    """The entry of fd_install(), and the slot as it was then."""
    moment = call.first.get("STEP_16")
    if moment is None or moment.symbol != "fd_install" or moment.snap.fd is None:
        return None
    return moment, moment.snap.fd


def _reserved(call: Call) -> Object | None:
    """The number of the call, where it was seen to be taken before it was installed."""
    made, until = call.objects.get("fd"), call.first.get("STEP_16") or call.first.get("STEP_17")
    seen = made is not None and until is not None and made.alloc.t < until.event.t
    return made if seen else None


def _release(call: Call) -> Moment | None:
    """The first moment in which something of the call was released."""
    task = ("CLEANUP_GET_SIGNAL", "CLEANUP_DO_EXIT")
    return next((m for m in call.moments if m.id in CLEANUP_STEPS and m.id not in task), None)


# -- the report's sentences --------------------------------------------------------------------


@_each_call
def _no_descriptor(story: Story, call: Call) -> Iterator[Finding]:
    socket = call.own("socket")
    if installed := _install(call):
        moment, fd = installed
        if socket is not None and fd.file is not None:
            text = f"fdt->fd[{fd.number}] is {_null(fd.file)}, the socket is {socket}"
            yield fd.file == NULL, _at(moment, text)
    elif _failed(call) and _chassis(call) and watched(story, "fd_install"):
        yield True, _of(call, f"{_returned(call)}, and fd_install() never ran", "STEP_17")
    for hold in story.holds:
        held, open = hold.event, [fd.number for fd in hold.event.fds or ()]
        inside = hold.call == call.number and held.point in _AFTER_SOCK_ALLOC
        whole = bool(open) and not held.fds_cut
        # Where the number is open, it may be another thread's, closed again before.
        if inside and whole and (call.result or 0) >= 0 and call.result not in (None, *open):
            text = (
                f"/proc/{held.pid}/fd has {', '.join(map(str, open))}; the call {_returned(call)}"
            )
            yield True, Evidence(call.number, "", f"held at {held.point}", text)


@_each_call
def _no_close(story: Story, call: Call) -> Iterator[Finding]:
    if (installed := _install(call)) is None:
        return
    moment, fd = installed
    number = call.objects.get("fd")
    if number is not None and number.free is not None and number.free.t < moment.event.t:
        yield False, _at(moment, f"{fd.number} was given back by {number.free.site} before")
    elif fd.file is not None:
        yield fd.file == NULL, _at(moment, f"close({fd.number}) would find {_null(fd.file)}")


@_each_call
def _no_number(story: Story, call: Call) -> Iterator[Finding]:
    if (installed := _install(call)) is None:
        return
    moment, _ = installed
    if (number := _reserved(call)) is not None:
        before = duration(moment.event.t - number.alloc.t)
        yield False, _at(moment, f"{number.at} had been reserved {before} before")
    elif watched(story, "alloc_fd"):
        yield True, _at(moment, "alloc_fd() had reserved no number before")


@_each_call
def _file_all_along(story: Story, call: Call) -> Iterator[Finding]:
    """By the last reading of socket.file after sock_alloc() and before the struct file."""
    file = call.objects.get("file")
    for moment in reversed(call.moments):
        after = moment.id == "STEP_13" or (moment.id == "STEP_10" and moment.symbol == "sock_alloc")
        held_by = moment.snap.socket.file if moment.snap.socket else None
        if not after or held_by is None or (file is not None and file.alloc.t <= moment.event.t):
            continue
        text = f"socket.file is {_null(held_by)}"
        if file is not None:
            text += f"; the struct file came {duration(file.alloc.t - moment.event.t)} later"
        yield held_by != NULL, _at(moment, text)
        return


@_each_call
def _file_later(story: Story, call: Call) -> Iterator[Finding]:
    socket = call.own("socket")
    if socket is None or (installed := _install(call)) is None:
        return
    moment, fd = installed
    file = moment.snap.file
    if file is None or file.f_count is None or file.private_data is None or fd.file is None:
        return
    leads = file.private_data == socket
    slot = f"fdt->fd[{fd.number}] is {_null(fd.file)}"
    to = "to the socket" if leads else f"to {_null(file.private_data)}"
    text = f"f_count is {file.f_count}, private_data leads {to}, {slot}"
    yield leads and file.f_count == 1 and fd.file == NULL, _at(moment, text)


@_each_call
def _socket_first(story: Story, call: Call) -> Iterator[Finding]:
    seen = "STEP_14" in call.first or story.silence("STEP_14")
    if not _failed(call) or _chassis(call) is None or seen:
        return
    if (release := within(call, "CLEANUP_SOCK_RELEASE")) is not None:
        yield True, _at(release, f"of socket {call.own('socket')}; no STEP_14, no struct file")
    elif watched(story, "__sock_release"):
        yield False, _of(call, f"{_returned(call)}; nothing released the socket", "STEP_17")


@_each_call
def _released_on_error(story: Story, call: Call) -> Iterator[Finding]:
    if not _failed(call) or _chassis(call) is None:
        return
    if (release := within(call, "CLEANUP_SOCK_RELEASE")) is not None:
        yield True, _at(release, f"then the call {_returned(call)}")
    elif watched(story, "__sock_release"):
        yield False, _of(call, f"{_returned(call)}; __sock_release() never ran", "STEP_17")


@_each_call
def _iput_by_release(story: Story, call: Call) -> Iterator[Finding]:
    release, iput = within(call, "CLEANUP_SOCK_RELEASE"), within(call, "CLEANUP_IPUT")
    if not _failed(call) or release is None:
        return
    if iput is not None:
        after = duration(iput.event.t - release.event.t)
        good = iput.index > release.index and iput.event.tid == release.event.tid
        yield good, _at(iput, f"{after} after __sock_release(), before the return")
    elif watched(story, "iput"):
        yield False, _at(release, "no iput() of the inode before the return")


@_each_call
def _iput_ends_socket(story: Story, call: Call) -> Iterator[Finding]:
    socket, iput = call.objects.get("socket"), call.first.get("CLEANUP_IPUT")
    if socket is None or socket.free is None:
        return
    if iput is not None:
        after = duration(socket.free.t - iput.event.t)
        yield socket.free.t >= iput.event.t, _at(iput, f"its memory was freed {after} later")
    elif "CLEANUP_SOCK_RELEASE" in call.first and watched(story, "iput"):
        yield False, _of(call, f"released, and freed by {socket.free.site}, without iput()")


def _sock_freed(story: Story, call: Call) -> Iterator[Finding]:
    """Speaks for iput(), or for what let go of the sock before it."""
    sock, iput = call.objects.get("sock"), call.first.get("CLEANUP_IPUT")
    if sock is None or sock.free is None:
        return
    stack = functions(story, sock.free.stack)
    if "iput" in stack:
        yield True, _of(call, "the sock was freed inside iput()")
    elif release := _own_release(stack):
        yield False, _of(call, f"the sock was freed inside {release}(), no iput() on the stack")
    elif iput is not None and sock.free.t < iput.event.t:
        before = duration(iput.event.t - sock.free.t)
        yield False, _at(iput, f"the sock had been freed {before} before")
    elif iput is not None and iput.snap.socket is not None and iput.snap.socket.sk == NULL:
        yield False, _at(iput, "socket.sk is NULL: nothing leads to the sock any more")


def _own_release(stack: list[str]) -> str | None:
    """The family's proto_ops.release on a stack, such as inet_release; None: there is none."""
    general = ("__sock_release", "sock_release")
    return next((f for f in stack if f.endswith("_release") and f not in general), None)


_sock_by_iput = _each_call(_sock_freed)


@_each_call
def _sock_by_release(story: Story, call: Call) -> Iterator[Finding]:
    """Where a release ran: a create() that fails frees the sock itself."""
    for by_iput, evidence in _sock_freed(story, call):
        free = call.objects["sock"].free
        stack = functions(story, free.stack if free is not None else None)
        if by_iput or _own_release(stack) or "CLEANUP_INET_RELEASE" in call.first:
            yield not by_iput, evidence


def _no_leak(story: Story, verdict: Verdict) -> Iterator[Finding]:
    check = verdict.checks["leak_free"]
    if story.ledger and check.status != "unobservable":
        yield check.status == "pass", Evidence(None, "", "", check.evidence)


@_each_call
def _no_zombie(story: Story, call: Call) -> Iterator[Finding]:
    made, signals = list(call.objects.values()), _signals(story, call)
    if not made or not (_failed(call) or signals):
        return
    what = _returned(call) if _failed(call) else f"got {_named(signals[0])}"
    fates = [(one, fate(story, one)) for one in made]
    bad = [f"{one.kind} {one.at}: {end.evidence}" for one, end in fates if end.status == "fail"]
    if bad:
        yield False, _of(call, f"{what}; {'; '.join(bad)}")
    elif outcome(story, call, made) == "leak-free":
        yield True, _of(call, f"{what}; {len(made)} made, {len(made)} freed")


# -- the kernel's facts ------------------------------------------------------------------------


@_each_call
def _cannot_fail(story: Story, call: Call) -> Iterator[Finding]:
    if call.result is not None and (installed := _install(call)):
        moment, fd = installed
        yield call.result == fd.number, _at(moment, f"fd {fd.number}; the call {_returned(call)}")


@_each_call
def _early_error(story: Story, call: Call) -> Iterator[Finding]:
    release, inet = call.first.get("CLEANUP_SOCK_RELEASE"), call.first.get("CLEANUP_INET_RELEASE")
    socket = release.snap.socket if release is not None else None
    if release is None or socket is None or socket.ops != NULL or call.family not in INTERNET:
        return
    if inet is not None:
        yield False, _at(inet, "though ops was NULL at __sock_release()")
    elif watched(story, "inet_release"):
        yield True, _at(release, "ops is NULL; inet_release() never ran")


@_each_call
def _late_error(story: Story, call: Call) -> Iterator[Finding]:
    release, inet = within(call, "CLEANUP_SOCK_RELEASE"), within(call, "CLEANUP_INET_RELEASE")
    if not _failed(call) or release is None or call.family not in INTERNET:
        return
    ops = release.snap.socket.ops if release.snap.socket is not None else None
    if inet is not None and ops != NULL:
        yield True, _at(inet, f"then the call {_returned(call)}")
    elif inet is None and ops not in (None, NULL) and watched(story, "inet_release"):
        yield False, _at(release, f"ops is {story.name(ops) or ops}; inet_release() never ran")


@_each_call
def _number_back(story: Story, call: Call) -> Iterator[Finding]:
    number, back = _reserved(call), call.first.get("CLEANUP_PUT_UNUSED_FD")
    if number is None or not _failed(call):
        return
    if back is not None:
        yield True, _at(back, f"{number.at} is free again; the call {_returned(call)}")
    elif watched(story, "put_unused_fd"):
        yield False, _of(call, f"{_returned(call)}; {number.at} was never given back", "STEP_17")


@_each_call
def _nothing_back(story: Story, call: Call) -> Iterator[Finding]:
    back = call.first.get("CLEANUP_PUT_UNUSED_FD")
    if installed := _install(call):
        had = f"{installed[1].number} was installed"
    elif _failed(call) and _chassis(call) and not _reserved(call) and watched(story, "alloc_fd"):
        had = "no number was reserved"
    else:
        return
    if back is not None:
        yield False, _at(back, f"though {had}")
    elif call.result is not None and watched(story, "put_unused_fd"):
        yield True, _of(call, f"{had}, and put_unused_fd() never ran", "STEP_17")


@_each_call
def _freed_by_rcu(story: Story, call: Call) -> Iterator[Finding]:
    socket, release, step = call.objects.get("socket"), _release(call), "CLEANUP_SOCK_FREE_INODE"
    if socket is None or socket.free is None or socket.free.stack is None:
        return
    free = socket.free
    stack = functions(story, free.stack)
    by = next((name for name in stack if name.startswith("rcu_")), None)
    if by is not None:
        after = ""
        if release is not None and release.id != step:
            after = f", {duration(free.t - release.event.t)} after the release"
        yield True, _of(call, f"by {by}() in {free.comm} (pid {free.pid}){after}", step)
    elif stack and "CLEANUP_SOCK_RELEASE" in call.first:
        yield False, _of(call, f"by {free.site}, no RCU on the stack", step)


@_each_call
def _closed_by_dentry(story: Story, call: Call) -> Iterator[Finding]:
    iput = call.first.get("CLEANUP_IPUT")
    stack = _stack(story, iput) if iput is not None else []
    callers = stack[stack.index("iput") + 1 :] if "iput" in stack else []
    if iput is not None and "__fput" in callers:
        good = callers[0] not in ("__sock_release", "sock_close")  # a tail call leaves no frame
        yield good, _at(iput, f"called by {callers[0]}(), under __fput()")


@_each_call
def _same_step(story: Story, call: Call) -> Iterator[Finding]:
    if (release := within(call, "CLEANUP_SOCK_RELEASE")) is None:
        return
    stack = _stack(story, release)
    callers = stack[stack.index("__sock_release") + 1 :] if "__sock_release" in stack else []
    if "sock_release" in stack:
        yield False, _at(release, "sock_release() is on the stack")
    elif callers:
        yield True, _at(release, f"called by {callers[0]}(), no sock_release() on the stack")


@_each_call
def _errno_kept(story: Story, call: Call) -> Iterator[Finding]:
    if not _failed(call):
        return
    edge = call.edge
    if edge is not None and edge.ret is not None and edge.id != "STEP_09":
        text = f"{errno_text(edge.ret)}; the call {_returned(call)}"
        yield call.result == edge.ret, Evidence(call.number, edge.id, told(edge), text)
    for refusal, errno in _refusals(story, call):
        if refusal.hook not in _HIDDEN:
            yield call.result == errno, _of(call, _refused(refusal.hook, errno, call))


@_each_call
def _errno_hidden(story: Story, call: Call) -> Iterator[Finding]:
    for refusal, errno in _refusals(story, call):
        hidden = _HIDDEN.get(refusal.hook, ())
        if hidden and errno not in hidden:  # else what is said and what hides it are the same
            yield call.result in hidden, _of(call, _refused(refusal.hook, errno, call))


def _refusals(story: Story, call: Call) -> Iterator[tuple[ev.Inject, int]]:
    """The refusals that were done in a call that returned, each with its −errno."""
    for event in _during(story, call):
        done = isinstance(event, ev.Inject) and event.call == call.number and not event.armed
        if isinstance(event, ev.Inject) and done and event.what == "refusal" and event.errno:
            yield event, -event.errno


def _refused(hook: str, errno: int, call: Call) -> str:
    return f"{hook}() was made to return {errno_text(errno)}; the call {_returned(call)}"


# -- signals -----------------------------------------------------------------------------------


def _during(story: Story, call: Call) -> list[ev.Event]:
    """The log from the entry of a call to its return; empty where it did not return."""
    returned = call.first.get("STEP_17")
    return story.log[call.moments[0].line : returned.line] if returned is not None else []


def _signals(story: Story, call: Call) -> list[ev.Signal]:
    """The signals to the calling thread, from STEP_09 to STEP_17, that took effect later.

    One that is ignored, or that nothing shows to have taken effect, tests nothing.
    """
    begun, returned = call.first.get("STEP_09"), call.first.get("STEP_17")
    if begun is None or returned is None:
        return []
    return [
        event
        for event in _during(story, call)
        if isinstance(event, ev.Signal)
        and event.phase == "generated"
        and event.tid == call.enter.tid
        and begun.event.t <= event.t <= returned.event.t
        and _took_effect(story, call, event)
    ]


def _taken(story: Story, call: Call, signal: ev.Signal) -> ev.Signal | None:
    """Its delivery after the return. One that ends the task may come as SIGKILL: it makes that
    pending (complete_signal(), kernel/signal.c)."""
    returned = call.first["STEP_17"].line
    found = []
    for signo in {signal.signo, 9 if _ended(story, signal) else signal.signo}:
        taken = story.taken.get((signal.tid, signo), [])
        found += taken[bisect_left(taken, returned, key=lambda line_event: line_event[0]) :][:1]
    return min(found, key=lambda line_event: line_event[0])[1] if found else None


def _took_effect(story: Story, call: Call, signal: ev.Signal) -> bool:
    taken = _taken(story, call, signal)
    return taken.handler != "ignored" if taken is not None else _ended(story, signal)


def _ended(story: Story, signal: ev.Signal) -> bool:
    """Whether the process ended of a signal of this number."""
    end = story.exits.get(signal.pid)
    return end is not None and end.status == -signal.signo


def _fatal(story: Story, call: Call, signal: ev.Signal) -> bool:
    """Whether the process ended of this signal: of its number, and it was not handled."""
    taken = _taken(story, call, signal)
    return _ended(story, signal) and (taken is None or taken.handler == "default")


def _named(signal: ev.Signal) -> str:
    return signal_name(signal.signo)


def _pause(call: Call, signal: ev.Signal) -> tuple[Moment, int, int]:
    """The last step before a signal; the ns from it to the signal, and on to the next step."""
    before = max((m for m in call.moments if m.event.t <= signal.t), key=lambda m: m.event.t)
    after = min(m.event.t for m in call.moments if m.event.t >= signal.t)
    return before, signal.t - before.event.t, after - signal.t


def _woken(story: Story, call: Call, signal: ev.Signal) -> str | None:
    """How a fatal signal ended the call's wait for a module; None: it did not, or cannot be told.

    request_module() is the only place between sock_alloc() and fd_install() where a signal ends a
    sleep, and only a fatal one (call_usermodehelper_exec(), kernel/umh.c: UMH_KILLABLE). The
    result tells that the module did not come, the times that the task was asleep.
    """
    before, slept, left = _pause(call, signal)
    asleep = slept >= _SLEPT and left * 10 <= slept
    if call.result not in _NO_MODULE or not asleep or not _fatal(story, call, signal):
        return None
    return (
        f"{_named(signal)} came {duration(slept)} after {before.id}; {duration(left)} later the "
        f"call went on, and {_returned(call)}"
    )


@_each_call
def _not_cut_short(story: Story, call: Call) -> Iterator[Finding]:
    for signal in _signals(story, call):
        if how := _woken(story, call, signal):
            yield False, _of(call, how, "STEP_17")
        elif not _failed(call):
            where = _pause(call, signal)[0].id
            text = f"{_named(signal)} came after {where}; the call {_returned(call)}"
            yield True, _of(call, text, "STEP_17")
        # Another failure has a cause of its own: it tells nothing of the signal.


@_each_call
def _only_later(story: Story, call: Call) -> Iterator[Finding]:
    for event in _during(story, call):
        mine = isinstance(event, ev.Signal) and event.tid == call.enter.tid
        if isinstance(event, ev.Signal) and mine and event.phase == "delivered":
            yield False, _of(call, f"{_named(event)} was delivered before the return")
    for signal in _signals(story, call):
        if (taken := _taken(story, call, signal)) is not None:
            after = duration(taken.t - call.first["STEP_17"].event.t)
            yield True, _of(call, f"{_named(signal)} was delivered {after} after it", "STEP_17")


@_each_call
def _exit_releases(story: Story, call: Call) -> Iterator[Finding]:
    release = _release(call)
    for signal in _signals(story, call):
        if (how := _woken(story, call, signal)) and release is not None:
            yield False, _at(release, how)
        elif release is not None and _fatal(story, call, signal) and not _failed(call):
            under = "do_exit" in _stack(story, release)
            where = "under do_exit()" if under else "not under do_exit()"
            if under or within(call, release.id):
                yield under, _at(release, f"{where}, of {_named(signal)}")


@_each_call
def _only_window(story: Story, call: Call) -> Iterator[Finding]:
    for signal in _signals(story, call):
        if how := _woken(story, call, signal):
            yield True, _of(call, how, "STEP_17")
            continue
        before, slept, left = _pause(call, signal)
        if slept >= _SLEPT and left >= slept and _fatal(story, call, signal):
            text = f"{_named(signal)} came {duration(slept)} after {before.id}, and the call "
            yield False, _of(call, f"{text} stayed there for {duration(left)} more")


# -- all of them -------------------------------------------------------------------------------


def _claim(id: str, text: str, rule: _Rule, source: str, tests: str) -> tuple[Claim, _Rule]:
    return Claim(id, text, "not tested", (), source, tests, 0), rule


_CLAIMS = (
    _claim("1-state", "1 State: allocated, but no descriptor leads to it", _no_descriptor,
           "report, sentence 1", "close"),
    _claim("2-threat", "2 Threat: user space cannot close() it yet", _no_close,
           "report, sentence 2", "close"),
    _claim("2-number", "2 Threat: before fd_install() the number does not exist", _no_number,
           "report, sentence 2", "close"),
    _claim("3-file", "3 Solution: a local struct file * holds it from sock_alloc() on",
           _file_all_along, "report, sentence 3", "close"),
    _claim("3-later", "3 Solution: it does so from sock_alloc_file() to fd_install()", _file_later,
           "report, sentence 3", "close"),
    _claim("4-trap", "4 Trap: an error after sock_alloc() runs sock_release()",
           _released_on_error, "report, sentence 4", "emfile"),
    _claim("5-iput", "5 Action: there, sock_release() calls iput()", _iput_by_release,
           "report, sentence 5", "emfile"),
    _claim("5-socket", "5 Action: iput() is the end of the struct socket", _iput_ends_socket,
           "report, sentence 5", "close"),
    _claim("5-sock", "5 Action: iput() frees the struct sock, too", _sock_by_iput,
           "report, sentence 5", "close"),
    _claim("6-leak", "6 Result: zero memory leak", _no_leak, "report, sentence 6", "close"),
    _claim("6-zombie", "6 Result: none that failed or got a signal left a zombie socket",
           _no_zombie, "report, sentence 6", "emfile"),
    _claim("fd-install", "fd_install() returns void and cannot fail: it ends in its number",
           _cannot_fail, "fd_install, fs/file.c", "close"),
    _claim("socket-first", "Before there is a struct file, a local struct socket * is released",
           _socket_first, "__sock_create, net/socket.c", "emfile"),
    _claim("release-sock", "The sock is freed by its release (inet_release()), not by iput()",
           _sock_by_release, "inet_release, net/ipv4/af_inet.c", "close"),
    _claim("rcu", "A released struct socket is freed by RCU, later, in whatever task",
           _freed_by_rcu, "sock_free_inode, net/socket.c", "close"),
    _claim("close-inode", "On close() the inode goes with the dentry, not by sock_release()",
           _closed_by_dentry, "__sock_release, net/socket.c", "close"),
    _claim("same-step", "sock_release() itself is not seen: __sock_release() is that step",
           _same_step, "sock_release, net/socket.c", "emfile"),
    _claim("early-error", "An early error (ops is NULL) skips inet_release()", _early_error,
           "__sock_release, net/socket.c", "protocol-absent"),
    _claim("late-error", "A late error (ops is set) runs inet_release()", _late_error,
           "__sock_release, net/socket.c", "emfile"),
    _claim("number-back", "put_unused_fd() gives a reserved number back on an error", _number_back,
           "__sys_socket, net/socket.c", "lsm-file"),
    _claim("nothing-back", "put_unused_fd() runs in no other call", _nothing_back,
           "__sys_socket, net/socket.c", "emfile"),
    _claim("errno", "socket() returns the errno of the function that failed", _errno_kept,
           "__sys_socket, net/socket.c", "protocol-absent"),
    _claim("errno-hidden", "sock_alloc() and sk_alloc() say only NULL: their errno is hidden",
           _errno_hidden, "__sock_create, net/socket.c", "lsm-inode"),
    _claim("signal", "A signal during the call does not cut it short or make it fail",
           _not_cut_short, "report, the puzzle", "sigterm-step_14"),
    _claim("signal-later", "A signal during the call is delivered only after its return",
           _only_later, "get_signal, kernel/signal.c", "sigterm-step_14"),
    _claim("signal-exit", "After a fatal signal exit releases the socket, not socket()",
           _exit_releases, "do_exit, kernel/exit.c", "sigterm-step_14"),
    _claim("signal-window", "The one window: a fatal signal ends a wait for a module",
           _only_window, "call_usermodehelper_exec, kernel/umh.c", "window-sigkill"),
)  # fmt: skip
