"""Makes a long recording out of a real one: its calls again and again, each a call of its own.

    python -m tests.long CALLS [SAMPLE] > FILE

What differs from repetition to repetition is what would differ on a real kernel: the numbers of the
calls, times, and the addresses of the objects that a call makes. Stacks and names come once.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from recordings import events as ev
from recordings.stream import encode, read
from tests import ROOT

SAMPLE = ROOT / "recordings/samples/socket_test-6.1-kprobe.jsonl"
APART = 1_000_000  # ns between two calls


def long(calls: int, sample: Path = SAMPLE) -> Iterator[bytes]:
    """The lines of a recording of so many calls: the one call of *sample*, again and again."""
    once, again, after = [], [], []
    for event in read(sample):
        if getattr(event, "call", None):
            again.append(event)
        elif isinstance(event, ev.Stack | ev.Symbol) or not again:
            once.append(event)
        else:
            after.append(event)
    span = again[-1].t - again[0].t + APART
    own = sorted({e.at for e in again if isinstance(e, ev.Alloc) and e.kind != "fd"})
    differs = re.compile(rf'"(call|t)":(\d+)|"({"|".join(map(re.escape, own))})"')
    lines = [encode(event).decode() for event in again]
    yield from map(encode, once)
    for turn in range(calls):

        def other(found: re.Match[str], turn: int = turn) -> str:
            if found[3]:
                at = 0xFFFF_8880_0000_0000 + (turn * len(own) + own.index(found[3])) * 0x1000
                return f'"{at:#x}"'
            return f'"{found[1]}":{int(found[2]) + turn * (1 if found[1] == "call" else span)}'

        yield from (differs.sub(other, line).encode() for line in lines)
    for event in after:
        event.t += (calls - 1) * span
        yield encode(event)


def main() -> None:
    for line in long(int(sys.argv[1]), *map(Path, sys.argv[2:])):
        sys.stdout.buffer.write(line + b"\n")


if __name__ == "__main__":
    main()
