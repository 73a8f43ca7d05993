"""One step in words: its sentence and check, and all about it."""

from __future__ import annotations

from textual.content import Content

from recordings import events as ev
from recordings.steps import SIGNS, STEPS
from recordings.story import Check, Hold, Moment, Story, numbered
from recordings.uapi import errno_text, signal_name
from recordings.words import (
    call_text,
    duration,
    hold_how,
    hold_place,
    hold_where,
    open_descriptors,
    sentence,
    visible,
)
from tui.views.look import QUIET, STYLES, Look, cut, text, wrapped


def said(look: Look, message: Content | None = None) -> list[Content]:
    """Two rows for the step's sentence, and one for its check, or for a message to the user."""
    moment, width = look.moment, look.width
    if moment is None:
        lines, last = wrapped(_before(look), width), Content("")
    elif isinstance(moment.event, ev.Held):
        lines, last = _standing(moment.event, look)
    else:
        lines, last = wrapped(sentence(moment), width), checked(moment, look.story)
    lines = [*lines, Content("")][:2]
    return [*lines, cut(message if message is not None else last, width)]


def _standing(event: ev.Held, look: Look) -> tuple[list[Content], Content]:
    """Of a thread that is or was held: what that means, the stack, and its state."""
    hold = next(each for each in look.story.holds if each.event is event)
    here = "Asleep in the kernel" if event.how == "asleep" else f"Frozen {hold_where(event)}"
    if hold.end is None:
        words = f"{here}: what is marked · has not happened."
    else:
        words = f"It was held here for {duration(hold.end.held)}, asleep in the kernel."
    frames = look.story.stacks.get(event.stack, []) if event.stack is not None else []
    stack = cut(text(" ‹ ".join(_own(frames)), QUIET), look.width)
    return [cut(text(words), look.width), stack], text(_state(event), QUIET)


def _own(frames: list[str]) -> list[str]:
    """A stack without what the hold itself put on it: from the function that is held on."""
    held = [at for at, frame in enumerate(frames) if frame.startswith(("bpf_lsm_", "security_"))]
    return [each for each in frames[held[-1] + 1 if held else 0 :] if not each.startswith("bpf_")]


def _state(event: ev.Held) -> str:
    signals = ", ".join(map(signal_name, [*event.pending, *event.shared])) or "none"
    state = f"state {event.state}" + (f" in {event.wchan}" if event.wchan else "")
    return f"{state}; signals pending: {signals}; open descriptors: {open_descriptors(event)}"


def _before(look: Look) -> str:
    if not look.live:
        return "This recording holds no step of a socket() call."
    if look.story.header is None:
        return "The agent starts, compiles its probes and attaches them."
    if look.story.end is not None:
        return "The program made no socket() call. r runs it again."
    if look.story.held:
        return "The first call is about to begin: n lets it go on to its next step."
    if look.story.state is not None and look.story.state.state == "running":
        return "The program runs, and has made no socket() call yet."
    return "The probes are in place. n runs the program to its first step, c to its first stop."


def checked(moment: Moment, story: Story) -> Content:
    """The outcome of the step's check: what was found first, what was checked behind it."""
    check, kind = moment.check, STEPS.get(moment.id)
    if check is None:
        why = story.blind.get(moment.id)
        if why is None:
            return text("no check here: another reading of this step makes it", QUIET)
        check = Check("unobservable", why)
    mark, style = SIGNS[check.status], STYLES[check.status]
    word = {"pass": "", "fail": "FAILED: ", "unobservable": "not observable: "}[check.status]
    what = f"   check: {kind.check}" if kind else ""
    return Content.assemble(
        (f"{mark} ", style), (word, style), visible(check.evidence), (visible(what), QUIET)
    )


def _captured(moment: Moment) -> str:
    event = moment.event
    since = duration(event.t - moment.call.enter.t)
    match event:
        case ev.Enter():
            return f"{call_text(event)}, {numbered(event)}, cpu {event.cpu}, tid {event.tid}"
        case ev.Held():
            return f"+{since}, {hold_how(event)}, tid {event.tid}"
    return (
        f"{event.at} {event.symbol}, +{since}, probe {event.probe}, cpu {event.cpu}, "
        f"tid {event.tid} {event.comm}"
    )


def story(look: Look) -> list[Content]:
    """All about one step: what happened, the longer story, how it was captured, the stack."""
    moment, width = look.moment, look.width
    now = [hold for hold in look.story.held.values() if look.live]
    lines = [line for hold in now for line in [*_held(hold, look), Content("")]]
    if moment is None:
        return [*lines, *wrapped(_before(look), width)]
    event, kind = moment.event, STEPS.get(moment.id)
    lines += [text(f"{moment.id}  {kind.name if kind else ''}", "bold $accent")]
    if kind is None:
        lines += [*wrapped(sentence(moment), width), Content("")]
    else:
        lines += [text(kind.source, QUIET), Content("")]
        lines += wrapped(sentence(moment), width, "bold")
        lines += [*wrapped(kind.story, width), Content("")]
    if not isinstance(event, ev.Held):
        lines += [*checked(moment, look.story).wrap(max(8, width)), Content("")]
    lines += wrapped(_captured(moment), width)
    if isinstance(event, ev.Step):
        lines += _capture(event, look)
        frames = look.story.stacks.get(event.stack) if event.stack is not None else None
        lines += [Content(""), text("KERNEL STACK, innermost first", "bold")]
        lines += [text(f"  {frame}") for frame in frames or ()]
        if frames is None:
            lines.append(text("  not captured here", QUIET))
    for hold in look.story.holds:
        here = hold.event.how == "asleep" or hold.event.point == moment.id
        if hold.call == moment.call.number and here and hold not in now:
            lines += [Content(""), *_held(hold, look)]
    return lines


def _held(hold: Hold, look: Look) -> list[Content]:
    """What was seen of the task while it was held in the kernel."""
    event, end = hold.event, hold.end
    when = f"for {duration(end.held)}" if end is not None else "now"
    lines = [text(f"HELD {hold_place(event)}, {hold_how(event)}, {when}", "bold $warning")]
    lines += wrapped(f"thread {event.tid}, {_state(event)}", look.width)
    registers = "  ".join(f"{name} {value}" for name, value in event.registers.items())
    lines += wrapped(registers, look.width) if registers else []
    frames = look.story.stacks.get(event.stack, []) if event.stack is not None else []
    return [*lines, *(text(f"  {frame}") for frame in frames)]


def _capture(event: ev.Step, look: Look) -> list[Content]:
    lines = []
    if event.ret is not None:
        lines.append(text(f"{event.symbol} returned {errno_text(event.ret)}"))
    if event.stop is not None:
        told = "is pending" if event.stop == 0 else f"failed: {errno_text(event.stop)}"
        when = "; it takes effect at the return to user mode" if event.stop == 0 else ""
        lines.append(text(f"armed: SIGSTOP {told}{when}"))
    if event.signal is not None:
        lines.append(text(f"signal injected here: {signal_name(event.signal)}"))
    if event.id in look.story.blind:
        lines += wrapped(f"not observable here: {look.story.blind[event.id]}", look.width)
    return lines
