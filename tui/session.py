"""The screen of a session: the steps, the three objects, their values, and what is said of them."""

from __future__ import annotations

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.getters import query_one
from textual.screen import Screen

from recordings import events as ev
from tui import keys
from tui.pane import Pane
from tui.views import call, diagram, history, step, times, values
from tui.views.look import QUIET, Look


class Session(Screen[None]):
    """Lays out the panes and shows a `Look` in them; it decides nothing.

    Where a pane stands, and whether it is there, depends on the terminal's size alone (app.tcss).
    """

    # Here, and not in the app: tab has a meaning of its own to every screen.
    BINDINGS = [b for b in keys.ALL if b.id in keys.OF_SCREEN]  # noqa: RUF012

    top = query_one("#title", Pane)
    where = query_one("#badge", Pane)
    steps = query_one("#steps", Pane)
    linkage = query_one("#linkage", Pane)
    inspector = query_one("#inspector", Pane)
    said = query_one("#said", Pane)
    timeline = query_one("#timeline", Pane)
    ledger = query_one("#ledger", Pane)
    stack = query_one("#stack", Pane)
    keys = query_one("#keys", Pane)

    def compose(self) -> ComposeResult:
        yield Pane(id="title")
        yield Pane(id="badge")
        with Horizontal(id="main"):
            yield Pane("STEPS", id="steps")
            yield Pane("THREE OBJECTS", id="linkage")
            yield Pane("INSPECT", id="inspector")
        yield Pane(id="said")
        yield Pane(id="timeline")
        with Horizontal(id="more"):
            yield Pane("LEDGER", id="ledger")
            yield Pane("KERNEL STACK", id="stack")
        yield Pane(id="keys")

    @on(events.Resize)
    @on(events.ScreenResume)
    def show_again(self) -> None:
        self.call_after_refresh(self.run_action, "app.show")

    def restart(self) -> None:
        for pane in self.query(Pane):
            pane.restart()

    def show(self, look: Look, badge: Content, message: Content | None, keys: Content) -> None:
        self.top.show(times.title(look.within(*self.top.room)))
        self.where.show([badge])
        self.steps.entitle(call.title(look))
        own = look.within(*self.steps.room)
        self.steps.show(call.steps(own), call.row_of(own))
        self.linkage.entitle(Content.assemble("THREE OBJECTS", ("  " + _read(look), QUIET)))
        self.linkage.show(diagram.linkage(look.within(*self.linkage.room)))
        self.said.show(step.said(look.within(*self.said.room), message))
        self.timeline.show(times.timeline(look.within(*self.timeline.room)))
        if self.inspector.display:
            self.inspector.show(values.inspector(look.within(*self.inspector.room)))
        if self.ledger.size.height:
            self.ledger.entitle(history.ledger_title(look))
            self.ledger.show(history.ledger(look.within(*self.ledger.room)))
        if self.stack.size.height:
            self.stack.show(history.stack(look.within(*self.stack.room)))
        self.keys.show([keys])


def _read(look: Look) -> str:
    """When what is shown was read."""
    if look.moment is None or not isinstance(look.moment.event, ev.Held):
        return "as read here"
    held = any(hold.moment is look.moment for hold in look.story.held.values())
    return "read now" if held and look.live else "as read in the hold"
