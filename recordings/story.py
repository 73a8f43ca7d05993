"""Folds events into the story: what was known at each step. Live and replay use the same fold.

Feeding an event costs the same however long the stream is, and little: what a call's steps amount
to is worked out when somebody looks at the call, once.
"""

from __future__ import annotations

import gc
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from recordings import events as ev
from recordings.checks import Check as Check
from recordings.checks import Status as Status
from recordings.checks import told as told
from recordings.layers import LAYERS, LINKS, NULL, UNREAD, Pointer, Ptr
from recordings.path import Path
from recordings.steps import CALL_STEPS, PATHS, STEPS
from recordings.uapi import errno_text as errno_text
from recordings.uapi import signal_name as signal_name

LinkState = Literal["absent", "one-way", "linked", "broken", "freed", "unread"]


@dataclass(frozen=True, slots=True)
class Link:
    """A pointer between layers: `value` as read (None: not read), and what it amounts to.

    `absent`: NULL. `linked`: it leads to this call's object, and the way back agrees. `one-way`:
    it leads there; the way back does not, or was not read. `broken`: it leads elsewhere.
    `freed`: what it leads to is freed. `unread`: the pointer was not read.
    """

    state: LinkState
    value: Ptr | None


@dataclass(slots=True)
class Object:
    """An object of the ledger. `generation` counts the objects seen at this address, from 1.

    `reused`: the next object at this address, when this one's free was not seen.
    """

    kind: ev.Kind
    at: Ptr
    generation: int
    call: int
    alloc: ev.Alloc
    free: ev.Free | None = None
    reused: ev.Alloc | None = None


@dataclass(slots=True)
class Hold:
    """A thread held inside the kernel: as it was last seen there, and its end, if it came.

    `call`: 0 where it is not known, or has not begun. `moment`: what was read there, to be looked
    at like a step; None while nothing is known of its call. It is none of the call's moments:
    nothing is judged by it.
    """

    call: int
    event: ev.Held
    end: ev.Released | None = None
    moment: Moment | None = None


_Objects = Mapping[ev.Kind, tuple[Ptr, bool]]
_NO_OBJECTS: _Objects = {}  # of all moments that nobody has looked at


@dataclass(slots=True, eq=False)
class Moment:
    """One step as it was captured. `index` counts all moments of the story from 0.

    `line`: where its event stands in the story's log. `written`: how many pieces of output came
    before it. What the moment amounts to is worked out when somebody asks, for all moments of its
    call at once: most calls of a long recording nobody sees.
    """

    index: int
    line: int
    call: Call = field(repr=False)  # which has us among its moments: no end to that
    event: ev.Enter | ev.Step | ev.Held
    id: str
    snap: ev.Snapshot
    written: int
    _check: Check | None = None
    _objects: _Objects = field(default_factory=lambda: _NO_OBJECTS)

    @property
    def symbol(self) -> str:
        """The kernel function this moment tells of."""
        if isinstance(self.event, ev.Enter):
            return f"sys_enter_{self.event.syscall}"
        return self.event.symbol

    @property
    def check(self) -> Check | None:
        self.call.known()
        return self._check

    @property
    def objects(self) -> _Objects:
        """What the call had made by then: its address, and whether it was freed by then."""
        self.call.known()
        return self._objects

    @property
    def links(self) -> dict[str, Link]:
        return links(self.snap, self.objects)

    @property
    def changed(self) -> frozenset[str]:
        """ "layer.field" of each value that differs from the call's last reading of it."""
        found = ((name, value, self.before(name)) for name, value in readings(self.snap))
        return frozenset(n for n, value, was in found if was is not None and was[1] != value)

    def before(self, name: str) -> tuple[Moment, object] | None:
        """Where in the call before this moment "layer.field" was last read, and what it was."""
        own = self.call.moments
        return _last(own[: bisect_left(own, self.index, key=lambda m: m.index)], name)


def _last(moments: Sequence[Moment], name: str) -> tuple[Moment, object] | None:
    layer, _, wanted = name.partition(".")
    for moment in reversed(moments):
        value = getattr(getattr(moment.snap, layer), wanted, None)
        if value is not None:
            return moment, value
    return None


@dataclass(slots=True)
class Known:
    """What a call is known to have come to, by the moments so far.

    `first`: step id → the moment that first told of it; `decided`: → the one whose check counts.
    `made`: the address that each layer had where the call made it; `objects`: the same of all that
    it made, however that was told, and whether it was freed. `edge`: the newest step that failed,
    before the syscall returned.
    """

    first: dict[str, Moment] = field(default_factory=dict)
    decided: dict[str, Moment] = field(default_factory=dict)
    made: dict[ev.Kind, Ptr] = field(default_factory=dict)
    objects: dict[ev.Kind, tuple[Ptr, bool]] = field(default_factory=dict)
    edge: ev.Step | None = None

    def own(self, kind: ev.Kind) -> Ptr | None:
        """The address of this call's object, told by where it was made and by no later link."""
        return self.objects[kind][0] if kind in self.objects else None

    def edge_errno(self) -> int | None:
        """−errno that the call must return, by the edge that it left by."""
        edge = STEPS[self.edge.id].edge if self.edge else None
        hidden = edge.hidden if edge else None
        return hidden if hidden is not None or self.edge is None else self.edge.ret

    def take(self, moment: Moment, blind: dict[str, str]) -> None:
        """The next moment of the call: its check, and what it had made by then."""
        event, step = moment.event, STEPS.get(moment.id)
        assert not isinstance(event, ev.Held), "a hold is none of its call's moments"
        if isinstance(event, ev.Step):
            check = step.test.outcome(event, self) if step and step.test else None
            if check and check.status == "unobservable" and event.id in blind:
                check = Check("unobservable", f"{blind[event.id]}; {check.evidence}")
        else:
            why = blind.get(moment.id)
            check = Check("unobservable", why) if why else Check("pass", entered(event))
        for kind, at in _born(event):
            self.made.setdefault(kind, at)
            if kind not in self.objects:
                self.objects = self.objects | {kind: (at, False)}
        moment._check, moment._objects = check, self.objects
        self.first.setdefault(moment.id, moment)
        if step and step.edge and isinstance(event, ev.Step) and failed(event):
            self.edge = event
        if check is not None:
            before = self.decided.get(moment.id)
            if before is None or _outweighs(check, before._check):
                self.decided[moment.id] = moment


@dataclass(slots=True, eq=False)
class Call:
    """One socket() of one thread. `result` is None while it is still inside the kernel."""

    number: int
    enter: ev.Enter
    blind: dict[str, str] = field(repr=False)  # of its story
    moments: list[Moment] = field(default_factory=list)
    objects: dict[ev.Kind, Object] = field(default_factory=dict)
    result: int | None = None
    _known: Known | None = None
    # What came since it was last looked at, in order.
    _new: list[Moment | tuple[ev.Kind, Ptr, bool]] = field(default_factory=list)

    def tell(self, new: Moment | tuple[ev.Kind, Ptr, bool]) -> None:
        """Take in what is next: a moment, or an object of ours, made (False) or freed (True)."""
        self._new.append(new)

    def known(self) -> Known:
        """What is known of it by now."""
        known = self._known = self._known or Known()
        if self._new:
            new, self._new = self._new, []
            for one in new:
                if isinstance(one, Moment):
                    known.take(one, self.blind)
                else:
                    kind, at, freed = one
                    known.objects = known.objects | {kind: (at, freed)}
        return known

    @property
    def first(self) -> dict[str, Moment]:
        return self.known().first

    @property
    def decided(self) -> dict[str, Moment]:
        return self.known().decided

    @property
    def made(self) -> dict[ev.Kind, Ptr]:
        return self.known().made

    @property
    def edge(self) -> ev.Step | None:
        return self.known().edge

    def own(self, kind: ev.Kind) -> Ptr | None:
        """The address of this call's object, told by where it was made and by no later link."""
        return self.known().own(kind)

    def last(self, name: str) -> object:
        """The newest reading of "layer.field"; None: it was never read."""
        found = _last(self.moments, name)
        return found[1] if found else None

    @property
    def path(self) -> Path:
        return PATHS.get(self.enter.syscall, PATHS["socket"])

    @property
    def family(self) -> int | None:
        return self.enter.args[0] if len(self.enter.args) == 3 else None

    def linkage(self) -> ev.Snapshot:
        """Each field as it was last read before anything of the call was released."""
        found: dict[str, msgspec.Struct] = {}
        for layer, struct in LAYERS.items():
            read = {name: self.linked(layer, name) for name in struct.__struct_fields__}
            read = {name: value for name, value in read.items() if value is not None}
            if read:
                found[layer] = struct(**{"at": UNREAD} | read if layer != "fd" else read)
        return ev.Snapshot(**found)  # type: ignore[arg-type]

    def linked(self, layer: ev.Kind, name: str) -> object:
        """A field as it was last read before anything of the call was released; None: never.

        In a call that succeeded, a NULL read before the link was due does not count.
        """
        complete = self.result is not None and self.result >= 0
        due = self.path.due.get(f"{layer}.{name}", 0) if complete else 0
        for moment in reversed(self._making()):
            value = getattr(getattr(moment.snap, layer), name, None)
            if value in (None, UNREAD):
                continue
            if value != NULL or self.path.number[moment.id] >= due:
                return value
        return None

    def _making(self) -> list[Moment]:
        """The moments before the first of its cleanup."""
        order = self.path.number
        end = next((n for n, one in enumerate(self.moments) if one.id not in order), None)
        return self.moments[:end]


@dataclass(slots=True)
class ProbeState:
    """A planned probe: *fired*, *attached but never reached*, or *missing*."""

    probe: ev.Probe
    hits: int = 0
    missed: int = 0
    counted: bool = False

    @property
    def status(self) -> str:
        if self.probe.status == "missing":
            return "missing"
        if self.hits:
            return "fired"
        return "attached but never reached" if self.counted else "attached"


@dataclass
class Story:
    """The state after all events so far. `feed` is the only thing that changes it.

    `tasks`: pid → its newest state; `exits`: pid → its end. `forks`: all of them, in order.
    `strays`: frees of what was not live; `twice`: those of them whose object had been freed before.
    `orphans`: steps of calls whose beginning is not in the stream; `again`: beginnings of calls
    that had begun. `taken`: the signals that were delivered, by thread and number, with their lines
    in the log.
    `held`: those that are held now, by tid; `holds`: all that ever were, in order.
    """

    header: ev.Header | None = None
    ready: ev.Ready | None = None
    end: ev.End | None = None
    state: ev.State | None = None
    states: list[ev.State] = field(default_factory=list)
    tasks: dict[int, ev.State] = field(default_factory=dict)
    exits: dict[int, ev.State] = field(default_factory=dict)
    forks: list[ev.Fork] = field(default_factory=list)
    probes: dict[str, ProbeState] = field(default_factory=dict)
    blind: dict[str, str] = field(default_factory=dict)
    calls: dict[int, Call] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)
    ledger: list[Object] = field(default_factory=list)
    symbols: dict[Ptr, str] = field(default_factory=dict)
    stacks: dict[int, list[str]] = field(default_factory=dict)
    log: list[ev.Event] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
    strays: list[ev.Free] = field(default_factory=list)
    twice: list[ev.Free] = field(default_factory=list)
    orphans: list[ev.Step] = field(default_factory=list)
    again: list[ev.Enter] = field(default_factory=list)
    taken: dict[tuple[int, int], list[tuple[int, ev.Signal]]] = field(default_factory=dict)
    held: dict[int, Hold] = field(default_factory=dict)
    holds: list[Hold] = field(default_factory=list)
    lost: int = 0
    waits: list[ev.Waited] = field(default_factory=list)
    uncaptured: list[ev.Uncaptured] = field(default_factory=list)
    _entering: dict[int, Hold] = field(default_factory=dict)  # tid → held where its call begins
    _made: dict[tuple[int, ev.Kind, Ptr], Object] = field(default_factory=dict)
    _newest: dict[tuple[ev.Kind, Ptr], Object] = field(default_factory=dict)
    _silences: dict[str, str | None] = field(default_factory=dict)
    _untold: set[str] | None = None  # the steps that only missing probes would have told of

    @classmethod
    def of(cls, events: Iterable[ev.Event]) -> Story:
        story = cls()
        gc.disable()  # nothing of a story is garbage: looking for some would take half the time
        try:
            for event in events:
                story.feed(event)
        finally:
            gc.freeze()
            gc.enable()
        return story

    def feed(self, event: ev.Event) -> Moment | None:
        """Take one event in; the moment it made, if any."""
        match event:  # the frequent kinds come first
            case ev.Step():
                self.log.append(event)
                if (found := self.calls.get(event.call)) is not None:
                    if event.id == found.path.returns:
                        found.result = event.ret
                    return self._moment(found, event)
                self.orphans.append(event)
                return None
            case ev.Stack():
                self.stacks[event.id] = event.frames
                return None
            case ev.Alloc():
                self._alloc(event)
            case ev.Free():
                self._free(event)
            case ev.Enter() if event.call in self.calls:
                self.again.append(event)
            case ev.Enter():
                call = Call(event.call, event, self.blind)
                self.calls[event.call] = call
                if (hold := self._entering.pop(event.tid, None)) is not None:
                    hold.call = event.call
                self.log.append(event)
                return self._moment(call, event)
            case ev.Symbol():
                self.symbols[event.at] = event.name
                return None
            case ev.Output():
                self.output.append(event.text)
                return None
            case ev.Header():
                self.header = event
            case ev.Probe():
                self.probes[event.name] = ProbeState(event)
                self._silences.clear()
                self._untold = None
                return None
            case ev.Fired():
                if state := self.probes.get(event.name):
                    state.hits, state.missed, state.counted = event.hits, event.missed, True
                self._silences.clear()
                return None
            case ev.Blind():
                self.blind[event.step] = event.why
                self._silences.clear()
                return None
            case ev.Ready():
                self.ready = event
            case ev.State():
                self.state = event
                self.states.append(event)
                self.tasks[event.pid] = event
                if event.state == "exited":
                    self.exits[event.pid] = event
            case ev.Held():
                self._held(event)
            case ev.Released():
                self._released(event)
            case ev.Lost():
                self.lost += event.count
                self._silences.clear()
            case ev.Waited():
                self.waits.append(event)
            case ev.Uncaptured():
                self.uncaptured.append(event)
            case ev.Fork():
                self.forks.append(event)
            case ev.End():
                self.end = event
            case ev.Signal() if event.phase == "delivered":
                self.taken.setdefault((event.tid, event.signo), []).append((len(self.log), event))
        self.log.append(event)
        return None

    def name(self, at: Ptr | None) -> str:
        """The kernel's name for an address, or the empty string."""
        return self.symbols.get(at, "") if at else ""

    def _alloc(self, event: ev.Alloc) -> None:
        before = self._newest.get((event.kind, event.at))
        generation = before.generation + 1 if before else 1
        # A number is taken by one process and by another: only an address proves reuse.
        if before is not None and before.free is None and event.kind != "fd":
            before.reused = event
            self._gone(before)
        made = Object(event.kind, event.at, generation, event.call, event)
        self.ledger.append(made)
        self._newest[event.kind, event.at] = made
        self._made[event.call, event.kind, event.at] = made
        if (call := self.calls.get(event.call)) is not None:
            call.objects[event.kind] = made
            self._tell(call, (event.kind, event.at, False))

    def _free(self, event: ev.Free) -> None:
        made = self._made.get((event.call, event.kind, event.at))
        if made is not None and made.free is None:
            made.free = event
            self._gone(made)
            return
        self.strays.append(event)
        if made is not None:
            self.twice.append(event)

    def _gone(self, made: Object) -> None:
        """It was freed: its free was seen, or what its address was given to next."""
        call = self.calls.get(made.call)
        if call is not None and call.objects.get(made.kind) is made:
            self._tell(call, (made.kind, made.at, True))

    def _tell(self, call: Call, new: Moment | tuple[ev.Kind, Ptr, bool]) -> None:
        call.tell(new)
        for hold in self.held.values():
            if hold.call == call.number:
                self._look_into(hold, len(self.log))

    def _held(self, event: ev.Held) -> None:
        hold = self.held.get(event.tid)
        if hold is not None and hold.event.since == event.since:
            hold.event = event
        else:
            hold = self.held[event.tid] = Hold(event.call, event)
            self.holds.append(hold)
            if not event.call and event.point == "USER_EXEC":
                self._entering[event.tid] = hold
        self._look_into(hold, len(self.log))

    def _look_into(self, hold: Hold, line: int) -> None:
        """Make the moment of a hold; or bring it up to date, the same object: it is looked at."""
        if (call := self.calls.get(hold.call)) is None:
            return
        event = hold.event
        found = Moment(
            len(self.moments), line, call, event, event.point, event.snap, len(self.output), None,
            call.known().objects,
        )  # fmt: skip
        if hold.moment is None:
            hold.moment = found
        else:
            for name in found.__slots__:
                setattr(hold.moment, name, getattr(found, name))

    def _released(self, event: ev.Released) -> None:
        if (hold := self.held.pop(event.tid, None)) is not None:
            hold.end = event

    def _moment(self, call: Call, event: ev.Enter | ev.Step) -> Moment:
        id, snap = call.path.enters, _NOTHING
        if isinstance(event, ev.Step):
            id, snap = event.id, event.snap
        line = len(self.log) - 1
        moment = Moment(len(self.moments), line, call, event, id, snap, len(self.output))
        self.moments.append(moment)
        call.moments.append(moment)
        self._tell(call, moment)
        return moment

    def unprobed(self, ids: Iterable[str]) -> list[str]:
        """Those of the steps that only missing probes would have told of."""
        if self._untold is None:
            told = {id: False for state in self.probes.values() for id in state.probe.steps}
            for state in self.probes.values():
                if state.status != "missing":
                    told.update(dict.fromkeys(state.probe.steps, True))
            self._untold = {id for id, yes in told.items() if not yes}
        return [id for id in ids if id in self._untold]

    def silence(self, id: str) -> str | None:
        """Why a step may have come though no probe told of it; None: it would have been told."""
        if id not in self._silences:
            self._silences[id] = self._silence(id)
        return self._silences[id]

    def _silence(self, id: str) -> str | None:
        if id in self.blind:
            return self.blind[id]
        if self.unprobed([id]):
            return "the probe that would tell of it is missing"
        if self.lost:
            return f"not captured; {self.lost} events of this recording were lost"
        for state in self.probes.values():
            if state.missed and id in state.probe.steps:
                times = "once" if state.missed == 1 else f"{state.missed} times"
                return f"not captured; the kernel skipped {state.probe.name} {times}"
        return None

    def steps(self, call: Call) -> dict[str, Check]:
        """The outcome of each of the ten steps for a call, in order."""
        outcomes = {"PROBE_INIT": self._probe_init()}
        for id in CALL_STEPS[1:]:
            outcomes[id] = self._outcome(call, id)
        return outcomes

    def _probe_init(self) -> Check:
        if self.ready is None:
            unknown = "the recording does not say how probes were attached"
            return Check("unobservable", self.blind.get("PROBE_INIT", unknown))
        missing = [p.probe for p in self.probes.values() if p.probe.status == "missing"]
        attached = len(self.probes) - len(missing)
        text = f"{attached} probes attached in {self.ready.took / 1e6:.0f} ms"
        for probe in missing:
            text += f"; missing {probe.name}: {probe.why or 'no reason given'}"
        good = attached > 0 and all(probe.why for probe in missing)
        return Check("pass" if good else "fail", text)

    def _outcome(self, call: Call, id: str) -> Check:
        blind = self.blind.get(id)
        if (moment := call.decided.get(id)) is not None and moment.check is not None:
            return moment.check
        if (seen := call.first.get(id)) is not None and isinstance(seen.event, ev.Step):
            return Check("unobservable", f"{told(seen.event)}; {blind or 'no more was read there'}")
        if call.result is None and self.end is None:
            return Check("unobservable", "not reached so far", unreached=True)
        if call.result is not None and self.left_before(call, id):
            why = f"not reached: the call returned {errno_text(call.result)}"
            return Check("unobservable", why, unreached=True)
        if silence := self.silence(id):
            why = silence
        elif call.result is None:
            why = "the call did not return in this recording"
        else:
            why = "no probe told of it"
        return Check("unobservable", why)

    def left_before(self, call: Call, id: str) -> bool:
        """Whether a failed call left before this step.

        It did if, after the last step seen, one up to here was not that a probe would tell of.
        """
        if call.result is None or call.result >= 0 or self.lost:
            return False
        within = CALL_STEPS[2:-1]
        seen = [number for number, step in enumerate(within) if step in call.first]
        unseen = within[max(seen, default=-1) + 1 :]
        upto = unseen[: unseen.index(id) + 1] if id in unseen else ()
        return any(self.silence(step) is None for step in upto)


_NOTHING = ev.Snapshot()
_WEIGHT = {"unobservable": 0, "pass": 1, "fail": 2}


def _outweighs(check: Check, before: Check | None) -> bool:
    """A failure stays; an observation takes the place of none."""
    return before is None or _WEIGHT[check.status] > _WEIGHT[before.status]


def failed(event: ev.Step) -> bool:
    """Whether the step's function failed."""
    step = STEPS.get(event.id)
    if step is not None and step.edge is not None and step.edge.hidden is not None:
        layer = getattr(event.snap, step.makes or "", None)
        if layer is not None and layer.at == NULL:
            return True
    return event.ret is not None and event.ret < 0


def _born(event: ev.Enter | ev.Step) -> Iterator[tuple[ev.Kind, Ptr]]:
    """The object that a call has just made, as the step tells that follows its making."""
    step = STEPS.get(event.id) if isinstance(event, ev.Step) else None
    if step is not None and step.makes is not None:
        layer = getattr(event.snap, step.makes)  # type: ignore[union-attr]
        if layer is not None and layer.at not in (NULL, UNREAD):
            yield step.makes, layer.at


def readings(snap: ev.Snapshot, everything: bool = False) -> Iterator[tuple[str, object]]:
    """Each value of a snapshot as ("layer.field", value).

    `everything`: also what tells of the descriptor but is no field of a kernel struct.
    """
    for layer in LAYERS:
        struct: msgspec.Struct | None = getattr(snap, layer)
        if struct is None:
            continue
        for name in struct.__struct_fields__:
            value = getattr(struct, name)
            if value in (None, UNREAD) or (name in _NO_FIELD and not everything):
                continue
            yield f"{layer}.{name}", value


_NO_FIELD = ("number", "lowest", "users")


def links(snap: ev.Snapshot, objects: _Objects) -> dict[str, Link]:
    """The five links of a snapshot. `objects`: kind → (address, freed by then)."""
    return {link: _link(snap, objects, pointer) for link, pointer in LINKS.items()}


def _link(snap: ev.Snapshot, objects: _Objects, pointer: Pointer) -> Link:
    origin, goal, back = getattr(snap, pointer.source), getattr(snap, pointer.target), pointer.back
    value: Ptr | None = getattr(origin, pointer.field, None)
    if value is None:
        return Link("unread", None)
    if value == NULL:
        return Link("absent", value)
    at, freed = objects.get(pointer.target, (UNREAD, False))
    if freed and at == value:
        return Link("freed", value)
    there = goal.at if goal is not None else UNREAD
    known = at or there
    if known and value != known:
        return Link("broken", value)
    if known and back is None:
        return Link("linked", value)
    returns = getattr(goal, back, None) if back is not None and there == value else None
    return Link("linked" if returns is not None and returns == origin.at else "one-way", value)


def order(moment: Moment) -> tuple[int, bool]:
    """The order of moments, holds included: a hold comes after what was captured before it."""
    return moment.line, isinstance(moment.event, ev.Held)


def entered(event: ev.Enter) -> str:
    args = ", ".join(str(arg) for arg in event.args) or "?"
    return f"{event.syscall}({args}), {numbered(event)}, by {event.comm} tid {event.tid}"


def numbered(event: ev.Enter) -> str:
    """Its number: "syscall 41", "syscall 359 of i386"."""
    if event.nr < 0:
        return "syscall number not read"
    return f"syscall {event.nr}" + (f" of {event.abi}" if event.abi else "")
