"""Saves what a frozen machine held as tests/unit/data/frozen-6.1.json.gz: see test_dump.py there.

    python -m tests.vm.dump 6.1

Boots the kernel, freezes it at each step of one socket(2) and its close(2), and keeps of each hold
the memory that was read, the registers, what `Frozen` told of it, and what the probe there recorded
by itself.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import msgspec

from probes.vm import frozen, kernels, machine
from probes.vm.unwind import Unwinder
from recordings import commands as cmd
from recordings import events as ev
from tests import ROOT
from tests.agent import SOCKET_TEST, agent

DATA = ROOT / "tests/unit/data"


def relay(log: IO[str], here: Path, there: Path) -> None:
    """Stand between Frozen and QEMU's stub, and log each packet: > asked, < answered."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(here))
    server.listen()

    def copy(source: socket.socket, to: socket.socket, sign: str) -> None:
        buffer = b""
        while data := source.recv(1 << 16):
            buffer += data
            while b"#" in buffer[:-2]:
                packet, _, rest = buffer.partition(b"#")
                buffer = rest[2:]
                print(sign, packet.partition(b"$")[2].decode(), file=log, flush=True)
            to.sendall(data)  # logged first: an answer comes after its question

    def serve() -> None:
        client, _ = server.accept()
        stub = socket.socket(socket.AF_UNIX)
        stub.connect(str(there))
        threading.Thread(target=copy, args=(stub, client, "<"), daemon=True).start()
        copy(client, stub, ">")

    threading.Thread(target=serve, daemon=True).start()


def run(kernel: str, path: str, argv: list[str]) -> int:
    """`probes.vm.cli run --freeze`, with everything logged."""
    log = open(path, "a", buffering=1)  # noqa: SIM115 (until this process ends)

    class Logged(Unwinder):
        def frames(self, ip: int, sp: int, bp: int, returns: Mapping[int, int]) -> list[int]:
            found = super().frames(ip, sp, bp, returns)
            print("=", json.dumps([ip, sp, bp, dict(returns), found]), file=log)
            return found

    frozen.Unwinder = Logged  # type: ignore[misc]
    (commands, into), (raw, stream), (out, filtered) = os.pipe(), os.pipe(), os.pipe()

    def pass_on() -> None:
        with os.fdopen(raw, "rb") as source, os.fdopen(filtered, "wb", buffering=0) as to:
            for line in source:
                if line.startswith(b'{"ev":"landmarks"'):
                    print("!", line.decode().strip(), file=log)
                to.write(line)

    with tempfile.TemporaryDirectory(prefix="sockstep-") as folder:
        ours, theirs = Path(folder, "ours"), Path(folder, "theirs")
        relay(log, ours, theirs)
        threading.Thread(target=pass_on, daemon=True).start()
        threading.Thread(target=frozen.Frozen(ours, 0, into, out, 1).run, daemon=True).start()
        return machine.run(kernels.resolve(kernel), argv, stdin=commands, stdout=stream, gdb=theirs)


def holds_of(lines: list[str]) -> list[dict[str, Any]]:
    """The holds of a log: what was read since the one before, until the machine ran on."""
    found: list[dict[str, Any]] = []
    memory: dict[tuple[int, int], str] = {}  # address, bytes → what was read last
    cpu, asked, registers, watched, stack = "", "", "", 0, None
    for line in lines:
        sign, _, rest = line.partition(" ")
        if sign == "=":
            stack = json.loads(rest)
        elif sign == "<" and rest[:1] == "T":
            pairs = dict(pair.partition(":")[::2] for pair in rest[3:].split(";"))
            watched = int(pairs.get("rwatch", "0"), 16)
        elif sign == "<" and asked[:1] == "m" and rest[:1] != "E":
            key = int(asked[1:].partition(",")[0], 16), len(rest)
            memory.pop(key, None)  # in the order of the readings: they overlap
            memory[key] = rest
        elif sign == "<" and asked == "g" and stack is None:
            registers = rest
        elif sign == ">":
            asked = rest
            if rest[:2] == "Hg" and stack is None:
                cpu = rest[2:]
            if rest.startswith("vCont") and stack is not None:
                found.append({
                    "cpu": cpu, "registers": registers, "watched": watched, "stack": stack,
                    "memory": [[at, data] for (at, _), data in memory.items()],
                })  # fmt: skip
                memory, stack = {}, None
    return found


def main(kernel: str) -> None:
    with tempfile.NamedTemporaryFile("r", prefix="sockstep-") as log:
        via = [sys.executable, "-m", "tests.vm.dump", kernel, log.name]
        options = ("--freeze", "--backend", "kprobe")
        with agent(SOCKET_TEST, options=options, via=via) as running:
            running.until(lambda e: isinstance(e, ev.State) and e.state == "stopped", timeout=200)
            running.say(cmd.Next())
            told: list[ev.Held] = []
            while True:
                event = running.until(lambda e: isinstance(e, ev.Held | ev.End), timeout=60)
                if isinstance(event, ev.End):
                    break
                assert isinstance(event, ev.Held)
                told.append(event)
                stacks = running.story.stacks
                if event.stack not in stacks:
                    running.until(lambda e: isinstance(e, ev.Stack) and e.id == told[-1].stack)
                running.say(cmd.Next())
            story = running.story
        lines = log.read().splitlines()
    holds = holds_of(lines)
    assert len(holds) == len(told), (len(holds), len(told))
    steps = [m.event for call in story.calls.values() for m in call.moments]
    for hold, held in zip(holds, told, strict=True):
        *hold["entered"], found = hold.pop("stack")
        assert held.stack is not None
        frames = story.stacks[held.stack]
        hold["frames"] = dict(zip(map(str, found), frames, strict=True))
        hold["held"] = msgspec.to_builtins(held)
        step = next(
            (s for s in steps
             if isinstance(s, ev.Step) and (s.symbol, s.at) == (held.symbol, held.at)), None,
        )  # fmt: skip
        hold["probe"] = msgspec.to_builtins(step) if step is not None else None
        recorded = step is not None and step.stack is not None
        hold["probed"] = story.stacks[step.stack] if recorded else None  # type: ignore[union-attr,index]
    assert story.header is not None
    landmarks = next(json.loads(line[2:]) for line in lines if line.startswith("!"))
    saved = {
        "kernel": story.header.kernel, "pid": story.header.pid, "landmarks": landmarks,
        "holds": holds,
    }  # fmt: skip
    DATA.mkdir(exist_ok=True)
    path = DATA / f"frozen-{kernel}.json.gz"
    path.write_bytes(gzip.compress(json.dumps(saved).encode(), 9, mtime=0))
    print(f"{path.relative_to(ROOT)}: {len(holds)} holds, {path.stat().st_size} bytes")


if __name__ == "__main__":
    match sys.argv[1:]:
        case [kernel]:
            main(kernel)
        case [kernel, log, *argv]:
            sys.exit(run(kernel, log, argv))
