"""The puzzle's answer in lines: the claims, the experiments of the lab, two recordings compared."""

from __future__ import annotations

from pathlib import Path

from textual.content import Content

from recordings import commands, diff
from recordings.claims import Claim
from recordings.experiments import Experiment, Outcome
from recordings.story import Moment, Story
from recordings.uapi import errno_text
from recordings.words import visible
from tui import places
from tui.views.look import QUIET, text

# Sign, word, style: the word alone would do.
STATUSES = {
    "confirmed": ("✓", "confirmed", "$success"),
    "refuted": ("✗", "refuted", "$warning"),
    "not tested": ("○", "not tested", QUIET),
}


# -- claims ----------------------------------------------------------------------------------


def claim_line(claim: Claim) -> Content:
    sign, word, style = STATUSES[claim.status]
    tested = claim.status != "not tested"
    return Content.assemble(
        (f"{sign} {word:<11}", style), (visible(claim.text), "" if tested else QUIET)
    )


def claim_details(claim: Claim, story: Story) -> Content:
    """The whole sentence, who says so, what decided it, and what Enter does."""
    sign, word, style = STATUSES[claim.status]
    if claim.status == "not tested":
        word, why = "not tested by this recording", f"`sockstep lab {claim.tests}` tests it"
        enter = "Enter: that experiment"
    else:
        why = claim.why
        enter = "Enter: go there" if moment_of(claim, story) else "It names no single moment"
    return Content.assemble(
        (visible(claim.text), "bold"), (f"  ({visible(claim.source)})\n", QUIET),
        (f"{sign} {word}: ", style), visible(why), (f"\n{enter}", QUIET),
    )  # fmt: skip


def moment_of(claim: Claim, story: Story) -> Moment | None:
    """The first moment that a claim's evidence names; of a call without a step, its first."""
    for evidence in claim.evidence:
        call = story.calls.get(evidence.call) if evidence.call is not None else None
        if call is None or not call.moments:
            continue
        if evidence.step in call.first:
            return call.decided.get(evidence.step) or call.first[evidence.step]
        return call.moments[0]
    return None


# -- the lab ---------------------------------------------------------------------------------


def sample_of(experiment: Experiment) -> Path | None:
    """The bundled recording of an experiment, if there is one."""
    path = places.SAMPLES / f"lab-6.1-{experiment.name}.jsonl"
    return path if path.exists() else None


def cannot_run(experiment: Experiment, story: Story, live: bool, in_vm: bool) -> str:
    """Why an experiment cannot be run in this session; "" where it can."""
    if not experiment.trigger:
        return experiment.why
    if not live:
        return "only a live session runs experiments"
    if experiment.vm_only and not in_vm:
        return "needs --vm"
    for injected in map(commands.injection, experiment.inject):
        match injected:
            case commands.Refuse(hook=place) | commands.Inject(step=str(place)):
                if why := story.blind.get(place):
                    return f"{place}: {why}"
    return ""


def experiment_line(
    experiment: Experiment, why_not: str, live: bool, done: Outcome | None
) -> Content:
    """`why_not`: of `cannot_run`. In a replay, only what can neither be run nor opened is grey."""
    edge = f"edge {experiment.edge}" if experiment.edge else ""
    sample = sample_of(experiment) is not None
    grey = bool(why_not) if live else not sample
    words = experiment.why
    if live and why_not and experiment.trigger:
        words = f"cannot run here: {why_not}"
    elif not sample and not live and experiment.trigger:
        words = f"not bundled: {experiment.why}"
    if done is not None:
        words = outcome_text(done).replace(f" {done.experiment}:", "", 1)
    return Content.assemble(
        (f"{edge:<8}", QUIET), (f"{experiment.name:<17} ", QUIET if grey else "bold"),
        ("▸ " if sample else "  ", QUIET), (visible(words), QUIET if grey else ""),
    )  # fmt: skip


def experiment_details(
    experiment: Experiment, why_not: str, live: bool, done: Outcome | None
) -> Content:
    wanted = errno_text(-experiment.result) if experiment.result else "a descriptor"
    cleanup = " → ".join(experiment.cleanup) or "nothing"
    hows = [*experiment.inject]
    if experiment.while_asleep:
        hows.append(f"{experiment.while_asleep} while it sleeps in the call")
    how = f"  Injected: {', '.join(hows)}." if hows else ""
    keys = []
    if sample := sample_of(experiment):
        keys.append(f"Enter: open {sample.name}")
    if not why_not:
        keys.append("r: restart the program as this experiment")
    elif live:
        keys.append(f"cannot run here: {why_not}")
    else:
        keys.append("a live session runs it (r)")
    parts = [
        (f"{visible(experiment.why)}\n", "bold"),
        (f"Expected: {wanted}; cleanup: {cleanup}.{how}\n", ""),
    ]
    if done is not None:
        parts.append((f"{visible(outcome_text(done))}\n", ""))
    return Content.assemble(*parts, (visible("; ".join(keys)), QUIET))


def outcome_text(done: Outcome) -> str:
    """One line: what was reached, and what is not as expected."""
    number = "no return" if done.errno is None else errno_text(-done.errno) if done.errno else "fd"
    how = "as expected: cleanup in order, leak-free" if done.good else done.why
    sign = {True: "✓", False: "✗", None: "○"}[done.good]
    return f"{sign} {done.experiment}: {number}; {how}"


# -- the diff --------------------------------------------------------------------------------


def compared(found: diff.Diff, width: int) -> tuple[list[Content], int | None]:
    """Two recordings side by side, and the line of the first divergence."""
    lines, rule = diff.lines(found, width)
    first = rule
    if first is None and found.diverges:
        first = next((at for at, line in enumerate(lines) if line.startswith("≠")), None)
    tones = ["bold $accent" if at == rule else _tone(line) for at, line in enumerate(lines)]
    return [text(*line) for line in zip(lines, tones, strict=True)], first


def _tone(line: str) -> str:
    return {"≠": "$warning", "?": QUIET, "─": QUIET}.get(line[:1], "")
