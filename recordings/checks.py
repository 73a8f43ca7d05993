"""The checks that a step can have, each a class: recordings/paths/ says which step has which.

What was read is compared with what the call is known to own from where it was made, never with an
address that the same reading followed to get there: that comparison could not fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from recordings import events as ev
from recordings.layers import NULL, Kind
from recordings.uapi import MAX_ERRNO, errno_text

if TYPE_CHECKING:
    from recordings.story import Known

Status = Literal["pass", "fail", "unobservable"]


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of a step's check, with the evidence, or the reason it could not be made.

    `unreached`: it could not, as the call has not come so far, or left before.
    """

    status: Status
    evidence: str
    unreached: bool = False


class Test(Protocol):
    def outcome(self, event: ev.Step, call: Known) -> Check | None:
        """The check of one captured step; None where it has none here.

        `call`: what is known of the call before this step.
        """


def verdict(good: bool, evidence: str) -> Check:
    return Check("pass" if good else "fail", evidence)


def told(event: ev.Step) -> str:
    """Where a step was captured: "sock_alloc exit", "inside __d_alloc"."""
    return f"inside {event.symbol}" if event.at == "inside" else f"{event.symbol} {event.at}"


def _failed(event: ev.Step, without: str) -> Check | None:
    if event.ret is None or event.ret >= 0:
        return None
    return Check("fail", f"{event.symbol} returned {errno_text(event.ret)}: no {without}")


@dataclass(frozen=True)
class Made:
    """The function gave an object of this kind."""

    kind: Kind

    def outcome(self, event: ev.Step, call: Known) -> Check | None:
        if (failed := _failed(event, self.kind)) is not None:
            return failed
        layer = getattr(event.snap, self.kind)
        return verdict(layer.at != NULL, f"{self.kind}={layer.at}") if layer and layer.at else None


@dataclass(frozen=True)
class Linked:
    """At its exit, the function has linked an object of `target`: this field is not NULL."""

    source: Kind
    field: str
    target: Kind

    def outcome(self, event: ev.Step, call: Known) -> Check | None:
        if event.at == "entry":
            return None
        if (failed := _failed(event, self.target)) is not None:
            return failed
        value = getattr(getattr(event.snap, self.source), self.field, None)
        if value is None or (event.at == "inside" and value == NULL):
            return None
        return verdict(value != NULL, f"{self.source}.{self.field}={value}")


@dataclass(frozen=True)
class Values:
    """At its exit, the function leaves these fields of a layer at these values."""

    layer: Kind
    values: tuple[tuple[str, object], ...]

    def outcome(self, event: ev.Step, call: Known) -> Check | None:
        struct = getattr(event.snap, self.layer)
        read = [(name, getattr(struct, name, None), wanted) for name, wanted in self.values]
        if any(value is None for _, value, _ in read):
            return None
        seen = ", ".join(f"{name}={value}" for name, value, _ in read)
        if event.at != "exit":
            return Check("unobservable", f"seen {told(event)}: {seen}")
        return verdict(all(value == wanted for _, value, wanted in read), seen)


@dataclass(frozen=True)
class Leads:
    """The field of `source` leads to the call's own object of `target`."""

    source: Kind
    field: str
    target: Kind
    shown: str  # as the field is called in the evidence

    def outcome(self, event: ev.Step, call: Known) -> Check | None:
        value = getattr(getattr(event.snap, self.source), self.field, None)
        own = call.own(self.target)
        if value is None or own is None:
            return None
        evidence = f"{self.shown}={value}"
        return verdict(value == own, evidence if value == own else f"{evidence}, not {own}")


@dataclass(frozen=True)
class Installed:
    """The number is the lowest free one, and it leads to this call's file.

    `by`: the function that installs it. At its entry the slot is still empty.
    """

    by: str

    def outcome(self, event: ev.Step, call: Known) -> Check | None:
        fd = event.snap.fd
        if fd is None:
            return None
        text, ours = f"fd={fd.number}", self.ours(event, call)
        if ours is False:
            return Check("fail", f"{text} leads to a file that is not of this call")
        if fd.lowest is None:
            return Check("unobservable", f"{text}; the lowest free number was not read")
        text += f", lowest free was {fd.lowest}"
        if fd.number != fd.lowest and (fd.users or 1) > 1:
            return Check("unobservable", f"{text}, but {fd.users} tasks share the table")
        if fd.number != fd.lowest:
            return Check("fail", text)
        if ours is None:
            return Check("unobservable", f"{text}; whose file it leads to was not read")
        return Check("pass", text)

    def ours(self, event: ev.Step, call: Known) -> bool | None:
        """Whether the descriptor leads to this call's file; None where that was not read."""
        file, fd = event.snap.file, event.snap.fd
        leads = fd.file if fd else None
        if event.symbol == self.by:
            leads = file.at or None if file else None
        own, socket = call.own("file"), call.own("socket")
        if leads is not None and own is not None:
            return leads == own
        if leads is not None and file is not None and leads == file.at and socket is not None:
            return file.private_data == socket if file.private_data is not None else None
        return None


@dataclass(frozen=True)
class Returned:
    """The result is the number that was installed, or the errno of the edge that failed.

    `step`: the id of the step that installs the number, and its check.
    """

    step: str
    installed: Installed

    def outcome(self, event: ev.Step, call: Known) -> Check | None:
        if (result := event.ret) is None:
            return None
        text = f"returned {errno_text(result)}"
        before = call.first.get(self.step)
        if result >= 0:
            if before is not None and before.snap.fd is not None:
                number = before.snap.fd.number
                if number != result:
                    return Check("fail", f"{text}, but fd {number} was installed")
                elsewhere = isinstance(before.event, ev.Step) and before.event.probe != event.probe
                if elsewhere or self.installed.ours(event, call):
                    return Check("pass", text)
            return Check("unobservable", f"{text}; the fd was not seen before")
        if result < -MAX_ERRNO:
            return Check("fail", f"{text}: not an errno")
        if before is not None:
            return Check("fail", f"{text}, though {self.installed.by}() had published a descriptor")
        if call.edge is None:
            return Check("pass", f"{text}; no {self.installed.by} was seen")
        expected = call.edge_errno()
        if result == expected:
            return Check("pass", f"{text}, of {call.edge.symbol}")
        why = f"{call.edge.symbol} failed with {errno_text(expected or 0)}"
        return Check("fail", f"{text}, but {why}")


@dataclass(frozen=True)
class Once:
    """It comes once in a call, at each of its ends."""

    def outcome(self, event: ev.Step, call: Known) -> Check | None:
        text = told(event)
        if event.ret is not None:
            text += f", returned {errno_text(event.ret)}"
        first = call.first.get(event.id)
        again = first is not None and isinstance(first.event, ev.Step)
        again = again and first.event.at == event.at  # type: ignore[union-attr]
        return verdict(not again, f"{text}, a second time" if again else text)
