"""Inside a VM, for tests/vm/test_kernels.py: makes all recordings of one kernel in one boot.

The plan comes as JSON on stdin. A tar goes to stdout as it is made: for each recording NAME.jsonl,
or NAME.error where it failed; `witness`, what bpftrace said; `times`. It judges nothing.
"""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
import tarfile
import time
import traceback
from pathlib import Path

from recordings import isolated
from recordings.steps import STEPS

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 200  # seconds for one recording, in emulation


def plainly(*words: str) -> list[str]:
    return [sys.executable, "-m", *words]


class Agent:
    """An agent, spoken to as the recording format says, without decoding what need not be."""

    def __init__(self, module: str, options: list[str], argv: list[str]) -> None:
        start = isolated.command if module.startswith("probes.") else plainly
        self.process = subprocess.Popen(
            start(module, "agent", *options, "--", *argv),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        self.rest = b""

    def say(self, **command: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()

    def line(self, deadline: float) -> bytes:
        assert self.process.stdout is not None
        while b"\n" not in self.rest:
            left = deadline - time.monotonic()
            if left < 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise TimeoutError("waited in vain")
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            if not data:
                raise EOFError(f"the agent ended: {self.process.communicate()[1].decode()}")
            self.rest += data
        found, _, self.rest = self.rest.partition(b"\n")
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def record(self, stops: bool) -> bytes:
        """One run of the program that stands at its beginning: to its end, as JSON Lines."""
        deadline = time.monotonic() + PATIENCE
        lines: list[bytes] = []
        while not lines or not lines[-1].startswith(b'{"ev":"end"'):
            line = self.line(deadline)
            if not lines and not line.startswith(b'{"ev":"header"'):
                continue  # still of the run before
            lines.append(line)
            if line.startswith(b'{"ev":"state"') and json.loads(line)["state"] == "stopped":
                if json.loads(line)["why"] == "before its first instruction":
                    for step in STEPS:
                        self.say(cmd="arm", step=step, stop=stops)
                self.say(cmd="continue")
        return b"\n".join([*lines, b""])


class Results:
    """Writes each result when there is one: what comes later cannot take it along."""

    def __init__(self) -> None:
        self.times = ""
        # Blocks of 512 bytes: nothing complete waits for what follows.
        self.tar = tarfile.open(fileobj=sys.stdout.buffer, mode="w|", bufsize=512)  # noqa: SIM115

    def add(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        self.tar.addfile(entry, io.BytesIO(data))
        sys.stdout.buffer.flush()

    def failed(self, name: str) -> None:
        """Of the exception at hand, with the end of the kernel's log."""
        log = subprocess.run(["dmesg"], capture_output=True).stdout[-3000:]
        self.add(f"{name}.error", traceback.format_exc().encode() + log)

    def took(self, name: str, began: float) -> None:
        self.times += f"{name} {time.monotonic() - began:.1f}\n"

    def close(self) -> None:
        self.add("times", self.times.encode())
        self.tar.close()


def section(plan: dict, results: Results, witness: Witness) -> None:
    """One agent after another program: it attaches once. After a failure comes another agent."""
    agent = None
    for run in plan["runs"]:
        began = time.monotonic()
        try:
            for path, text in run.get("write", {}).items():
                Path(path).write_text(text)
            if agent is None:
                module = plan.get("agent", "probes.cli")
                agent = Agent(module, plan["options"], run["argv"])
            else:
                agent.say(cmd="restart", argv=run["argv"])
            results.add(f"{run['name']}.jsonl", agent.record(run.get("stops", False)))
        except Exception:
            results.failed(run["name"])
            if agent is not None:
                agent.end()
            agent = None
        results.took(run["name"], began)
        if run.get("dismiss_witness"):
            witness.dismiss(results)
    if agent is not None:
        agent.end()


class Witness:
    """bpftrace with kprobes of its own, beside our agents. Its end is not waited for: see -B."""

    def __init__(self, command: list[str], probes: int, results: Results) -> None:
        began = time.monotonic()
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT,
            # By itself bpftrace 0.17 finds no BTF on 5.10.
            env=os.environ | {"BPFTRACE_BTF": "/sys/kernel/btf/vmlinux"},
        )  # fmt: skip
        listed = Path("/sys/kernel/debug/kprobes/list")
        while len(listed.read_text().splitlines()) < probes and self.process.poll() is None:
            if time.monotonic() > began + PATIENCE:
                break  # what it did not see, its own test misses
            time.sleep(0.1)
        results.took("witness", began)

    def dismiss(self, results: Results) -> None:
        """Detach its probes, and keep what it said: each line left it when it was printed."""
        self.process.send_signal(signal.SIGINT)
        try:
            said = self.process.communicate(timeout=20)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            said = self.process.communicate()[0]
        results.add("witness", said)


def main() -> None:
    plan = json.load(sys.stdin)
    results = Results()
    witness = Witness(plan["witness"], plan["witness_probes"], results)
    for part in plan["sections"]:
        section(part, results, witness)
    results.close()


if __name__ == "__main__":
    main()
