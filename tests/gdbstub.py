"""A gdb stub that answers from a saved dump (tests/vm/dump.py) as QEMU's does: no VM is needed."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from probes.landmarks import Landmarks
from recordings import events as ev
from tests import ROOT

CPUS = ("01", "02", "03")  # the last is the agent's: AGENT_CPU of probes.vm
NOT_THERE = "E14"


@dataclass
class Hold:
    """A moment at which the machine stood."""

    cpu: str
    registers: str  # a `g` packet
    watched: int
    memory: dict[int, int]  # read until then, address → byte; the later reading counts
    entered: tuple[int, int, int, dict[int, int]]  # ip, sp, bp, stack slot → true return address
    frames: dict[int, str]  # as it was unwound in the VM
    held: ev.Held
    probe: ev.Step | None  # what the BPF program there recorded by itself
    probed: list[str] | None  # and its stack, which the kernel unwound


@dataclass
class Dump:
    kernel: str
    pid: int
    landmarks: Landmarks
    holds: list[Hold]


def load(path: Path = ROOT / "tests/unit/data/frozen-6.1.json.gz") -> Dump:
    saved = json.loads(gzip.decompress(path.read_bytes()))
    memory: dict[int, int] = {}
    holds = []
    for one in saved["holds"]:
        for at, data in one["memory"]:
            memory |= {at + number: byte for number, byte in enumerate(bytes.fromhex(data))}
        ip, sp, bp, returns = one["entered"]
        holds.append(
            Hold(
                one["cpu"], one["registers"], one["watched"], dict(memory),
                (ip, sp, bp, {int(slot): at for slot, at in returns.items()}),
                {int(at): name for at, name in one["frames"].items()},
                msgspec.convert(one["held"], ev.Held),
                msgspec.convert(one["probe"], ev.Step | None), one["probed"],
            )
        )  # fmt: skip
    landmarks = msgspec.convert(saved["landmarks"], Landmarks)
    return Dump(saved["kernel"], saved["pid"], landmarks, holds)


@dataclass
class Stub:
    """Serves one client. `asked`: its packets; what it writes is in `memory` from then on.

    `standing`: the CPUs that stand at the hold; the others run a program. Of these QEMU tells
    of one; of another it does after one instruction.
    """

    path: Path
    hold: Hold
    asked: list[str] = field(default_factory=list)
    ran: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.memory = dict(self.hold.memory)
        self.standing = {self.hold.cpu}
        self._selected = self.hold.cpu
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self.path))
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self, cpu: str = "", watched: int = 0) -> None:
        """The machine stops, as it did at the hold: what was watched there has been read."""
        at = watched or self.hold.watched
        self._send(f"T05thread:{cpu or self.hold.cpu};rwatch:{at:x};")

    def _send(self, packet: str) -> None:
        data = packet.encode()
        self._client.sendall(b"$%s#%02x" % (data, sum(data) & 0xFF))

    def _serve(self) -> None:
        self._client = self._server.accept()[0]
        with suppress(BrokenPipeError):  # the client may leave before it has its answer
            self._answer_all()

    def _answer_all(self) -> None:
        buffer = b""
        while data := self._client.recv(1 << 16):
            buffer += data
            while buffer:
                if buffer[:1] == b"\x03":
                    buffer = buffer[1:]
                    self._send(f"T02thread:{self.hold.cpu};")
                elif buffer[:1] == b"+":
                    buffer = buffer[1:]
                elif b"#" in buffer[:-2]:
                    packet, _, rest = buffer[1:].partition(b"#")
                    assert int(rest[:2], 16) == sum(packet) & 0xFF
                    buffer = rest[2:]
                    self._client.sendall(b"+")
                    self._answer(packet.decode())
                else:
                    break

    def _answer(self, packet: str) -> None:
        self.asked.append(packet)
        name, _, rest = packet.partition(":")
        match packet[0]:
            case "?":
                self._send("T05thread:01;")
            case "q":
                self._send("l" if packet == "qsThreadInfo" else f"m{','.join(CPUS)}")
            case "H":
                self._selected = packet[2:]
                self._send("OK")
            case "g":
                there = self._selected in self.standing
                self._send(self.hold.registers if there else "0" * len(self.hold.registers))
            case "m":
                at, size = (int(number, 16) for number in packet[1:].split(","))
                found = [self.memory.get(at + number) for number in range(size)]
                self._send(NOT_THERE if None in found else bytes(found).hex())  # type: ignore[arg-type]
            case "M":
                at = int(name[1:].partition(",")[0], 16)
                self.memory |= {at + n: byte for n, byte in enumerate(bytes.fromhex(rest))}
                self._send("OK")
            case "v" if packet.startswith("vCont;s"):
                self.stop(rest)
            case "v":
                self.ran.set()
            case _:
                self._send("OK")


def plain(event: Any) -> dict[str, Any]:
    """An event without when it was."""
    found = msgspec.to_builtins(event)
    return {name: value for name, value in found.items() if name not in ("t", "since", "stack")}
