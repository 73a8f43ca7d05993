"""Every action once: its key, name and tooltip feed the footer, the palette and the help.

The ids are what the user's own keys.toml names.
"""

from __future__ import annotations

import os
import stat
import tomllib
import unicodedata
from contextlib import suppress
from pathlib import Path

from textual.binding import Binding
from textual.keys import KEY_NAME_REPLACEMENTS, Keys

from recordings.words import visible
from tui import places


class KeymapError(Exception):
    """The user's keys cannot be used; the text says why, in one line."""


def bind(
    id: str, keys: str, name: str, tooltip: str, action: str = "", show: bool = False,
    display: str | None = None,
) -> Binding:  # fmt: skip
    return Binding(
        keys, f"app.{action or id}", name, show=show, tooltip=tooltip, id=id, key_display=display
    )


# These work wherever a moment is shown, the details included.
WALK = [
    bind("next", "n", "next", "Next captured step; at the newest one, run to the next",
         show=True),
    bind("previous", "p", "back", "The captured step before", show=True),
    bind("next_call", "right_square_bracket", "next call", "First step of the next call",
         "call(1)", display="]"),
    bind("previous_call", "left_square_bracket", "call before", "First step of the call before",
         "call(-1)", display="["),
]  # fmt: skip
ARROWS = [
    bind("step_forward", "down,right", "forward", "Next captured step; never runs the program",
         "walk(1)"),
    bind("step_backward", "up,left", "backward", "The captured step before", "walk(-1)"),
    bind("first", "home", "first", "The first step of all"),
    bind("newest", "end", "newest", "The newest step of all"),
]  # fmt: skip
DO = [
    bind("continue", "c", "continue", "Run on to the next stop", show=True),
    bind("inject", "i", "inject", "Inject a signal, now or at a step, or a failure", show=True),
    bind("restart", "r", "restart", "Kill the program and start it anew", show=True),
    bind("stop", "b", "stop here", "Stop at this step, or no longer"),
    bind("stops", "B", "stops", "All the steps, and at which the program stops"),
    bind("type", "t", "type", "Type a line for the program to read"),
    bind("pause", "ctrl+c", "pause", "Stop the running program now (SIGSTOP)"),
]
SEE = [
    bind("inspect", "enter", "more", "All about this step: story, values, stack",
         "details('Step')", show=True, display="Enter"),
    bind("changes", "d", "changes", "What changed since the last reading: old → new",
         "details('Changes')"),
    bind("output", "o", "output", "What the program wrote", "details('Output')"),
    bind("log", "l", "log", "The event log", "details('Log')"),
    bind("layer", "tab", "layer", "Inspect the next layer: fd, file, socket, sock", "layer(1)",
         display="Tab"),
    bind("layer_before", "shift+tab", "layer before", "Inspect the layer before", "layer(-1)"),
    bind("go", "g", "go to", "Go to a step by number or name, or to a call"),
    bind("find", "slash", "find", "Find in steps, log and values; addresses too", show=True,
         display="/"),
    bind("claims", "k", "claims", "What this recording confirms, refutes, does not test"),
    bind("lab", "L", "lab", "The experiments: run one, or open a recording of it"),
    bind("diff", "D", "diff", "This recording and another, side by side"),
    bind("save", "s", "save", "Save the recording under another name"),
    bind("export", "e", "export", "Write a report, a picture, or a masked recording"),
    bind("redraw", "ctrl+l", "redraw", "Draw the screen anew, if something else wrote to it"),
    bind("help", "question_mark,f1", "help", "The keys and the signs", show=True, display="?"),
    bind("leave", "q", "quit", "Quit; asks while a program lives", show=True),
]  # fmt: skip
ALL = [*WALK, *ARROWS, *DO, *SEE]
OF_SCREEN = {"layer", "layer_before"}
LIVE_ONLY = {"continue", "inject", "restart", "stop", "stops", "type", "pause"}
_MODIFIERS = {"ctrl", "shift", "alt", "super", "meta", "hyper"}


def _is_key(name: str) -> bool:
    """Whether a key can have this name: "n", "f5", "ctrl+x", "question_mark"."""
    *modifiers, key = name.split("+")
    if not _MODIFIERS.issuperset(modifiers):
        return False
    if len(key) == 1:
        return key.isprintable()
    if key in {known.value for known in Keys} or key in KEY_NAME_REPLACEMENTS.values():
        return True
    with suppress(KeyError):
        return bool(unicodedata.lookup(key.replace("_", " ")))
    return False


def load(path: Path) -> dict[str, str]:
    """The user's keys: `id = "key,key"` lines. Raises KeymapError for anything else."""
    try:
        with places.as_invoker():  # O_NONBLOCK: wait for nobody to write to a FIFO
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise KeymapError(f"{path}: it is no regular file")
            keymap = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KeymapError(f"{path}: {error}") from error
    known = {binding.id for binding in ALL}
    for id, keys in keymap.items():
        if id not in known:
            raise KeymapError(f"{path}: there is no action {id!r}")
        if not isinstance(keys, str) or not keys.strip(", "):
            raise KeymapError(f"{path}: {id} needs a key, or several with commas between")
        for key in filter(None, map(str.strip, keys.split(","))):
            if not _is_key(key):
                raise KeymapError(f"{path}: {id}: there is no key {visible(key)!r}")
    taken: dict[str, str] = {}
    for binding in ALL:
        for key in keymap.get(binding.id or "", binding.key).split(","):
            other = taken.setdefault(key.strip(), binding.id or "")
            if other != binding.id:
                raise KeymapError(f"{path}: {key.strip()} is bound to {other} and to {binding.id}")
    return keymap
