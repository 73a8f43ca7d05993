"""Running a program past its dynamic loader: to its own first instruction.

What is done to a program before it runs would be done to its loader, which opens files, too.
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import os
import platform
import signal
import struct
from collections.abc import Callable
from pathlib import Path

from probes.hold import Registers, ptrace

_AT_BASE, _AT_ENTRY = 7, 9  # include/uapi/linux/auxvec.h
_CONT, _GETREGS, _SETREGS, _DETACH, _PEEKTEXT, _POKETEXT = 7, 12, 13, 17, 1, 4
_SEIZE = 0x4206
_EVENT_STOP = 128
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


def past_loader(pid: int, entry: int, do: Callable[[], None]) -> None:
    """Resume a process that stands before its first instruction, `do` at `entry`, and let it run.

    If a signal comes before, or it cannot be traced, `do` is done then. It may die on the way.
    """
    try:
        ptrace(_SEIZE, pid)
    except OSError:
        do()
        os.kill(pid, signal.SIGCONT)
        return
    with contextlib.suppress(OSError):
        os.waitpid(pid, 0)
        word = ptrace(_PEEKTEXT, pid, entry)
        ptrace(_POKETEXT, pid, entry, word & ~0xFF | _INT3)
        os.kill(pid, signal.SIGCONT)
        signo = _run_to(pid, entry)
        ptrace(_POKETEXT, pid, entry, word)
        do()
        ptrace(_DETACH, pid, 0, signo)


def _run_to(pid: int, entry: int) -> int:
    """Until the breakpoint there, 0, or a signal that is not ours, which it has not taken yet."""
    signo = 0
    while True:
        ptrace(_CONT, pid, 0, signo)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            raise ProcessLookupError
        signo = os.WSTOPSIG(status)
        if status >> 16 == _EVENT_STOP or signo == signal.SIGCONT:
            signo = 0  # of the stop that it comes from
            continue
        registers = Registers()
        ptrace(_GETREGS, pid, 0, ct.addressof(registers))
        if signo == signal.SIGTRAP and registers.rip == entry + 1:
            registers.rip = entry
            ptrace(_SETREGS, pid, 0, ct.addressof(registers))
            return 0
        return signo
