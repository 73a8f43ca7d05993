"""What `sockstep vm run|fetch|list|rm` and `sockstep --vm` run."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

from probes.vm import kernels, machine


def main() -> int:
    parser = argparse.ArgumentParser(prog="sockstep vm", description="Throwaway VMs.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run a command in a VM, as root there")
    run.add_argument("--kernel", metavar="K", help="6.1, a release, or a path to a vmlinuz")
    run.add_argument("--freeze", action="store_true", help="CMD is an agent: hold at every step")
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="[--] CMD ARGS…")
    fetch = commands.add_parser("fetch", help="fetch stock Debian kernels; no root needed")
    fetch.add_argument("kernels", nargs="+", metavar="K", help=", ".join(kernels.SUITES))
    commands.add_parser("list", help="the fetched kernels")
    remove = commands.add_parser("rm", help="remove fetched kernels")
    remove.add_argument("kernels", nargs="+", metavar="K", help="6.1, or a release")
    args = parser.parse_args()
    os.umask(os.umask(0o077) | 0o022)  # nobody else writes what is booted
    try:
        match args.command:
            case "run":
                argv = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
                if not argv:
                    raise kernels.VmError("which command? sockstep vm run -- CMD ARGS…")
                kernel = kernels.resolve(args.kernel)
                if args.freeze:
                    return _freezing(kernel, argv)
                return machine.run(kernel, argv, progress=say)
            case "fetch":
                for name in args.kernels:
                    kernels.fetch(name, say)
            case "list":
                for kernel in kernels.installed():
                    print(kernel.release)
            case "rm":
                for name in args.kernels:
                    for release in kernels.remove(name):
                        say(f"removed {release}")
    except (kernels.VmError, OSError) as error:
        print(f"sockstep: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # Die of it, as whoever started us expects; QEMU is gone by now.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return 0


def _freezing(kernel: kernels.Kernel, argv: list[str]) -> int:
    """Run an agent in a VM, with probes/vm/frozen.py in its stream."""
    from probes.vm.frozen import Frozen  # needs msgspec, which nothing else here does

    (commands, into), (out, stream) = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(prefix="sockstep-") as folder:
        gdb = Path(folder) / "gdb"
        between = threading.Thread(target=Frozen(gdb, 0, into, out, 1).run, daemon=True)
        between.start()
        try:
            return machine.run(kernel, argv, stdin=commands, stdout=stream, progress=say, gdb=gdb)
        finally:
            os.close(stream)
            between.join(1.0)


def say(line: str) -> None:
    print(f"vm: {line}", file=sys.stderr, flush=True)
