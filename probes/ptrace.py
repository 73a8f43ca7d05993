"""ptrace(2), as much of it as we use: on x86-64."""

from __future__ import annotations

import ctypes as ct
import os

PEEKTEXT, POKETEXT, CONT, SINGLESTEP, GETREGS, SETREGS, DETACH = 1, 4, 7, 9, 12, 13, 17
SETOPTIONS, SEIZE = 0x4200, 0x4206
TRACEEXEC, EXITKILL = 1 << 4, 1 << 20  # options
EVENT_EXEC, EVENT_STOP = 4, 128

_libc = ct.CDLL(None, use_errno=True)
_libc.ptrace.restype = ct.c_long
_libc.ptrace.argtypes = (ct.c_long, ct.c_long, ct.c_void_p, ct.c_void_p)


class Died(Exception):
    """The process did; `status`: as wait(2) gives it."""

    def __init__(self, status: int) -> None:
        self.status = status


class Registers(ct.Structure):
    """`struct user_regs_struct` (arch/x86/include/asm/user_64.h)."""

    _fields_ = tuple(
        (name, ct.c_uint64)
        for name in (
            "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx",
            "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base",
            "ds", "es", "fs", "gs",
        )
    )  # fmt: skip

    @classmethod
    def of(cls, pid: int) -> Registers:
        """Those of a process that stands. Raises OSError."""
        registers = cls()
        ptrace(GETREGS, pid, 0, ct.addressof(registers))
        return registers

    def give(self, pid: int) -> None:
        """Let it have these. Raises OSError."""
        ptrace(SETREGS, pid, 0, ct.addressof(self))


def ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    """Raises OSError."""
    ct.set_errno(0)
    result = int(_libc.ptrace(request, pid, address, data))
    if result == -1 and (error := ct.get_errno()):
        raise OSError(error, os.strerror(error))
    return result


def wait_for_stop(pid: int) -> int:
    """Its next ptrace stop: the signal, and the event above bit 8. Raises Died."""
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status):
        raise Died(status)
    return status >> 8


def run_to(pid: int, stop: int) -> None:
    """Wait for this stop. Signals that come before are delivered. Raises Died or OSError."""
    while (found := wait_for_stop(pid)) != stop:
        ptrace(CONT, pid, 0, 0 if found >> 8 else found)
