"""Kernel symbols, from /proc/kallsyms."""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cached_property
from pathlib import Path

_FUNCTIONS = "tTwW"
_FAR = 1 << 20  # no function is as long


class Kallsyms:
    """The symbols of the running kernel; empty where the kernel hides addresses (kptr_restrict).

    As they are at the first question, and not before: BPF programs and trampolines have symbols
    too, once they are attached.
    """

    def __init__(self, text: bytes | None = None) -> None:
        self._given = text
        self._frames: dict[int, str] = {}  # the few places where the kernel calls what we probe

    @cached_property
    def _text(self) -> bytes:
        return Path("/proc/kallsyms").read_bytes() if self._given is None else self._given

    @cached_property
    def hidden(self) -> bool:
        return not re.search(rb"^(?!0+ )[0-9a-f]+ ", self._text[:4096], re.M)

    def _line(self, name: str) -> int:
        """Where the line of a symbol starts in the text; −1 where there is none."""
        found = self._text.find(b" %s\n" % name.encode())
        return self._text.rfind(b"\n", 0, found) + 1 if found >= 0 else -1

    def address(self, name: str) -> int | None:
        line = self._line(name)
        return None if line < 0 or self.hidden else int(self._text[line : line + 16], 16)

    def has(self, name: str) -> bool:
        return self._line(name) >= 0

    def extent(self, name: str) -> tuple[int, int] | None:
        """The addresses [low, high) of a function of the kernel's image: up to the next symbol."""
        low = self.address(name)
        if low is None:
            return None
        line = self._line(name)
        while line := self._text.find(b"\n", line) + 1:
            high = int(self._text[line : line + 16], 16)
            if high > low:
                return low, high
        return low, low + 4096

    @cached_property
    def _image(self) -> int:
        """Where the kernel's image ends in the text, and its modules begin."""
        first = self._text.find(b"\t[")
        return len(self._text) if first < 0 else self._text.rfind(b"\n", 0, first) + 1

    @cached_property
    def _modules(self) -> tuple[list[int], list[str]]:
        pairs: list[tuple[int, str]] = []
        for line in self._text[self._image :].decode(errors="replace").splitlines():
            address, kind, name = line.split(" ", 2)
            if kind in _FUNCTIONS:
                pairs.append((int(address, 16), name))
        pairs.sort()
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    def _in_image(self, address: int) -> tuple[str, int]:
        """As function(), in the kernel's image, which is sorted: parsing it all takes seconds."""
        text, low, high = self._text, 0, self._image
        while low < high:  # every line before `low` is at or below the address, from `high` above
            middle = max(low, text.rfind(b"\n", low, (low + high) // 2) + 1)
            if int(text[middle : middle + 16], 16) > address:
                high = middle
            else:
                low = text.find(b"\n", middle) + 1
        while low:
            line = text.rfind(b"\n", 0, low - 1) + 1
            start, kind, name = text[line : low - 1].decode().split(" ", 2)
            if (offset := address - int(start, 16)) > _FAR:
                break
            if kind in _FUNCTIONS:
                return name, offset
            low = line
        return "", 0

    def at(self, address: int) -> str:
        """The name of the data or function symbol exactly at an address, or ""."""
        found = self._text.find(b"%016x " % address)
        if found < 0 or self.hidden:
            return ""
        return self._text[found + 19 : self._text.find(b"\n", found)].decode()

    def function(self, address: int) -> tuple[str, int]:
        """The function that an address is in, and the offset into it; ("", 0) where none is."""
        if self.hidden:
            return "", 0
        if (found := self._in_image(address))[0]:
            return found
        addresses, names = self._modules
        i = bisect_right(addresses, address) - 1
        if i < 0 or address - addresses[i] > _FAR:
            return "", 0
        return names[i].replace("\t", " "), address - addresses[i]

    def frame(self, address: int) -> str:
        """One line of a stack: "inet_create+0x1a8", or the bare address."""
        if (known := self._frames.get(address)) is None:
            name, offset = self.function(address)
            known = self._frames[address] = f"{name}+{offset:#x}" if name else f"{address:#x}"
        return known
