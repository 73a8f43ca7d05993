"""How an experiment's recording is judged: as expected, not so, or it does not tell."""

from __future__ import annotations

import pytest

from recordings import events as ev
from recordings.experiments import EXPERIMENTS, Outcome, outcome
from recordings.story import Story
from recordings.stream import read
from tests import SAMPLES
from tui import lab


def judged(name: str, *without: str, lost: int = 0) -> Outcome:
    """The outcome of a bundled recording without these steps and frees, so many events lost."""
    events = list(read(SAMPLES / f"lab-6.1-{name}.jsonl"))
    kept = [e for e in events if getattr(e, "id", getattr(e, "kind", "")) not in without]
    loss = [ev.Lost(t=events[-1].t, count=lost, what="ring buffer")] if lost else []
    return outcome(EXPERIMENTS[name], Story.of([*kept[:-1], *loss, kept[-1]]), "a.jsonl")


def test_a_whole_recording_tells() -> None:
    good = judged("emfile")
    assert (good.reached, good.cleanup_ok, good.leak_free) == (True, True, True)
    bad = judged("emfile", "CLEANUP_IPUT", "CLEANUP_SK_DESTRUCT", "sock")
    assert (bad.reached, bad.cleanup_ok, bad.good) == (True, False, False)
    assert [lab.status([one]) for one in (good, bad)] == [0, 1]


@pytest.mark.parametrize(
    ("without", "figures"),
    [
        ((), (True, True, None)),
        (("CLEANUP_IPUT",), (True, None, None)),
        (("STEP_17",), (None, True, None)),
    ],
)
def test_what_was_lost_does_not_make_an_experiment_fail(
    without: tuple[str, ...], figures: tuple[bool | None, ...]
) -> None:
    done = judged("emfile", *without, lost=7)
    assert (done.reached, done.cleanup_ok, done.leak_free) == figures
    assert done.good is None
    assert "7 events were lost" in done.why
    assert lab.status([judged("emfile"), done]) == 3
    assert "○" in lab.table([done])


def test_what_was_seen_to_be_wrong_is_wrong_whatever_was_lost() -> None:
    events = list(read(SAMPLES / "lab-6.1-emfile.jsonl"))
    lost = ev.Lost(t=events[-1].t, count=7, what="ring buffer")
    wrong = outcome(EXPERIMENTS["lsm-sk"], Story.of([*events[:-1], lost, events[-1]]), "a.jsonl")
    assert (wrong.reached, wrong.good) == (False, False)
    assert lab.status([wrong]) == 1
