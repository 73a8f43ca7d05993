"""The last line: the keys that work now, likeliest first."""

from __future__ import annotations

from collections.abc import Mapping

from textual.content import Content

from tui.views.look import QUIET

REPLAY = ("next", "previous", "inspect", "next_call", "changes", "go", "find", "claims", "layer",
          "log", "output", "lab", "diff")  # fmt: skip
STOPPED = ("next", "previous", "continue", "inject", "inspect", "restart", "changes", "next_call",
           "stop", "find", "layer", "claims", "lab")  # fmt: skip
HELD = ("next", "continue", "inject", "previous", "inspect", "restart", "changes", "layer", "log",
        "output")  # fmt: skip
RUNNING = ("pause", "type", "previous", "inspect", "restart", "output", "log", "changes")
OVER = ("previous", "next", "inspect", "restart", "next_call", "changes", "claims", "find", "layer",
        "lab", "log", "output")  # fmt: skip
ALWAYS = ("help", "leave")


def hints(
    ids: tuple[str, ...], keys: Mapping[str, tuple[str, str]], width: int
) -> tuple[Content, list[tuple[int, str]]]:
    """As many as there is room for, always with help and quit. `keys`: id → (key, what it does).

    Also where each begins: (column, id), for clicks.
    """
    last = [each for each in ALWAYS if each in keys]
    room = width - 1 - sum(_size(keys[each]) for each in last)
    shown = []
    for id in ids:
        if id in keys and _size(keys[id]) <= room:
            shown.append(id)
            room -= _size(keys[id])
        elif id in keys:
            break
    parts, starts, at = [], [], 1
    for id in (*shown, *last):
        key, what = keys[id]
        starts.append((at, id))
        parts += [(key, "bold $accent"), (f" {what}  ", QUIET)]
        at += _size(keys[id])
    return Content.assemble(" ", *parts), starts


def _size(key: tuple[str, str]) -> int:
    return len(key[0]) + len(key[1]) + 3
