"""Kernel stacks: each is sent once, and unwound again only where it may differ.

bpf/common.c, known_stack(), says why return addresses that are found where they were before make
the same stack.
"""

from __future__ import annotations

import struct

from probes.bpf_syscall import Map

DEPTH = 32  # frames of a stack, at most
WORDS = 192  # of memory that come with a stack
KNOWN_FRAMES = 24
MACHINERY = 3  # frames of BPF's own, at most, whose return addresses lie below the context
SAMPLES = 4  # times that a stack is sent with its memory, at most, to be found there
STACK = struct.Struct(f"4IQQ{DEPTH}Q{WORDS}Q")  # struct stack
KNOWN = struct.Struct(f"QII{KNOWN_FRAMES}I{KNOWN_FRAMES}Q")  # struct known_stack


class Stacks:
    """All stacks that were sent, by id: addresses, innermost first. Id 0: none was read."""

    def __init__(self, known: Map) -> None:
        self.frames: dict[int, tuple[int, ...]] = {0: ()}
        self._known = known

    def add(self, data: bytes, at: int) -> None:
        """Take the struct stack that is there."""
        _, size, length, _, id, key, *words = STACK.unpack_from(data, at)
        self.frames[id] = frames = tuple(words[: size // 8])
        found = positions(frames, words[DEPTH:][: length // 8])
        if 0 < len(found) <= KNOWN_FRAMES:
            rest = [0] * (KNOWN_FRAMES - len(found))
            value = KNOWN.pack(id, len(found), 0, *found, *rest, *found.values(), *rest)
            self._known[key.to_bytes(8, "little")] = value


def positions(frames: tuple[int, ...], memory: list[int]) -> dict[int, int]:
    """Where in memory (in bytes) the return addresses of these frames are.

    Each is above the one before. Nothing where that is not sure: an address may be left over from
    an earlier call. Only the first frames may be missing, MACHINERY at most.
    """
    found: dict[int, int] = {}
    above = 0
    for number, frame in enumerate(frames):
        places = [place for place in range(above, len(memory)) if memory[place] == frame]
        if not places and not found and number < MACHINERY:
            continue
        if len(places) != 1:
            return {}
        found[8 * places[0]] = frame
        above = places[0] + 1
    return found
