"""Holds at every step: the whole machine stands, by QEMU's gdb stub (`--vm --hold=all`).

`Frozen` stands in the stream between the app and the agent in the machine. The machine stops as the
kernel in it is about to call one of the agent's probes. If it does so for the tracee, the machine
stays frozen, and what is there is read and told: a `held` event like any other. Commands for a
frozen machine are obeyed here, all others by the agent, whose probes go on telling what they see.

It stops before the probe: so what is armed while frozen lands at that very step.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from probes.backends import BACKENDS, CLEANUPS, Backend, Point
from probes.landmarks import SPINS, Landmarks, Named
from probes.vm import AGENT_CPU
from probes.vm.gdb import Gdb, GdbError, Stop
from probes.vm.guest import Guest
from probes.vm.kprobes import Kprobes, Place
from probes.vm.unwind import Unwinder
from recordings import commands as cmd
from recordings import events as ev
from recordings.layers import LAYERS, Kind
from recordings.steps import STEPS
from recordings.stream import encode

PATIENCE = 5.0  # seconds, at a hold, for the agent to tell of what came before
ALONE = 0.5  # of these, how long its CPU alone runs for it, and not all but the tracee's
NOBODY = -1  # no process
AHEAD = 0.3  # seconds that the tracee's CPU runs before the agent's: the next step is mostly near
LATE = 1.0  # seconds in which what a lost machine said comes
SLICE = 0.02  # seconds between two looks at what the one CPU that runs is about
OUT = 0.03  # seconds that a CPU has to come out of the kernel, where it may hold a lock
_ERRORS = 2**64 - 4095  # a pointer from there on is an errno
_SHOWN = ("rip", "rsp", "rax", "rdi", "rsi", "rdx", "rcx", "r8", "r9")
_HLT = b"\xf4"
_LONGEST = 15  # bytes of an instruction
_SPIN = 0x500  # bytes: the longest of SPINS (0x4c0 in 6.12)
_LANDMARKS, _NAMED = b'{"ev":"landmarks"', b'{"ev":"named"'
_NAMES = (0, "names")  # owed by the agent, like a step: the names of a stack's functions


class _Line(msgspec.Struct):
    """What is of interest here in a line of the stream."""

    ev: str
    t: int = 0
    id: str | int = ""
    call: int = 0
    tid: int = 0
    pid: int = 0
    backend: str = ""


@dataclass(eq=False)
class _Call:
    """A call of the tracee: what it has made so far; `created`: its family's function ran.

    `number`: as the agent counts; 0 until it has told of the call's beginning.
    """

    tid: int
    number: int = 0
    socket: int = 0
    sock: int = 0
    file: int = 0
    created: bool = False
    # return slot, function, where it truly returns to
    frames: list[tuple[int, str, int]] = field(default_factory=list)


@dataclass
class _Hit:
    """A task of the tracee's came to a point. `layers`: the addresses of file, socket, sock;
    `at_hand`: those of them that the function there destroys.
    """

    cpu: str
    task: int
    pid: int
    tid: int
    point: Point
    layers: tuple[int, int, int]
    registers: dict[str, int]
    ip: int  # where it is: `rip`, or where the function that has returned was called
    of: _Call | None = None  # the call that it is in, or whose object this is about
    at_hand: tuple[str, ...] = ()
    fd: int | None = None
    step: str = ""
    since: int = 0  # ns, of this machine's clock: the frozen one's stands
    call: int = 0  # the number of the call; 0: not known


class Frozen:
    """Reads commands from `stdin` and the agent's stream from `out`; writes to `into`, `stdout`."""

    def __init__(self, gdb: Path, stdin: int, into: int, out: int, stdout: int) -> None:
        self._path = gdb
        self._stdin, self._into, self._out, self._stdout = stdin, into, out, stdout
        self._lines, self._words = b"", b""
        self._commands = msgspec.json.Decoder(cmd.AnyCommand)
        self._line = msgspec.json.Decoder(_Line)
        self._landmarks: Landmarks | None = None
        self._gdb: Gdb | None = None
        self._set: set[int] = set()
        self._readers: set[int] = set()  # where code is that has just read what is watched
        self._every = False
        self._stops = {id for id in STEPS if id != "PROBE_INIT"}
        self._t = 0
        self._names: dict[int, str] = {}
        self._stacks = 0
        self._understood = False  # what is on a stack at a stop was found, at least once
        self._lost = False  # the machine stands, perhaps, and nothing makes it run
        self._forget(NOBODY)

    def _forget(self, pid: int) -> None:
        """A new tracee."""
        self._pid = pid
        self._calls: dict[int, _Call] = {}  # tid → the call it is in
        self._untold: list[_Call] = []  # begun, and the agent has not told of that yet
        self._newest = 0  # of the calls that it told of
        self._objects: dict[int, tuple[str, _Call]] = {}  # slab address → kind, whose it is
        self._owed: set[tuple[int, str | int]] = set()  # (tid, step): passed, not told of yet
        self._limit: tuple[int, int, int] | None = None  # tid, task, what to put back
        self._held: _Hit | None = None
        self._unsaid: ev.Held | None = None  # how it is held, while the call's number is awaited
        self._queue: list[_Hit] = []  # of other threads that came to a point meanwhile: they stand
        self._nameless: dict[int, list[int]] = {}  # id → a stack whose functions are not named yet
        self._until: float | None = None  # some CPUs run while the others stand, till then
        self._ahead = ("", 0.0)  # the tracee's CPU, and until when it runs before the agent's
        self._patient = 0.0  # until when the agent is heard, at a hold

    # -- the stream ----------------------------------------------------------------------

    def run(self) -> None:
        """Until the agent's stream ends, or nobody reads it any more: then the VM ends too."""
        try:
            with contextlib.suppress(BrokenPipeError):
                self._run()
        finally:
            for fd in (self._stdout, self._out):
                with contextlib.suppress(OSError):
                    os.close(fd)

    def _run(self) -> None:
        fds = [self._stdin, self._out]
        while self._out in fds:
            watched = [*fds, *([self._gdb.fd] if self._gdb is not None else [])]
            timeout = None if self._until is None else max(0, self._until - time.monotonic())
            ready = select.select(watched, [], [], LATE if self._lost else timeout)[0]
            if self._lost and self._out not in ready:
                break
            try:
                if self._out in ready and not self._take():
                    fds.remove(self._out)
                if self._stdin in ready and not self._obey_all():
                    fds.remove(self._stdin)
                while self._gdb is not None and (stop := self._gdb.stopped()) is not None:
                    self._stopped(stop)
                told = self._held is not None and self._is_told()
                if self._until is not None and (told or self._until < time.monotonic()):
                    self._slice_over()
            except GdbError as error:
                self._give_up(str(error))

    def _take(self) -> bool:
        """Pass the agent's lines on; whether there may be more."""
        try:
            data = os.read(self._out, 1 << 16)
        except OSError:
            data = b""
        *lines, self._lines = (self._lines + data).split(b"\n")
        for line in lines:
            if line.startswith(_LANDMARKS):
                self._landmarks = msgspec.json.decode(line, type=Landmarks)
                continue
            if line.startswith(_NAMED):
                self._names |= msgspec.json.decode(line, type=Named).names
                self._owed.discard(_NAMES)
                self._tell_stacks()
                continue
            self._write(line)
            try:
                self._note_line(line)
            except GdbError as error:
                self._give_up(str(error))
        return bool(data)

    def _note_line(self, line: bytes) -> None:
        event = self._line.decode(line)
        self._t = max(self._t, event.t)
        match event.ev:
            case "header":
                self._forget(event.pid)
                self._attach(BACKENDS[event.backend])
            case "enter":
                self._owed.discard((event.tid, "USER_EXEC"))
                self._newest = event.call
                call = next((call for call in self._untold if call.tid == event.tid), None)
                if call is not None:
                    call.number = event.call
                    self._untold.remove(call)
                    self._say_held()
            case "step":
                self._owed.discard((event.tid, event.id))

    def _write(self, line: bytes) -> None:
        data = line + b"\n"
        while data:
            data = data[os.write(self._stdout, data) :]

    def _emit(self, event: ev.Event) -> None:
        self._write(encode(event))

    def _note(self, text: str) -> None:
        self._emit(ev.Note(t=self._t, text=text))

    def _forward(self, *commands: cmd.Command) -> None:
        with contextlib.suppress(OSError):
            os.write(self._into, b"".join(encode(command) + b"\n" for command in commands))

    # -- commands ------------------------------------------------------------------------

    def _obey_all(self) -> bool:
        data = os.read(self._stdin, 1 << 16)
        *lines, self._words = (self._words + data).split(b"\n")
        for line in lines:
            if line.strip():
                try:
                    self._obey(self._commands.decode(line))
                except msgspec.DecodeError as error:
                    self._note(f"a command was not understood: {error}")
        if not data:
            self._drop()
            self._let_go()
            os.close(self._into)
        return bool(data)

    def _obey(self, command: cmd.AnyCommand) -> None:
        self._no_longer()
        held = self._held
        match command:
            case cmd.Arm():
                (self._stops.add if command.stop else self._stops.discard)(command.step)
            case cmd.Next() | cmd.Continue():
                self._every = isinstance(command, cmd.Next)
                if held is None:
                    self._forward(cmd.Continue())
                else:
                    self._thaw("user")
            case cmd.Release() if held is not None:
                self._thaw("user")
            case cmd.Pause() if held is not None:
                self._note("the machine stands already")
            case cmd.Inject() if held is not None:
                self._inject(command, held)
            case cmd.Limit() if held is not None:
                self._lower(command.nofile, held)
            case cmd.Restart() | cmd.Quit() | cmd.Detach():
                self._drop()
                if not isinstance(command, cmd.Restart):
                    self._let_go()
                self._forward(command)
            case cmd.Refuse() if held is not None:
                self._refuse(command)
            case _:
                self._forward(command)

    def _inject(self, command: cmd.Inject, held: _Hit) -> None:
        """Write the signal into the arming map: the program at the held point runs next."""
        step = command.step or held.step
        here = step in held.point.steps
        points = [held.point] if here else [p for p in self._backend.points if step in p.steps]
        points = [point for point in points if point.injects and point.symbol not in _SILENT]
        why = ""
        if not points:
            why = f"no signal can be sent at {step}"
        elif here and held.pid != self._pid:
            why = "another task than the program's runs here"
        serial = self._guest.quota(command.times if command.signo and not why else 0)
        for point in points if not why else ():
            self._guest.arm(point.name, command.signo, serial)
        self._emit(
            ev.Inject(
                t=self._t, what="signal", pid=self._pid, signo=command.signo, step=step,
                armed=not why, why=why,
            )
        )  # fmt: skip

    def _refuse(self, command: cmd.Refuse) -> None:
        """The hooks' programs are there and read the map; a cgroup's is not."""
        if command.hook not in self._guest.marks.refusing:
            if command.hook == "cgroup":
                self._note("the cgroup is made when the machine runs on: for the next call")
            self._forward(command)
            return
        self._guest.refuse(command.hook, command.errno, command.times)
        self._emit(
            ev.Inject(
                t=self._t, what="refusal", pid=self._pid, hook=command.hook,
                errno=command.errno or None, armed=True,
            )
        )  # fmt: skip

    def _lower(self, nofile: int, held: _Hit) -> None:
        before = self._guest.limit(held.task, nofile)
        if self._limit is None:
            self._limit = held.tid, held.task, before
        self._emit(ev.Inject(t=self._t, what="limit", pid=self._pid, limit=nofile, result=0))

    # -- where it stops ------------------------------------------------------------------

    def _attach(self, backend: Backend) -> None:
        """Stop where the steps are. Nothing where the agent gave no landmarks."""
        if self._landmarks is None:
            return
        self._backend = backend
        symbols = self._landmarks.symbols
        if self._gdb is None:
            self._gdb = Gdb(self._path)
            self._agent = self._gdb.cpus[AGENT_CPU]
            self._guest = Guest(self._gdb, self._landmarks, backend)
            self._unwinder = Unwinder(self._guest)
        else:
            self._gdb.interrupt()
        self._points = {
            (point.symbol, "exit" if point.at == "exit" else "entry"): point
            for point in backend.points
            if point.steps and point.symbol in symbols
        }
        functions = {symbol: symbols[symbol] for symbol, _ in self._points}
        self._kprobes = Kprobes(self._guest, self._unwinder, functions)
        self._silent: dict[int, Place] = {functions[name]: (name, "entry") for name in _SILENT}
        self._stop_at(self._wanted())
        self._gdb.go()

    def _wanted(self) -> set[int]:
        """What matters now: others' tasks should not be stopped for nothing."""
        names = {"__sys_socket"}
        if self._calls:
            names |= {symbol for symbol, _ in self._points} - {*CLEANUPS, *_SILENT}
        if self._objects:
            names |= {*CLEANUPS, "do_exit"}
        if self._untold or self._newest:
            names.add("get_signal")
        places = {**self._kprobes.places, **self._silent}
        return {at for at, (symbol, _) in places.items() if symbol in names}

    def _stop_at(self, wanted: set[int]) -> None:
        assert self._gdb is not None
        for at in wanted ^ self._set:
            set_one = self._gdb.breakpoint if at in self._silent else self._gdb.watch
            set_one(at, at in wanted)
        self._set = wanted

    def _past(self, cpu: str) -> dict[str, int]:
        """Take a CPU over the breakpoint at which it stands, if it does; its registers before."""
        assert self._gdb is not None
        registers = self._gdb.registers(cpu)
        if registers["rip"] in self._set:
            self._gdb.step(cpu)
        return registers

    def _stopped(self, stop: Stop) -> None:
        """The machine stands: at a point of the tracee's, or it goes on at once."""
        assert self._gdb is not None
        if self._held is not None:  # another task, while the agent is heard
            self._meanwhile([stop, *self._hidden(stop)])
            self._gdb.go(*self._others())
            return
        self._until = None
        if self._came([stop, *self._hidden(stop)]):
            return
        cpu, end = self._ahead
        if stop.cpu == cpu and time.monotonic() < end:
            self._only(SLICE, cpu)
        else:
            self._gdb.go()

    def _came(self, stops: list[Stop]) -> bool:
        """Go on as is right where the tracee came to a point; false: it did not."""
        passed = self._meanwhile(stops)
        if self._queue:
            self._until = None
            self._hold(self._queue.pop(0))
        elif passed is not None:
            self._run_ahead(passed)
        return self._held is not None or passed is not None

    def _stops_at(self, hit: _Hit) -> bool:
        stops = [step for step in hit.point.steps if self._every or step in self._stops]
        hit.step = stops[0] if stops else ""
        return bool(stops)

    def _others(self) -> list[str]:
        """The CPUs that may run while a task is held."""
        assert self._gdb is not None
        assert self._held is not None
        still = {self._held.cpu, *(hit.cpu for hit in self._queue)}
        return [cpu for cpu in self._gdb.cpus if cpu not in still]

    def _meanwhile(self, stops: list[Stop]) -> _Hit | None:
        """Queue the threads of the tracee's that are to be held, and take others past the stop.

        Returns one that passed a point.
        """
        passed = None
        for stop in stops:
            hit = self._hit(stop)
            if hit is None:
                self._past(stop.cpu)
            elif self._stops_at(hit):
                self._queue.append(hit)
            else:
                passed = hit
                self._pass(hit)
        self._stop_at(self._wanted())
        return passed

    def _interrupt(self) -> list[Stop]:
        """Stop whatever runs; those that stopped by themselves by then."""
        assert self._gdb is not None
        stop = self._gdb.interrupt()
        return [each for each in (stop, *self._hidden(stop)) if each.watched]

    def _hidden(self, stop: Stop) -> list[Stop]:
        """Stops that QEMU has not told of: those of other CPUs at the same time as this one.

        QEMU tells of each at the next stop of its CPU, when its task has gone on from there. One
        instruction makes such a stop.
        """
        assert self._gdb is not None
        known = {hit.cpu for hit in (self._held, *self._queue) if hit is not None}
        if stop.watched:
            known.add(stop.cpu)
            self._readers.add(self._gdb.registers(stop.cpu)["rip"])
        found = []
        for cpu in self._gdb.cpus:
            rip = self._gdb.registers(cpu)["rip"] if cpu not in known else 0
            if any(0 <= reader - rip <= _LONGEST for reader in self._readers):
                found.append(self._gdb.step(cpu))
        return [each for each in found if each.watched]

    def _pass(self, hit: _Hit) -> None:
        """Past this point, to the probe there, which will tell of it."""
        told = hit.point.steps[0]
        if hit.point.symbol != "get_signal":  # of which the probe tells later, perhaps
            self._owed.add((hit.tid, told))
        if hit.point.name == "EXIT":
            self._returned(hit)
        self._past(hit.cpu)

    def _run_ahead(self, hit: _Hit) -> None:
        """Let its CPU run: the next step is mostly near."""
        if hit.point.symbol == "iput":  # what is left RCU does, which waits for every CPU
            assert self._gdb is not None
            self._ahead = "", 0.0
            self._gdb.go()
        else:
            self._ahead = hit.cpu, time.monotonic() + AHEAD
            self._only(SLICE, hit.cpu)

    def _returned(self, hit: _Hit) -> None:
        self._calls.pop(hit.tid, None)
        if self._limit is not None and self._limit[0] == hit.tid:
            _, task, before = self._limit
            self._guest.limit(task, before)
            self._limit = None

    # -- what a stop means ---------------------------------------------------------------

    def _hit(self, stop: Stop) -> _Hit | None:
        """The point that a CPU came to, for the tracee; None: something else."""
        assert self._gdb is not None
        guest = self._guest
        registers = self._gdb.registers(stop.cpu)
        place = self._kprobes.places.get(stop.watched) or self._silent.get(registers["rip"])
        if place is None:
            return None
        task = guest.current(registers)
        pid, tid = guest.ids(task)
        mine = pid == self._pid
        symbol, at = place
        if not mine and symbol not in CLEANUPS:
            return None
        if stop.watched:
            if not (registers := self._kprobes.registers(place, registers)):
                if mine and not self._understood:
                    raise GdbError(f"the registers at {symbol} were not found on its stack")
                if mine:  # QEMU tells of one CPU at a time, of another one that stopped then later
                    where = f"{symbol} {at}, and was past it when that was told: it was not held"
                    self._note(f"a thread came to {where}")
                return None  # or read by someone else, who looks at the kprobes
            self._understood = True
        call = self._calls.get(tid) if mine else None
        ip = registers["rip"]
        if at == "exit":
            if (caller := self._returning(call, symbol, registers["rsp"])) is None:
                return None
            ip = caller
        else:
            if symbol == "__sys_socket" and mine:
                call = self._calls[tid] = _Call(tid)
                self._untold.append(call)
            if call is not None and (symbol, "exit") in self._points:
                slot = registers["rsp"]
                call.frames.append((slot, symbol, guest.word(slot)))
        point = self._points.get(place)
        if point is None:
            return None
        hit = _Hit(stop.cpu, task, pid, tid, point, (0, 0, 0), registers, ip)
        if symbol in CLEANUPS:
            return self._cleanup(hit, symbol)
        if symbol in _SILENT:
            return self._ending(hit) if mine else None
        return self._in_call(hit, call) if call is not None else None

    @staticmethod
    def _returning(call: _Call | None, symbol: str, rsp: int) -> int | None:
        """Where a function has returned to; None: it was told of before, or is not of a call."""
        for number, (slot, entered, caller) in enumerate(call.frames if call is not None else ()):
            if (slot + 8, entered) == (rsp, symbol):
                assert call is not None
                del call.frames[number:]
                return caller
        return None

    def _in_call(self, hit: _Hit, call: _Call) -> _Hit | None:
        """What the program at this point makes of its arguments: see bpf/kprobe.c."""
        guest, registers = self._guest, hit.registers
        result = registers["rax"]
        match hit.point.symbol, hit.point.at:
            case "__sys_socket", "entry":
                pass
            case "sock_alloc", _:
                if call.socket:  # of another call, whose beginning was missed, as this one's end
                    del self._calls[hit.tid]
                    return None
                call.socket = result
                if result:
                    self._own("socket", result, call)
            case "__sock_create", _ if call.created or not call.socket:
                return None
            case "sock_alloc_file", _:
                if result < _ERRORS:
                    call.file = result
                    self._own("file", result, call)
                    self._created(call)
            case "fd_install", _:
                if guest.field(registers["rsi"], "file.private_data") != call.socket:
                    return None
                hit.fd = registers["rdi"] & 0xFFFFFFFF
            case "put_unused_fd", _:
                hit.fd = registers["rdi"] & 0xFFFFFFFF
            case "__sys_socket", "exit":
                hit.fd = result if result < _ERRORS and result < 1 << 31 else None
            case _, "entry":
                call.created = True
            case _, _:
                if not result >> 31 & 1:
                    self._created(call)
        hit.of, hit.layers = call, (call.file, call.socket, call.sock)
        return hit

    def _created(self, call: _Call) -> None:
        """The family's function succeeded; one that fails may leave a pointer to a freed sock."""
        if not call.sock and (sock := self._guest.field(call.socket, "socket.sk")):
            call.sock = sock
            self._own("sock", sock, call)

    def _own(self, kind: str, address: int, call: _Call) -> None:
        self._objects[self._slab(kind, address)] = kind, call

    def _slab(self, kind: str, address: int) -> int:
        offset = self._guest.marks.offsets["socket_alloc.socket"] if kind == "socket" else 0
        return address - offset

    def _cleanup(self, hit: _Hit, symbol: str) -> _Hit | None:
        """A cleanup function was entered: for an object of ours, in whatever task."""
        guest, offsets = self._guest, self._guest.marks.offsets
        number, (owner, path) = CLEANUPS[symbol]
        slab = hit.registers[("rdi", "rsi")[number]]
        slab -= offsets[f"{owner}.{path}"] if owner else 0
        if slab not in self._objects:
            return None
        kind, hit.of = self._objects[slab]
        inode = slab + offsets["socket_alloc.vfs_inode"]
        if symbol == "iput" and guest.field(inode, "inode.i_count", 4) != 1:
            return None
        if symbol in _LAST:
            del self._objects[slab]
        file = slab if kind == "file" else 0
        socket = guest.field(file, "file.private_data")
        hit.at_hand = (kind,)
        if kind == "socket":
            socket = slab + offsets["socket_alloc.socket"]
            file = guest.field(socket, "socket.file")
            hit.at_hand = "socket", "file"  # __fput() cuts socket.file
        sock = slab if kind == "sock" else guest.field(socket, "socket.sk")
        hit.layers = file, socket, sock
        return hit

    def _ending(self, hit: _Hit) -> _Hit | None:
        """A signal that ends the tracee is about to be taken, or it exits with an open socket."""
        files = [call for kind, call in self._objects.values() if kind == "file"]
        hit.of = files[-1] if files else None
        if hit.point.symbol == "get_signal":
            return hit if self._guest.dies(hit.task) else None
        return hit if files else None

    def _snapshot(self, hit: _Hit) -> ev.Snapshot:
        """The layers as bpf/common.c reads them: no field of what is freed, or waits for RCU."""
        guest, marks = self._guest, self._guest.marks
        unset = {"type"} if hit.point.name == "SOCK_ALLOC" else set()
        snap = guest.snapshot(*hit.layers, hit.task, hit.fd, unset)
        file, socket, sock = hit.layers
        inode = self._slab("socket", socket) + marks.offsets["socket_alloc.vfs_inode"]
        counts: dict[Kind, tuple[int, int | None]] = {
            "file": (file, snap.file.f_count if snap.file else None),
            "socket": (socket, guest.field(inode, "inode.i_count", 4) if socket else None),
            "sock": (sock, snap.sock.skc_refcnt if snap.sock else None),
        }
        for kind, (address, count) in counts.items():
            alive = count and self._objects.get(self._slab(kind, address)) == (kind, hit.of)
            if address and not alive and kind not in hit.at_hand:
                setattr(snap, kind, LAYERS[kind](at=hex(address)))
        return snap

    # -- holds ---------------------------------------------------------------------------

    def _only(self, seconds: float, *cpus: str) -> None:
        """Let these CPUs run while the others stand, so long at most."""
        assert self._gdb is not None
        self._gdb.go(*cpus)
        self._until = time.monotonic() + seconds

    def _slice_over(self) -> None:
        """Let the tracee's CPU run on before the agent's; if it waits for another, with that.

        At a hold the other way round: the agent's, and if that does not do, all but the tracee's.
        """
        if self._gdb is None:
            return
        now = time.monotonic()
        if self._held is not None:
            if self._is_told() or now > self._patient:
                self._no_longer()
                return
            self._meanwhile(self._interrupt())
            self._only(self._patient - now, *self._others())
            return
        cpu, end = self._ahead
        if now > end:
            self._no_longer()
            return
        if self._came(self._interrupt()):
            return
        others = [other for other in self._gdb.cpus if other != self._agent]
        self._only(SLICE, *(others if self._waits(cpu) else [cpu]))

    def _no_longer(self) -> None:
        """Some CPUs have had their time: all stand if a task is held, else all run."""
        if self._until is None or self._gdb is None:
            return
        stops = self._interrupt()  # what was read there is not read again
        self._until = None
        if self._held is None:
            if not self._came(stops):
                self._gdb.go()
        else:
            self._meanwhile(stops)
            self._say_held(anyhow=True)
            self._leave_others(self._held)
            self._owed.clear()
            self._tell_stacks(anyhow=-self._stacks)

    def _waits(self, cpu: str) -> bool:
        """Whether a CPU is idle, or spins until another does something."""
        assert self._gdb is not None
        rip = self._gdb.registers(cpu)["rip"]
        symbols = self._guest.marks.symbols
        spins = any(0 <= rip - symbols.get(name, rip + 1) < _SPIN for name in SPINS)
        return spins or self._guest.bytes(rip - 1, 1) == _HLT

    def _leave_others(self, hit: _Hit) -> None:
        """Leave the other CPUs where the tracee's need not wait for them, when it runs ahead."""
        assert self._gdb is not None
        for cpu in self._others():
            self._come_out(cpu)

    def _come_out(self, cpu: str) -> None:
        """Run a CPU until it is in user mode or idle: there it holds no lock of the kernel's."""
        assert self._gdb is not None
        end = time.monotonic() + OUT
        while time.monotonic() < end:
            rip = self._past(cpu)["rip"]
            if rip < 1 << 63 or self._guest.bytes(rip - 1, 1) == _HLT:
                break
            self._gdb.go(cpu)
            time.sleep(0.001)
            if stops := self._interrupt():
                self._meanwhile(stops)
                if cpu not in self._others():
                    break

    def _hold(self, hit: _Hit, before: str = "") -> None:
        """`before`: the CPU of the one that was held before; its probe is about to tell of it."""
        guest, point = self._guest, hit.point
        self._held = hit
        hit.since = time.monotonic_ns()
        assert self._gdb is not None
        self._gdb.registers(hit.cpu)  # whose memory is read
        pending, shared, blocked = guest.signals(hit.task)
        fds, fds_cut = guest.fds(hit.task)
        self._unwind(hit)
        self._unsaid = ev.Held(
            t=self._t, call=0, point=hit.step, pid=hit.pid, tid=hit.tid,
            how="frozen", symbol=point.symbol, at=point.at, state="R", wchan="",
            since=self._t, stack=-self._stacks, snap=self._snapshot(hit),
            registers={name: hex(hit.registers[name]) for name in _SHOWN},
            pending=pending, shared=shared, blocked=blocked, fds=fds, fds_cut=fds_cut,
        )  # fmt: skip
        self._say_held()
        if not self._is_told():
            self._patient = time.monotonic() + PATIENCE
            self._only(ALONE, self._agent, *filter(None, [before]))
        else:
            self._leave_others(hit)

    def _is_told(self) -> bool:
        """Whether all is told of the hold, and of what came before."""
        return not self._owed and self._unsaid is None

    def _say_held(self, anyhow: bool = False) -> None:
        """Tell of the hold once its call's number is known, or `anyhow`.

        The agent numbers the calls in the order in which their probes ran, which is not always that
        of the stops. At a call's beginning its probe has not run: the number is then 0, and the
        call is the thread's next.
        """
        hit, event = self._held, self._unsaid
        if hit is None or event is None:
            return
        if hit.of is None:
            awaited = bool(self._untold)
        elif hit.point.name == "ENTER":
            awaited = any(call.tid == hit.tid and call is not hit.of for call in self._untold)
        else:
            awaited = hit.of in self._untold
        if awaited and not anyhow:
            return
        hit.call = hit.of.number if hit.of is not None else self._newest
        self._unsaid = None
        where = f"the whole machine stands, at {event.symbol} {event.at}"
        self._emit(msgspec.structs.replace(event, t=self._t, since=self._t, call=hit.call))
        self._emit(ev.State(t=self._t, pid=self._pid, state="held", why=where))

    def _unwind(self, hit: _Hit) -> None:
        """Read the stack of the hold. It is told once its functions are named, by the agent."""
        self._stacks += 1
        call = self._calls.get(hit.tid)
        returns = {slot: caller for slot, _, caller in call.frames} if call is not None else {}
        rsp, rbp = hit.registers["rsp"], hit.registers["rbp"]
        frames = self._nameless[-self._stacks] = self._unwinder.frames(hit.ip, rsp, rbp, returns)
        if unknown := [at for at in frames if at not in self._names]:
            self._forward(cmd.Name(addresses=unknown))
            self._owed.add(_NAMES)
        else:
            self._tell_stacks()

    def _tell_stacks(self, anyhow: int = 0) -> None:
        """Those that have their names; the one of the id `anyhow` without them too.

        The agent cannot give them while it waits for RCU, and RCU for the CPU that is held
        (membarrier(2), at the tracee's end): it does afterwards.
        """
        for id, stack in list(self._nameless.items()):
            frames = [self._names.get(at, hex(at)) for at in stack]
            named = all(at in self._names for at in stack)
            if named or id == anyhow:
                self._emit(ev.Stack(t=self._t, id=id, frames=frames))
            if named:
                del self._nameless[id]

    def _thaw(self, by: ev.By) -> None:
        """The machine runs on."""
        self._no_longer()
        hit, self._held = self._held, None
        if hit is None or self._gdb is None:
            return
        self._tell_released(hit, by)
        self._pass(hit)
        while self._queue:
            following = self._queue.pop(0)
            if self._stops_at(following):
                self._hold(following, before=hit.cpu)
                return
            self._pass(following)
        self._run_ahead(hit)

    def _drop(self) -> None:
        """The tracee is held up no more, come what may: the machine runs on.

        A lowered limit stays: the tracee is killed next, or the machine ends with us.
        """
        self._no_longer()
        hit, gdb = self._held, self._gdb
        if gdb is not None:
            cpu = hit.cpu if hit is not None else gdb.interrupt().cpu
            if hit is not None:
                self._tell_released(hit, "detach")
        standing = [waiting.cpu for waiting in self._queue]
        self._forget(NOBODY)
        if gdb is not None:
            for each in (cpu, *standing):
                self._past(each)
            self._stop_at(self._wanted())
            gdb.go()

    def _tell_released(self, hit: _Hit, by: ev.By) -> None:
        self._emit(
            ev.Released(
                t=self._t, call=hit.call, point=hit.step, pid=hit.pid, tid=hit.tid, by=by,
                held=time.monotonic_ns() - hit.since, snap=ev.Snapshot(),
            )
        )  # fmt: skip
        self._emit(ev.State(t=self._t, pid=self._pid, state="running"))

    def _let_go(self) -> None:
        """Leave the machine, which runs, to itself."""
        if self._gdb is not None:
            self._gdb.interrupt()
            self._stop_at(set())
            self._gdb.detach()
        self._gdb = self._landmarks = self._until = None

    def _give_up(self, why: str) -> None:
        """It could not be read, or it is gone. What the agent says still passes."""
        self._say_held(anyhow=True)
        gdb, hit, self._held = self._gdb, self._held, None
        text = f"the machine is not frozen any more: {why}"
        if gdb is not None:
            try:
                with contextlib.suppress(GdbError):
                    self._stop_at(set())
                gdb.detach()
                if hit is not None:
                    self._tell_released(hit, "detach")
            except GdbError:  # nothing is known to run
                gdb.close()
                self._lost = True
                text = f"the machine is lost: {why}"
        self._note(text)
        self._gdb = self._landmarks = self._until = None


_SILENT = ("get_signal", "do_exit")  # points where the agent's program sends no signal
_LAST = ("sock_close", "__sk_destruct", "sock_free_inode")  # their objects are gone after them
