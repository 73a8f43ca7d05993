"""What goes to the terminal is short, and comes to the same picture."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.emulator import Emulator
from tui.terse import Terse

STYLES = ["", "1", "2", "1;2", "7;38;2;1;2;3", "38;2;9;9;9;48;2;1;1;1", "1;38;5;3", "31;40", "4;97"]


def drawn(y: int, x: int, *pieces: tuple[str, str]) -> str:
    """As Textual writes: a move, then each piece with its style, and a reset."""
    text = "".join(f"\x1b[{style}m{text}\x1b[0m" if style else text for text, style in pieces)
    return f"\x1b[{y + 1};{x + 1}H{text}"


pieces = st.tuples(st.text("ab ─✓", min_size=1, max_size=9), st.sampled_from(STYLES))
writes = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 20), st.lists(pieces, min_size=1, max_size=4)),
    min_size=1, max_size=4,
).map(lambda all: "\r\n".join(drawn(y, x, *parts) for y, x, parts in all))  # fmt: skip


@given(st.lists(writes, min_size=1, max_size=6))
def test_the_picture_is_the_same(frames: list[str]) -> None:
    terse, long, short = Terse(), Emulator(), Emulator()
    for frame in frames:
        long.write(frame)
        short.write(terse.shorten(frame))
        assert short.cells == long.cells
        assert not short.style, "as Textual leaves it"


def test_what_is_there_is_not_written_again() -> None:
    terse = Terse()
    frame = drawn(2, 0, ("STEPS  ", "1"), ("call 1 of 2", "38;2;1;2;3;48;2;4;5;6"))
    assert "call 1" in terse.shorten(frame)
    assert terse.shorten(frame) == ""
    assert terse.shorten(frame.replace("call 1", "call 2")) == (
        "\x1b[3;13H\x1b[38;2;1;2;3;48;2;4;5;6m2\x1b[0m\x1b[3;19H"
    )
    terse.forget()
    assert "of 2" in terse.shorten(frame)


def test_what_it_does_not_understand_goes_through_as_it_is() -> None:
    terse = Terse()
    terse.shorten(drawn(0, 0, ("a", "1")))
    for other in ("\x1b[?1049h", "\x1b]0;title\x07", drawn(0, 0, ("世界", "")), "\x1b[6n"):
        assert terse.shorten(other) == other
        assert terse.shorten(drawn(0, 0, ("a", "1"))), "who knows what is on the screen now"
