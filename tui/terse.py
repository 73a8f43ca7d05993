"""What goes to the terminal: of each frame, only the cells that differ from what is there.

Textual draws a changed line from the left edge of its widget on, and gives every piece of it all of
its colours. Over SSH each step would be thrice as long as it has to be.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

_TOKEN = re.compile(
    r"\x1b\[(?P<row>\d+);(?P<column>\d+)H|\x1b\[(?P<style>[\d;]*)m|(?P<line>\r?\n)"
    r"|(?P<mode>\x1b\[\?(?:25|2026)[hl])|(?P<text>[^\x00-\x1f\x7f]+)|(?P<other>[\s\S])"
)
_OFF = {"1": "22", "2": "22", "3": "23", "4": "24", "5": "25", "7": "27", "8": "28", "9": "29",
        "fg": "39", "bg": "49"}  # fmt: skip
_SEEN_ON_A_BLANK = {"4", "7", "9", "bg"}
GAP = 4  # cells that are as cheaply written again as skipped

Cell = tuple[str, str]  # character, the parameters of its style


class Terse:
    """Knows what stands on the screen, and shortens what is written to it."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[int, Cell]] = {}
        self._rest = (0, 0)  # where the cursor was left

    def forget(self) -> None:
        """Something else may have changed the screen."""
        self._rows.clear()

    def shorten(self, data: str) -> str:
        """The same for the eye. What it does not understand goes through as it is."""
        out: list[str] = []
        new: dict[int, dict[int, Cell]] = {}
        y, x, style, moved = *self._rest, "", False
        for token in _TOKEN.finditer(data):
            match token.lastgroup:
                case "column":
                    y, x, moved = int(token["row"]) - 1, int(token["column"]) - 1, True
                case "style":
                    style = _joined(style, token["style"])
                case "line":
                    y, x = y + 1, 0
                case "text" if _narrow(text := token["text"]):
                    row = new.setdefault(y, {})
                    for x, char in enumerate(text, x):  # noqa: B020
                        row[x] = (char, style if char != " " else _blank(style))
                    x += 1
                case "mode":
                    out += [self._changes(new), token[0]]
                    new = {}
                case _:
                    self.forget()
                    return data
        out.append(self._changes(new))
        if moved and (any(out) or (y, x) != self._rest):
            out.append(f"\x1b[{y + 1};{x + 1}H")
            self._rest = y, x
        return "".join(out)

    def _changes(self, new: dict[int, dict[int, Cell]]) -> str:
        out: list[str] = []
        style = ""
        for y, cells in sorted(new.items()):
            old, at = self._rows.setdefault(y, {}), -1
            for x, cell in sorted(cells.items()):
                if old.get(x) == cell:
                    continue
                gap = [old.get(each) for each in range(at, x)] if 0 <= x - at <= GAP else [None]
                if at >= 0 and all(each is not None and _fits(each, style) for each in gap):
                    out.append("".join(each[0] for each in gap if each is not None))
                elif x != at:
                    out.append(f"\x1b[{x - at}C" if at >= 0 else f"\x1b[{y + 1};{x + 1}H")
                if not _fits(cell, style):
                    out.append(_change(style, cell[1]))
                    style = cell[1]
                out.append(cell[0])
                old[x], at = cell, x + 1
        return "".join([*out, _change(style, "")])


def _fits(cell: Cell, style: str) -> bool:
    """Whether a cell looks in this style as it is to look."""
    return cell[1] == (style if cell[0] != " " else _blank(style))


@lru_cache(maxsize=4096)
def _narrow(text: str) -> bool:
    """Whether each character takes one cell."""
    from rich.cells import cell_len

    return text.isascii() or all(cell_len(char) == 1 for char in text)


@cache
def _joined(before: str, more: str) -> str:
    """The style after another sequence; "" after a reset."""
    style = _parts(before)
    numbers = more.split(";")
    if numbers[0] in ("", "0"):
        style, numbers = {}, numbers[1:]
    return ";".join((style | _parts(";".join(numbers))).values())


@cache
def _parts(style: str) -> dict[str, str]:
    """What a style is made of: "1" for bold, …, "fg" and "bg" for the colours."""
    found: dict[str, str] = {}
    numbers = iter(style.split(";") if style else ())
    for number in numbers:
        if number in ("38", "48"):
            kind = next(numbers, "")
            rest = [next(numbers, "") for _ in range(3 if kind == "2" else 1)]
            found["fg" if number == "38" else "bg"] = ";".join([number, kind, *rest])
        elif number.isdigit() and (int(number) in range(30, 40) or int(number) in range(90, 98)):
            found["fg"] = number
        elif number.isdigit() and (int(number) in range(40, 50) or int(number) in range(100, 108)):
            found["bg"] = number
        else:
            found[number] = number
    return found


@cache
def _blank(style: str) -> str:
    """What of a style is seen where there is no character."""
    parts = _parts(style)
    if "7" in parts:
        return style
    return ";".join(value for name, value in parts.items() if name in _SEEN_ON_A_BLANK)


@cache
def _change(old: str, new: str) -> str:
    """The shortest way from one style to another."""
    if old == new:
        return ""
    before, after = _parts(old), _parts(new)
    gone = [name for name in before if name not in after]
    whole = f"\x1b[0;{new}m" if new else "\x1b[0m"
    if not new or any(name not in _OFF for name in gone):
        return whole
    off = {_OFF[name] for name in gone}
    again = {name for name in after if _OFF.get(name) in off}  # bold and dim have one end
    parts = [*sorted(off), *(value for name, value in after.items()
                             if name in again or before.get(name) != value)]  # fmt: skip
    return min(whole, f"\x1b[{';'.join(parts)}m", key=len)
