"""The app: one story, a cursor in it, and what the keys do. Live and replay are the same code."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.segment import Segment
from textual import events, on, work
from textual.app import App, SystemCommand
from textual.binding import Binding
from textual.color import Color
from textual.content import Content
from textual.driver import Driver
from textual.filter import LineFilter
from textual.message import Message
from textual.notifications import SeverityLevel
from textual.screen import Screen

from recordings import commands
from recordings import events as ev
from recordings.commands import HOLDS
from recordings.layers import LAYERS
from recordings.story import Moment, Story, order
from recordings.stream import StreamError, read
from recordings.words import describe, hold_where, state_text, visible
from tui import keys, places, plain, theme
from tui.options import Options
from tui.pane import Pane
from tui.screens import Ask, Asking, Choose, Details, Find, Help, Inject, Over, Page, Stops, T, Type
from tui.session import Session
from tui.source import AgentLost, Live, Replay, Source
from tui.terse import Terse
from tui.views import call, find, hints, history, times
from tui.views.look import STOPS, Look, cut, text

# The puzzle, the lab, the diff and the export are imported by what opens them: the first frame
# does not wait for them.
if TYPE_CHECKING:
    from recordings.claims import Claim
    from recordings.experiments import Experiment, Outcome

# Seconds at least between two screens that the source, and not a key, asks for.
FRAME, LOADING = 0.03, 0.2
LAST = 10.0  # seconds that it may take to end, once told so by a signal
LEAVE = [
    ("detach", Content("Detach and resume: the program runs on")),
    ("kill", Content("Kill the program")),
    ("cancel", Content("Cancel")),
]


class Ascii(LineFilter):
    """Whatever is drawn, Textual's own widgets included, leaves in ASCII."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [Segment(plain.to_ascii(text), style, more) for text, style, more in segments]


@dataclass
class Kept:
    """A session that goes on, unseen, while another recording is looked at."""

    source: Source
    story: Story
    moment: Moment | None

    def feed(self, event: ev.Event) -> None:
        if isinstance(event, ev.Header) and self.story.header is not None:
            self.story, self.moment = Story(), None
        moment = self.story.feed(event)
        self.moment = self.moment or moment


@dataclass
class Trial:
    """An experiment that the program was restarted for; `on` once it has been."""

    experiment: Experiment
    on: bool = False
    signalled: bool = False


class Sockstep(App[None]):
    """Renders a story and sends commands."""

    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = True
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide"), (140, "-vast")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-low"), (30, "-high"), (40, "-tall")]  # noqa: RUF012
    BINDINGS = [b for b in keys.ALL if b.id not in keys.OF_SCREEN]  # noqa: RUF012

    @dataclass
    class Arrived(Message):
        """Events came."""

        batch: list[ev.Event]
        source: Source

    @dataclass
    class Ended(Message):
        """The source has no more; `trouble` says why where it should have had."""

        trouble: str
        source: Source

    @dataclass
    class Progress(Message):
        """The agent, starting, says what it does."""

        text: str

    def __init__(self, source: Source | None = None, keymap: dict[str, str] | None = None) -> None:
        # NO_COLOR: let the terminal's own two colours be all there are.
        bare = "NO_COLOR" in os.environ
        super().__init__(ansi_color=True if bare else None)
        for each in (theme.DARK, theme.ANSI):
            self.register_theme(each)
        few = self.console.color_system in (None, "standard")
        self.theme = theme.ANSI.name if bare or few else theme.DARK.name
        self._ascii = [Ascii()] if plain.ascii_wanted() else []
        if keymap:
            self.set_keymap(keymap)
        self.source = source
        self.story = Story()
        self.moment: Moment | None = None
        self.layer: ev.Kind = "socket"
        self.stops = STOPS  # and hold points: all that are armed
        if isinstance(source, Live) and source.holds:
            self.stops |= HOLDS.keys()
        self._could = self.stops
        self.farewell: commands.Command | None = commands.Detach()
        self.error: StreamError | None = None  # the session never began
        self._output = history.OutputLines()
        self._lost_agent = ""
        self._unrecorded = False
        self._progress = "starting"
        self._awaited = False  # the user ran the program for its next step: look at that
        self._asked = False  # a command is on its way that changes the tracee's state
        self._following = True  # the cursor goes where the program goes
        self._opened: set[int] = set()  # calls whose cleanup was looked at: it stays unfolded
        self._arrived: dict[int, float] = {}  # tid → when its hold was told of, by our clock
        self._words = ""  # last searched
        self._kept: Kept | None = None
        self._trial: Trial | None = None
        self._own: list[str] | None = None  # what the user debugs, while an experiment runs
        self._outcomes: dict[str, Outcome] = {}
        self._drawn = 0.0
        self.due = False  # a timer will draw
        self._leaving: Choose | None = None  # the question that quitting asks
        self._message: Content | None = None  # in place of the check, until the next key
        self._shown_keys = {
            each.id or "": (self._key_of(each, keymap or {}), each.description) for each in keys.ALL
        }
        self._hints: list[tuple[int, str]] = []  # column, action: of the last line

    # -- the source ----------------------------------------------------------------------

    @property
    def live(self) -> bool:
        return self.source is not None and self.source.live

    @property
    def state(self) -> ev.State | None:
        """The tracee's own state; while it is not stopped, that of a child which is."""
        tasks = self.story.tasks
        own = tasks.get(self.story.header.pid) if self.story.header else None
        if own is None or own.state == "stopped":
            return own
        return next((state for state in tasks.values() if state.state == "stopped"), own)

    @property
    def live_children(self) -> int:
        """How many followed children live."""
        followed = {fork.child for fork in self.story.forks if fork.followed}
        return len(followed - self.story.exits.keys())

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [*super().get_line_filters(), *self._ascii]

    def get_driver_class(self) -> type[Driver]:
        """The platform's own, but that it sends only what is new on the screen."""
        own = super().get_driver_class()
        terse = self._terse = Terse()

        def write(driver: Driver, data: str) -> None:
            own.write(driver, terse.shorten(data))

        return type("TerseDriver", (own,), {"write": write})

    @on(events.Resize)
    def forget_the_screen(self) -> None:
        self._terse.forget()

    def action_redraw(self) -> None:
        self._terse.forget()
        self.screen.refresh()

    def get_default_screen(self) -> Screen[None]:
        return Session()

    def on_mount(self) -> None:
        self.set_interval(1.0, self._tick)
        self.animation_level = "none"
        loop = asyncio.get_running_loop()

        def leave(signo: int, _frame: object) -> None:
            # A write to a terminal that is gone may block Textual for ever. At our end, however it
            # comes, the agent lets go.
            last = threading.Timer(LAST, os._exit, (128 + signo,))
            last.daemon = True
            last.start()
            loop.call_soon_threadsafe(self.exit, None, 128 + signo)

        for signo in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            with suppress(ValueError):  # not the main thread
                signal.signal(signo, leave)
        if self.source is None:
            self.choose_recording()
        else:
            self.follow(self.source)
        self.action_show()

    @work(exclusive=True)
    async def choose_recording(self) -> None:
        """The picker of `sockstep replay` without a file."""
        from tui import export

        known = places.known_recordings()
        found = [(str(path), export.summary(path)) for path in known]
        if not found:
            self.error = StreamError("there are no recordings yet: sockstep replay FILE")
            self.exit(return_code=2)
            return
        while self.source is None:
            choice = await self.push_screen_wait(Choose("REPLAY which recording?", found))
            if choice is None:
                self.exit()
                return
            try:
                self.source = Replay(Path(choice))
            except StreamError as error:
                self.tell(str(error), "error")
        self.refresh_bindings()
        self.follow(self.source)

    @work(group="source")
    async def follow(self, source: Source) -> None:
        trouble = ""
        try:
            async for batch in source.batches():
                if source not in (self.source, self._kept and self._kept.source):
                    return  # another recording is looked at by now
                self.post_message(self.Arrived(batch, source))
        except AgentLost as lost:
            trouble = lost.why
        except StreamError as error:
            trouble = str(error)
        self.post_message(self.Ended(trouble, source))

    @on(Arrived)
    def take(self, message: Arrived) -> None:
        source, kept = message.source, self._kept
        for event in message.batch:
            if source.live:
                self._clock(event)
            if source is self.source:
                self._feed(event)
                self._conduct(event, self.story, source)
            elif kept is not None and source is kept.source:
                kept.feed(event)
                self._conduct(event, kept.story, source)
        if source.trouble and not self._unrecorded:
            self._unrecorded = True
            self.tell(f"{source.trouble}; what comes now is not recorded", "error")
            if self.state is not None and self.state.state == "running":
                source.send(commands.Pause())  # to go on, or not, is for the user to say
        self._soon()

    def _clock(self, event: ev.Event) -> None:
        """Whatever is looked at meanwhile: a hold's time runs."""
        match event:
            case ev.Held():
                self._arrived.setdefault(event.tid, time.monotonic())
            case ev.Released():
                self._arrived.pop(event.tid, None)
            case ev.Header():
                self._arrived.clear()

    def _feed(self, event: ev.Event) -> None:
        if isinstance(event, ev.Header) and self.story.header is not None:
            self._restarted()
        moment = self.story.feed(event)
        if moment is not None and (self._awaited or self.moment is None):
            self.moment, self._awaited = moment, False
        if self._following:
            self._follow(moment)
        if isinstance(event, ev.State | ev.Held | ev.Released):
            self._asked = False
        if isinstance(event, ev.State) and event.state == "exited":
            self._awaited = False
            if self._leaving is not None and self.screen is self._leaving and not self._lives:
                self._leaving.dismiss(None)  # nothing is left to ask about
        if isinstance(event, ev.Inject) and not event.armed and (event.why or event.result):
            self.tell(describe(event), "warning")

    def _follow(self, moment: Moment | None) -> None:
        """Live: while something is held, look at it. A replay opens at the first object."""
        if self.live:
            held = [hold.moment for hold in self.story.held.values() if hold.moment is not None]
            if held:
                self.moment, self._awaited = held[-1], False
            elif self.moment and not find.is_at(self.story, self.moment):
                self.moment = self.moment.call.moments[-1]  # it was frozen there, and went on
        elif moment is not None and self.moment is not None and moment.call is self.moment.call:
            if not self.moment.objects:
                self.moment = moment if moment.objects else self.moment
            else:
                self._following = False

    def _restarted(self) -> None:
        self._following, self._opened = True, set()
        self.story, self.moment = Story(), None
        self._output = history.OutputLines()
        self._awaited = self._asked = False
        self.query_one_session().restart()

    @on(Ended)
    def ended(self, message: Ended) -> None:
        source, kept, story = message.source, self._kept, self.story
        if kept is not None and source is kept.source:
            story = kept.story
        elif source is not self.source:
            return
        if source.live and story.header is not None:
            if story.end is None or story.end.how != "detached":
                self._lost_agent = message.trouble or "it ended"
        elif message.trouble and kept is not None:
            self.tell(message.trouble, "error")  # of one of two: the other is still good
        elif message.trouble:
            self.error = StreamError(message.trouble)
            self.farewell = commands.Quit()  # what was never shown is not to run on unseen
            self.exit(return_code=2)
        elif source.live:
            self._lost_agent = "it ended"
        self.action_show()

    @on(Progress)
    def progress(self, message: Progress) -> None:
        self._progress = message.text
        if self.story.header is None:
            self._soon()

    # -- the screen ----------------------------------------------------------------------

    def query_one_session(self) -> Session:
        session = self.screen_stack[0]
        assert isinstance(session, Session)
        return session

    def look(self) -> Look:
        return Look(
            self.story, self.moment, self.layer, self.stops, self._could, frozenset(self._opened),
            self.live,
        )  # fmt: skip

    def _soon(self) -> None:
        """Draw, but not for every batch of a source that has much to say."""
        wait = self._drawn + (FRAME if self.live else LOADING) - time.monotonic()
        if wait <= 0:
            self.action_show()
        elif not self.due:
            self.due = True
            self.set_timer(wait, self.action_show)

    def action_show(self) -> None:
        """Show what is looked at: every pane draws only what is new to it."""
        if not self.screen_stack:  # a timer's last tick, after the end
            return
        self.due, self._drawn = False, time.monotonic()
        if self.moment is not None and call.is_after(self.moment):
            self._opened.add(self.moment.call.number)
        look = self.look()
        output = self._output.take(self.story.output)
        if isinstance(page := self.screen, Page):
            if page.query(Pane):  # it is mounted a little before what is in it
                page.show(look, output)
            if not page.beside:
                return  # it hides the session
            page.refresh()  # which is drawn behind it
        if (session := self.query_one_session()).is_mounted:
            width = session.size.width
            shown = dict(self._shown_keys)
            if self._kept is not None:
                shown["leave"] = (shown["leave"][0], "back to the session")
            last, self._hints = hints.hints(self._keys_now(), shown, width)
            session.show(look, self._badge(look, width), self._message, last)

    def _badge(self, look: Look, width: int) -> Content:
        """What the program does now, and what is looked at: two things that must not be mixed."""
        head, rest, style = self._doing()
        badge = text(f" {head} ", f"bold reverse {style}") + text(f" {rest}" if rest else "", style)
        if self._lost_agent and self.live:
            return cut(badge, width)
        held = isinstance(self.moment and self.moment.event, ev.Held) and self.live
        between = "  " if not self.live or not rest else " · " if held or not self.story.held else (
            " · looking at ")  # fmt: skip
        path = times.path(look, width - badge.cell_length - len(between) - 1)
        return cut(badge + text(between + path if path else ""), width)

    def _doing(self) -> tuple[str, str, str]:
        """The badge, what is behind it, its style."""
        state, moments = self.state, self.story.moments
        if not self.live:
            number = self.moment.index + 1 if self.moment else 0
            portion = self.source.progress.portion if isinstance(self.source, Replay) else 1.0
            rest = f"  reading: {portion:.0%}" if portion < 1 else ""
            return "REPLAY", f"{number}/{len(moments)}{rest}", "$primary"
        if self._lost_agent:
            return "AGENT LOST", self._loss(), "$error"
        if self.story.end is not None and self.story.end.how == "detached":
            return "DETACHED", "", "$primary"
        if state is None:
            return "STARTING", self._progress, "$primary"
        if self.story.held:
            hold = list(self.story.held.values())[-1].event
            head = "‖ MACHINE FROZEN" if hold.how == "frozen" else "‖ HELD"
            return head, self._hold_text(hold), "$warning"
        head, _, rest = state_text(state).partition(" ")
        style = {"running": "$success", "exited": "$quiet"}.get(state.state, "$warning")
        head = f"■ {head}" if state.state == "stopped" else head
        if self.story.header is not None and state.pid != self.story.header.pid:
            rest = f"child {state.pid}, {rest}"
        elif state.state == "exited" and (children := self.live_children):
            rest += f"; {children} {'child lives' if children == 1 else 'children live'} on"
        return head, rest, style

    def _keys_now(self) -> tuple[str, ...]:
        """What works now, likeliest first."""
        state = self.state
        if not self.live:
            return hints.REPLAY
        if self.story.held:
            return hints.HELD
        if self._why_not() or state is None:
            return hints.OVER
        return hints.RUNNING if state.state == "running" else hints.STOPPED

    def _key_of(self, binding: Binding, keymap: dict[str, str]) -> str:
        own = keymap.get(binding.id or "", "").strip(", ").partition(",")[0]
        if own or not binding.key_display:
            return self.get_key_display(Binding(own or binding.key.partition(",")[0], ""))
        return binding.key_display

    def _loss(self) -> str:
        """How the agent ended, and who looks after the program now (probes/guardian.py)."""
        why = self._lost_agent
        there = not (isinstance(self.source, Live) and self.source.in_vm)
        return f"{why}; the program is left to its guardian" if there and self._lives else why

    def _hold_text(self, event: ev.Held) -> str:
        """For how long it is held, for how long at most, and where."""
        now = time.monotonic()
        past = now - self._arrived.get(event.tid, now)
        words = f"{past:>3.0f} s"
        if event.until is not None:
            words = f"{past:>3.0f} of {(event.until - event.since) / 1e9:.0f} s"
        return f"{words}  {hold_where(event)}"

    def _tick(self) -> None:
        if self.live and self.story.held:
            self._soon()

    def tell(self, words: str, severity: SeverityLevel = "information") -> None:
        """Say something where the check stands, until the next key; over another screen: there."""
        style = {"warning": "$warning", "error": "bold $error"}.get(severity, "$accent")
        self._message = text(words, style)
        if len(self.screen_stack) > 1:
            self.clear_notifications()
            self.notify(visible(words), severity=severity, markup=False, timeout=4)
        else:
            self.action_show()

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Key) and self._message is not None:
            self._message = None
            self._soon()
        await super().on_event(event)

    def ask(self, screen: Over[T], then: Callable[[T], object]) -> None:
        """Open a screen, and do `then` with what it gives, if anything.

        At once: a key that is typed right behind the one that opened it is the screen's.
        """

        def given(result: T | None) -> None:
            if result is not None:
                then(result)

        self.push_screen(screen, given)

    def on_key(self, event: events.Key) -> None:
        """A key that nobody took. Typed ahead of a line to type in, it went to the screen below."""
        if isinstance(self.screen, Asking) and event.is_printable and event.character:
            self.screen.line.insert_text_at_cursor(event.character)

    # -- walking -------------------------------------------------------------------------

    def look_at(self, moment: Moment) -> None:
        self.moment = moment
        self._following = any(hold.moment is moment for hold in self.story.held.values())
        self.action_show()

    def action_walk(self, by: int) -> bool:
        """Move in what was captured; nothing is read again, and the program does not run."""
        moment = find.beside(self.story, self.moment, by)
        if moment is not None:
            self.look_at(moment)
        return moment is not None

    def action_next(self) -> None:
        if not self.action_walk(1):
            self._resume(commands.Next())

    def action_previous(self) -> None:
        self.action_walk(-1)

    def action_first(self) -> None:
        if self.story.moments:
            self.look_at(self.story.moments[0])

    def action_newest(self) -> None:
        held = [hold.moment for hold in self.story.held.values() if hold.moment is not None]
        if self.story.moments:
            self.look_at(max([self.story.moments[-1], *held], key=order))

    def action_call(self, by: int) -> None:
        numbers = list(self.story.calls)
        if self.moment is None or not numbers:
            return
        at = numbers.index(self.moment.call.number) + by
        if 0 <= at < len(numbers):
            self.look_at(self.story.calls[numbers[at]].moments[0])

    def action_layer(self, by: int) -> None:
        names = list(LAYERS)
        self.layer = names[(names.index(self.layer) + by) % len(names)]
        self.action_show()

    @on(Pane.Picked)
    def picked(self, message: Pane.Picked) -> None:
        """A click on a step, or on a key of the last line."""
        moment = None
        if message.pane.id == "steps":
            found = call.rows(self.look())
            row = found[message.line] if message.line < len(found) else None
            moment = (row.moment or next(iter(row.after), None)) if row else None
        elif message.pane.id == "keys":
            ids = [id for column, id in self._hints if column <= message.column]
            binding = next((each for each in keys.ALL if ids and each.id == ids[-1]), None)
            if binding is not None:
                self.call_later(self.run_action, binding.action)
        if moment is not None:
            self.look_at(moment)

    # -- the tracee ----------------------------------------------------------------------

    def _why_not(self) -> str:
        """Why nothing can be asked of the program now, in a sentence; or ""."""
        state = self.state
        if not self.live:
            return "The recording ends here."
        if self._lost_agent or self.source is None:
            return "The agent is gone: only what was captured is left."
        if state is None:
            return "The agent is still starting."
        if state.state == "exited":
            which = "your own program" if self._own else "it again"
            return f"The program has ended: r runs {which}."
        return ""

    def _resume(self, command: commands.Command) -> None:
        state = self.state
        if why := self._why_not():
            self.tell(why, "warning" if self._lost_agent else "information")
        elif self._asked or (state and state.state == "running" and not self.story.held):
            self.tell("The program is running: its next step has not come yet.")
        elif self.source is not None:
            self._awaited = self._asked = self._following = True
            self.source.send(command)

    def _send(self, command: commands.Command) -> bool:
        if not self.live or self.source is None or self._lost_agent or self.story.header is None:
            self.tell("There is no agent to ask.", "warning")
            return False
        self.source.send(command)
        return True

    def action_continue(self) -> None:
        self._resume(commands.Continue())

    def action_pause(self) -> None:
        state = self.state
        if why := self._why_not():
            self.tell(why)
        elif state is not None and state.state == "running":
            self._send(commands.Pause())
        else:
            self.tell("It is paused already.")

    def action_type(self) -> None:
        if why := self._why_not():
            self.tell(why)
        else:
            self.ask(Type(), self._send)

    def action_restart(self) -> None:
        """Anew; after an experiment, what the user came for."""
        if self._send(commands.Restart(argv=self._own)):
            self._own = self._trial = None

    def action_stop(self) -> None:
        if self.moment is None:
            self.action_stops()
        elif self.moment.id not in STOPS:
            self.tell(f"{self.moment.id} is no step at which the program can stop.")
        else:
            self._set_stops(self.stops ^ {self.moment.id})

    def action_stops(self) -> None:
        blind = self.story.blind
        holds = {point: blind.get(point, "") for point in HOLDS if point in {*self.stops, *blind}}
        self.ask(Stops(self.stops, holds), self._set_stops)

    def _set_stops(self, wanted: frozenset[str]) -> None:
        for id in sorted(wanted ^ self.stops):
            command = (
                commands.HoldAt(point=id, on=id in wanted)
                if id in HOLDS
                else commands.Arm(step=id, stop=id in wanted)
            )
            if not self._send(command):
                return
        self.stops = wanted
        self.action_show()

    def action_inject(self) -> None:
        if why := self._why_not():
            self.tell(why)
        else:
            self.ask(Inject(self.story), self._send)

    # -- the puzzle ----------------------------------------------------------------------

    def action_claims(self) -> None:
        from tui.puzzle import Claims

        self.ask(Claims(self.story), self._see_claim)

    def _see_claim(self, claim: Claim) -> None:
        from tui.views import puzzle

        moment = puzzle.moment_of(claim, self.story)
        if moment is not None:
            self.look_at(moment)
        elif claim.status == "not tested":
            self.open_lab(claim.tests)
        else:
            self.tell("The evidence names no single moment.")

    def action_lab(self) -> None:
        """The lab, at the experiment that ended last."""
        self.open_lab(next(reversed(self._outcomes), ""))

    def open_lab(self, name: str = "") -> None:
        from tui.puzzle import Lab

        in_vm = isinstance(self.source, Live) and self.source.in_vm
        self.ask(Lab(self.look(), in_vm, self._outcomes, name), self._see_experiment)

    def _see_experiment(self, chosen: tuple[Experiment, bool]) -> None:
        from tui.views import puzzle

        experiment, run = chosen
        if run:
            self._try(experiment)
        elif sample := puzzle.sample_of(experiment):
            self._look_aside(sample)

    def _try(self, experiment: Experiment) -> None:
        """Restart the program as an experiment; its steps are then the user's to walk."""
        from tui.lab import PYTHON

        header = self.story.header
        if header is None or not self._send(commands.Restart(argv=experiment.argv(PYTHON))):
            return
        self._own = self._own or list(header.argv)
        self._trial = Trial(experiment)
        self.tell(f"{experiment.name}: n and c run it; r goes back to your program")

    def _conduct(self, event: ev.Event, story: Story, source: Source) -> None:
        """Inject what the experiment injects, when its time has come; judge it at its end."""
        trial = self._trial
        if trial is None or not source.live:
            return
        from recordings.experiments import outcome
        from tui.lab import ASLEEP
        from tui.views import puzzle

        if isinstance(event, ev.Header):
            trial.on = True
        if not trial.on:
            return  # the program before it ends
        experiment = trial.experiment
        match event:
            case ev.State(state="stopped", why="before its first instruction"):
                for words in experiment.inject:
                    source.send(commands.injection(words))
            case ev.Step(id="STEP_13", at="entry") if (
                experiment.while_asleep and not trial.signalled
            ):
                trial.signalled = True
                self.set_timer(ASLEEP, lambda: self._signal_asleep(trial, source))
            case ev.End():
                self._trial = None
                done = outcome(experiment, story, str(source.path or ""))
                self._outcomes.pop(experiment.name, None)
                self._outcomes[experiment.name] = done
                self.tell(puzzle.outcome_text(done))

    def _signal_asleep(self, trial: Trial, source: Source) -> None:
        if trial is self._trial:
            armed = commands.injection(f"{trial.experiment.while_asleep}@STEP_13")
            assert isinstance(armed, commands.Inject)
            source.send(commands.Inject(signo=armed.signo))

    def action_diff(self) -> None:
        """This recording, as far as it goes, is A."""
        from tui import export

        own = self.source.path if self.source else None
        found = [(str(p), export.summary(p)) for p in places.known_recordings() if p != own]
        self.ask(Choose("DIFF with which recording?", found), self._compare)

    @work
    async def _compare(self, choice: str) -> None:
        own, path = self.source.path if self.source else None, Path(choice)
        try:
            other = await asyncio.to_thread(lambda: Story.of(read(path)))
        except (StreamError, OSError) as error:
            self.tell(str(error), "error")
            return
        from recordings import diff
        from tui.puzzle import Comparison

        title = own.stem if own else "this session"
        self.push_screen(Comparison(title, path.stem, diff.diff(self.story, other)))

    def _look_aside(self, path: Path) -> None:
        """Replay a recording over the session, which goes on and is come back to."""
        try:
            replay = Replay(path)
        except StreamError as error:
            self.tell(str(error), "error")
            return
        if self._kept is None and self.source is not None:
            self._kept = Kept(self.source, self.story, self.moment)
        self._restarted()
        self.source = replay
        self.refresh_bindings()
        self.follow(replay)
        self.action_show()

    def _look_back(self) -> None:
        assert self._kept is not None
        self._restarted()
        kept, self._kept = self._kept, None
        self.source, self.story, self.moment = kept.source, kept.story, kept.moment
        self.refresh_bindings()
        self.action_show()

    # -- looking, finding, keeping -------------------------------------------------------

    def action_details(self, view: str) -> None:
        self.push_screen(Details(view))

    def action_go(self) -> None:
        hint = "a step's number (12), name (STEP_16, vfs), or a call (call 3)"
        self.ask(Ask("GO TO", hint=hint), self._go)

    def _go(self, wish: str) -> None:
        moment = find.named_moment(wish, self.look())
        if moment is None:
            self.tell(f"There is no step or call {wish!r} here.", "warning")
        else:
            self.look_at(moment)

    def action_find(self) -> None:
        self.ask(Find(self.look(), self._words), self._found)

    def _found(self, found: tuple[int, str]) -> None:
        line, self._words = found
        moment = find.moment_near(self.story, line)
        if moment is not None:
            self.look_at(moment)

    def action_save(self) -> None:
        from tui import export

        path = self.source.path if self.source else None
        if path is None:
            self.tell("There is no recording to save.", "warning")
            return
        self._keep("SAVE as", path.name, lambda where: export.save(path, where))

    def action_export(self) -> None:
        from tui import export

        path = self.source.path if self.source else None
        if path is None:
            self.tell("There is no recording to export.", "warning")
            return

        def chosen(kind: str) -> None:
            name, look = f"{path.stem}{export.ENDINGS[kind]}", self.look()
            self._keep(
                f"EXPORT {kind} to", name, lambda where: export.write(kind, where, path, look)
            )

        self.ask(Choose("EXPORT", export.KINDS_SHOWN), chosen)

    def _keep(self, title: str, name: str, write: Callable[[Path], object]) -> None:
        """Ask where to, and write it there; where that fails, say why and ask again."""

        def keep(wish: str) -> None:
            try:
                where = write(places.expanded(wish))
            except (OSError, StreamError, RuntimeError) as error:
                why = str(error)
                if isinstance(error, OSError) and error.strerror:
                    why = f"{error.filename or wish}: {error.strerror}"
                self.tell(f"Not written: {why}", "error")
                self.ask(Ask(title, wish), keep)
            else:
                self.tell(f"Written: {where}")

        self.ask(Ask(title, visible(str(Path.cwd() / name))), keep)

    def action_help(self) -> None:
        active = self.query_one_session().active_bindings.values()
        bound = []
        for known in keys.ALL:
            own = [self.get_key_display(a.binding) for a in active if a.binding.id == known.id]
            if own:
                bound.append((" ".join(dict.fromkeys(own)), known.tooltip))
        self.push_screen(Help(bound, places.keymap()))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self.live if action in keys.LIVE_ONLY else True

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        for binding in keys.ALL:
            name, _, _ = binding.action.removeprefix("app.").partition("(")
            if self.check_action(name, ()):
                title = f"{binding.description.capitalize()} ({binding.key_display or binding.key})"
                yield SystemCommand(title, binding.tooltip, self._runner(binding))
        yield SystemCommand("Theme", "Other colours", self.action_change_theme)

    def _runner(self, binding: Binding):  # type: ignore[no-untyped-def]
        async def run() -> None:
            await self.run_action(binding.action)

        return run

    # -- the end -------------------------------------------------------------------------

    async def action_quit(self) -> None:
        self.action_leave()

    @property
    def _lives(self) -> bool:
        """Whether something lives that we trace."""
        state = self.story.tasks.get(self.story.header.pid) if self.story.header else None
        if not self.live or state is None or self.story.end is not None:
            return False
        return state.state != "exited" or self.live_children > 0

    def action_leave(self) -> None:
        """Quit; while the program lives, ask what is to become of it: detaching is first."""
        if self._kept is not None:
            self._look_back()
        elif self._lives and not self._lost_agent and self.story.header is not None:
            title = f"QUIT  {visible(' '.join(self.story.header.argv))} is still alive"
            self._leaving = Choose(title, LEAVE)
            self.ask(self._leaving, self._leave)
        else:
            self.farewell = commands.Quit() if self.live else None
            self.exit()

    def _leave(self, choice: str) -> None:
        if choice in ("detach", "kill"):
            self.farewell = commands.Quit() if choice == "kill" else commands.Detach()
            self.exit()


def debug(options: Options) -> int:
    """The app over a live agent; the exit status. Raises StreamError if it never began."""
    return asyncio.run(_debug(options, keys.load(places.keymap())))


async def _debug(options: Options, keymap: dict[str, str]) -> int:
    waiting = True
    app: Sockstep | None = None

    def progress(text: str) -> None:
        if app is not None and app.is_running:
            app.post_message(app.Progress(text))
        elif waiting:
            print(f"sockstep: {visible(text)}", flush=True)

    agent = Live(options, progress)
    await agent.start()
    try:
        if options.via is not None:  # it may ask for a password: the terminal is still its own
            await agent.greet()
        waiting = False
        app = Sockstep(agent, keymap)
        await app.run_async()
    except BaseException:
        await agent.close(commands.Detach() if app is not None else commands.Quit())
        raise
    await agent.close(app.farewell)
    if app.error is not None:
        raise app.error
    for path in agent.recordings:
        print(plain.out(f"recorded in {visible(str(path))}"))
    if agent.trouble:
        raise StreamError(agent.trouble)
    return app.return_code or 0


def replay(path: Path | None) -> int:
    """The app over a recording, or over a picker of them. Raises StreamError for a bad one."""
    keymap = keys.load(places.keymap())
    app = Sockstep(Replay(path) if path is not None else None, keymap)
    app.run()
    if app.error is not None:
        raise app.error
    return app.return_code or 0
