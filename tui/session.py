"""The screen of a session: the steps, the linkage, the values, and what is said of them."""

from __future__ import annotations

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.getters import query_one
from textual.screen import Screen
from textual.widgets import Footer

from recordings.layers import Kind
from recordings.steps import STEPS
from tui import keys
from tui.pane import Pane
from tui.views import call, diagram, history, step, times, values
from tui.views.look import Look


class Session(Screen[None]):
    """Lays out the panes and shows a `Look` in them; it decides nothing."""

    # Here, and not in the app: tab has a meaning of its own to every screen.
    BINDINGS = [b for b in keys.ALL if b.id in keys.OF_SCREEN]  # noqa: RUF012

    top = query_one("#title", Pane)
    badge = query_one("#badge", Pane)
    steps = query_one("#steps", Pane)
    linkage = query_one("#linkage", Pane)
    inspector = query_one("#inspector", Pane)
    said = query_one("#said", Pane)
    timeline = query_one("#timeline", Pane)
    log_pane = query_one("#log", Pane)
    output = query_one("#output", Pane)
    ledger = query_one("#ledger", Pane)

    def compose(self) -> ComposeResult:
        yield Pane(id="title")
        yield Pane(id="badge")
        with Horizontal(id="main"):
            yield Pane("STEPS", id="steps")
            yield Pane("LINKAGE", id="linkage")
            yield Pane("INSPECT", id="inspector")
        yield Pane(id="said")
        yield Pane(id="timeline")
        with Horizontal(id="more"):
            yield Pane("LOG", id="log")
            yield Pane("OUTPUT", id="output")
            yield Pane("LEDGER", id="ledger")
        yield Footer(compact=True, show_command_palette=False)

    @on(events.Resize)
    @on(events.ScreenResume)
    def show_again(self) -> None:
        self.call_after_refresh(self.run_action, "app.show")

    def restart(self) -> None:
        for pane in self.query(Pane):
            pane.restart()

    def show(self, look: Look, badge: Content, output: history.OutputLines) -> None:
        moment = look.moment
        self.top.show(times.title(look.within(*self.top.room)))
        self.badge.show([badge])
        self.steps.entitle(call.call_title(look.within(*self.steps.room)))
        self.steps.show(call.steps(look.within(*self.steps.room)), call.row_of(look))
        after = f"  after {moment.id}" if moment and moment.id in STEPS else ""
        self.linkage.entitle(f"LINKAGE{after}")
        self.linkage.show(diagram.linkage(look.within(*self.linkage.room)))
        self.said.show(step.said(look.within(*self.said.room)))
        self.timeline.show(times.timeline(look.within(*self.timeline.room)))
        if self.inspector.display:
            self.inspector.show(values.inspector(look.within(*self.inspector.room)))
        if self.log_pane.size.height:
            self.log_pane.show(history.log(look), self._log_line(look))
            self.output.show(output, len(output) - 1)
            self.ledger.show(history.ledger(look.within(*self.ledger.room)))

    def _log_line(self, look: Look) -> int:
        """The line to keep in sight: the cursor's; the newest while a session is at its end."""
        if look.moment is None or look.moment.index == len(look.story.moments) - 1:
            return len(look.story.log) - 1
        return look.moment.line

    def look_into(self, layer: Kind) -> None:
        self.inspector.scroll_to(y=values.heading(layer), animate=False)
