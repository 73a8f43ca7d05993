"""What came out of the ring buffer and was not decoded yet.

To copy a record takes a hundredth of what it takes to decode it. So the ring is emptied first,
whatever there is to decode, and a program that makes many calls is not slowed down by our decoding
as long as MARK is not reached.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Container

from probes.bpf_syscall import RING_HEADER, RING_LENGTH, Ring
from probes.capture import Raw

# Bytes; above it tracees wait, until half of it is decoded. 100 000 socket() and close(): 440 MB.
MARK = min(512 << 20, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8)
WAKE_INTERVAL = 1_000_000  # ns; WAKE_INTERVAL of bpf/common.c
LOOK_AGAIN = 0.002  # seconds: above WAKE_INTERVAL
_SLICE = 64  # records that are decoded between two looks at the clock


class Spool:
    """Records in memory, in the order in which they were captured."""

    def __init__(
        self,
        ring: Ring,
        sink: Callable[[Raw], None],
        early: Callable[[bytes, int], None],
        early_points: Container[int],
    ) -> None:
        """`sink` gets all records in their turn; `early` gets those of `early_points` before, when
        they come out of the ring: the bytes, and where in them each begins."""
        self.ring = ring
        self._sink = sink
        self._early = early
        self._early_points = early_points
        self._waiting: deque[bytes | Callable[[], None]] = deque()
        self._at = 0  # in the first of them
        self.size = 0  # bytes that wait
        self._decoding = False

    @property
    def empty(self) -> bool:
        return not self._waiting

    def take(self) -> int:
        """Move what is in the ring here; how many bytes that was."""
        data, early = self.ring.take(Raw.point.offset, self._early_points)
        if data:
            self._waiting.append(data)
            self.size += len(data)
        for at in early:
            self._early(data, at)
        return len(data)

    def after(self, act: Callable[[], None]) -> None:
        """Call `act` when what waits now is decoded: at once where nothing does."""
        if self._waiting and not self._decoding:
            self._waiting.append(act)
        else:
            act()

    def drop(self) -> int:
        """Forget what waits, but do what was to be done `after` it; how many records that was."""
        count = 0
        while self._waiting:
            first = self._waiting.popleft()
            if isinstance(first, bytes):
                while self._at < len(first):
                    self._at += _length(first, self._at)
                    count += 1
                self._at = 0
            else:
                first()
        self.size = 0
        return count

    def decode(self, seconds: float = math.inf) -> None:
        """Hand what waits to the sink, for so long at most."""
        end = time.monotonic() + seconds
        before, self._decoding = self._decoding, True
        try:
            while self._waiting and time.monotonic() < end:
                self._some(_SLICE)
        finally:
            self._decoding = before

    def _some(self, most: int) -> None:
        """Take so many records at most off the front. The sink may call decode() itself."""
        first = self._waiting[0]
        if not isinstance(first, bytes):
            self._waiting.popleft()
            first()
            return
        while most and self._waiting and self._waiting[0] is first:
            at = self._at + RING_HEADER
            length = _length(first, self._at)
            self._at += length
            self.size -= length
            if self._at == len(first):
                self._waiting.popleft()
                self._at = 0
            self._sink(Raw.from_buffer_copy(first, at))
            most -= 1


def _length(data: bytes, at: int) -> int:
    """Of the record there, with its header."""
    return (int.from_bytes(data[at : at + 4], "little") & RING_LENGTH) + RING_HEADER + 7 & ~7
