"""The screens of the puzzle: the claims, the lab, and two recordings side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.getters import query_one
from textual.widgets import Footer, OptionList, Static
from textual.widgets.option_list import Option

from recordings.claims import Claim, claims
from recordings.diff import Diff
from recordings.experiments import EXPERIMENTS, Experiment, Outcome
from recordings.story import Story
from tui.screens import Over, Page, T
from tui.views import history, puzzle
from tui.views.look import Look


class Listing(Over[T]):
    """A list, and under it all about the line that is looked at."""

    options = query_one(OptionList)
    about = query_one("#about", Static)

    def inside(self) -> ComposeResult:
        yield OptionList(*self.lines())
        yield Static(id="about", markup=False)
        yield Footer(compact=True, show_command_palette=False)

    def action_choose(self) -> None:
        self.options.action_select()

    def lines(self) -> list[Option]:
        raise NotImplementedError

    def details(self, id: str) -> Content:
        raise NotImplementedError

    @on(OptionList.OptionHighlighted)
    def look_at(self, event: OptionList.OptionHighlighted) -> None:
        self.about.update(self.details(event.option_id or ""))


class Claims(Listing[Claim]):
    """Each claim, whether this recording confirms it, and by what; gives the one chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("k,q", "dismiss(None)", "close", show=False, id="claims_close",
                tooltip="Back to the session"),
        Binding("enter", "choose", "its moment", key_display="Enter", id="claims_go", priority=True,
                tooltip="The moment that the evidence names; of an untested claim, its experiment"),
    ]  # fmt: skip

    def __init__(self, story: Story) -> None:
        super().__init__()
        self._story = story
        self._claims = {claim.id: claim for claim in claims(story)}
        counts = [
            f"{sum(claim.status == status for claim in self._claims.values())} {word}"
            for status, (_, word, _) in puzzle.STATUSES.items()
        ]
        self.TITLE_TEXT = f"CLAIMS  {', '.join(counts)} by this recording"

    def lines(self) -> list[Option]:
        return [Option(puzzle.claim_line(c), id=id) for id, c in self._claims.items()]

    def details(self, id: str) -> Content:
        return puzzle.claim_details(self._claims[id], self._story)

    @on(OptionList.OptionSelected)
    def chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._claims[event.option_id or ""])


class Lab(Listing[tuple[Experiment, bool]]):
    """The experiments; gives the one chosen, and whether it is to be run, not opened."""

    TITLE_TEXT = "LAB  an edge of socket(2) each; ▸ bundled; R0, R1: without, with a protocol"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("L,q", "dismiss(None)", "close", show=False, id="lab_close",
                tooltip="Back to the session"),
        Binding("enter", "choose", "open its recording", key_display="Enter", id="lab_open",
                priority=True, tooltip="Replay the bundled recording of this experiment"),
        Binding("r", "run_it", "run it", id="lab_run",
                tooltip="Restart the program as this experiment"),
    ]  # fmt: skip

    def __init__(
        self, look: Look, in_vm: bool, outcomes: Mapping[str, Outcome], first: str = ""
    ) -> None:
        super().__init__()
        self._live, self._outcomes, self._first = look.live, outcomes, first
        self._why_not = {
            name: puzzle.cannot_run(each, look.story, look.live, in_vm)
            for name, each in EXPERIMENTS.items()
        }

    def on_mount(self) -> None:
        if self._first:
            self.options.highlighted = self.options.get_option_index(self._first)

    def lines(self) -> list[Option]:
        return [
            Option(
                puzzle.experiment_line(
                    each, self._why_not[name], self._live, self._outcomes.get(name)
                ),
                id=name,
                disabled=bool(self._why_not[name]) and puzzle.sample_of(each) is None,
            )
            for name, each in EXPERIMENTS.items()
        ]

    def details(self, id: str) -> Content:
        return puzzle.experiment_details(
            EXPERIMENTS[id], self._why_not[id], self._live, self._outcomes.get(id)
        )

    @on(OptionList.OptionSelected)
    def chosen(self, event: OptionList.OptionSelected) -> None:
        self._give(event.option_id or "", run=False)

    def action_run_it(self) -> None:
        option = self.options.highlighted_option
        if option is not None and option.id is not None:
            self._give(option.id, run=True)

    def _give(self, name: str, run: bool) -> None:
        why_not = self._why_not[name] if run else ""
        if not run and puzzle.sample_of(EXPERIMENTS[name]) is None:
            why_not = "no recording of it is bundled; r runs it"
        if why_not:
            self.notify(f"{name}: {why_not}", severity="warning", markup=False, timeout=4)
        else:
            self.dismiss((EXPERIMENTS[name], run))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self._live if action == "run_it" else True


class Comparison(Page):
    """Two recordings side by side, scrolled to where they first differ."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("D,q", "dismiss(None)", "close", show=False, id="diff_close",
                tooltip="Back to the session"),
        Binding("f", "first", "first divergence", id="diff_first",
                tooltip="Where the two first differ"),
    ]  # fmt: skip

    def __init__(self, a: str, b: str, found: Diff) -> None:
        super().__init__()
        self.TITLE_TEXT = f"DIFF  A {a}  B {b}"
        self._found = found
        self._sought = True

    def inside(self) -> ComposeResult:
        yield from super().inside()
        yield Footer(compact=True, show_command_palette=False)

    def action_first(self) -> None:
        self._sought = True
        self.call_after_refresh(self.run_action, "app.show")

    def show(self, look: Look, output: history.OutputLines) -> None:
        """Scrolls once, and then leaves it to the user; the divergence is in mid-page."""
        width, height = self.pane.room
        lines, first = puzzle.compared(self._found, width)
        mark = None
        if self._sought and first is not None and height > 0:
            mark, self._sought = min(len(lines) - 1, first + height // 2), False
            self.pane.show(lines, max(0, first - height // 2))
        self.pane.show(lines, mark)
