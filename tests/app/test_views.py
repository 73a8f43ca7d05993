"""What the screen says of a step and of an object: only what was read."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.content import Content
from textual.pilot import Pilot

from recordings import events as ev
from recordings.events import NULL
from recordings.story import Moment, Story
from recordings.stream import read
from recordings.words import object_word, sentence
from tests import RECORDINGS, SAMPLES, builders
from tests.app.driver import Driven, all_text, at, over, settle, text
from tui.source import Replay
from tui.views import call, diagram, history, step, times
from tui.views.look import Look

KINDS: tuple[ev.Kind, ...] = ("fd", "file", "socket", "sock")


def moments(sample: Path) -> list[tuple[Story, Moment]]:
    story = Story.of(read(sample))
    return [(story, moment) for moment in story.moments]


def box_word(look: Look, kind: ev.Kind) -> str:
    """The word that the diagram's box of an object has."""
    lines = [line.plain for line in diagram.linkage(look)]
    top = next(line for line in lines if f"struct {kind} " in line)
    return top.rstrip(" ─╌┐").rpartition("─ ")[2].rpartition("╌ ")[2]


every_sample = pytest.mark.parametrize("sample", RECORDINGS, ids=lambda path: path.stem)


@every_sample
def test_at_the_entry_of_fd_install_the_number_does_not_lead_to_the_file_yet(sample: Path) -> None:
    for _, moment in moments(sample):
        if moment.id == "STEP_16" and moment.snap.fd is not None:
            said = sentence(moment)
            assert ("about to publish" in said) == (moment.snap.fd.file == NULL), said
            assert f"close({moment.snap.fd.number})" in said


@every_sample
def test_a_step_that_failed_is_not_said_to_have_made_anything(sample: Path) -> None:
    for _, moment in moments(sample):
        event, said = moment.event, sentence(moment)
        if isinstance(event, ev.Step) and event.ret is not None and event.ret < 0:
            assert "failed with −" in said or "returns −" in said, said


@every_sample
def test_a_sentence_has_two_rows_of_the_narrowest_screen(sample: Path) -> None:
    for _, moment in moments(sample):
        assert "{" not in sentence(moment)
        assert len(Content(sentence(moment)).wrap(78)) <= 2, sentence(moment)


@every_sample
def test_ledger_and_box_say_the_same_of_an_object(sample: Path) -> None:
    """By tracepoint, the last steps of a sock are recovered from the stack of its free."""
    for story, moment in moments(sample):
        look = Look(story, moment, width=80, height=15)
        for kind in ("file", "socket", "sock"):
            own = [line.plain for line in history.ledger(look) if f" {kind} " in line.plain]
            box = box_word(look, kind)
            assert len(own) == (box in ("live", "freed")), "nothing of what comes later"
            assert all(line.split()[2] in (box, "LEAK") for line in own), (moment.id, own)


def test_what_a_failed_call_would_have_made_is_not_awaited() -> None:
    story = Story.of([*builders.beginning(), *builders.emfile(), *builders.ending()])
    first, last = story.moments[0], story.moments[-1]
    assert {object_word(kind, first, story) for kind in KINDS} == {"not made yet"}
    assert object_word("file", last, story) == "not made"
    assert object_word("fd", last, story) == "not made"


def test_an_object_whose_address_was_given_out_again_is_freed() -> None:
    again = [e for e in builders.call(2, t=1_011_000_000) if not isinstance(e, ev.State)]
    for event in again:
        if isinstance(event, ev.Alloc) and event.kind == "sock":
            event.at = builders.SOCK
    late = builders.step(1, 1_012_000_000, "CLEANUP_SOCK_CLOSE", "sock_close")
    story = Story.of([*builders.beginning(), *builders.call(1), *again, late])
    assert object_word("sock", story.moments[-1], story) == "freed"
    look = Look(story, story.moments[-1], width=160)
    assert any("address was given out again" in line.plain for line in history.ledger(look))


# -- nothing jumps, nothing is cut -----------------------------------------------------------


def sizes() -> list[tuple[int, int, int]]:
    """Columns of list and diagram, and their rows, at 80x24, 100x30 and 160x45."""
    return [(35, 44, 15), (35, 36, 15), (46, 63, 25)]


@every_sample
@pytest.mark.parametrize(("columns", "room", "rows"), sizes())
def test_no_name_in_the_list_is_cut(sample: Path, columns: int, room: int, rows: int) -> None:
    for story, moment in moments(sample):
        look = Look(story, moment, width=columns, height=rows, opened=frozenset({1}))
        for line in call.steps(look):
            assert "…" not in line.plain, line.plain


@every_sample
@pytest.mark.parametrize(("columns", "room", "rows"), sizes())
def test_boxes_stay_where_they_are(sample: Path, columns: int, room: int, rows: int) -> None:
    """Only the signs of their edges change, and the words in them."""
    drawn = set()
    for story, moment in moments(sample):
        lines = diagram.linkage(Look(story, moment, width=room, height=rows))
        assert len(lines) <= rows
        edges = "┌└"
        drawn.add(tuple(y for y, line in enumerate(lines) if line.plain[:1] in edges))
    assert len(drawn) == 1


@every_sample
def test_twins_have_names_of_their_own(sample: Path) -> None:
    for story, moment in moments(sample):
        look = Look(story, moment, width=35, height=25)
        found = [row.moment for row in call.rows(look) if row.moment is not None]
        names = [call.place(each) for each in found if each.id.startswith("STEP_")]
        assert len(names) == len(set(names))


@every_sample
def test_every_mark_of_the_timeline_has_its_name(sample: Path) -> None:
    for story, moment in moments(sample):
        for columns in (80, 100, 160):
            rail, names = (
                line.plain for line in times.timeline(Look(story, moment, width=columns))
            )
            for x, char in enumerate(rail[: columns - times.BESIDE + 2]):
                if char in "┼▶✗‖":
                    assert names[x] not in " ", (rail, names)
            assert max(len(rail), len(names)) <= columns


@every_sample
def test_what_a_step_is_said_to_be_fits_its_rows(sample: Path) -> None:
    for story, moment in moments(sample):
        for columns in (78, 98, 158):
            lines = step.said(Look(story, moment, width=columns))
            assert len(lines) == 3
            assert all(line.cell_length <= columns for line in lines)
            result = moment.check.evidence.partition(" ")[0] if moment.check else ""
            assert result in lines[2].plain, "the result comes first: it is not what is cut"


def test_where_the_path_ends_in_a_time_it_says_before_what() -> None:
    story = Story.of([*builders.header(), *builders.call()])
    for moment in story.moments:
        for room in range(10, 100):
            shown = times.path(Look(story, moment, live=True), room)
            assert len(shown) <= room
            assert " µs" not in shown or "before" in shown


TITLES = ("STEPS", "THREE OBJECTS", "INSPECT", "LEDGER", "KERNEL STACK")
SAMPLE = SAMPLES / "lab-6.1-lsm-file.jsonl"  # it fails half-way, and takes apart what it made


@pytest.mark.parametrize("size", [(80, 24), (100, 30), (160, 45)])
async def test_no_row_moves_from_step_to_step(size: tuple[int, int]) -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        places = set()
        for _ in app.story.moments:
            lines = all_text(app).splitlines()
            found = [
                (title, y, line.find(title))
                for y, line in enumerate(lines)
                for title in TITLES
                if title in line
            ]
            places.add((*found, lines[0], lines[-1]))
            await pilot.press("n")
        assert len(places) == 1

    await over(SAMPLE, drive, size)


async def test_a_replay_opens_where_there_is_something_to_see() -> None:
    app = Driven(Replay(SAMPLES / "frozen-7.2.jsonl"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        assert at(app) == "1 STEP_09"
        assert "socket(AF_INET, SOCK_STREAM, 0) = 3" in text(app, "badge")


async def test_the_largest_details_leave_the_objects_in_sight() -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        await pilot.press("n", "enter")
        await settle(pilot)
        await pilot.press("n")
        await settle(pilot)
        shown = all_text(app)
        for words in ("▶ ✓ STEP_10", "struct sock ", "sock_alloc, net/socket.c"):
            assert words in shown

    await over(SAMPLE, drive, (160, 45))


async def test_what_came_after_the_call_is_folded_until_one_goes_there() -> None:
    async def drive(pilot: Pilot[None], app: Driven) -> None:
        assert "▸✓ close() 7 steps" in text(app, "steps")
        assert "CLEANUP_FPUT" not in text(app, "steps")
        await pilot.press("end")
        assert "▾✓ close() 7 steps" in text(app, "steps")
        assert "▶ ✓ CLEANUP_SOCK_FREE_INODE" in text(app, "steps")
        await pilot.press("home")
        assert "CLEANUP_FPUT" in text(app, "steps"), "it stays unfolded"

    await over(SAMPLES / "socket_test-6.1-kprobe.jsonl", drive)


def test_of_a_hold_nothing_is_said_that_the_agent_has_not_told_yet() -> None:
    """A frozen machine stands before its agent has told of what came just before."""
    call = builders.call()
    made = next(n for n, e in enumerate(call) if isinstance(e, ev.Alloc) and e.kind == "fd")
    story = Story.of([*builders.header(), *call[:made]])
    frozen = ev.Held(
        t=call[made].t, call=1, point="STEP_14", pid=4711, tid=4711, state="R", wchan="",
        how="frozen", symbol="sock_alloc_file", at="exit", since=call[made].t,
        snap=ev.Snapshot(file=ev.File(at=builders.FILE)),
    )  # fmt: skip
    story.feed(frozen)
    moment = story.holds[-1].moment
    assert moment is not None
    assert object_word("fd", moment, story) == "not read", "by then it has been made"
    assert object_word("file", moment, story) == "live"
    story.feed(call[made])
    assert story.holds[-1].moment is moment, "it may be looked at"
    assert object_word("fd", moment, story) == "live"
    said = step.said(Look(story, moment, live=True))[0].plain
    assert said == "Frozen at sock_alloc_file exit: what is marked · has not happened."


def test_sockets_past_the_probes_are_told_where_losses_are() -> None:
    past = ev.Uncaptured(t=builders.T, pid=builders.PID, tid=builders.PID, how="io_uring", count=3)
    story = Story.of([*builders.whole(), past])
    look = Look(story, story.moments[-1], width=160, height=15)
    assert " 3 UNCAPTURED " in times.title(look)[0].plain
    said = [line.plain for line in history.probes(look)]
    assert "the program made 3 sockets past the probes: 3 by io_uring" in said
