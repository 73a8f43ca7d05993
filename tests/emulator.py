"""What a terminal would show of what is written to it."""

from __future__ import annotations

import re

Screen = dict[tuple[int, int], tuple[str, str]]


class Emulator:
    """As much of a terminal as we write to: moves, styles, text. `cells`: what the eye sees."""

    def __init__(self) -> None:
        self.y = self.x = 0
        self.style: dict[str, str] = {}
        self.cells: Screen = {}

    def write(self, data: str) -> None:
        for match in re.finditer(r"\x1b\[([\d;]*)([HCm])|\r?(\n)|([^\x1b\r\n])", data):
            numbers, what, line, char = match.groups()
            if what == "H":
                self.y, self.x = (int(number) - 1 for number in numbers.split(";"))
            elif what == "C":
                self.x += int(numbers)
            elif what == "m":
                self._style(numbers.split(";"))
            elif line:
                self.y, self.x = self.y + 1, 0
            else:
                self.cells[self.y, self.x] = (char, self._seen(char))
                self.x += 1

    def _seen(self, char: str) -> str:
        shown = self.style
        if char == " " and "7" not in shown:
            shown = {name: shown[name] for name in ("4", "bg") if name in shown}
        return repr(sorted(shown.items()))

    def _style(self, numbers: list[str]) -> None:
        rest = iter(numbers)
        for number in rest:
            if number in ("", "0"):
                self.style = {}
            elif number in ("38", "48"):
                kind = next(rest)
                value = [next(rest) for _ in range(3 if kind == "2" else 1)]
                self.style["fg" if number == "38" else "bg"] = ";".join(value)
            elif number in ("39", "49"):
                self.style.pop("fg" if number == "39" else "bg", None)
            elif number == "22":
                self.style.pop("1", None)
                self.style.pop("2", None)
            elif number in ("24", "27"):
                self.style.pop(number[1], None)
            elif int(number) >= 30:
                self.style["bg" if int(number) // 10 in (4, 10) else "fg"] = number
            else:
                self.style[number] = number
