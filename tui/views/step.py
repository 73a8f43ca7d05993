"""One step in words: its sentence and check, and all about it."""

from __future__ import annotations

from textual.content import Content

from recordings import events as ev
from recordings.steps import SIGNS, STEPS
from recordings.story import Check, Hold, Moment, Story
from recordings.uapi import errno_text, signal_name
from recordings.words import (
    call_text,
    duration,
    hold_how,
    hold_place,
    open_descriptors,
    sentence,
    visible,
)
from tui.plain import UNCHECKED
from tui.views.call import STYLES
from tui.views.look import QUIET, Look, cut, text, wrapped


def said(look: Look) -> list[Content]:
    """The step's sentence, its check with the evidence, and how it was captured."""
    moment = look.moment
    if moment is None:
        return [*wrapped(_before(look), look.width)]
    lines = wrapped(sentence(moment), look.width)[:2]
    captured = cut(text(_captured(moment), QUIET), look.width)
    check = cut(checked(moment, look.story), look.width)
    if len(lines) < 2 or look.height > 3:
        return [*lines, check, captured]
    return [*lines, check]


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
    check, kind = moment.check, STEPS.get(moment.id)
    if check is None:
        why = story.blind.get(moment.id)
        if why is None:
            return text(f"{UNCHECKED} captured; another reading of the step makes its check", QUIET)
        check = Check("unobservable", why)
    mark, style = SIGNS[check.status], STYLES[check.status]
    word = {"pass": "", "fail": "FAILED: ", "unobservable": "not observable here: "}[check.status]
    what = f"{kind.check}: " if kind else ""
    return Content.assemble(
        (f"{mark} ", style), (word, style), (visible(what), QUIET), visible(check.evidence)
    )


def _captured(moment: Moment) -> str:
    event = moment.event
    since = duration(event.t - moment.call.enter.t)
    if isinstance(event, ev.Enter):
        return f"{call_text(event)}, syscall {event.nr}, cpu {event.cpu}, tid {event.tid}"
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
    if kind:
        lines += [text(kind.source, QUIET), Content("")]
        lines += wrapped(sentence(moment), width, "bold")
        lines += [*wrapped(kind.story, width), Content("")]
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
    signals = ", ".join(map(signal_name, [*event.pending, *event.shared])) or "none"
    lines = [text(f"HELD {hold_place(event)}, {hold_how(event)}, {when}", "bold $warning")]
    state = f"state {event.state}" + (f" in {event.wchan}" if event.wchan else "")
    lines += wrapped(
        f"thread {event.tid}, {state}, signals pending: {signals}, "
        f"open descriptors: {open_descriptors(event)}",
        look.width,
    )
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
