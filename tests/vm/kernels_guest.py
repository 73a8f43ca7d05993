"""Inside a VM, for tests/vm/test_kernels.py: makes all recordings of one kernel in one boot.

The plan comes as JSON on stdin, a tar goes to stdout: NAME.jsonl for each recording, `witness`
(what bpftrace said), `times` and, if something went wrong, `error`. It judges nothing.
"""

from __future__ import annotations

import io
import json
import os
import select
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


class Agent:
    """An agent, spoken to as the recording format says, without decoding what need not be."""

    def __init__(self, options: list[str], argv: list[str]) -> None:
        self.process = subprocess.Popen(
            isolated.command("probes.cli", "agent", *options, "--", *argv),
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


def section(plan: dict, files: dict[str, bytes]) -> None:
    """One agent after another program: it attaches once."""
    agent = None
    for run in plan["runs"]:
        began = time.monotonic()
        for path, text in run.get("write", {}).items():
            Path(path).write_text(text)
        if agent is None:
            agent = Agent(plan["options"], run["argv"])
        else:
            agent.say(cmd="restart", argv=run["argv"])
        files[f"{run['name']}.jsonl"] = agent.record(run.get("stops", False))
        files["times"] += f"{run['name']} {time.monotonic() - began:.1f}\n".encode()
        if run.get("dismiss_witness"):
            WITNESS.dismiss(files)
    if agent is not None:
        agent.process.kill()
        agent.process.wait()


class Witness:
    """bpftrace with kprobes of its own, beside our agents."""

    process: subprocess.Popen[bytes] | None = None

    def call(self, command: list[str], probes: int, files: dict[str, bytes]) -> None:
        began = time.monotonic()
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT,
            # By itself bpftrace 0.17 finds no BTF on 5.10.
            env=os.environ | {"BPFTRACE_BTF": "/sys/kernel/btf/vmlinux"},
        )  # fmt: skip
        listed = Path("/sys/kernel/debug/kprobes/list")
        while len(listed.read_text().splitlines()) < probes and self.process.poll() is None:
            if time.monotonic() > began + PATIENCE:
                raise TimeoutError("the witness did not come")
            time.sleep(0.1)
        files["times"] += f"witness {time.monotonic() - began:.1f}\n".encode()

    def dismiss(self, files: dict[str, bytes]) -> None:
        assert self.process is not None
        self.process.send_signal(2)
        files["witness"] = self.process.communicate(timeout=60)[0]


WITNESS = Witness()


def main() -> None:
    plan = json.load(sys.stdin)
    files = {"times": b""}
    try:
        WITNESS.call(plan["witness"], plan["witness_probes"], files)
        for part in plan["sections"]:
            section(part, files)
    except Exception:
        files["error"] = traceback.format_exc().encode()
        files["error"] += subprocess.run(["dmesg"], capture_output=True).stdout[-3000:]
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


if __name__ == "__main__":
    main()
