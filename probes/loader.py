"""Running a program past its dynamic loader: to its own first instruction.

What is done to a program before it runs would be done to its loader, which opens files, too.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import struct
from collections.abc import Callable
from pathlib import Path

from probes import ptrace as pt

_AT_BASE, _AT_ENTRY = 7, 9  # include/uapi/linux/auxvec.h
_INT3 = 0xCC


def entry_point(pid: int) -> int | None:
    """Where the program of a process begins, if its dynamic loader comes before (AT_ENTRY)."""
    if platform.machine() != "x86_64":
        return None
    try:
        vector = dict(struct.iter_unpack("QQ", Path(f"/proc/{pid}/auxv").read_bytes()))
    except OSError:
        return None
    return vector.get(_AT_ENTRY) if vector.get(_AT_BASE) else None


def past_loader(pid: int, entry: int, do: Callable[[], None]) -> int | None:
    """Resume a process that stands before its first instruction, `do` at `entry`, and let it run.

    If a signal comes before, or it cannot be traced, `do` is done then. If it dies on the way: its
    wait status.
    """
    try:
        pt.ptrace(pt.SEIZE, pid, 0, pt.EXITKILL)  # should we die, it would meet the breakpoint
    except OSError:
        do()
        os.kill(pid, signal.SIGCONT)
        return None
    signo = 0
    try:
        pt.wait_for_stop(pid)
        word = pt.ptrace(pt.PEEKTEXT, pid, entry)
        pt.ptrace(pt.POKETEXT, pid, entry, word & ~0xFF | _INT3)
        os.kill(pid, signal.SIGCONT)
        signo = _run_to(pid, entry)
        pt.ptrace(pt.POKETEXT, pid, entry, word)
        do()
    except pt.Died as died:
        return died.status
    except OSError:  # it is being killed
        os.kill(pid, signal.SIGCONT)
    finally:
        with contextlib.suppress(OSError):
            pt.ptrace(pt.DETACH, pid, 0, signo)
    return None


def _run_to(pid: int, entry: int) -> int:
    """Until the breakpoint there, 0, or a signal that is not ours, which it has not taken yet."""
    signo = 0
    while True:
        pt.ptrace(pt.CONT, pid, 0, signo)
        stop = pt.wait_for_stop(pid)
        signo = stop & 0xFF
        if stop >> 8 == pt.EVENT_STOP or signo == signal.SIGCONT:
            signo = 0  # of the stop that it comes from
            continue
        registers = pt.Registers.of(pid)
        if signo == signal.SIGTRAP and registers.rip == entry + 1:
            registers.rip = entry
            registers.give(pid)
            return 0
        return signo
