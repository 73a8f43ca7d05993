"""The keys and the signs."""

from __future__ import annotations

from pathlib import Path

from textual.content import Content

from recordings.steps import SIGNS
from tui.views import look as signs
from tui.views.diagram import SHAPES
from tui.views.look import QUIET, STYLES, text, wrapped

LINKS = {
    "linked": "the pointer leads there, and the other side agrees",
    "one-way": "it leads there; the way back does not, or was not read",
    "broken": "it leads to something else",
    "freed": "it leads to what was freed already",
    "absent": "it is NULL",
    "unread": "it was not read at this step: nothing is known",
}
OBJECTS = {
    "not made yet": "the call comes to it later",
    "live": "it was made, and was not freed by then",
    "freed": "its memory went back, or was given out again",
    "not made": "the call failed before it came to it",
    "not read": "it must be there, and nobody has seen it",
}


def help_lines(bound: list[tuple[str, str]], keymap: Path, width: int) -> list[Content]:
    """What the signs mean, and the keys, each (shown, what it does)."""
    lines = [text("SIGNS", "bold $accent")]
    accent, warning = "bold $accent", "bold $warning"
    for sign, style, what in (
        (SIGNS["pass"], STYLES["pass"], "the step's check passed"),
        (SIGNS["fail"], STYLES["fail"], "it failed"),
        (
            SIGNS["unobservable"],
            STYLES["unobservable"],
            "it is not observable here; Enter says why",
        ),
        (signs.AHEAD, QUIET, "not reached, or not yet"),
        (signs.HERE, accent, "you look here"),
        (signs.HELD, warning, "held here, inside the kernel: nothing below has happened"),
        (signs.STOPPED, warning, "stopped after this step, on the way back to user mode"),
        (signs.STOP, "$error", "you set a stop here (b), and not everywhere"),
        (f"{signs.FOLDED} {signs.OPEN}", "", "folded, unfolded: what came after the call"),
        (signs.NEW, accent, "this value was read for the first time in the call"),
        (signs.CHANGED, accent, "it differs from its last reading"),
    ):
        lines.append(Content.assemble((f"  {sign:<14}", style), (what, QUIET)))
    lines += [Content(""), text("OBJECTS", "bold $accent")]
    lines += [Content.assemble(f"  {word:<14}", (what, QUIET)) for word, what in OBJECTS.items()]
    lines += [Content(""), text("LINKS", "bold $accent")]
    for state, shape in SHAPES.items():
        words = f"  {shape.sign} {shape.word:<12}"
        lines.append(Content.assemble((words, shape.style), (LINKS[state], QUIET)))
    lines += [Content(""), text("KEYS", "bold $accent")]
    lines += [Content.assemble((f"  {shown:<14}", "bold"), what) for shown, what in bound]
    lines += [Content(""), *wrapped(f'Other keys: lines like next = "j,n" in {keymap}', width)]
    lines += [Content(""), text("THE PAUSE", "bold $accent")]
    lines += wrapped(
        "A stop at a step makes a signal pending: the kernel runs on, and the program stops on "
        "its way back to user mode. So when it is STOPPED at the return of socket(), all steps of "
        "that call have happened; you walk through what was captured while they did.",
        width,
    )
    return lines
