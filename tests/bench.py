"""`make bench`: what sockstep costs, each figure beside a baseline measured in the same run.

The measurements are interleaved: every round takes each of them once, so that whatever else the
machine does meets all alike. A figure is the median over the rounds; a ratio is the median of the
rounds' own ratios to the baseline, which stands first in its group.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import platform
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import termios
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import msgspec
import pyte

sys.path.insert(0, str(Path(__file__).parent.parent))

from probes.attach import offset
from probes.btf import Btf
from recordings import events as ev
from recordings import isolated
from recordings.layers import FIELDS
from recordings.story import Story
from recordings.stream import read
from tests.long import long
from tests.redraw import fewest

ROOT = Path(__file__).parent.parent
SOCKSTEP = str(Path(sys.executable).with_name("sockstep"))
SAMPLE = str(ROOT / "recordings/samples/socket_test-6.18-tracepoint.jsonl")
LOOP = str(ROOT / "tests/programs/bin/loop")
MANY = "100000"
PAIRS = {"tracepoint": "400", "kprobe": "50", "fentry": "50"}  # so few that no event is lost
LONG = 20_000  # calls of a long recording
VM = "6.1"  # the kernel of what is measured in a VM
KEYS, QUIET, PATIENCE = 8, 0.1, 600.0

BARE = """
from textual.app import App
from textual.widgets import Label
class Bare(App):
    BINDINGS = [("n", "count(1)", ""), ("p", "count(-1)", "")]
    count = 0
    def compose(self): yield Label("a bare app")
    def action_count(self, by):
        self.count += by
        self.query_one(Label).update(f"a bare app {self.count}")
Bare().run()
"""

Sample = dict[str, float]  # figure → seconds (or a plain number)


class Screen:
    """A program in a terminal of 100×30."""

    def __init__(self, argv: list[str]) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (30, 100))
        env = os.environ | {"TERM": "xterm-256color", "LANG": "C.UTF-8"}
        self.data = bytearray()  # all that was read
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            argv, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True
        )
        os.close(slave)

    def read(self, timeout: float) -> bytes:
        """What comes next; b"" when nothing comes in time, or ever again."""
        ready, _, _ = select.select([self._master], [], [], timeout)
        try:
            data = os.read(self._master, 1 << 16) if ready else b""
        except OSError:  # the program has ended
            return b""
        self.data += data
        return data

    def until(self, text: bytes) -> float:
        """Seconds from the start until the text is on the screen."""
        seen = b""
        while text not in seen:
            data = self.read(PATIENCE)
            assert data, f"waited in vain for {text!r}: {seen[-500:]!r}"
            seen += data
        return time.perf_counter() - self.started

    def settle(self) -> None:
        while self.read(QUIET):
            pass

    def press(self, key: bytes) -> float:
        """Seconds from a key to the first output after it."""
        pressed = time.perf_counter()
        os.write(self._master, key)
        assert self.read(PATIENCE), f"nothing came of {key!r}"
        return time.perf_counter() - pressed

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)


def screen(argv: list[str], text: bytes) -> Sample:
    """A launch, up to the frame that has this text, then some keys that each change the frame."""
    terminal = Screen(argv)
    try:
        launch = terminal.until(text)
        time.sleep(0.5)
        taken = []
        for number in range(KEYS):
            terminal.settle()
            taken.append(terminal.press(b"np"[number % 2 : number % 2 + 1]))
        return {"launch": launch, "key": median(taken)}
    finally:
        terminal.close()


def walk() -> tuple[float, float]:
    """Bytes for a step through a recording, of ten: those sent, and the fewest that would do."""
    terminal, seen = Screen([SOCKSTEP, "replay", SAMPLE]), pyte.Screen(100, 30)
    stream = pyte.ByteStream(seen)
    try:
        terminal.until(b"CHASSIS_CREATED")
        time.sleep(0.5)
        terminal.settle()
        stream.feed(bytes(terminal.data))
        sent = needed = 0
        for _ in range(10):
            before = copy.deepcopy(seen)
            terminal.data.clear()
            terminal.press(b"n")
            terminal.settle()
            stream.feed(bytes(terminal.data))
            sent += len(terminal.data)
            needed += fewest(before, seen)
        return sent / 10, needed / 10
    finally:
        terminal.close()


# The agent with a cache of compiled programs that is not the machine's.
COLD = """
import sys, pathlib, probes.compile
probes.compile.CACHE = pathlib.Path(sys.argv.pop(1))
from probes.cli import main
sys.exit(main())
"""


def attach_agent(backend: str, *command: str) -> Sample:
    """From the agent's start to its `ready` event."""
    start = time.perf_counter()
    with subprocess.Popen(
        [*command, "agent", "--backend", backend, "--", "/bin/true"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as agent:
        assert agent.stdin is not None
        assert agent.stdout is not None
        ready = next(line for line in agent.stdout if line.startswith(b'{"ev":"ready"'))
        took = time.perf_counter() - start
        agent.stdin.close()  # it detaches
        agent.stdout.read()
    return {"attach": took, "ready.took": json.loads(ready)["took"] / 1e9}


def attach_cold(backend: str, folder: str) -> Sample:
    with tempfile.TemporaryDirectory(dir=folder) as empty:
        return attach_agent(backend, sys.executable, "-c", COLD, empty)


def bpftrace_script(backend: str, folder: str) -> str:
    """The path of a program for bpftrace that reads what a backend does, where it does."""
    here = Path(__file__)
    if backend == "tracepoint":
        return str(here.with_name("bench.bt"))
    text = here.with_name("bench_functions.bt").read_text()
    entry, exit, arg = {
        "kprobe": ("kprobe:", "kretprobe:", r"arg\1"),
        "fentry": ("kfunc:", "kretfunc:", r"args->\2"),
    }[backend]
    text = text.replace("ENTRY:", entry).replace("EXIT:", exit)
    text = re.sub(r"ARG\((\d), (\w+)\)", arg, text)
    text = re.sub(r"\b(FILE|SOCKET|SOCK)\((\$\w+)\)", lambda m: reads(m[1], m[2]), text)
    btf = Btf()
    places = {name: offset(btf, "socket_alloc", name) or 0 for name in ("vfs_inode", "socket")}
    text = text.replace("SOCKET_TO_INODE", str(places["vfs_inode"] - places["socket"]))
    text = text.replace("SOCK_TO_RCU", str(offset(btf, "sock", "sk_rcu")))
    path = Path(folder, f"{backend}.bt")
    path.write_text(text)
    return str(path)


def reads(layer: str, variable: str) -> str:
    """A printf of the fields of a layer that sockstep reads too."""
    own = [found for found in FIELDS if found.layer.upper() == layer and found.name != "f_count"]
    fields = [found.field.path or found.name for found in own]
    values = ", ".join(f"(uint64){variable}->{path}" for path in fields)
    values = values.replace("skc_refcnt", "skc_refcnt.refs.counter")
    return f'printf("{layer} %llx{" %llx" * len(fields)}\\n", {variable}, {values});'


def attach_bpftrace(script: str) -> Sample:
    """From bpftrace's start until it lets its command run: all its probes are attached then."""
    start = time.perf_counter()
    with subprocess.Popen(
        ["bpftrace", "-o", "/dev/null", "-c", "/bin/echo started", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert any(b"started" in line for line in process.stdout)
        took = time.perf_counter() - start
    return {"attach": took}


def loop(around: list[str], lost: Callable[[], int] = lambda: 0) -> Sample:
    """Seconds per socket() + close(), as the loop itself measures them, under what is around it."""
    said = subprocess.run(
        around, check=True, capture_output=True, text=True, timeout=PATIENCE, errors="replace"
    ).stdout
    found = re.search(r"ns per call (\d+)", said)
    assert found, said[-500:]
    return {"call": int(found[1]) / 1e9, "lost": lost()}


def loop_under_sockstep(backend: str, folder: str, pairs: str = "") -> Sample:
    path = Path(folder, "loop.jsonl")

    def lost() -> int:
        with path.open() as lines:
            found = [json.loads(line) for line in lines if line.startswith('{"ev":"lost"')]
        return sum(event["count"] for event in found)

    pairs = pairs or PAIRS[backend]
    command = [SOCKSTEP, "record", "--backend", backend, "-o", str(path), LOOP, pairs]
    sample = loop(command, lost)
    path.unlink()
    return sample


def loop_under_bpftrace(backend: str, script: str, folder: str) -> Sample:
    path = Path(folder, "loop.txt")

    def lost() -> int:
        return sum(int(n) for n in re.findall(r"Lost (\d+) events", path.read_text()))

    program = f"{LOOP} {PAIRS[backend]}"
    sample = loop(["bpftrace", "-o", str(path), "-c", program, script], lost)
    path.unlink()
    return sample


def long_recording(folder: str) -> str:
    path = Path(folder, "long.jsonl")
    if not path.exists():
        with path.open("wb") as file:
            file.writelines(line + b"\n" for line in long(LONG))
    return str(path)


def decoding(path: str) -> float:
    lines = Path(path).read_bytes().splitlines()
    decode = msgspec.json.Decoder(ev.AnyEvent).decode
    return without_garbage(lambda: [decode(line) for line in lines])


def folding(path: str) -> float:
    events = list(read(Path(path)))
    return without_garbage(lambda: Story.of(events))


def reporting(path: str) -> float:
    start = time.perf_counter()
    command = [SOCKSTEP, "report", path]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def without_garbage(work: Callable[[], object]) -> float:
    gc.disable()
    start = time.perf_counter()
    kept = work()
    took = time.perf_counter() - start
    del kept
    gc.enable()
    return took


# The groups of the table; the first that is measured in a group is its baseline.
FIGURES = {
    "launch": "Launch, to the first frame with content",
    "key": "Key, to the first output that it brings",
    "bytes": "Bytes that a step sends to the terminal",
    "attach": "Start, until the 12 probes are attached",
    "call": "`socket()` and `close()` in a tight loop, per pair",
    "long": f"A recording of {LONG} calls (500 000 events, 190 MB)",
    "many.call": f"The same {int(MANY):,} times".replace(",", " "),
    "vm.attach": f"Start, until all probes on functions are attached (emulated VM, Linux {VM})",
    "vm.call": "`socket()` and `close()` in a tight loop, per pair (the same VM)",
}


def measurements(folder: str) -> dict[str, Callable[[], Sample]]:
    """All that this machine and user allow, in the order of the table."""
    python = sys.executable
    found: dict[str, Callable[[], Sample]] = {
        "a bare Textual app, one label": lambda: screen([python, "-c", BARE], b"a bare app"),
        "sockstep replay": lambda: screen([SOCKSTEP, "replay", SAMPLE], b"CHASSIS_CREATED"),
        "sockstep replay, of the long recording": lambda: screen(
            [SOCKSTEP, "replay", long_recording(folder)], b"CHASSIS_CREATED"
        ),
        "msgspec decodes each line": lambda: {"long": decoding(long_recording(folder))},
        "the story of the events": lambda: {"long": folding(long_recording(folder))},
        "sockstep report": lambda: {"long": reporting(long_recording(folder))},
        "the fewest that would do": lambda: {"bytes": walk()[1]},
        "sockstep replay, a step": lambda: {"bytes": walk()[0]},
        # 400 pairs fit between two turns of the scheduler, and would miss what else runs here.
        "untraced": lambda: loop([LOOP, "20000"]),
    }
    strace = ["strace", "-f", "-o", "/dev/null", "-e", "trace=socket,close"]
    if shutil.which("strace"):
        found["strace -e socket,close"] = lambda: loop([*strace, LOOP, PAIRS["tracepoint"]])
    if os.geteuid() == 0 and shutil.which("bpftrace"):
        script = bpftrace_script("tracepoint", folder)
        found["bpftrace, the same tracepoints"] = lambda: attach_bpftrace(script)
        found["bpftrace, the same reads"] = lambda: loop_under_bpftrace(
            "tracepoint", script, folder
        )
    if os.geteuid() == 0:
        here = isolated.command("probes.cli")
        found["sockstep agent, the first time"] = lambda: attach_cold("tracepoint", folder)
        found["sockstep agent, from then on"] = lambda: attach_agent("tracepoint", *here)
        found["sockstep record"] = lambda: loop_under_sockstep("tracepoint", folder)
    return found


def many(folder: str) -> dict[str, Callable[[], Sample]]:
    """Loops so long that sockstep, which loses nothing, cannot decode them meanwhile."""
    found: dict[str, Callable[[], Sample]] = {"untraced": lambda: loop([LOOP, MANY])}
    strace = ["strace", "-f", "-o", "/dev/null", "-e", "trace=socket,close"]
    if shutil.which("strace"):
        found["strace -e socket,close"] = lambda: loop([*strace, LOOP, MANY])
    if os.geteuid() == 0:
        found["sockstep record"] = lambda: loop_under_sockstep("tracepoint", folder, MANY)
    return found


def on_functions(folder: str) -> dict[str, Callable[[], Sample]]:
    """What only a kernel with kprobes allows: measured in a VM."""
    here = isolated.command("probes.cli")
    found: dict[str, Callable[[], Sample]] = {"untraced": lambda: loop([LOOP, "5000"])}
    for backend in ("kprobe", "fentry"):
        script = bpftrace_script(backend, folder)
        found |= {
            f"bpftrace, {backend}": partial(attach_bpftrace, script),
            f"bpftrace, {backend}, the same reads": partial(
                loop_under_bpftrace, backend, script, folder
            ),
            f"sockstep agent, {backend}, the first time": partial(attach_cold, backend, folder),
            f"sockstep agent, {backend}, from then on": partial(attach_agent, backend, *here),
            f"sockstep record, {backend}": partial(loop_under_sockstep, backend, folder),
        }
    return found


Taken = dict[str, dict[str, list[float]]]  # figure → who → a value a round


def take(plan: dict[str, Callable[[], Sample]], rounds: int) -> Taken:
    taken: Taken = defaultdict(lambda: defaultdict(list))
    for number in range(1, rounds + 1):
        for who, measure in plan.items():
            progress(f"{number}/{rounds}: {who}")
            for figure, value in measure().items():
                taken[figure][who].append(value)
    progress("")
    return taken


def take_in_vm(rounds: int) -> Taken:
    """The same of `on_functions`, in one VM; nothing where none boots."""
    command = isolated.command("probes.vm.cli", "run", "--kernel", VM, "--")
    done = subprocess.run(
        [*command, sys.executable, "tests/bench.py", "--in-vm", str(rounds)],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    return json.loads(done.stdout) if done.returncode == 0 else {}


def mount_tracefs() -> None:
    """bpftrace wants tracefs mounted: where it is not, start anew where only we see it."""
    if os.geteuid() == 0 and not Path("/sys/kernel/tracing/events").exists():
        script = 'mount -t tracefs tracefs /sys/kernel/tracing && exec "$@"'
        words = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, *sys.argv]
        os.execvp(words[0], words)


def duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 11")
    parser.add_argument("--in-vm", type=int, metavar="ROUNDS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    rounds = 3 if args.quick else 11
    with tempfile.TemporaryDirectory() as folder:
        if args.in_vm:
            json.dump(take(on_functions(folder), args.in_vm), sys.stdout)
            return
        mount_tracefs()
        taken = take(measurements(folder), rounds)
        for figure, values in take(many(folder), 3).items():
            taken[f"many.{figure}"] = values
    for figure, values in take_in_vm(3).items():
        taken[f"vm.{figure}"] = values

    print(f"{time.strftime('%Y-%m-%d')}, {rounds} rounds, {machine()}\n")
    print("| | median | range | ratio |")
    print("| --- | ---: | ---: | ---: |")
    for figure, title in FIGURES.items():
        print(f"| **{title}** | | | |")
        baseline = next(iter(taken[figure].values()), [])
        for who, values in taken[figure].items():
            ratio = median(value / base for value, base in zip(values, baseline, strict=True))
            words = duration if figure != "bytes" else "{:.0f} B".format
            low, high = words(min(values)), words(max(values))
            print(f"| {who} | {words(median(values))} | {low} – {high} | {ratio:.2f} |")
    print()
    for who, took in (taken["ready.took"] | taken.get("vm.ready.took", {})).items():
        print(f"{who}: of that, compiling, loading and attaching {duration(median(took))}.")
    for group in ("lost", "many.lost", "vm.lost"):
        for who, lost in taken[group].items():
            if any(lost):
                print(f"Events lost under {who}: {sum(lost):.0f} in all ({group}).")


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}\r", end="", file=sys.stderr, flush=True)


def machine() -> str:
    from importlib.metadata import version

    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    return (f"Linux {platform.release()}, {os.cpu_count()} CPUs, load {load}, "
            f"Python {platform.python_version()}, Textual {version('textual')}")  # fmt: skip


if __name__ == "__main__":
    main()
