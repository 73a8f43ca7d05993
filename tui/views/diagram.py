"""The three objects as boxes at fixed rows, with the pointers between them.

A box is dashed until its object is made, and again once it is freed. Between two boxes stand the
two fields that link them, and one word for what the link amounts to. The signs at the ends of that
row say the same of each direction:

    ▼ │ leads there    × broken, freed    ? not read    nothing: NULL
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from textual.content import Content

from recordings.layers import LABELS, LINKS, STRUCTS, Kind
from recordings.story import Link, LinkState, Moment, Story
from recordings.words import address, object_word, reading, visible
from tui.views.look import CHANGED, QUIET, Look

WIDEST = 76  # cells: the eye has to find its way between left and right
OUT, BACK = 2, 3  # columns of the arrows down (from the left) and back up (from the right)
DIGITS = 40  # cells below which an address is cut to its last digits


@dataclass(frozen=True)
class Shape:
    """A link's state: its word, the sign of a pointer in that state, its style."""

    word: str
    sign: str
    style: str

    @property
    def leads(self) -> bool:
        return self.sign == "│"


SHAPES: dict[LinkState, Shape] = {  # the first that one of the two pointers is in is the word
    "broken": Shape("broken", "×", "bold $error"),
    "freed": Shape("freed", "×", "bold $error"),
    "linked": Shape("linked", "│", "$success"),
    "one-way": Shape("one-way", "│", "$warning"),
    "absent": Shape("absent", " ", QUIET),
    "unread": Shape("not read", "?", QUIET),
}
WHAT = {  # an object is for, in the words of the program's side
    "file": "what read() and close() use",
    "socket": "what the calls work on",
    "sock": "what the protocol owns",
}
FACTS = {  # what is shown of a struct beside its address, as far as there is room
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
    """The diagram of one moment; its rows depend on the room alone."""
    moment = look.moment
    facts, gap = next(
        ((facts, gap) for facts, gap in ((4, 2), (3, 2), (3, 1), (2, 1), (1, 1))
         if 1 + 3 * (2 + facts) + 2 * gap <= look.height),
        (1, 1),
    )  # fmt: skip
    canvas = Canvas(min(look.width, WIDEST), 1 + 3 * (2 + facts) + 2 * gap)
    _descriptor(canvas, moment, look.story)
    above, edge, top = "", 0, 1  # the box above, its lower edge, the upper edge of the next
    for kind in STRUCTS:
        _box(canvas, top, facts, kind, moment, look.story)
        if above and moment is not None:
            _link(canvas, edge, top, f"{above}→{kind}", f"{kind}→{above}", moment)
        above, edge, top = kind, top + facts + 1, top + 2 + facts + gap
    return canvas.lines()


def _descriptor(canvas: Canvas, moment: Moment | None, story: Story) -> None:
    fd = moment.snap.fd if moment else None
    word = object_word("fd", moment, story) if moment else "not made yet"
    known = moment.objects.get("fd", (" ", False))[0] if moment else " "
    number = visible(str(fd.number) if fd else known)
    style, mark, sign = QUIET, " ", " "
    if fd is not None and moment is not None and word == "live":
        link = moment.links["fd→file"]
        shape = SHAPES[link.state]
        word, style = shape.word, shape.style
        sign = "▼" if shape.leads else shape.sign
        word += ": number reserved" if link.state == "absent" else ""
        mark = CHANGED if "fd.file" in moment.changed else " "
    elif word == "live":
        word = "live, its table not read"
    elif word == "freed":
        word, style = "freed: number given back", "$warning"
    canvas.put(OUT, 0, sign, style)
    canvas.put(OUT + 1, 0, mark, "bold $accent")
    canvas.put(OUT + 2, 0, f"fd {number}", "bold" if fd else QUIET)
    canvas.put(OUT + 7 + len(number), 0, word, style)


def _box(
    canvas: Canvas, y: int, facts: int, kind: Kind, moment: Moment | None, story: Story
) -> None:
    title = LABELS[kind]
    struct = getattr(moment.snap, kind) if moment else None
    word = object_word(kind, moment, story) if moment else "not made yet"
    style, edge, side = QUIET, "╌", "╎"
    if word == "freed":
        style = "$warning"
    elif word == "live":
        style, edge, side = "$primary", "─", "│"
    last = canvas.width - 1
    for row, (left, right) in ((y, "┌┐"), (y + facts + 1, "└┘")):
        canvas.put(0, row, left + edge * (last - 1) + right, style)
    for row in range(y + 1, y + facts + 1):
        canvas.put(0, row, side + " " * (last - 1) + side, style)
    canvas.put(2, y, f" {title} ", f"bold {style}")
    if canvas.width >= 60:
        canvas.put(4 + len(title) + 1, y, f" {WHAT[kind]} ", QUIET)
    canvas.put(last - 3 - len(word), y, f" {word} ", style)
    at = moment.objects.get(kind, ("", False))[0] if moment else ""
    at = struct.at or at if struct is not None else at
    if moment is None or word not in ("live", "freed"):
        return
    words = f"@ {address(at)}" if at else "its own address was not read"
    canvas.put(2, y + 1, words, "bold" if struct is not None and at else QUIET)
    if struct is not None:
        _facts(canvas, y + 2, facts - 1, kind, moment, story)
    elif word == "live":
        canvas.put(2, y + 2, "not read at this step", QUIET)


def _facts(canvas: Canvas, y: int, rows: int, kind: str, moment: Moment, story: Story) -> None:
    """What was read of a struct, in short: as many whole values as there is room for."""
    struct = getattr(moment.snap, kind)
    x, row, right = 2, 0, canvas.width - 2
    for field in FACTS[kind]:
        value = getattr(struct, field)
        if value is None:
            continue
        name = f"{kind}.{field}"
        shown = reading(name, value, story, moment.call.family, digits=6)
        if shown.endswith(f" ({value})"):  # a decoded constant says itself what it is
            shown = shown.removesuffix(f" ({value})")
        elif not story.name(value if isinstance(value, str) else None):  # as a kernel's name does
            shown = f"{field} {shown}"
        mark = CHANGED if name in moment.changed else ""
        if x > 2 and x + len(mark + shown) > right:
            x, row = 2, row + 1
        if row >= rows:
            break
        canvas.put(x, y + row, mark, "bold $accent")
        canvas.put(x + len(mark), y + row, shown[: right - x], "bold" if mark else "")
        x += len(mark + shown) + 2


def _link(canvas: Canvas, top: int, bottom: int, down: str, back: str, moment: Moment) -> None:
    """Two pointers, from the edge of one box (`top`) to that of the next: one word for both."""
    there, home = moment.links[down], moment.links[back]
    both = {name.partition("→")[0] for name in (down, back)} <= moment.objects.keys()
    states = (there.state, home.state)
    if states == ("unread", "unread") and not both:
        return  # between objects that are not there
    word = next(shape for state, shape in SHAPES.items() if state in states)
    first, right = top + 1, canvas.width - BACK
    for x, each, tip in ((OUT, there, "▼"), (right, home, "│")):
        if both or each.state != "unread":
            _pointer(canvas, x, first, bottom - 1, each, tip)
    if SHAPES[there.state].leads:
        canvas.put(OUT, top, "┬", SHAPES[there.state].style)
    if SHAPES[home.state].leads:
        canvas.put(right, top, "▲", SHAPES[home.state].style)
    name, other = LINKS[down].field, LINKS[back].field
    canvas.put(OUT + 2, first, name, SHAPES[there.state].style)
    canvas.put(right - 1 - len(other), first, other, SHAPES[home.state].style)
    for x, link in ((OUT + 1, down), (right - 2 - len(other), back)):
        if LINKS[link].name in moment.changed:
            canvas.put(x, first, CHANGED, "bold $accent")
    said = word.word
    wrong = next((link for link in (there, home) if link.state == "broken"), None)
    start, end = OUT + 3 + len(name), right - 2 - len(other)
    if wrong is not None and wrong.value and len(said) + 8 <= end - start:
        said += f" {address(wrong.value, 6)}"
    middle = max(start, min(end - len(said), (canvas.width - len(said)) // 2))
    canvas.put(middle, first, said[: max(0, end - middle)], word.style)
    if bottom - top > 2:
        for each, left in ((there, True), (home, False)):
            if each.value and each.state != "absent":
                at = address(each.value)
                x = OUT + 2 if left else right - 1 - len(at)
                canvas.put(x, first + 1, at, SHAPES[each.state].style)


def _pointer(canvas: Canvas, x: int, top: int, bottom: int, link: Link, tip: str) -> None:
    shape = SHAPES[link.state]
    for y in range(top, bottom + 1):
        canvas.put(x, y, shape.sign, shape.style)
    if shape.leads:
        canvas.put(x, bottom, tip, shape.style)
