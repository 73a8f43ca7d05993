"""What BPF wrote to its ring buffer in a real run, saved for tests/unit/test_ring.py.

    python -m tests.ring

As root. The program is the example; what is saved are the records as they came, and of the kernel's
symbols those that decoding them asks for.
"""

from __future__ import annotations

import base64
import ctypes as ct
import gzip
import json
import platform
import select
import time

from probes import unwound
from probes.attach import Attached
from probes.backends import BACKENDS
from probes.bpf_syscall import RING_HEADER, RING_LENGTH
from probes.capture import Decoder, Raw
from probes.kallsyms import Kallsyms
from probes.launcher import Launcher
from probes.tracee import Tracee
from recordings import events as ev
from tests import ROOT
from tests.agent import SOCKET_TEST

DATA = ROOT / "tests/unit/data"
RCU = 1.0  # seconds in which the inode is freed
BACKEND = BACKENDS["tracepoint"]
STACK = next(number for number, point in enumerate(BACKEND.points) if point.name == "STACK")


class NoMap:
    """The map by which BPF learns where a stack is found again: nobody runs here."""

    def __setitem__(self, key: bytes, value: bytes) -> None:
        pass


def decoded(records: bytes, symbols: Kallsyms, f_ref: bool) -> list[ev.Event]:
    stacks = unwound.Stacks(NoMap())  # type: ignore[arg-type]
    told: list[ev.Event] = []
    decoder = Decoder(BACKEND, symbols, f_ref, told.append, stacks.frames)
    at = 0
    while at < len(records):
        length = int.from_bytes(records[at : at + 4], "little") & RING_LENGTH
        first = at + RING_HEADER
        raw = Raw.from_buffer_copy(records[first : first + length].ljust(ct.sizeof(Raw), b"\0"))
        if raw.point == STACK:
            stacks.add(records, at + RING_HEADER)
        decoder.feed(raw)
        at += length + RING_HEADER + 7 & ~7
    return told


class Asked(Kallsyms):
    """Keeps the lines of all symbols that were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: set[str] = set()

    def at(self, address: int) -> str:
        if name := super().at(address):
            self.lines.add(f"{address:016x} d {name}")
        return name

    def function(self, address: int) -> tuple[str, int]:
        name, offset = super().function(address)
        if name:
            self.lines.add(f"{address - offset:016x} t {name}")
        return name, offset


def main() -> None:
    launcher = Launcher()
    symbols = Asked()
    attached = Attached(BACKEND, symbols, lambda raw: None, lambda raw: None, follow_forks=False)
    tracee = Tracee(launcher, [SOCKET_TEST])
    attached.follow(tracee.pid)
    tracee.go_on()
    select.select([tracee.pidfd], [], [])
    time.sleep(RCU)
    records, _ = attached.spool.ring.take(Raw.point.offset, ())
    f_ref = attached.f_ref
    attached.close()
    tracee.wait()
    tracee.close()
    launcher.close()
    decoded(records, symbols, f_ref)
    saved = {
        "kernel": platform.release(), "event": ct.sizeof(Raw), "f_ref": f_ref,
        "symbols": "".join(f"{line}\n" for line in sorted(symbols.lines)),
        "records": base64.b64encode(records).decode(),
    }  # fmt: skip
    path = DATA / "ring.json.gz"
    path.write_bytes(gzip.compress(json.dumps(saved).encode(), 9, mtime=0))
    print(f"{path.relative_to(ROOT)}: {len(records)} bytes of records, {path.stat().st_size} saved")


if __name__ == "__main__":
    main()
