"""The one widget behind every view: lines of text, of which only those that changed are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from rich.segment import Segment
from textual import events
from textual.content import Content
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.visual import Visual

from recordings.words import visible

GAP = 8  # columns


class Pane(ScrollView, can_focus=False):
    """Shows a sequence of lines, long ones included: only what is on the screen is asked for."""

    @dataclass
    class Picked(Message):
        """A line was clicked."""

        pane: Pane
        line: int
        column: int

    def __init__(self, title: str = "", id: str | None = None) -> None:
        super().__init__(id=id)
        self.heading, self._titling = Content(""), False
        self.lines: Sequence[Content] = ()
        self._shown: dict[int, Content] = {}  # line → what stands on the screen
        self._widest = 0
        self.entitle(title)

    def entitle(self, title: str | Content) -> None:
        title = title if isinstance(title, Content) else Content(visible(title))
        if not title.is_same(self.heading):
            self.heading = title
            self._titling = True
            self.border_title = title
            self._titling = False

    def refresh(self, *regions: Region, **how: bool) -> Self:
        """A new title is no reason to draw more than the row that it stands in."""
        if self._titling and not regions:
            regions = (Region(0, -1, self.outer_size.width, 1),)
        return super().refresh(*regions, **how)

    @property
    def room(self) -> Size:
        """The cells that there are for lines."""
        return self.scrollable_content_region.size

    def show(self, lines: Sequence[Content], mark: int | None = None) -> None:
        """Draw what differs from what is there; keep line `mark` in sight."""
        self.lines = lines
        if mark is not None:
            self._keep_in_sight(mark, len(lines))
        size, top = self.size, self.scroll_offset.y
        shown = {y: lines[y] for y in range(top, min(top + size.height, len(lines)))}
        for y in range(top, top + size.height):
            for start, end in self._news(y, shown):
                self.refresh(Region(start, y - top, end - start, 1))
        self._shown = shown
        self._widest = max([self._widest, *(line.cell_length for line in shown.values())])
        self.virtual_size = Size(self._widest, len(lines))

    def _news(self, y: int, shown: dict[int, Content]) -> list[tuple[int, int]]:
        """The columns of line y that differ from what is on the screen: (start, end)."""
        line, before = shown.get(y), self._shown.get(y)
        if line is before or (line is not None and before is not None and line.is_same(before)):
            return []
        cells, old = _cells(line), _cells(before)
        width = max(len(cells), len(old), 1)
        if self.scroll_offset.x or width > self.room.width or not (cells and old):
            return [(0, self.size.width)]
        blank: list[tuple[str, tuple[object, ...]]] = [(" ", ())]
        cells, old = (each + blank * (width - len(each)) for each in (cells, old))
        return runs([x for x in range(width) if cells[x] != old[x]])

    def restart(self) -> None:
        """Forget everything: what comes is another text."""
        self.lines, self._shown, self._widest = (), {}, 0
        self.virtual_size = Size(0, 0)
        self.scroll_to(0, 0, animate=False)
        self.refresh()

    def _keep_in_sight(self, line: int, count: int) -> None:
        """Scroll by half, and a row before the edge: so that one sees what comes next."""
        height, top = max(1, self.room.height), self.scroll_offset.y
        above, below = top + (top > 0), top + height - 1 - (top + height < count)
        if not above <= line <= below:
            self.virtual_size = Size(self._widest, count)
            target = min(line - height // 2, count - height)
            self.scroll_to(y=max(0, target), animate=False, force=True)

    def render_line(self, y: int) -> Strip:
        left, top = self.scroll_offset
        width = self.size.width
        line = top + y
        style = self.visual_style
        if not 0 <= line < len(self.lines):
            return Strip.blank(width, style.rich_style)
        text = self.lines[line]
        strip = Visual.to_strips(self, text, max(1, text.cell_length), 1, style)[0]
        ends = [Segment("…", style.rich_style)]  # what is cut must not look whole
        seen = min(width, self.room.width)  # beside the scrollbar
        before = ends if left and strip.cell_length > left else []
        after = ends if strip.cell_length > left + seen else []
        inner = strip.crop_extend(left + len(before), left + seen - len(after), style.rich_style)
        return Strip([*before, *inner, *after], seen).extend_cell_length(width, style.rich_style)

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is not None:
            self.post_message(self.Picked(self, offset.y + self.scroll_offset.y, offset.x))


def _cells(line: Content | None) -> list[tuple[str, tuple[object, ...]]]:
    """Each character with the styles that it has; nothing where one takes two columns or none."""
    if line is None or line.cell_length != len(line.plain):
        return []
    styles: list[tuple[object, ...]] = [()] * len(line.plain)
    for start, end, style in line.spans:
        for x in range(start, min(end, len(styles))):
            styles[x] = (*styles[x], style)
    return list(zip(line.plain, styles, strict=True))


def runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Rising numbers as (first, end) of each run, small gaps included: 1 2 3 30 → (1, 4) (30, 31).

    To move the cursor over a gap, and to set the colours anew, costs more than to write it.
    """
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number - found[-1][1] < GAP:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found
