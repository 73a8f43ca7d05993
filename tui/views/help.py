"""The keys and the signs."""

from __future__ import annotations

from pathlib import Path

from textual.content import Content

from tui.views.diagram import SHAPES
from tui.views.look import QUIET, text, wrapped


def help_lines(bound: list[tuple[str, str, str]], keymap: Path, width: int) -> list[Content]:
    """The keys, each (shown, what it does, id), and what the signs mean."""
    lines = [text("KEYS", "bold $accent")]
    room = max(len(what) for _, what, _ in bound) + 2
    lines += [
        Content.assemble((f"  {shown:<10}", "bold"), f"{what:<{room}}", (id, QUIET))
        for shown, what, id in bound
    ]
    lines += [Content(""), *wrapped(f'Other keys: lines like next = "j,n" in {keymap}', width)]
    lines += [Content(""), text("SIGNS", "bold $accent")]
    signs = (
        ("✓ ✗ ○", "the step's check passed, failed, is not observable here"),
        ("– ·", "captured, but another reading makes the check; not reached, or not yet"),
        ("▶ •", "the cursor; the program stops at this step"),
        ("* +", "this value changed at this step; it was read for the first time"),
    )
    lines += [Content.assemble((f"  {sign:<9}", "bold"), (what, QUIET)) for sign, what in signs]
    lines += [Content(""), text("LINKS", "bold $accent")]
    whats = (
        ("linked", "the pointer leads there, and the other side agrees"),
        ("one-way", "it leads there; the way back does not, or was not read"),
        ("broken", "it leads to something else"),
        ("freed", "it leads to what was freed already"),
        ("absent", "it is NULL"),
        ("unread", "it was not read at this step: nothing is known"),
    )
    for state, what in whats:
        shape = SHAPES[state]
        lines.append(
            Content.assemble((f"  {shape.line} {shape.word:<7} ", shape.style), (what, QUIET))
        )
    lines += [Content(""), text("THE PAUSE", "bold $accent")]
    lines += wrapped(
        "A stop at a step makes a signal pending: the kernel runs on, and the program stops on "
        "its way back to user mode. So when it is STOPPED at the return of socket(), all steps of "
        "that call have happened; you walk through what was captured while they did.",
        width,
    )
    return lines
