"""What opens over the session: details, pickers, questions. Each gives back what was chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, TypeVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.getters import query_one
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, Label, OptionList, Tab, Tabs
from textual.widgets.option_list import Option

from recordings import commands
from recordings.commands import HELD_BEFORE, HOLDS, REFUSALS
from recordings.steps import STEPS
from recordings.story import Moment, Story
from recordings.uapi import ERRNO
from recordings.words import SIGNAL_DEFAULTS, visible
from tui import keys
from tui.pane import Pane
from tui.views import call, find, history, step, values
from tui.views.help import help_lines
from tui.views.look import STOP, STOPS, Look, View, text

T = TypeVar("T")
EPERM, ENOMEM = 1, 12  # Linux's


class Over(ModalScreen[T | None]):
    """A box over the session with a title; Escape takes it away."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "close", tooltip="Back to the session")
    ]
    TITLE_TEXT = ""
    WAYS = "Esc closes"  # what one can do, beside what the footer says

    def inside(self) -> ComposeResult:
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        with Vertical(id="box") as box:
            box.border_title = Content(visible(self.TITLE_TEXT))
            box.border_subtitle = Content(self.WAYS)
            yield from self.inside()


class Page(Over[None]):
    """Lines of text over the whole screen, to scroll through."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(keys, f"scroll('{where}')", where, show=False)
        for keys, where in (
            ("down,j", "down"), ("up,k", "up"), ("pagedown,space", "page_down"),
            ("pageup", "page_up"), ("home", "home"), ("end", "end"), ("right", "right"),
            ("left", "left"),
        )
    ]  # fmt: skip

    SIDEWAYS = 16  # cells

    pane = query_one(Pane)

    def inside(self) -> ComposeResult:
        yield Pane(id="page")

    def on_resize(self) -> None:
        self.call_after_refresh(self.run_action, "app.show")

    def action_scroll(self, where: str) -> None:
        if where in ("left", "right"):
            by = self.SIDEWAYS if where == "right" else -self.SIDEWAYS
            self.pane.scroll_relative(x=by, animate=False)
        else:
            getattr(self.pane, f"scroll_{where}")(animate=False)
        self.call_after_refresh(self.run_action, "app.show")

    @property
    def beside(self) -> bool:
        """Whether the session can be seen behind it."""
        return False

    def show(self, look: Look, output: history.OutputLines) -> None:
        raise NotImplementedError


class Details(Page):
    """Everything there is about the moment, under tabs; walking goes on in it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *keys.WALK,
        Binding("tab", "tab(1)", "next view", key_display="Tab"),
        Binding("shift+tab", "tab(-1)", "view before", show=False),
        Binding("enter,q,d,o,l", "dismiss(None)", "close", show=False),
    ]
    VIEWS: ClassVar[dict[str, View]] = {
        "Step": step.story,
        "Values": values.everything,
        "Changes": values.changes,
        "Ledger": history.ledger,
        "Log": history.log,
        "Output": lambda look: (),
        "Probes": history.probes,
    }
    TITLE_TEXT = "DETAILS"
    AUTO_FOCUS = ""  # not the tabs: the arrows scroll

    tabs = query_one(Tabs)

    def __init__(self, view: str) -> None:
        super().__init__()
        self._view = view
        self._seen: Moment | None = None  # the moment that the log was scrolled to

    def inside(self) -> ComposeResult:
        yield Tabs(*(Tab(name, id=name) for name in self.VIEWS), active=self._view)
        yield from super().inside()
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.tabs.can_focus = False

    @property
    def beside(self) -> bool:
        """At the largest size it leaves the steps, the objects and their values in sight."""
        return self.has_class("-vast") and self.has_class("-tall")

    @on(Tabs.TabActivated)
    def change(self, event: Tabs.TabActivated) -> None:
        self._view, self._seen = event.tab.id or "Step", None
        self.pane.restart()
        self.call_after_refresh(self.run_action, "app.show")

    def show(self, look: Look, output: history.OutputLines) -> None:
        """Show the view under the active tab; the log keeps the cursor's line in sight."""
        mark = None
        if self._view == "Output":
            nothing = [text("the program has written nothing so far", "$quiet")]
            self.pane.show(output if len(output) else nothing)
            return
        if self._view == "Log" and look.moment is not self._seen:
            mark = look.moment.line if look.moment else None
            self._seen = look.moment
        self.pane.show(self.VIEWS[self._view](look.within(*self.pane.room)), mark)

    def action_tab(self, by: int) -> None:
        names = list(self.VIEWS)
        self.tabs.active = names[(names.index(self._view) + by) % len(names)]


class Choose(Over[str]):
    """One of several things, each with an id."""

    WAYS = "Enter chooses · Esc closes"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("q", "dismiss(None)", show=False)]

    def __init__(self, title: str, options: Iterable[tuple[str, Content]]) -> None:
        super().__init__()
        self.TITLE_TEXT = title
        self._options = [Option(prompt, id=id) for id, prompt in options]

    def inside(self) -> ComposeResult:
        yield OptionList(*self._options)

    @on(OptionList.OptionSelected)
    def choose(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_id)


class Line(Input):
    """An input whose cursor does not blink: over SSH every blink is sent."""

    def on_mount(self) -> None:
        self.cursor_blink = False


class Asking(Over[T]):
    """A box with a line to type in."""

    line = query_one(Line)


class Ask(Asking[str]):
    """One line of text; nothing where nothing was typed."""

    WAYS = "Enter accepts · Esc closes"

    def __init__(self, title: str, value: str = "", hint: str = "") -> None:
        super().__init__()
        self.TITLE_TEXT = title
        self._value, self._hint = value, hint

    def inside(self) -> ComposeResult:
        yield Line(self._value, placeholder=self._hint, select_on_focus=False)

    @on(Input.Submitted)
    def answer(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip() or None)


class Type(Asking[commands.Input]):
    """A line for the program to read, or the end of its input."""

    TITLE_TEXT = "TYPE a line for the program to read"
    WAYS = "Enter sends · Ctrl+D ends its input · Esc closes"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+d", "end", "end of input", show=False, priority=True)
    ]

    def inside(self) -> ComposeResult:
        yield Line()

    @on(Input.Submitted)
    def answer(self, event: Input.Submitted) -> None:
        self.dismiss(commands.Input(event.value + "\n"))

    def action_end(self) -> None:
        self.dismiss(commands.Input(self.line.value, end=True))


class Inject(Over[commands.Command]):
    """A signal, and where; or a failure of the call that comes there next, and its errno."""

    TITLE_TEXT = "INJECT a signal or a failure"
    WAYS = "Enter chooses · Esc closes"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("q", "dismiss(None)", show=False)]
    LIKELY = (9, 10, 15)  # SIGKILL, SIGUSR1, SIGTERM: the signals that come first
    ROOM = 32  # cells for a failure, on the narrowest screen
    # Hooks that can refuse, each with the errno that is most like them.
    HOOKS: ClassVar[dict[str, int]] = {
        "security_socket_create": EPERM, "security_inode_alloc": ENOMEM,
        "security_sk_alloc": ENOMEM, "security_socket_post_create": EPERM,
        "security_file_alloc": ENOMEM,
    }  # fmt: skip
    FAILURES: ClassVar[dict[str, tuple[str, commands.Command]]] = {
        "cgroup": ("the cgroup's BPF program says no, edge 12", commands.Refuse(hook="cgroup")),
        "nofile": ("RLIMIT_NOFILE 0 until its next call returns, or this one where it is held, "
                   "edge 15", commands.Limit(nofile=0)),
    }  # fmt: skip

    what = query_one("#what", OptionList)
    where = query_one("#where", OptionList)

    def __init__(self, story: Story) -> None:
        super().__init__()
        self._offered = "where"
        self._why_not = story.blind
        probes = [state.probe for state in story.probes.values()]
        self._seen = {
            step for probe in probes if probe.status == "attached" for step in probe.steps
        }

    def inside(self) -> ComposeResult:
        yield Label(
            Content("Failures of the call that comes there next; signals, now or at a step.")
        )
        failures = {hook: f"{hook}() says no, edge {REFUSALS[hook]}" for hook in self.HOOKS}
        failures |= {id: does for id, (does, _) in self.FAILURES.items()}
        with Horizontal():
            failing = [
                Option(self._failure(id, does), id=id, disabled=id in self._why_not)
                for id, does in failures.items()
            ]
            signals = [
                Option(Content(f"{signo:>3} {name:<12} {does}"), id=str(signo))
                for signo, name, does in sorted(SIGNAL_DEFAULTS, key=self._likely)
            ]
            cannot = [option for option in failing if option.disabled]
            can = [option for option in failing if not option.disabled]
            yield OptionList(*can, *signals, *cannot, id="what")
            yield OptionList(*self._places(), id="where")

    def _likely(self, signal: tuple[int, str, str]) -> tuple[bool, int]:
        return signal[0] not in self.LIKELY, signal[0]

    def _places(self) -> Iterable[Option]:
        yield Option(Content("now"), id="now")
        for id in STEPS:
            if id in STOPS:
                yield Option("at " + call.named_step(id), id=id, disabled=id not in self._seen)

    def _failure(self, id: str, does: str) -> Content:
        """What it does, or why this kernel or this moment does not allow it."""
        why = self._why_not.get(id)
        lines = text(does if why is None else f"{id}: {why}").wrap(self.ROOM)
        return Content("\n     ").join([Content("fail ") + lines[0], *lines[1:]])

    def on_mount(self) -> None:
        self.what.border_title = Content("what")
        self.where.border_title = Content("where")
        self.what.highlighted = self.what.get_option_index("15")  # SIGTERM
        self.what.focus()

    @on(OptionList.OptionHighlighted, "#what")
    def offer(self, event: OptionList.OptionHighlighted) -> None:
        """Beside a signal the places, beside a hook the errnos, beside the rest nothing."""
        id = event.option_id or ""
        kind = "errno" if id in self.HOOKS else "" if id in self.FAILURES else "where"
        if kind != self._offered:
            self._offered = kind
            self.where.border_title = Content(kind)
            self.where.clear_options()
            if kind == "where":
                self.where.add_options(self._places())
                self.where.highlighted = 0
            elif kind == "errno":
                names = ERRNO.items()
                self.where.add_options(
                    Option(Content(f"{number:>3} {name}"), id=str(number))
                    for number, name in names if number < 512
                )  # fmt: skip
        if kind == "errno":
            self.where.highlighted = self.where.get_option_index(str(self.HOOKS[id]))

    @on(OptionList.OptionSelected, "#what")
    def chosen(self, event: OptionList.OptionSelected) -> None:
        if event.option_id in self.FAILURES:
            self.dismiss(self.FAILURES[event.option_id][1])
        else:
            self.where.focus()

    @on(OptionList.OptionSelected, "#where")
    def done(self, event: OptionList.OptionSelected) -> None:
        option, place = self.what.highlighted_option, event.option_id
        if option is None or option.id is None or place is None:
            return
        if option.id in self.HOOKS:
            self.dismiss(commands.Refuse(hook=option.id, errno=int(place)))
        else:
            step = None if place == "now" else place
            self.dismiss(commands.Inject(signo=int(option.id), step=step))


class Stops(Over[frozenset[str]]):
    """All steps, and at which of them the program stops."""

    TITLE_TEXT = "STOPS  Space: on and off  a: all or none  Enter: done"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "flip", "on and off"),
        Binding("a", "all", "all or none"),
        Binding("enter", "done", "done", priority=True),
        Binding("q", "dismiss(None)", show=False),
    ]

    options = query_one(OptionList)

    def __init__(self, stops: frozenset[str], holds: Mapping[str, str]) -> None:
        """`holds`: the hold points, each with the reason why nothing can be held there, or ""."""
        super().__init__()
        self._holds = holds
        self._whole = STOPS | {point for point, why in holds.items() if not why}
        self._stops = stops & self._whole

    def inside(self) -> ComposeResult:
        ids = [id for id in STEPS if id in STOPS]
        for point in self._holds:
            ids.insert(ids.index(HELD_BEFORE[point]), point)
        yield OptionList(
            *(Option(self._prompt(id), id=id, disabled=id not in self._whole) for id in ids)
        )

    def _prompt(self, id: str) -> Content:
        sign = f"{STOP} " if id in self._stops else "  "
        if id not in self._holds:
            return sign + call.named_step(id)
        return text(f"{sign}hold asleep at {id}, " + (self._holds[id] or HOLDS[id]))

    def action_flip(self) -> None:
        option = self.options.highlighted_option
        if option is not None and option.id is not None:
            self._stops ^= {option.id}
            self.options.replace_option_prompt(option.id, self._prompt(option.id))

    def action_all(self) -> None:
        self._stops = frozenset() if self._stops else self._whole
        for id in sorted(self._whole):
            self.options.replace_option_prompt(id, self._prompt(id))

    def action_done(self) -> None:
        self.dismiss(self._stops)


class Find(Asking[tuple[int, str]]):
    """Words, names, numbers or addresses in the log; gives the line of the log, and the words."""

    TITLE_TEXT = "FIND in steps, log and values"
    WAYS = "Enter goes there · ↓ the others · Esc closes"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("down", "others", show=False)]
    MOST = 200  # hits shown

    def __init__(self, look: Look, words: str) -> None:
        super().__init__()
        self._look, self._words = look, words
        self._searched = ""  # what the hits are of
        self._entered = False  # the first hit is wanted as soon as there is one

    def inside(self) -> ComposeResult:
        yield Line(self._words, placeholder="a step, a function, a value, an address")
        yield OptionList()
        yield Label("")

    @on(Input.Changed)
    def search(self, event: Input.Changed) -> None:
        self.find(event.value.strip().lower())

    @work(exclusive=True)
    async def find(self, words: str) -> None:
        """Looks through the log, a slice at a time, so that typing goes on."""
        found = self.query_one(OptionList)
        found.clear_options()
        hits = 0
        if words:
            async for line in find.search(self._look.story, words):
                found.add_option(Option(history.log(self._look)[line], id=str(line)))
                hits += 1
                if hits == self.MOST:
                    break
        count = f"the first {hits}" if hits == self.MOST else str(hits)
        self.query_one(Label).update(Content(f"{count} found" if words else ""))
        self._searched = words
        if hits:
            found.highlighted = 0
        if self._entered:
            self.first()

    @on(Input.Submitted)
    def first(self) -> None:
        found = self.query_one(OptionList)
        self._entered = self._searched != self.line.value.strip().lower()
        if found.option_count and not self._entered:
            found.action_select()

    def action_others(self) -> None:
        self.query_one(OptionList).focus()

    @on(OptionList.OptionSelected)
    def choose(self, event: OptionList.OptionSelected) -> None:
        self.dismiss((int(event.option_id or 0), self.line.value))


class Help(Page):
    """The keys as they are bound now, and the signs."""

    TITLE_TEXT = "HELP"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,question_mark,f1", "dismiss(None)", show=False)
    ]

    def __init__(self, bound: list[tuple[str, str]], keymap: Path) -> None:
        super().__init__()
        self._bound, self._keymap = bound, keymap

    def show(self, look: Look, output: history.OutputLines) -> None:
        self.pane.show(help_lines(self._bound, self._keymap, self.pane.room.width))
