"""The linkage diagram: three boxes, one for each layer, and the pointers between them.

What a link amounts to is told by a word and by the shape of its line, then by colour:

    │ linked    ╎ one-way    × broken, freed    no line: NULL    ? unread
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from textual.content import Content

from recordings.layers import LABELS, LINKS, NAMES, STRUCTS, Kind
from recordings.story import Link, Moment, Story
from recordings.words import address, object_word, reading, visible
from tui.views.look import QUIET, Look

WIDEST = 76  # cells: the eye has to find its way between left and right
OUT, BACK = 2, 3  # columns of the arrows down (from the left) and back up (from the right)


@dataclass(frozen=True)
class Shape:
    word: str
    line: str  # the middle of the arrow
    style: str
    arrow: bool  # whether it arrives


SHAPES = {
    "linked": Shape("linked", "│", "$success", True),
    "one-way": Shape("one-way", "╎", "$warning", True),
    "broken": Shape("broken", "×", "bold $error", False),
    "freed": Shape("freed", "×", "bold $error", False),
    "absent": Shape("NULL", " ", QUIET, False),
    "unread": Shape("unread", "?", QUIET, False),
}
# What is shown of a struct beside its address, as far as there is room.
FACTS = {
    "file": ("f_op", "f_count", "f_flags", "f_inode"),
    "socket": ("state", "type", "ops", "flags"),
    "sock": ("skc_state", "skc_family", "skc_prot", "skc_refcnt"),
}


class Canvas:
    """Cells of (character, style); what is put outside is cut off."""

    def __init__(self, width: int, height: int) -> None:
        self._cells = [[(" ", "")] * width for _ in range(height)]
        self.width = width

    def put(self, x: int, y: int, text: str, style: str = "") -> None:
        row = self._cells[y] if 0 <= y < len(self._cells) else []
        for at, char in enumerate(text, x):
            if 0 <= at < len(row):
                row[at] = (char, style)

    def lines(self) -> list[Content]:
        return [
            Content.assemble(
                *(
                    ("".join(char for char, _ in run), style)
                    for style, run in groupby(row, key=lambda cell: cell[1])
                )
            )
            for row in self._cells
        ]


def linkage(look: Look) -> list[Content]:
    """The diagram of one moment, as tall as fits; the box that is inspected is marked."""
    moment = look.moment
    facts, gap = next(
        ((facts, gap) for facts, gap in ((3, 2), (3, 1), (2, 1), (1, 1))
         if 1 + 3 * (2 + facts) + 2 * gap <= look.height),
        (1, 1),
    )  # fmt: skip
    canvas = Canvas(min(look.width, WIDEST), 1 + 3 * (2 + facts) + 2 * gap)
    _descriptor(canvas, moment)
    above, edge, top = "fd", 0, 1  # the layer above, where arrows leave it, and where they come to
    for kind in STRUCTS:
        _box(canvas, top, facts, kind, moment, look.story, kind == look.layer)
        if moment is not None:
            down, back = f"{above}→{kind}", f"{kind}→{above}"
            _down(canvas, edge, top, down, moment)
            if back in LINKS:
                words = _label(down, moment.links[down], moment)
                left = OUT + 2 + len(words[0] + words[1])
                _back(canvas, edge, top, back, moment, left)
        above, edge, top = kind, top + facts + 1, top + 2 + facts + gap
    return canvas.lines()


def _descriptor(canvas: Canvas, moment: Moment | None) -> None:
    x = OUT + 2
    fd = moment.snap.fd if moment else None
    if fd is not None:
        link = moment.links["fd→file"] if moment else None
        word = SHAPES[link.state].word if link else ""
        if link and link.state == "absent":
            word = "NULL: reserved, not installed"
        star = "*" if moment and "fd.file" in moment.changed else " "
        canvas.put(x, 0, f"fd {fd.number}", "bold")
        style = SHAPES[link.state].style if link else ""
        canvas.put(x + 4 + len(str(fd.number)), 0, f"fdt->fd[{fd.number}]{star}{word}", style)
    elif moment and "fd" in moment.objects:
        number, freed = visible(moment.objects["fd"][0]), moment.objects["fd"][1]
        canvas.put(x, 0, f"fd {number}", QUIET)
        text = "given back" if freed else "table not read here"
        canvas.put(x + 4 + len(number), 0, text, QUIET)
    else:
        canvas.put(x, 0, "no descriptor seen yet", QUIET)


def _box(
    canvas: Canvas, y: int, facts: int, kind: Kind, moment: Moment | None, story: Story,
    chosen: bool,
) -> None:  # fmt: skip
    title = f"{NAMES[kind]} · {LABELS[kind]}"
    struct = getattr(moment.snap, kind) if moment else None
    known = moment.objects.get(kind, (None, False))[0] if moment else None
    at = struct.at if struct is not None else known
    word = object_word(kind, moment, story) if moment else "not made yet"
    style, edge, side = QUIET, "╌", "╎"
    if word == "freed":
        style = "$warning"
    elif struct is not None and word == "live":
        style, edge, side = "$primary", "─", "│"
    last = canvas.width - 1
    for row, (left, right) in ((y, "┌┐"), (y + facts + 1, "└┘")):
        canvas.put(0, row, left + edge * (last - 1) + right, style)
    for row in range(y + 1, y + facts + 1):
        canvas.put(0, row, side + " " * (last - 1) + side, style)
    canvas.put(OUT + 3, y, f" {title} ", f"bold {style}" + (" reverse" if chosen else ""))
    if at is not None:
        words = f"@ {address(at)}" if at else "its own address was not read"
        canvas.put(2, y + 1, words, "bold" if struct is not None and at else QUIET)
    canvas.put(last - 1 - len(word), y + 1, word, style)
    if struct is not None and moment is not None:
        _facts(canvas, y + 2, facts - 1, kind, moment, story)


def _facts(canvas: Canvas, y: int, rows: int, kind: str, moment: Moment, story: Story) -> None:
    """What was read of a struct, in short: as many whole values as there is room for."""
    struct = getattr(moment.snap, kind)
    words = []
    for field in FACTS[kind]:
        value = getattr(struct, field)
        if value is not None:
            name = f"{kind}.{field}"
            text = reading(name, value, story, moment.call.family, digits=6)
            if not text.endswith(f"({value})"):  # a decoded constant says itself what it is
                text = f"{field} {text}"
            words.append((text, "bold $accent" if name in moment.changed else ""))
    x, row, right = 2, 0, canvas.width - 2
    for text, style in words:
        if x > 2 and x + len(text) > right:
            x, row = 2, row + 1
        if row >= rows:
            break
        canvas.put(x, y + row, text[: right - x], style)
        x += len(text) + 2


def _label(name: str, link: Link, moment: Moment) -> tuple[str, str, str]:
    """(field, word, style) of a pointer; a change at this step is told by a star as well."""
    shape = SHAPES[link.state]
    word = shape.word
    if link.state == "broken" and link.value:
        word += f" {address(link.value, 6)}"
    pointer = LINKS[name]
    changed = pointer.name in moment.changed
    style = f"bold {shape.style}" if changed else shape.style
    return pointer.field + ("*" if changed else " "), word, style


def _down(canvas: Canvas, top: int, bottom: int, name: str, moment: Moment) -> None:
    link = moment.links[name]
    shape = SHAPES[link.state]
    if shape.arrow:
        canvas.put(OUT, top, "┬" if top else "╷", shape.style)
        canvas.put(OUT, bottom, "▼", shape.style)
    elif not top:
        canvas.put(OUT, top, shape.line, shape.style)
    if not top:
        return  # the descriptor's own line says the rest
    for y in range(top + 1, bottom):
        canvas.put(OUT, y, shape.line, shape.style)
    field, word, style = _label(name, link, moment)
    canvas.put(OUT + 2, top + 1, field + word, style)
    if bottom - top > 2 and link.value and link.state != "absent":
        canvas.put(OUT + 2, top + 2, address(link.value), style)


def _back(canvas: Canvas, top: int, bottom: int, name: str, moment: Moment, left: int) -> None:
    """The pointer back up; `left`: where the words of the one down end."""
    link = moment.links[name]
    shape = SHAPES[link.state]
    x = canvas.width - BACK
    if shape.arrow:
        canvas.put(x, top, "▲", shape.style)
        canvas.put(x, bottom, "┴", shape.style)
    for y in range(top + 1, bottom):
        canvas.put(x, y, shape.line, shape.style)
    field, word, style = _label(name, link, moment)
    whole = f"{word}{field[-1]}{field[:-1]}"
    text = next((way for way in (whole, word) if x - 2 - len(way) >= left), "")
    canvas.put(x - 1 - len(text), top + 1, text, style)
    if bottom - top > 2 and link.value and link.state != "absent":
        value = address(link.value)
        canvas.put(x - 1 - len(value), top + 2, value, style)
