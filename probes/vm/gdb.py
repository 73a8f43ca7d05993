"""A client of QEMU's gdb stub: stops a whole machine, and reads and writes its memory.

The GDB remote serial protocol (GDB manual, appendix E), as much of it as that takes. A thread, to
the stub, is a virtual CPU.
"""

from __future__ import annotations

import select
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 10.0  # seconds for an answer
# The beginning of a `g` packet, as QEMU's target/i386/gdbstub.c writes it. (The description that it
# gives of it, i386-64bit.xml, has three registers more than it sends.)
_NAMES = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "rip", "eflags", "cs", "ss", "ds", "es", "fs", "gs", "fs_base", "gs_base",
)  # fmt: skip
_REGISTERS = struct.Struct("<17Q7I2Q")


class GdbError(Exception):
    """The stub is gone, or it refused; one line that says what."""


@dataclass(frozen=True)
class Stop:
    """The machine stands: `cpu`, its thread to the stub, has read what is watched at the address
    `watched`; 0: it came to a breakpoint, or was told to.
    """

    cpu: str
    watched: int


class Gdb:
    """A connection, at whose making the machine stops. `fd` is readable when one may be there."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._buffer = b""
        self._stops: list[Stop] = []
        try:
            self._socket.connect(str(path))
        except OSError as error:
            raise GdbError(f"QEMU's gdb stub cannot be reached: {error.strerror}") from error
        self.ask("?")
        self.cpus = self.ask("qfThreadInfo").removeprefix("m").split(",")
        while (more := self.ask("qsThreadInfo")) != "l":
            self.cpus += more.removeprefix("m").split(",")
        self._stops.clear()  # it was stopped by our coming

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    def stopped(self) -> Stop | None:
        """A stop that has come, without waiting for one."""
        if not self._stops:
            while select.select([self._socket], [], [], 0)[0]:
                self._more()
            if b"#" in self._buffer:  # not only the acknowledgement of what we sent
                return self.wait()
        return self._stops.pop(0) if self._stops else None

    def close(self) -> None:
        self._socket.close()

    # -- packets -------------------------------------------------------------------------

    def _say(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise GdbError("the machine is gone") from error

    def _more(self) -> None:
        try:
            chunk = self._socket.recv(1 << 16)
        except TimeoutError:
            raise GdbError("the machine does not answer") from None
        except OSError:
            chunk = b""
        if not chunk:
            raise GdbError("the machine is gone")
        self._buffer += chunk

    def _send(self, packet: str) -> None:
        data = packet.encode()
        self._say(b"$%s#%02x" % (data, sum(data) & 0xFF))

    def _receive(self) -> str:
        """The next packet, acknowledged."""
        while True:
            _, start, rest = self._buffer.partition(b"$")
            body, end, after = rest.partition(b"#")
            if start and end and len(after) >= 2:
                self._buffer = after[2:]
                self._say(b"+")
                return body.decode("ascii", "replace")
            self._more()

    def ask(self, packet: str) -> str:
        """Send a packet and return its answer. Stops that come in between are kept."""
        self._send(packet)
        while True:
            answer = self._receive()
            if packet != "?" and (stop := self._stop(answer)):
                self._stops.append(stop)
                continue
            return answer

    @staticmethod
    def _stop(answer: str) -> Stop | None:
        if answer[:1] != "T":
            return None
        pairs = dict(pair.partition(":")[::2] for pair in answer[3:].split(";") if pair)
        return Stop(pairs.get("thread", "1"), int(pairs.get("rwatch", "0"), 16))

    def _done(self, packet: str) -> None:
        if (answer := self.ask(packet)) != "OK":
            raise GdbError(
                f"the gdb stub refused {packet.partition(',')[0]}: {answer or 'nothing'}"
            )

    # -- what it is for ------------------------------------------------------------------

    def registers(self, cpu: str) -> dict[str, int]:
        """The registers of a virtual CPU, from then on the one whose memory is read."""
        self._done(f"Hg{cpu}")
        values = _REGISTERS.unpack_from(bytes.fromhex(self.ask("g")))
        return dict(zip(_NAMES, values, strict=True))

    def read(self, address: int, size: int) -> bytes | None:
        """Memory as the CPU of the last `registers` sees it; None where there is none."""
        answer = self.ask(f"m{address:x},{size:x}")
        data = b"" if answer.startswith("E") else bytes.fromhex(answer)
        return data if len(data) == size else None

    def write(self, address: int, data: bytes) -> None:
        self._done(f"M{address:x},{len(data):x}:{data.hex()}")

    def watch(self, address: int, on: bool) -> None:
        """Stop the machine whenever the eight bytes at this address have been read.

        After a breakpoint QEMU translates all code anew (10 to 20 ms); not so after this.
        """
        self._done(f"{'Z' if on else 'z'}3,{address:x},8")

    def breakpoint(self, address: int, on: bool) -> None:
        """Stop the machine whenever the instruction at this address is about to run."""
        self._done(f"{'Z' if on else 'z'}1,{address:x},1")

    def step(self, cpu: str) -> Stop:
        """One instruction of one CPU, whatever breakpoint is there; the others stand."""
        self._send(f"vCont;s:{cpu}")
        return self.wait()

    def go(self, *cpus: str) -> None:
        """Let these CPUs run, or all; returns at once."""
        self._send(";".join(["vCont", *(f"c:{cpu}" for cpu in cpus)]) if cpus else "vCont;c")

    def interrupt(self) -> Stop:
        """Stop whatever runs. If it stood by then, by itself, why it does."""
        self._say(b"\x03")
        return self.wait()

    def wait(self) -> Stop:
        """The next stop."""
        if self._stops:
            return self._stops.pop(0)
        while (stop := self._stop(self._receive())) is None:
            pass
        return stop

    def detach(self) -> None:
        """Let the machine run, for good."""
        self._done("D")
        self.close()
