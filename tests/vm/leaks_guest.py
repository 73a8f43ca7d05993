"""Runs inside a VM for test_lab.py: each edge a thousand times, and the kernel's own counts.

The figures are the kernel's and not ours: objects in use in the caches that sockets come from
(/proc/slabinfo) and TCP socks (/proc/net/sockstat), before and after. Prints a line of JSON
an edge.
"""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

from recordings import commands as cmd
from recordings import events as ev
from recordings.experiments import SOCKET
from tests.agent import Agent, agent

TIMES = 1000
LEFT = 300  # objects that other programs may have made meanwhile
# Edge → the call's arguments, and what is refused.
EDGES: dict[str, tuple[str, tuple[str, int] | None]] = {
    "3 security_socket_create": ("2,1,0", ("security_socket_create", errno.EACCES)),
    "5 security_inode_alloc": ("2,1,0", ("security_inode_alloc", errno.EPERM)),
    "7 protocol range": ("2,1,300", None),
    "10 security_sk_alloc": ("2,1,0", ("security_sk_alloc", errno.EPERM)),
    "12 cgroup": ("2,1,0", ("cgroup", 0)),
    "14 security_socket_post_create": ("2,1,0", ("security_socket_post_create", errno.EPERM)),
    "15 EMFILE": ("2,1,0", None),
    "17 security_file_alloc": ("2,1,0", ("security_file_alloc", errno.ENOMEM)),
}
LIMITED = (
    "import ctypes, sys, resource; libc = ctypes.CDLL(None); "
    "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); "
)


def counts() -> dict[str, int]:
    """Objects in use, after RCU's callbacks and per-CPU caches have been given time."""
    Path("/proc/sys/vm/drop_caches").write_text("2")
    os.sync()
    time.sleep(1)
    found = {}
    for line in Path("/proc/slabinfo").read_text().splitlines():
        name, *numbers = line.split()
        if name in ("sock_inode_cache", "TCP"):
            found[name] = int(numbers[0])
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            found["sockstat"] = int(line.split()[2])
    return found


def run(
    running: Agent, arguments: str, refusal: tuple[str, int] | None, limited: bool
) -> dict[str, object]:
    calls = SOCKET.partition("; ")[2].partition("; ")[2]
    script = (LIMITED if limited else SOCKET.removesuffix(calls)) + (
        f"a = [{arguments}]; r = [libc.socket(*a) for _ in range({TIMES})]; "
        "print('refused', sum(x < 0 for x in r))"
    )
    before = counts()
    running.say(cmd.Restart(argv=["/usr/bin/python3", "-S", "-c", script]))
    running.until(lambda e: isinstance(e, ev.Header))
    running.until_state("stopped")
    running.disarm()
    if refusal is not None:
        running.say(cmd.Refuse(hook=refusal[0], errno=refusal[1], times=TIMES))
    running.say(cmd.Continue())
    story = running.until_end(timeout=200)
    refused = int("".join(story.output).partition("refused ")[2].split()[0])
    after = counts()
    for _ in range(20):  # a starved machine's RCU takes longer
        if all(after[name] - before[name] < LEFT for name in before):
            break
        after = counts()
    return {"refused": refused, "before": before, "after": after, "lost": story.lost}


def main() -> None:
    with agent("/bin/true") as running:
        # The first start on a kernel compiles: in emulation, on a busy machine, a minute.
        running.until(lambda e: isinstance(e, ev.State) and e.state == "stopped", timeout=200)
        for name, (arguments, refusal) in EDGES.items():
            result = run(running, arguments, refusal, name.startswith("15"))
            print(json.dumps({"edge": name, **result}), flush=True)


if __name__ == "__main__":
    main()
