"""Makes a recording fit for others to see: its kernel addresses masked, all else kept."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator

import msgspec

from recordings import events as ev
from recordings.events import Ptr
from recordings.story import readings

_POINTER = re.compile(r"0x[0-9a-f]{1,16}")
_DIGITS = re.compile(r"[0-9a-f]{8,}", re.IGNORECASE)
_SHORT = re.compile(r"(?<![\w+/])0x[0-9a-f]{1,7}(?!\w)", re.IGNORECASE)
_KERNEL = re.compile(r"ff[0-9a-f]{14}", re.IGNORECASE)  # the upper end of 64 bits


def masked(events: Iterable[ev.Event]) -> Iterator[ev.Event]:
    """The same events with other addresses: equal ones stay equal, NULL stays NULL.

    A mask is a random number, drawn anew for each export: nothing leads back from it, and the
    order of addresses is gone. Text (notes, stack frames, output, argv) is searched too, for the
    addresses that the recording holds and for what looks like one of a 64-bit kernel.
    """
    stream = list(events)
    masks = _Masks(address for event in stream for address in _pointers(event))

    def rewrite(value: object) -> object:
        match value:
            case str():
                return masks.text(value)
            case list():
                return [rewrite(item) for item in value]
            case dict():
                return {name: rewrite(item) for name, item in value.items()}
        return value

    for event in stream:
        safe = msgspec.convert(rewrite(msgspec.to_builtins(event)), type(event))
        if isinstance(safe, ev.Header):
            safe.addresses = "masked"
        yield safe


class _Masks:
    """A random number for each address: no address, no other's mask, nor like the kernel's."""

    def __init__(self, pointers: Iterable[Ptr]) -> None:
        addresses = {int(at, 16) for at in pointers if _POINTER.fullmatch(at)} - {0}
        self._taken = set(addresses)  # no mask can be one of these
        self._of: dict[int, str] = {}
        self._written: dict[str, str] = {}  # an address as 8 to 16 digits → its mask
        self._lengths = {16}  # of what is written there
        for address in addresses:
            self._draw(address)

    def _draw(self, address: int) -> str:
        while (number := secrets.randbits(60) | 1 << 59) in self._taken:
            pass
        self._taken.update((address, number))
        mask = self._of[address] = f"{number:x}"
        lengths = range(max(8, len(f"{address:x}")), 17)
        self._lengths.update(lengths)
        self._written.update((f"{address:0{length}x}", mask) for length in lengths)
        return mask

    def text(self, text: str) -> str:
        """A text with its addresses masked."""
        return _DIGITS.sub(self._run, _SHORT.sub(self._short, text))

    def _short(self, match: re.Match[str]) -> str:
        mask = self._of.get(int(match[0], 16))
        return f"0x{mask}" if mask else match[0]

    def _run(self, match: re.Match[str]) -> str:
        """Masks the addresses in a run of hexadecimal digits, the longest first."""
        run = match[0]
        if mask := self._written.get(run.lower()):
            return mask
        if _KERNEL.fullmatch(run):
            return self._draw(int(run, 16))
        pieces = [(run, False)]
        for length in sorted(self._lengths, reverse=True):
            pieces = [part for piece in pieces for part in self._split(*piece, length)]
        return "".join(text for text, _ in pieces)

    def _split(self, text: str, done: bool, length: int) -> Iterator[tuple[str, bool]]:
        """The parts of a text, and whether each is a mask: of the addresses of so many digits."""
        if done or len(text) < length:
            yield text, done
            return
        digits, written = text.lower(), self._written
        start = at = 0
        while at + length <= len(text):
            if mask := written.get(digits[at : at + length]):
                yield from ((text[start:at], False), (mask, True))
                start = at = at + length
            else:
                at += 1
        yield text[start:], False


def _pointers(event: ev.Event) -> Iterator[Ptr]:
    match event:
        case ev.Step() | ev.Held() | ev.Released():
            yield from (value for _, value in readings(event.snap) if isinstance(value, str))
        case ev.Alloc() | ev.Free() if event.kind != "fd":
            yield event.at
        case ev.Symbol():
            yield event.at
