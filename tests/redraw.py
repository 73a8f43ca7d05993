"""The fewest bytes that turn one screen of a terminal into another, as far as that is simple."""

from __future__ import annotations

from itertools import groupby

import pyte

GAP = 6  # cells: to draw so many that stay costs less than to go on behind them


def fewest(before: pyte.Screen, after: pyte.Screen) -> int:
    """Bytes: for each run of cells that differ, where it is, its styles, and its text."""
    return sum(
        len(f"\x1b[{y + 1};{first + 1}H") + _drawn([after.buffer[y][x] for x in range(first, last)])
        for y in range(after.lines)
        for first, last in _runs(before, after, y)
    )


def _runs(before: pyte.Screen, after: pyte.Screen, y: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for x in range(after.columns):
        if before.buffer[y][x] == after.buffer[y][x]:
            continue
        if found and x - found[-1][1] <= GAP:
            found[-1] = (found[-1][0], x + 1)
        else:
            found.append((x, x + 1))
    return found


def _drawn(cells: list[pyte.screens.Char]) -> int:
    """With one sequence for each change of style, as long as one of 256 colours is."""
    styles = groupby(cells, key=lambda cell: cell[1:])  # all but its text
    text = sum(len(cell.data.encode()) for cell in cells)
    return text + sum(len("\x1b[1;38;5;188;48;5;16m") for _ in styles)
