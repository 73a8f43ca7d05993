"""What `sockstep agent` and `sockstep doctor` run."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import traceback


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError
    return value


def main() -> int:
    parser = argparse.ArgumentParser(prog="sockstep")
    commands = parser.add_subparsers(dest="command", required=True)
    agent = commands.add_parser("agent", help="events on stdout, commands on stdin")
    agent.add_argument("--backend")
    agent.add_argument("--follow-forks", action="store_true")
    agent.add_argument(
        "--hold", nargs="?", type=seconds, const=180.0, metavar="SECONDS",
        help="hold each call asleep in the kernel, so long at most (180)",
    )  # fmt: skip
    agent.add_argument(
        "--freeze", action="store_true",
        help="in a VM that holds it at every step: see probes/vm/frozen.py",
    )  # fmt: skip
    agent.add_argument(
        "--stdin", choices=("terminal", "quiet", "pipe"), default="terminal",
        help="what the program reads: its terminal, which echoes it, or does not; or a pipe",
    )  # fmt: skip
    agent.add_argument(
        "--lossy", action="store_true",
        help="lose events rather than have the program wait until we have caught up",
    )  # fmt: skip
    agent.add_argument("program", nargs=argparse.REMAINDER, help="[--] PROGRAM ARGS…")
    doctor = commands.add_parser("doctor", help="what this kernel and user may do")
    doctor.add_argument("--json", action="store_true")
    args = parser.parse_args()

    if args.command == "doctor":
        from probes import doctor as check

        if sys.stdout is None:  # closed by who started us
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        try:
            status = check.main(args.json)
            sys.stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if isinstance(error, BrokenPipeError):
                return 128 + signal.SIGPIPE
            print(f"sockstep: cannot write: {error.strerror}", file=sys.stderr)
            return 2
        return status

    program = args.program[1:] if args.program[:1] == ["--"] else args.program
    if not program:
        parser.error("which program? sockstep agent -- PROGRAM ARGS…")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no KeyboardInterrupt before the agent's handlers
    from probes.launcher import Launcher

    launcher = Launcher()  # before anything that no user may have is open; it starts meanwhile
    from probes import agent as run
    from probes.attach import AttachError
    from probes.btf import BtfError
    from probes.compile import CompileError
    from probes.tracee import TraceeError
    from recordings.invoker import InvokerError, invoking_user

    try:
        invoking_user()
        return run.main(
            launcher,
            program,
            args.backend,
            args.follow_forks,
            args.hold,
            args.freeze,
            args.stdin,
            args.lossy,
        )
    except (AttachError, BtfError, CompileError, InvokerError, TraceeError) as error:
        print(f"sockstep: {error}", file=sys.stderr)
        return 2
    except Exception as error:  # a defect of ours: our end has the guardian see to the program
        frame = traceback.extract_tb(error.__traceback__)[-1]
        what = " ".join(f"{type(error).__name__}: {error}".split())
        where = f"{os.path.basename(frame.filename)}, line {frame.lineno}"
        print(
            f"sockstep: the agent failed, which is a bug in it: {what} ({where})", file=sys.stderr
        )
        return os.EX_SOFTWARE
    finally:
        launcher.close()
