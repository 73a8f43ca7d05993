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
    masks = _masks(address for event in stream for address in _pointers(event))

    def replace(match: re.Match[str]) -> str:
        """Masks the addresses in a run of hexadecimal digits, the longest first."""
        pieces = [(match[0], False)]
        for length in range(16, 7, -1):
            pieces = [part for piece in pieces for part in split(*piece, length)]
        return "".join(text for text, _ in pieces)

    def split(text: str, done: bool, length: int) -> Iterator[tuple[str, bool]]:
        """The parts of a text, and whether each is a mask: of the addresses of so many digits."""
        if done:
            yield text, done
            return
        if _KERNEL.fullmatch(text):
            masks.update(_masks([f"0x{text}"], masks))
        start = at = 0
        while at + length <= len(text):
            if mask := masks.get(int(text[at : at + length], 16)):
                yield from ((text[start:at], False), (f"{mask:x}", True))
                start = at = at + length
            else:
                at += 1
        yield text[start:], False

    def replace_short(match: re.Match[str]) -> str:
        mask = masks.get(int(match[0], 16))
        return f"0x{mask:x}" if mask else match[0]

    def rewrite(value: object) -> object:
        match value:
            case str():
                return _DIGITS.sub(replace, _SHORT.sub(replace_short, value))
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


def _pointers(event: ev.Event) -> Iterator[Ptr]:
    match event:
        case ev.Step() | ev.Held() | ev.Released():
            yield from (value for _, value in readings(event.snap) if isinstance(value, str))
        case ev.Alloc() | ev.Free() if event.kind != "fd":
            yield event.at
        case ev.Symbol():
            yield event.at


def _masks(pointers: Iterable[Ptr], taken: dict[int, int] | None = None) -> dict[int, int]:
    """A random number for each address: no address, no other's mask, nor like the kernel's."""
    taken = taken or {}
    addresses = {int(at, 16) for at in pointers if _POINTER.fullmatch(at)} - {0}
    used = addresses.union(taken, taken.values())
    masks: dict[int, int] = {}
    for address in addresses.difference(taken):
        while (mask := secrets.randbits(60) | 1 << 59) in used:
            pass
        used.add(mask)
        masks[address] = mask
    return masks
