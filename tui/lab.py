"""`sockstep lab`: runs experiments one after the other in one agent, and prints their table."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recordings import commands
from recordings import events as ev
from recordings.experiments import EXPERIMENTS, Experiment, Outcome, outcome
from recordings.steps import STEPS
from recordings.story import Story
from recordings.stream import StreamError
from recordings.uapi import errno_text
from recordings.words import visible
from tui import places
from tui.options import Options
from tui.source import Live

Events = AsyncIterator[ev.Event]
PYTHON = "/usr/bin/python3"  # small and quick to start, also where ours is a virtual environment
ASLEEP = 1.5  # seconds until a task that is about to sleep in the kernel does
PATIENCE = 120.0  # seconds for one experiment, in emulation


def chosen(names: Sequence[str]) -> list[Experiment]:
    """The experiments of these names, or edge numbers; none: all. Raises StreamError."""
    found: list[Experiment] = []
    for name in names:
        matching = [e for e in EXPERIMENTS.values() if name in (e.name, str(e.edge or e.name))]
        if not matching and name != "all":
            raise StreamError(f"there is no experiment {name}: `sockstep lab` lists them")
        found += matching or list(EXPERIMENTS.values())
    return list(dict.fromkeys(found))


def run(
    options: Options, names: Sequence[str], folder: Path, progress: Callable[[str], None]
) -> list[Outcome]:
    """Run experiments, each into a recording in `folder`. Raises StreamError."""
    experiments = chosen(names)
    with places.as_invoker():
        places.make(folder)
    return asyncio.run(_run(options, experiments, folder, progress))


async def _run(
    options: Options, experiments: list[Experiment], folder: Path, progress: Callable[[str], None]
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    agent: Live | None = None
    events = _no_events()
    kernel = ""
    try:
        for experiment in experiments:
            if not experiment.trigger or (experiment.vm_only and options.vm is None):
                why = experiment.why if not experiment.trigger else "it needs --vm"
                outcomes.append(
                    Outcome(experiment.name, experiment.edge, kernel, False, None, False, False,
                            "", why)
                )  # fmt: skip
                continue
            path = folder / f"{experiment.name}.jsonl"
            argv = experiment.argv(PYTHON)
            if agent is None:
                agent = Live(replace(options, program=tuple(argv), output=path), progress)
                await agent.start()
                events = _events(agent)
            else:
                agent.output_next(path)
                agent.send(commands.Restart(argv=argv))
            async with asyncio.timeout(PATIENCE):
                story = await _one(agent, events, experiment)
            kernel = story.header.kernel if story.header else ""
            outcomes.append(outcome(experiment, story, str(agent.path)))
            done = outcomes[-1]
            sign = _mark(done.good) if done.recording else "—"
            progress(f"{sign} {experiment.name}" + (f": {done.why}" if done.why else ""))
    except TimeoutError:
        raise StreamError(f"{experiment.name}: nothing for {PATIENCE:.0f} s") from None
    finally:
        if agent is not None:
            with suppress(BrokenPipeError, ConnectionResetError):
                await agent.close(commands.Quit())
    # Those without a trigger come before the kernel's name is known.
    return [replace(done, kernel=kernel) for done in outcomes]


async def _no_events() -> Events:
    return
    yield


async def _events(agent: Live) -> Events:
    async for batch in agent.batches():
        for event in batch:
            yield event


async def _one(agent: Live, events: Events, experiment: Experiment) -> Story:
    """One experiment, from its header to its end. Nothing is stopped at."""
    story = Story()
    signalled = not experiment.while_asleep
    async for event in events:
        if story.header is None and not isinstance(event, ev.Header):
            continue  # what the experiment before left
        story.feed(event)
        match event:
            case ev.State(state="stopped", why="before its first instruction"):
                for step in STEPS:
                    agent.send(commands.Arm(step=step, stop=False))
                for text in experiment.inject:
                    agent.send(commands.injection(text))
                agent.send(commands.Continue())
            case ev.Step(id="STEP_13", at="entry") if not signalled:
                signalled = True
                await asyncio.sleep(ASLEEP)
                signo = commands.injection(f"{experiment.while_asleep}@STEP_13")
                assert isinstance(signo, commands.Inject)
                agent.send(commands.Inject(signo=signo.signo))
            case ev.End():
                return story
    raise StreamError("the agent ended before the experiment did")


def table(outcomes: Sequence[Outcome]) -> str:
    """edge × kernel: reached, errno, cleanup as expected, leak-free."""
    grid = Table(box=None, pad_edge=False)
    for title in ("experiment", "edge", "kernel", "reached", "errno", "cleanup", "leak-free", ""):
        grid.add_column(title, no_wrap=title != "")
    for done in outcomes:
        if done.recording:
            number = "" if done.errno is None else errno_text(-done.errno) if done.errno else "fd"
            marks = [_mark(done.reached), number, _mark(done.cleanup_ok), _mark(done.leak_free)]
        else:
            marks = ["—", "", "", ""]
        edge = str(done.edge) if done.edge else ""
        grid.add_row(done.experiment, edge, visible(done.kernel), *marks, visible(done.why))
    console = Console(file=None, width=140, force_terminal=False, no_color=True, markup=False)
    with console.capture() as capture:
        console.print(grid)
    return capture.get()


def _mark(good: bool | None) -> str:
    return {True: "✓", False: "✗", None: "○"}[good]


def catalogue() -> str:
    """The experiments, a line each."""
    lines = []
    for experiment in EXPERIMENTS.values():
        edge = f"edge {experiment.edge}" if experiment.edge else ""
        lines.append(f"{experiment.name:<22} {edge:<8} {experiment.why}")
    return "\n".join(lines)


def as_json(outcomes: Sequence[Outcome]) -> str:
    return json.dumps([asdict(done) for done in outcomes], indent=1)


def status(outcomes: Sequence[Outcome]) -> int:
    """The exit status: 0 if all that ran is as expected, 1 if something is not, or nothing ran,
    3 if a recording does not tell."""
    found = {done.good for done in outcomes if done.recording}
    if not found or False in found:
        return 1
    return 3 if None in found else 0
