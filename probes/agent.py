"""The agent: starts the tracee, attaches, says what happens on stdout, obeys commands on stdin."""

from __future__ import annotations

import codecs
import contextlib
import ctypes as ct
import gc
import os
import platform
import resource
import select
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from probes.attach import Attached, AttachError
from probes.backends import Backend
from probes.btf import BtfError
from probes.capture import Decoder, Raw
from probes.compile import CompileError
from probes.doctor import cannot_attach, choose
from probes.hold import MOST, Holds
from probes.hold import why_not as why_no_hold
from probes.kallsyms import Kallsyms
from probes.landmarks import Named, landmarks
from probes.launcher import Launcher
from probes.spool import LOOK_AGAIN
from probes.tracee import Stdin, Tracee, TraceeError, started
from probes.vm import AGENT_CPU
from probes.waiting import Waiting
from recordings import __version__
from recordings import commands as cmd
from recordings import events as ev
from recordings.commands import HOLDS
from recordings.steps import STEPS
from recordings.stream import encode

GRACE = 10.0  # seconds to wait, after the tracee's end, for RCU to free what it had
GRACE_CUT = 2.0  # the same where events were lost, frees perhaps, or a command waits for it
SLICE = 0.02  # seconds of decoding between two looks at all else
FLOOD = 1 << 16  # bytes that came at once: the tracee is busy
STARVED = 0.25  # seconds until something is decoded all the same
SOON = 0.01  # seconds between two looks at what tells nobody that it is ready
STANDS = 1.0  # seconds in which one that took a SIGSTOP stands, if no SIGCONT came
LEAVING = 0.25  # seconds to decode what was captured, when we leave before the program's end
MAX_COMMAND = 1 << 23  # bytes; ARG_MAX allows a restart's argv 6 MiB at most
LAST = 10.0  # seconds that a reader has for our last words
_MEMBARRIER_CMD_GLOBAL, _SYS_MEMBARRIER = 1, 324


class Interrupted(Exception):
    """A signal ends us before anything has begun."""


class Agent:
    """One session: a tracee after another (restart), the same probes throughout."""

    def __init__(
        self,
        launcher: Launcher,
        argv: list[str],
        backend: Backend,
        follow_forks: bool,
        hold: float | None = None,
        freeze: bool = False,
        stdin: Stdin = "terminal",
        lossy: bool = False,
    ) -> None:
        """`hold`: hold at every point, for so many seconds, MOST at most; None: nowhere.

        `freeze`: the machine is held at every step, from outside: stop nowhere, and tell where
        things are. `stdin`: what the tracee reads from. `lossy`: events are lost where the tracee
        is faster than we are; else it waits.
        """
        self._launcher = launcher
        self._argv = argv
        self._backend = backend
        self._follow_forks = follow_forks
        self._commands = msgspec.json.Decoder(cmd.AnyCommand)
        self._input = bytearray()  # an unfinished line
        self._skipping = False  # to the end of a line that is too long
        self._text = codecs.getincrementaldecoder("utf-8")("replace")
        self._out: list[bytes] = []
        self._lost: dict[str, int] = {}
        self._lossy = False  # this program's stream has lost events
        self._hits_before: dict[str, tuple[int, int]] = {}  # of programs that ran before
        self._stops: set[str] = set()
        if not freeze:
            self._stops = {id for id in STEPS if id.startswith(("STEP_", "CLEANUP_"))}
        self._freeze = freeze
        self._lossless = not (lossy or freeze)
        self._stdin: Stdin = stdin
        self._children: dict[int, int] = {}  # followed: pid → pidfd, taken at the fork
        self._followed: set[int] = set()  # the same, as far as the stream has told of them
        self._stop_untold: ev.State | None = None  # of the tracee: it only waits for us
        self._decoded = 0.0  # when something was decoded last
        self._stopping: dict[int, float] = {}  # who took a SIGSTOP: looked at till then
        self._stood: set[int] = set()  # and who stands
        self._deadline: float | None = None  # of the wait for RCU after the program's end
        self._settled = False  # all is told of this program
        self._pending: cmd.Restart | cmd.Quit | None = None  # what to do then
        self._deferred: list[cmd.AnyCommand] = []  # for the program that a restart will start
        self._hung_up = False  # nobody commands us any more: leave once settled
        self._cgroup_armed = False
        self._limit_before: tuple[int, int] | None = None  # the soft limit; calls returned then
        self._leaving = False  # this session ends, its tracee lives on if it lives
        self._interruptible = False
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for signo in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(signo, self._on_signal)
        self._hold = None if hold is None else min(hold, MOST)
        self._hold_at = set() if hold is None else set(HOLDS)  # wherever that can be
        self._cpus = os.sched_getaffinity(0)
        self._tracee = self._started(argv)
        self._symbols = Kallsyms()
        self._attached: Attached | None = None
        self._running = False

    def _started(self, argv: list[str]) -> Tracee:
        """A tracee, on the CPUs that are for everybody. Raises TraceeError."""
        try:
            os.sched_setaffinity(0, self._cpus)
            return Tracee(self._launcher, argv, self._hold is not None, self._stdin)
        finally:
            if self._freeze:
                os.sched_setaffinity(0, {AGENT_CPU})

    def run(self) -> int:
        """The whole session; the exit status.

        Raises AttachError or Interrupted before any event was sent.
        """
        self._interruptible = True
        if self._leaving:
            raise Interrupted(signal.SIGTERM)
        try:
            attached = Attached(
                self._backend, self._symbols, self._raw, self._early, self._follow_forks
            )
        except OSError as error:
            raise AttachError(f"the probes cannot be attached: {error.strerror}") from error
        self._interruptible = False
        self._attached = attached
        self._decoder = self._new_decoder()
        if self._freeze:
            for hook in cmd.REFUSALS:  # no program can be loaded while the machine stands
                with contextlib.suppress(OSError, AttachError):  # it is told when it is asked for
                    attached.refuse(hook, 0, 0)
            marks = landmarks(self._symbols, attached)
            self._out.append(msgspec.json.encode(marks))
        spool = attached.spool
        self._follow()
        for id in self._stops:
            self._set_stop(id, True)
        self._holds = Holds(
            attached, self._hold or 0, self._emit, lambda frames: self._decoder.named_stack(frames)
        )
        self._holds.adopt(self._tracee.region, self._tracee.why_no_region)
        self._waiting = Waiting(attached, self._processes, self._emit)
        self._begin()
        silent: Tracee | None = None  # whose terminal was closed
        taken, decoding = 0, False
        while not self._leaving:
            tracee, region = self._tracee, self._holds.faulting
            fds = [self._wake, *([] if self._hung_up else [0])]
            if not taken:  # else it may be filled without waking us up
                fds.append(attached.ring_fd)
            if tracee is not silent:
                fds.append(tracee.master)
            if region is not None:
                fds.append(region.fd)
            settling = self._deadline is not None and not self._settled
            soon = SOON if self._stopping or tracee.unread or settling else 1.0
            if taken or not spool.empty:
                soon = LOOK_AGAIN
            ready = _readable(fds, 0 if decoding else self._holds.due(soon))
            taken = spool.take()
            self._stay_stopped(self._waiting.look())
            self._holds.look()
            self._holds.tick()
            if tracee is not silent and tracee.master in ready and not self._drain_output():
                silent = tracee
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                self._look_after()
            if 0 in ready:
                self._read_commands()
            if self._leaving:
                break
            self._tracee.feed()
            self._look_after_children()
            if self._over and (spool.empty or self._pending is not None):
                self._settle()
            if decoding := self._may_decode(taken):
                spool.decode(SLICE)
                decoding = not spool.empty
            self._after_calls()
            self._count_lost()
            self._flush()
        self._leave()
        return 0

    # -- what goes out -------------------------------------------------------------------

    def _emit(self, event: ev.Event) -> None:
        """Send it after everything that was captured before."""
        if self._attached is None:
            self._write(event)
        else:
            self._attached.spool.after(partial(self._write, event))

    def _write(self, event: ev.Event) -> None:
        self._out.append(encode(event))

    def _flush(self) -> None:
        """Write it all. A reader that stands keeps no hold from its end, and us from leaving."""
        data = b"\n".join([*self._out, b""]) if self._out else b""
        self._out.clear()
        while data:
            try:
                if select.select([], [1], [], self._holds.due(0.25))[1]:
                    data = data[os.write(1, data[: select.PIPE_BUF]) :]
                    continue
            except BlockingIOError:
                continue
            except OSError:  # the app is gone
                self._leaving = True
                return
            self._holds.tick()
            if self._leaving:
                self._out.insert(0, data.removesuffix(b"\n"))
                return

    def _begin(self) -> None:
        """The header, what was attached, and where the tracee stands."""
        assert self._attached is not None
        why_no_hold = self._arm_holds()
        now = time.monotonic_ns()
        self._emit(
            ev.Header(
                t=now, format=ev.FORMAT, version=ev.VERSION, readable_since=ev.READABLE_SINCE,
                tool=f"sockstep {__version__}", kernel=platform.release(), arch=platform.machine(),
                backend=self._backend.name, argv=self._argv, pid=self._tracee.pid,
                addresses="raw", wall=time.time(), host=platform.node(),
            )
        )  # fmt: skip
        for probe in self._attached.probes:
            self._emit(probe)
        for step, why in self._backend.blind.items():
            self._emit(ev.Blind(t=now, step=step, why=why))
        for hook, why in self._attached.cannot_refuse().items():
            self._emit(ev.Blind(t=now, step=hook, why=why))
        self._emit(ev.Ready(t=now, took=self._attached.took))
        self._emit(
            ev.State(
                t=now, pid=self._tracee.pid, state="stopped", signal=signal.SIGSTOP,
                why="before its first instruction",
            )
        )  # fmt: skip
        for event in why_no_hold:
            self._emit(event)
        self._flush()

    def _new_decoder(self) -> Decoder:
        assert self._attached is not None
        return Decoder(
            self._backend, self._symbols, self._attached.f_ref, self._write,
            self._attached.stacks.frames,
        )  # fmt: skip

    def _may_decode(self, taken: int) -> bool:
        """While the tracee is busy most of the CPUs' time is its own: decode a little, now and
        then, so that somebody who watches sees something."""
        assert self._attached is not None
        now = time.monotonic()
        if taken < FLOOD or self._waiting.on or now - self._decoded > STARVED:
            self._decoded = now
            return not self._attached.spool.empty
        return False

    def _early(self, raw: Raw) -> None:
        """A fork or an exit, as soon as it is out of the ring: its pid may be another's soon."""
        if self._backend.points[raw.point].name == "TASK_EXIT":
            if not raw.left and (pidfd := self._children.pop(raw.owner_pid, None)) is not None:
                self._tracee.forget_child(raw.owner_pid)
                os.close(pidfd)
            return
        if not self._follow_forks:
            return
        assert self._attached is not None
        child, ticks = int(raw.object), raw.site // (10**9 // os.sysconf("SC_CLK_TCK"))
        with contextlib.suppress(OSError):  # it has ended already
            pidfd = os.pidfd_open(child)
            if started(child) != ticks:
                os.close(pidfd)
                return
            self._children[child] = pidfd
            self._tracee.guard_child(child, ticks)
            if self._lossless:
                self._attached.guard(child)

    def _raw(self, raw: Raw) -> None:
        decoder = self._decoder
        decoder.feed(raw)
        while decoder.forks:
            parent, child = decoder.forks.pop()
            self._write(ev.Fork(t=raw.t, pid=parent, child=child, followed=self._follow_forks))
            if self._follow_forks:
                self._followed.add(child)
        while decoder.holds:
            self._holds.heard(decoder.holds.pop(0))
        while decoder.execs:
            self._holds.execed(decoder.execs.pop())
        while decoder.exits:
            self._ended(decoder.exits.pop(), raw.t)
        while decoder.stops:
            if (pid := decoder.stops.pop()) in self._children:
                self._stopping[pid] = time.monotonic() + STANDS

    def _ended(self, pid: int, t: int) -> None:
        """A process is no more."""
        if pid in self._followed:
            self._followed.discard(pid)
            self._stopping.pop(pid, None)
            self._emit(ev.State(t=t, pid=pid, state="exited"))

    def _drain_output(self) -> bool:
        data = self._tracee.output()
        if text := self._text.decode(data, final=not data):
            self._emit(ev.Output(t=time.monotonic_ns(), text=text))
        return bool(data)

    def _count_lost(self) -> None:
        assert self._attached is not None
        self._decoder.tell_uncaptured()
        for what, total in self._attached.lost().items():
            if new := total - self._lost.get(what, 0):
                self._emit(ev.Lost(t=time.monotonic_ns(), count=new, what=what))
                self._lost[what] = total
                self._lossy = True
        # Without a loss they are what was left of a program that ran before.
        if self._lossy and (new := self._decoder.orphans):
            what = "the loss of their calls' beginnings"
            self._emit(ev.Lost(t=time.monotonic_ns(), count=new, what=what))
            self._decoder.orphans = 0

    # -- the tracee ----------------------------------------------------------------------

    def _look_after(self) -> None:
        while (state := self._tracee.wait()) is not None:
            assert self._attached is not None
            if state.state == "stopped" and self._waiting.made(state.pid):
                self._stop_untold = state
                continue
            self._stop_untold = None
            self._became(state)

    def _became(self, state: ev.State) -> None:
        """The tracee has a new state. What led to it is told before it."""
        assert self._attached is not None
        if state.state != "running":
            self._attached.spool.take()
        if state.state == "stopped":
            self._attached.stop_everywhere(False)
            self._drain_output()
        if state.state == "exited":
            while self._drain_output():
                pass
        self._attached.spool.after(partial(self._tell_state, state))

    def _tell_state(self, state: ev.State) -> None:
        if state.state == "stopped":
            state.why = self._why_stopped(state)
        if state.state != "running" or not self._running:  # we said so when we resumed it
            self._write(state)
        self._running = state.state == "running"
        if state.state == "exited":
            self._holds.gone()
            if self._children:
                self._note(f"{len(self._children)} of its children live on, and are followed")

    def _stay_stopped(self, pids: list[int]) -> None:
        """They were to go on, but somebody else has stopped them."""
        for pid in pids:
            if pid in self._children:
                self._stopping[pid] = time.monotonic() + STANDS
            elif self._stop_untold is not None:
                state, self._stop_untold = self._stop_untold, None
                self._became(state)

    def _processes(self) -> Iterator[tuple[int, int]]:
        """All that is traced: pid and pidfd."""
        if not self._tracee.reaped:
            yield self._tracee.pid, self._tracee.pidfd
        yield from list(self._children.items())

    def _follow(self) -> None:
        """Trace the tracee: it is new, and has not run yet."""
        assert self._attached is not None
        self._attached.follow(self._tracee.pid)
        if self._lossless:
            self._attached.guard(self._tracee.pid)

    def _look_after_children(self) -> None:
        """They are not ours to wait for: one that took a SIGSTOP is looked at until it stands."""
        assert self._attached is not None
        if self._lossy and (ends := _readable([*self._children.values()], 0)):
            self._attached.spool.take()  # what told of an end may be lost
            for pid in [pid for pid, pidfd in self._children.items() if pidfd in ends]:
                os.close(self._children.pop(pid))
                self._attached.spool.after(partial(self._ended, pid, time.monotonic_ns()))
        for pid, until in list(self._stopping.items()):
            stat = ""
            with contextlib.suppress(OSError):  # its end is told by its own event
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if stat in ("", "T") or time.monotonic() > until:
                del self._stopping[pid]
            if stat == "T":
                self._attached.stop_everywhere(False)
                state = ev.State(t=time.monotonic_ns(), pid=pid, state="stopped", signal=19)
                state.why = self._why_stopped(state)
                self._emit(state)
                self._stood.add(pid)

    def _why_stopped(self, state: ev.State) -> str:
        # Forgotten here, and not when it runs on: that is told late, and it may have come to
        # steps since.
        point = self._decoder.stopped_by.pop(state.pid, "")
        if state.signal != signal.SIGSTOP or not point:
            return "by a signal"
        steps = next((known.steps for known in self._backend.points if known.name == point), ())
        if not steps or any(step.startswith("CLEANUP") for step in steps):
            return "on the way back to user mode, in cleanup"
        return "at the return of socket()"

    @property
    def _over(self) -> bool:
        """The program has ended, and all that we follow; after `_kill` the program is enough."""
        return self._tracee.exited and (not self._children or self._pending is not None)

    def _settle(self) -> None:
        """After the end, at each round: wait for RCU to free what the tracee had, then finish."""
        assert self._attached is not None
        if not self._settled:
            if not self._attached.spool.empty and (
                self._deadline is None or time.monotonic() < self._deadline
            ):
                if self._deadline is None:
                    self._deadline = time.monotonic() + GRACE_CUT
                return
            if count := self._attached.spool.drop():
                what = "events that a command did not wait for"
                self._emit(ev.Lost(t=time.monotonic_ns(), count=count, what=what))
            if self._deadline is None:
                self._count_lost()
                hurry = self._lossy or self._pending is not None
                self._deadline = time.monotonic() + (GRACE_CUT if hurry else GRACE)
            if self._decoder.live:
                ct.CDLL(None).syscall(_SYS_MEMBARRIER, _MEMBARRIER_CMD_GLOBAL, 0, 0)
                self._attached.drain()  # membarrier(2) has called synchronize_rcu()
            if self._decoder.live and time.monotonic() < self._deadline:
                return
            self._finish()
        if isinstance(self._pending, cmd.Quit) or self._hung_up:
            self._leaving = True
        elif self._pending is not None:
            self._restart(self._pending.argv or self._argv)
            deferred, self._deferred = self._deferred, []
            for command in deferred:
                self._receive(command)

    def _finish(self) -> None:
        """Count, and close the stream of this program."""
        assert self._attached is not None
        self._settled = True
        self._count_lost()
        if self._decoder.live and (self._pending is not None or self._leaving):
            what = "frees that a command did not wait for"
            self._emit(ev.Lost(t=time.monotonic_ns(), count=len(self._decoder.live), what=what))
        for name, (hits, missed) in self._attached.hits().items():
            past, past_missed = self._hits_before.get(name, (0, 0))
            self._emit(
                ev.Fired(
                    t=time.monotonic_ns(), name=name, hits=hits - past, missed=missed - past_missed
                )
            )  # fmt: skip
        self._emit(ev.End(t=time.monotonic_ns(), why="the tracee exited"))
        self._flush()

    def _resume(self, everywhere: bool) -> None:
        assert self._attached is not None
        self._attached.stop_everywhere(everywhere)
        if not self._tracee.exited:
            running = ev.State(t=time.monotonic_ns(), pid=self._tracee.pid, state="running")
            self._attached.spool.after(partial(self._tell_resumed, running))
        self._flush()
        if (limit := self._tracee.go_on()) is not None:
            self._limited(*limit)
        for pid in sorted(self._stood):
            self._emit(ev.State(t=time.monotonic_ns(), pid=pid, state="running"))
        self._stood.clear()
        self._signal_children(signal.SIGCONT)

    def _tell_resumed(self, state: ev.State) -> None:
        self._write(state)
        self._running = True

    def _signal_children(self, signo: int) -> None:
        for pidfd in self._children.values():
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(pidfd, signo)

    # -- what comes in -------------------------------------------------------------------

    def _on_signal(self, signo: int, _frame: object) -> None:
        if signo != signal.SIGCHLD:
            self._leaving = True
            if self._interruptible:
                raise Interrupted(signo)

    def _read_commands(self) -> None:
        data = b""
        with contextlib.suppress(OSError):  # a terminal that hung up
            data = os.read(0, 65536)
        if not data:  # the app is gone
            self._hung_up = True
            self._leaving = not self._over
            return
        *ends, rest = data.split(b"\n")
        for end in ends:
            line = self._input + end
            self._input.clear()
            if not self._skipping and line.strip() and not self._leaving:
                self._read_command(bytes(line))
            self._skipping = False
        if not self._skipping:
            self._input += rest
        if len(self._input) > MAX_COMMAND:
            self._input.clear()
            self._skipping = True
            self._note(f"a command was not understood: longer than {MAX_COMMAND} bytes")

    def _read_command(self, line: bytes) -> None:
        try:
            command = self._commands.decode(line)
        except (ValueError, RecursionError) as error:  # ValueError: JSON, UTF-8, or its meaning
            self._note(f"a command was not understood: {str(error)[:200]}")
        else:
            self._receive(command)

    def _receive(self, command: cmd.AnyCommand) -> None:
        """Obey it; what follows a restart is meant for the program that it starts."""
        first = isinstance(command, cmd.Restart) and not self._deferred
        at_once = first or isinstance(command, cmd.Quit | cmd.Detach)
        if isinstance(self._pending, cmd.Restart) and not at_once:
            self._deferred.append(command)
        else:
            self._obey(command)

    def _note(self, text: str) -> None:
        self._emit(ev.Note(t=time.monotonic_ns(), text=text))

    def _obey(self, command: cmd.AnyCommand) -> None:
        assert self._attached is not None
        match command:
            case cmd.Next() | cmd.Continue() if self._holds.any:
                self._attached.stop_everywhere(isinstance(command, cmd.Next))
                self._holds.release()
            case cmd.Release():
                if not self._holds.release(command.tid):
                    self._note("no such thread is held")
            case cmd.HoldAt():
                if why := self._holds.arm(command.point, command.on):
                    self._note(why)
                else:
                    (self._hold_at.add if command.on else self._hold_at.discard)(command.point)
            case cmd.Pause() if self._holds.any:
                self._note("it is held, asleep in the kernel: a stop would come at its return")
            case cmd.Next() | cmd.Continue() if self._stood or not self._tracee.exited:
                self._resume(everywhere=isinstance(command, cmd.Next))
            case cmd.Pause() if not self._tracee.exited:
                self._tracee.send(signal.SIGSTOP)
            case cmd.Input():
                if not self._tracee.exited:
                    self._tracee.feed(command.text.encode(), command.end)
            case cmd.Arm():
                if command.step not in STEPS:
                    self._note(f"there is no step {command.step}")
                else:
                    self._set_stop(command.step, command.stop)
            case cmd.Inject() if not self._over:
                self._inject(command)
            case cmd.Refuse() if not self._over:
                self._refuse(command)
            case cmd.Limit() if not self._tracee.exited:
                self._limit(command)
            case cmd.Name():
                named = Named({at: self._symbols.frame(at) for at in command.addresses})
                self._out.append(msgspec.json.encode(named))
            case cmd.Detach():
                self._leaving = True
            case cmd.Quit() if self._deadline is not None and not self._settled:
                self._leaving = True
            case cmd.Restart() | cmd.Quit():
                self._kill()
                self._pending = command
                if self._deadline is not None:
                    self._deadline = 0.0
            case _:
                self._note("the tracee has exited: restart it first")

    def _points(self, step: str) -> list[str]:
        """Where a signal armed at a step is sent: a call passes one of these."""
        points = self._backend.points
        return [point.name for point in points if step in point.steps and point.injects]

    def _arm_signal(self, step: str, signo: int, times: int) -> None:
        """All points of a step take from one quota."""
        assert self._attached is not None
        serial = self._attached.quota(times)
        for point in self._points(step):
            stop, _, _ = self._attached.armed(point)
            self._attached.arm(point, stop=stop, signo=signo, serial=serial)

    def _set_stop(self, step: str, stop: bool) -> None:
        assert self._attached is not None
        (self._stops.add if stop else self._stops.discard)(step)
        for point in self._backend.points:
            if step in point.steps:
                _, signo, serial = self._attached.armed(point.name)
                wanted = bool(self._stops.intersection(point.steps))
                self._attached.arm(point.name, stop=wanted, signo=signo, serial=serial)

    def _inject(self, command: cmd.Inject) -> None:
        assert self._attached is not None
        now = time.monotonic_ns()
        result: int | None = None
        why = ""
        if command.step is None:
            self._tell_where()
            result = self._tracee.send(command.signo)
        elif self._points(command.step):
            self._arm_signal(command.step, command.signo, command.times if command.signo else 0)
        else:
            why = f"backend {self._backend.name} has no probe at {command.step}"
        self._emit(
            ev.Inject(
                t=now, what="signal", pid=self._tracee.pid, signo=command.signo,
                step=command.step, armed=command.step is not None and not why, result=result,
                why=why,
            )
        )  # fmt: skip

    def _tell_where(self) -> None:
        """If the tracee sleeps inside the kernel: where, with its stack (/proc/PID/stack)."""
        state, wchan, frames = self._tracee.asleep()
        if frames:
            id = self._decoder.keep_stack(time.monotonic_ns(), frames)
            self._note(f"pid {self._tracee.pid} is in the kernel, {state} in {wchan}, stack {id}")

    def _refuse(self, command: cmd.Refuse) -> None:
        assert self._attached is not None
        result, why = 0, ""
        try:
            if command.hook not in (*cmd.REFUSALS, "cgroup"):
                raise AttachError(f"nothing can be refused at {command.hook}")
            cgroup = self._tracee.own_cgroup() if command.hook == "cgroup" else None
            self._attached.refuse(command.hook, command.errno, command.times, cgroup)
            if cgroup is not None:
                self._cgroup_armed = command.times > 0
        except AttachError as error:
            why = str(error)
        except OSError as error:
            result, why = -(error.errno or 0), error.strerror or str(error)
        self._emit(
            ev.Inject(
                t=time.monotonic_ns(), what="cgroup" if command.hook == "cgroup" else "refusal",
                pid=self._tracee.pid, hook=command.hook, errno=command.errno or None,
                armed=not why, result=result or None, why=why,
            )
        )  # fmt: skip

    def _limit(self, command: cmd.Limit) -> None:
        if (set := self._tracee.limit(command.nofile)) is not None:
            self._limited(command.nofile, set)
            return
        self._emit(
            ev.Inject(
                t=time.monotonic_ns(), what="limit", pid=self._tracee.pid, limit=command.nofile,
                armed=True, why="its dynamic loader still has files to open",
            )
        )  # fmt: skip

    def _limited(self, nofile: int, before: int) -> None:
        """`before`: the limit until now, or −errno."""
        if before >= 0 and self._limit_before is None:
            self._limit_before = before, self._decoder.returned
            self._tracee.guard_limit(before)
        self._emit(
            ev.Inject(
                t=time.monotonic_ns(), what="limit", pid=self._tracee.pid, limit=nofile,
                result=min(before, 0),
            )
        )  # fmt: skip

    def _after_calls(self) -> None:
        """What an injection does for one call only is undone when that call has returned."""
        assert self._attached is not None
        if self._limit_before is not None and self._decoder.returned > self._limit_before[1]:
            self._raise_limit()
        if self._cgroup_armed and not self._attached.refusals_left("cgroup"):
            self._cgroup_armed = False
            self._emit(
                ev.Inject(
                    t=time.monotonic_ns(), what="cgroup", pid=self._tracee.pid, hook="cgroup",
                    call=self._decoder.last_call, result=0,
                )
            )  # fmt: skip

    def _raise_limit(self) -> None:
        """To what it was before it was lowered."""
        if self._limit_before is not None:
            self._tracee.limit(self._limit_before[0])
            self._tracee.guard_limit(None)
            self._limit_before = None

    def _disarm(self) -> None:
        """Nothing that was armed outlives its tracee."""
        assert self._attached is not None
        self._attached.refuse_nothing()
        self._cgroup_armed = False
        self._limit_before = None
        for point in self._backend.points:
            stop, _, _ = self._attached.armed(point.name)
            self._attached.arm(point.name, stop=stop)

    def _arm_holds(self) -> list[ev.Event]:
        """Hold where it was asked for; what there is to say of where that cannot be."""
        if not self._hold_at:
            return []
        why = self._tracee.why_no_region or why_no_hold()
        whys = {p: why or self._holds.arm(p, True) for p in HOLDS if p in self._hold_at}
        events: list[ev.Event] = [
            ev.Blind(t=time.monotonic_ns(), step=point, why=text)
            for point, text in whys.items()
            if text
        ]
        for text in dict.fromkeys(text for text in whys.values() if text):
            events.append(ev.Note(t=time.monotonic_ns(), text=f"no hold in the kernel: {text}"))
        return events

    def _kill(self) -> None:
        """Kill the tracee and see it through to its end."""
        self._signal_children(signal.SIGKILL)
        if not self._tracee.exited:
            self._tracee.send(signal.SIGKILL)
            _readable([self._tracee.pidfd], 5)
            self._look_after()
        assert self._attached is not None
        for pidfd in [*self._children.values()]:
            _readable([pidfd], 1)
        self._attached.spool.take()

    def abandon(self) -> None:
        """Nothing could be attached: end the tracee, which has not run an instruction."""
        self._tracee.send(signal.SIGKILL)
        self._tracee.close()

    def _restart(self, argv: list[str]) -> None:
        assert self._attached is not None
        self._pending = None
        self._deadline = None
        self._tracee.close()
        self._attached.drain()
        self._hits_before = self._attached.hits()
        self._lossy = False
        self._decoder = self._new_decoder()
        self._holds.gone()
        for pidfd in self._children.values():
            os.close(pidfd)
        self._children.clear()
        self._followed.clear()
        self._stopping.clear()
        self._stood.clear()
        self._disarm()
        try:
            self._tracee = self._started(argv)
        except TraceeError as error:
            self._note(str(error))
            self._emit(ev.End(t=time.monotonic_ns(), why=str(error)))
            self._leaving = True
            return
        self._argv = argv
        self._settled = False
        self._follow()
        self._holds.adopt(self._tracee.region, self._tracee.why_no_region)
        self._begin()

    def _leave(self) -> None:
        """Take the probes away, resume the tracee if it lives, leave it to its guardian."""
        assert self._attached is not None
        if self._over and not self._settled:
            self._finish()
        self._holds.let_go()
        alive = not self._tracee.exited
        if self._settled and not alive and not self._children:
            self._attached.close_later()
        else:
            self._attached.close()
        self._attached.spool.take()
        self._waiting.let_go()
        self._attached.spool.decode(LEAVING)
        if count := self._attached.spool.drop():
            what = "events that nobody waited for"
            self._emit(ev.Lost(t=time.monotonic_ns(), count=count, what=what))
        self._count_lost()
        if alive:
            self._raise_limit()
            now = time.monotonic_ns()
            self._emit(ev.State(t=now, pid=self._tracee.pid, state="running", why="detached"))
            self._emit(ev.End(t=now, why="detached", how="detached"))
        self._tracee.close(detach=alive or bool(self._children))
        end = time.monotonic() + LAST
        self._flush()
        while self._out and time.monotonic() < end:
            self._flush()


def _readable(fds: list[int], seconds: float) -> set[int]:
    """Those that can be read, or have ended, within that time. (select(2) takes 1024 at most.)"""
    watched = select.poll()
    for fd in fds:
        watched.register(fd, select.POLLIN)
    return {fd for fd, _ in watched.poll(seconds * 1000)}


def main(
    launcher: Launcher,
    argv: list[str],
    backend: str | None,
    follow_forks: bool,
    hold: float | None = None,
    freeze: bool = False,
    stdin: Stdin = "terminal",
    lossy: bool = False,
) -> int:
    cannot_attach()
    gc.disable()  # no event is part of a cycle: looking for some takes half of all time
    with contextlib.suppress(ValueError, OSError):  # a descriptor for each child that is followed
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    agent = Agent(launcher, argv, choose(backend)[0], follow_forks, hold, freeze, stdin, lossy)
    try:
        return agent.run()
    except (AttachError, BtfError, CompileError):
        agent.abandon()
        raise
    except Interrupted as interrupted:
        agent.abandon()
        return 128 + int(interrupted.args[0])
