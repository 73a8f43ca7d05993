"""Writing what is looked at to files: a copy, a report, a picture, a recording to give away."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

from textual.content import Content

from recordings.events import Header
from recordings.stream import LINE_LIMIT, Reader, StreamError, Writer, read
from recordings.words import recorded_at, visible
from tui import places
from tui.views import diagram, step
from tui.views.look import QUIET, Look, fill, text

KINDS = {
    "report": (".txt", "the forensic report, as text"),
    "JSON": (".json", "the report as one JSON object"),
    "picture": (".svg", "the linkage diagram at this step, as SVG"),
    "masked recording": (".masked.jsonl", "for others: kernel addresses masked, consistently"),
}
NAME = 25  # columns of the picker for a program and its arguments, or a recording's name
ENDINGS = {kind: ending for kind, (ending, _) in KINDS.items()}
KINDS_SHOWN = [(kind, Content(f"{kind:<17} {what}")) for kind, (_, what) in KINDS.items()]


def save(recording: Path, to: Path) -> Path:
    """A copy of the recording under a name that is not taken yet."""
    return _new(to, recording.read_bytes())


def write(kind: str, to: Path, recording: Path, look: Look) -> Path:
    """One of KINDS. Raises OSError or StreamError; a file that exists is left alone."""
    if kind == "masked recording":
        from recordings.mask import masked

        events = list(masked(read(recording)))
        _new(to, b"")
        with places.as_invoker():
            writer = Writer(to)
        for event in events:
            writer.write(event)
        writer.close()
        return to
    make: Callable[[Look], str] = {"report": _report, "JSON": _json, "picture": picture}[kind]
    return _new(to, make(look).encode("utf-8", "backslashreplace"))


def _new(path: Path, data: bytes) -> Path:
    """Kernel addresses are secrets: what we write is for its owner, and never over a file."""
    with places.as_invoker():
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(path, flags, 0o600)
    with open(file, "wb") as out:
        out.write(data)
    return path


def _report(look: Look) -> str:
    from recordings import report

    return report.text(look.story)


def _json(look: Look) -> str:
    from recordings import report

    return json.dumps(report.as_json(look.story), indent=2)


def picture(look: Look) -> str:
    """The diagram with the step's sentence under it, as SVG."""
    from rich.console import Console
    from rich.text import Text

    from tui.theme import DARK

    colours = {"$quiet": DARK.variables["quiet"], "$cursor": DARK.variables["cursor"]} | {
        f"${name}": getattr(DARK, name)
        for name in ("primary", "accent", "success", "warning", "error")
    }

    def plain(line: Content) -> Text:
        shown = Text(line.plain)
        for start, end, style in line.spans:
            words = [colours.get(word, word) for word in str(style).split()]
            shown.stylize(" ".join(words), start, end)
        return shown

    console = Console(record=True, file=io.StringIO(), width=72, height=40, force_terminal=True)
    look = look.within(72, 20)
    for line in [*diagram.linkage(look), Content(""), *step.said(look)]:
        console.print(plain(line), no_wrap=True, crop=True)
    return console.export_svg(title=f"sockstep {look.moment.id if look.moment else ''}")


def summary(path: Path) -> Content:
    """One line for the picker: the file, what it recorded, when, where."""
    bundled = " (bundled)" if path.is_relative_to(places.SAMPLES) else ""
    try:
        with path.open("rb") as file:
            header = Reader(path.name).feed(file.readline(LINE_LIMIT))
    except (OSError, StreamError) as error:
        why = "cannot be read" if isinstance(error, OSError) else "is not a usable recording"
        return text(f"{path.name}  {why}", QUIET)
    assert isinstance(header, Header)
    recorded = recorded_at(header)
    when = f"{recorded.astimezone():%Y-%m-%d %H:%M:%S}" if recorded else "at no known time"
    argv, where = " ".join(header.argv), f"Linux {header.kernel}, {header.backend}"
    if bundled:  # its name says what it shows
        return Content.assemble(
            fill(text(path.stem, "bold"), NAME), (visible(f"{bundled}  {where}  {argv}"), QUIET)
        )
    return Content.assemble(
        visible(f"{when}  "), fill(text(argv, "bold"), NAME), visible(f"  {where}"),
        (visible(f"  {path.name}"), QUIET),
    )  # fmt: skip
