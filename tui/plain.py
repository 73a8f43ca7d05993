"""What the terminal can show, and the signs we print: in Unicode or, for it, in ASCII.

Everything is written once, in Unicode. For an ASCII locale each character is replaced by one of
the same width, on its way out: so no picture exists twice.
"""

from __future__ import annotations

import os
import re
import sys

from rich.cells import cell_len

from recordings.stream import StreamError

UNCHECKED = "–"  # captured; another reading of the step makes the check
AHEAD = "·"  # not reached, or not yet

_SAME_WIDTH = {
    "─━═": "-", "╌": ".", "│┃║": "|", "┌┐└┘├┤┬┴┼╭╮╰╯╷╵": "+", "▼": "v", "▲▴": "^",
    "▶→›": ">", "▸": "+", "▾": "-", "◀◂←‹": "<", "✓": "v", "✗": "X", "×╳": "x", "○": "?", "◌●": "o",
    "•": "*", "■": "#", "‖": "H", "□": "=", "·": ".",
    "…": "~", "µ": "u", "−–—": "-", "≠": "!", "†": "+", "⏎": "/", "“”": '"', "‘’": "'",
    "▁▂▃▄▅▆▇█▉▊▋▌▍▎▏▐▔▕▀": " ", "┊┆╎": ":", "▪": "#", "↑": "^", "↓": "v", "\u00a0": " ",
    "╸╺╴╶": "-", "╹╻": "|", "⫽": "/", "◉": "@", "▽": "v", "△": "^",
}  # fmt: skip
_TABLE = {ord(char): sign for chars, sign in _SAME_WIDTH.items() for char in chars}


_SIZE = re.compile("[1-9][0-9]{0,2}")
_ignored: dict[str, str] = {}


def ignore_absurd_sizes() -> None:
    """Forget COLUMNS and LINES that no terminal has: libraries take 99999999 at its word."""
    for name in ("COLUMNS", "LINES"):
        if name in os.environ and not _SIZE.fullmatch(os.environ[name]):
            _ignored[name] = os.environ.pop(name)


def environment() -> dict[str, str]:
    """The environment for a program that we start: the traced one must find all as it was."""
    return os.environ | _ignored


def ascii_wanted() -> bool:
    """Whether the terminal is to get nothing but ASCII: the C locale, or the Linux console.

    Python itself turns the C locale into UTF-8 (PEP 538, 540), so what it says of its own
    encoding does not tell. PEP 538 does so by setting LC_CTYPE to C.UTF-8.
    """
    if os.environ.get("TERM") == "linux":
        return True  # its fonts have 256 or 512 glyphs
    ctype = os.environ.get("LC_CTYPE", "")
    if ctype == "C.UTF-8" and _coerced():
        ctype = ""
    locale = os.environ.get("LC_ALL") or ctype or os.environ.get("LANG") or "C"
    return sys.platform != "win32" and "UTF8" not in locale.upper().replace("-", "")


def _coerced() -> bool:
    """Whether LC_CTYPE was not in the environment that we were started with."""
    try:
        with open("/proc/self/environ", "rb") as file:
            return b"LC_CTYPE=C.UTF-8" not in file.read().split(b"\0")
    except OSError:
        return False


def terminal() -> bool:
    """Whether a full-screen app can be shown: a terminal on all sides, and not a dumb one.

    Textual draws on stderr.
    """
    capable = os.environ.get("TERM", "dumb") not in ("dumb", "")
    return capable and all(side.isatty() for side in (sys.stdin, sys.stdout, sys.stderr))


def to_ascii(text: str) -> str:
    """The same picture in ASCII, cell by cell."""
    if text.isascii():
        return text
    text = text.translate(_TABLE)
    return "".join(char if char.isascii() else "?" * cell_len(char) for char in text)


def out(text: str) -> str:
    """Text as this terminal can show it."""
    return to_ascii(text) if ascii_wanted() else text


class Said:
    """Tells of progress on stderr, a line each. In a `with` block: an error whose words are the
    last that were said ends the program with status 2, without saying them twice.
    """

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, text: str) -> None:
        from recordings.words import visible  # words knows the story: most of us do not need that

        self._last = text
        print(out(f"sockstep: {visible(text)}"), file=sys.stderr, flush=True)

    def __enter__(self) -> Said:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, StreamError) and str(error) == self._last:
            sys.exit(2)
