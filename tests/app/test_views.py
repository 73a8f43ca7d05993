"""What the screen says of a step and of an object: only what was read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from textual.content import Content

from recordings import events as ev
from recordings.events import NULL
from recordings.story import Moment, Story
from recordings.stream import read
from recordings.words import object_word, sentence
from tests import RECORDINGS, builders
from tui.views import diagram, history
from tui.views.look import Look

KINDS: tuple[ev.Kind, ...] = ("fd", "file", "socket", "sock")


def moments(sample: Path) -> list[tuple[Story, Moment]]:
    story = Story.of(read(sample))
    return [(story, moment) for moment in story.moments]


def box_word(look: Look, kind: ev.Kind) -> str:
    """The word that the diagram's box of an object has."""
    lines = [line.plain for line in diagram.linkage(look)]
    top = next(y for y, line in enumerate(lines) if f"struct {kind} " in line)
    found = re.search(r"(not made yet|not made|not read|freed|live)\W*$", lines[top + 1])
    assert found, lines[top + 1]
    return found[1]


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
            own = [line.plain for line in history.ledger(look) if line.plain.startswith(f"{kind} ")]
            box = box_word(look, kind)
            assert len(own) == (box in ("live", "freed")), "nothing of what comes later"
            assert all(line.split()[1] in (box, "LEAK") for line in own), (moment.id, own)


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
    assert "address was given out again" in str(history.ledger(Look(story, story.moments[-1])))
