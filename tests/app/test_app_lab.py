"""The screens of the puzzle, driven key by key: the claims, the lab, two recordings compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from recordings import commands as cmd
from recordings import events as ev
from recordings.claims import claims
from recordings.experiments import EXPERIMENTS
from recordings.story import Story
from recordings.stream import read
from tests import SAMPLES, builders
from tests.app.driver import (
    Driven,
    Scripted,
    all_text,
    at,
    badge,
    drawn,
    over,
    settle,
    text,
    with_agent,
)
from tui.lab import PYTHON
from tui.puzzle import Claims, Comparison, Lab
from tui.views import puzzle

WINDOW = SAMPLES / "lab-6.1-window-sigkill.jsonl"
CLOSE, EMFILE = SAMPLES / "lab-6.1-close.jsonl", SAMPLES / "lab-6.1-emfile.jsonl"
SIZES = [(80, 24), (100, 30)]


def rows(app: Driven) -> dict[str, str]:
    """The lines of the list on the top screen, by id."""
    options = app.screen.query_one(OptionList).options
    return {option.id or "": str(option.prompt) for option in options}


def highlight(app: Driven, id: str) -> None:
    options = app.screen.query_one(OptionList)
    options.highlighted = options.get_option_index(id)


# -- claims --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_claims_tell_their_status_in_words_and_evidence(size: tuple[int, int]) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("k")
        await settle(pilot)
        assert isinstance(app.screen, Claims)
        shown = rows(app)
        for claim in claims(Story.of(read(WINDOW))):
            assert shown[claim.id][2:].startswith(claim.status), claim.id
        assert shown["signal"].startswith("✗ refuted")
        assert shown["signal-window"].startswith("✓ confirmed")
        assert shown["late-error"].startswith("○ not tested")
        highlight(app, "signal-window")
        await settle(pilot)
        now = all_text(app)
        assert "call_usermodehelper_exec" in now, "who says so"
        assert "SIGKILL came" in now, "the evidence"
        assert "Enter" in now
        assert all(len(line) <= size[0] for line in now.splitlines())

    await over(WINDOW, drive, size)


async def test_enter_goes_to_the_moment_of_the_evidence() -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("k")
        await settle(pilot)
        highlight(app, "early-error")
        await pilot.press("enter")
        await settle(pilot)
        assert not isinstance(app.screen, Claims)
        assert at(app) == "1 CLEANUP_SOCK_RELEASE"

    await over(WINDOW, drive)


async def test_enter_on_an_untested_claim_goes_to_its_experiment() -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("k")
        await settle(pilot)
        highlight(app, "number-back")
        await pilot.press("enter")
        await settle(pilot)
        assert isinstance(app.screen, Lab)
        chosen = app.screen.options.highlighted_option
        assert chosen is not None
        assert chosen.id == "lsm-file"

    await over(WINDOW, drive)


async def test_a_claim_without_a_moment_says_so() -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        before = at(app)
        await pilot.press("k")
        await settle(pilot)
        highlight(app, "6-leak")
        await pilot.press("enter")
        await settle(pilot)
        assert "no single moment" in app.said
        assert at(app) == before

    await over(WINDOW, drive)


# -- the lab -------------------------------------------------------------------------------


def test_every_untested_claim_names_an_experiment_with_a_recording() -> None:
    for claim in claims(Story()):
        assert puzzle.sample_of(EXPERIMENTS[claim.tests]) is not None, claim.id


@pytest.mark.parametrize("size", SIZES)
async def test_the_lab_opens_a_bundled_recording_and_comes_back(size: tuple[int, int]) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("end")
        before = at(app)
        await pilot.press("L")
        await settle(pilot)
        assert isinstance(app.screen, Lab)
        assert set(rows(app)) == set(EXPERIMENTS)
        assert "open its recording" in all_text(app)
        assert "run it" not in all_text(app), "a replay runs nothing"
        highlight(app, "lsm-file")
        await settle(pilot)
        assert "PUT_UNUSED_FD" in all_text(app)
        await pilot.press("enter")
        await settle(pilot)
        assert badge(app).startswith("REPLAY  2/")
        assert "q back" in text(app, "keys")
        sample = Story.of(read(SAMPLES / "lab-6.1-lsm-file.jsonl"))
        assert len(app.story.moments) == len(sample.moments)
        await pilot.press("q")
        await settle(pilot)
        assert at(app) == before
        assert "q: back" not in badge(app)
        assert len(app.story.moments) == len(Story.of(read(WINDOW)).moments)

    await over(WINDOW, drive, size)


async def test_what_has_no_trigger_is_greyed_with_its_reason() -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("L")
        await settle(pilot)
        options = app.screen.query_one(OptionList)
        for name, experiment in EXPERIMENTS.items():
            option = options.get_option(name)
            assert option.disabled == (puzzle.sample_of(experiment) is None)
        assert "no targeted trigger" in rows(app)["no-memory-inode"]

    await over(WINDOW, drive)


async def test_a_live_session_greys_what_it_cannot_run() -> None:
    blind = ev.Blind(t=1, step="security_file_alloc", why="no fmod_ret here")
    source = Scripted(*builders.header(), blind)

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("L")
        await settle(pilot)
        shown = rows(app)
        assert "cannot run here: needs --vm" in shown["window-sigkill"]
        assert "no fmod_ret here" in shown["lsm-file"]
        assert "cannot run" not in shown["lsm-sk"]
        highlight(app, "window-sigkill")
        await pilot.press("r")
        await settle(pilot)
        assert isinstance(app.screen, Lab), "it stays"
        assert source.sent == []

    await with_agent(source, drive)


def before_and_after(path: Path) -> tuple[list[ev.Event], list[ev.Event]]:
    """A recording up to its program's first instruction, and the rest."""
    events = list(read(path))
    first = next(n for n, event in enumerate(events) if isinstance(event, ev.State))
    return events[: first + 1], events[first + 1 :]


@pytest.mark.parametrize(
    ("name", "injected"),
    [
        ("lsm-sk", [cmd.Refuse(hook="security_sk_alloc", errno=1)]),
        ("sigterm-step_14", [cmd.Inject(signo=15, step="STEP_14")]),
        ("emfile", []),
    ],
)
async def test_r_restarts_the_program_as_an_experiment(
    name: str, injected: list[cmd.Command]
) -> None:
    source = Scripted(*builders.header())
    start, rest = before_and_after(SAMPLES / f"lab-6.1-{name}.jsonl")

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        own = list(app.story.header.argv) if app.story.header else []
        await pilot.press("L")
        await settle(pilot)
        highlight(app, name)
        await pilot.press("r")
        await settle(pilot)
        restart = cmd.Restart(argv=EXPERIMENTS[name].argv(PYTHON))
        assert source.sent == [restart], "nothing is injected into the program before it"
        source.say(ev.End(t=2, why="exited"))
        source.say(*start)
        await settle(pilot)
        assert source.sent == [restart, *injected]
        source.say(*rest)
        await settle(pilot)
        assert f"✓ {name}: " in app.said
        assert "leak-free" in app.said
        await pilot.press("L")
        await settle(pilot)
        assert "as expected" in rows(app)[name]
        assert f"✓ {name}: " in all_text(app), "the outcome is kept, and what is looked at"
        await pilot.press("escape", "r")
        await settle(pilot)
        assert source.sent[-1] == cmd.Restart(argv=own), "back to the user's own program"

    await with_agent(source, drive)


async def test_an_outcome_that_is_not_as_expected_says_why() -> None:
    source = Scripted(*builders.header())
    start, rest = before_and_after(CLOSE)

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("L")
        await settle(pilot)
        highlight(app, "lsm-create")
        await pilot.press("r")
        source.say(*start, *rest)
        await settle(pilot)
        assert "✗ lsm-create: " in app.said
        assert "expected EACCES" in app.said

    await with_agent(source, drive)


async def test_a_live_session_goes_on_while_a_recording_is_looked_at() -> None:
    source = Scripted(*builders.header())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("L")
        await settle(pilot)
        highlight(app, "emfile")
        await pilot.press("enter")
        await settle(pilot)
        assert badge(app).startswith("REPLAY")
        source.say(*builders.call())
        await settle(pilot)
        shown = len(app.story.moments)
        await pilot.press("c")
        assert source.sent == [], "the recording takes no commands"
        await pilot.press("q")
        await settle(pilot)
        assert app.live
        assert 0 < len(app.story.moments) != shown
        assert at(app) == "1 USER_EXEC"
        assert app.is_running

    await with_agent(source, drive)


async def test_an_agent_lost_meanwhile_is_said_afterwards() -> None:
    source = Scripted(*builders.header(), *builders.call())

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("L")
        await settle(pilot)
        highlight(app, "emfile")
        await pilot.press("enter")
        await settle(pilot)
        source.end()
        await settle(pilot)
        assert badge(app).startswith("REPLAY")
        await pilot.press("q")
        await settle(pilot)
        assert badge(app).startswith("AGENT LOST")

    await with_agent(source, drive)


# -- the diff ------------------------------------------------------------------------------


async def choose_second(pilot: Pilot[None], app: Driven, path: Path) -> None:
    await pilot.press("D")
    await settle(pilot)
    highlight(app, str(path))
    await pilot.press("enter")
    for _ in range(50):
        await settle(pilot)
        if isinstance(app.screen, Comparison) or app.said:
            break
    await settle(pilot)


@pytest.mark.parametrize("size", SIZES)
async def test_the_diff_marks_and_shows_the_first_divergence(size: tuple[int, int]) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await choose_second(pilot, app, EMFILE)
        assert isinstance(app.screen, Comparison)
        lines = text(app, "page").splitlines()
        marks = [n for n, line in enumerate(lines) if line.startswith("── the first divergence")]
        assert len(marks) == 1
        steps = [n for n, line in enumerate(lines) if line[2:].startswith(("STEP_", "USER_EXEC"))]
        differing = [n for n in steps if lines[n].startswith("≠")]
        assert differing[0] == marks[0] + 1, "the first step that differs"
        now = all_text(app)
        assert "the first divergence" in now
        assert lines[marks[0] + 1][:20] in now
        assert all(len(line) <= size[0] for line in now.splitlines())
        await pilot.press("home")
        await settle(pilot)
        assert "program" in all_text(app)
        await pilot.press("f")
        await settle(pilot)
        assert "the first divergence" in all_text(app)

    await over(CLOSE, drive, size)


async def test_the_diff_of_equals_marks_nothing(tmp_path: Path) -> None:
    from recordings.diff import diff

    story = Story.of(read(CLOSE))
    lines, first = puzzle.compared(diff(story, Story.of(read(CLOSE))), 76)
    assert first is None
    assert "No divergence" in "\n".join(line.plain for line in lines)


async def test_a_bad_second_recording_is_one_line() -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        from tui import places

        bad = places.recordings() / "bad.jsonl"
        bad.parent.mkdir(parents=True)
        bad.write_text("[red]nonsense\n")
        await choose_second(pilot, app, bad)
        assert "not a sockstep recording" in app.said
        assert app.is_running

    await over(CLOSE, drive)


@pytest.mark.parametrize("key", ["k", "L", "D"])
async def test_the_screens_in_ascii(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await opened(pilot, app, key)
        shown = all_text(app)
        assert shown.isascii()
        assert {"k": "X refuted", "L": "lsm-post-create", "D": "the first divergence"}[key] in shown

    await over(CLOSE, drive, (80, 24))


@pytest.mark.parametrize("key", ["k", "L", "D"])
async def test_the_screens_without_colour(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await opened(pilot, app, key)
        for line in drawn(app):
            for segment in line:
                for color in (segment.style and segment.style.color,
                              segment.style and segment.style.bgcolor):  # fmt: skip
                    assert color is None or color.is_default, (segment.text, color)

    await over(CLOSE, drive)


async def opened(pilot: Pilot[None], app: Driven, key: str) -> None:
    if key == "D":
        await choose_second(pilot, app, EMFILE)
    else:
        await pilot.press(key)
        await settle(pilot)
    assert isinstance(app.screen, Claims | Lab | Comparison)


@pytest.mark.parametrize("key", ["k", "L", "D"])
async def test_the_screens_survive_any_size(key: str) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await opened(pilot, app, key)
        for size in ((1, 1), (20, 5), (40, 12), (200, 60), (80, 24)):
            await pilot.resize_terminal(*size)
            await settle(pilot)
        assert app.is_running

    await over(CLOSE, drive)
