"""The kprobes of a machine that stands, and what its kernel reads as it is about to call one.

Stopped by a watchpoint there, and not by a breakpoint on the function: only probed functions stop
the machine, at a return as at an entry, and QEMU keeps what it has translated.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from probes.landmarks import TRAMPOLINES
from probes.vm.guest import Guest
from probes.vm.unwind import Unwinder
from recordings.events import At

Place = tuple[str, At]  # a function, and where in it: "entry" or "exit"

_BUCKETS = 64  # of kprobe_table: KPROBE_TABLE_SIZE (kernel/kprobes.c)
_MOST = 256  # kprobes in one list
_ENDBR = 4  # bytes; where a function begins with it, its probe is after it
_BEGINNING = 16  # bytes of a function: its probe is in there
_TRAMPOLINE = 64  # bytes: the trampolines call their handlers before that
_REGISTERS = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx",
    "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss",
)  # fmt: skip
_PT_REGS = struct.Struct(f"<{len(_REGISTERS)}Q")


class Kprobes:
    """`places`: what is read as a probe is called → where that probe is.

    kprobe_ftrace_handler() reads kprobe.pre_handler, and kretprobe_rethook_handler() (in 5.10
    __kretprobe_trampoline_handler()) kretprobe.handler: at times more than once. Where a probe is
    skipped, as it comes amid another one, that is counted, and read for it too.
    """

    def __init__(self, guest: Guest, unwinder: Unwinder, functions: Mapping[str, int]) -> None:
        self._guest, self._unwinder = guest, unwinder
        symbols, offsets = guest.marks.symbols, guest.marks.offsets
        self._returns = [symbols[name] for name in TRAMPOLINES if name in symbols]
        names = {at + more: name for name, at in functions.items() for more in (0, _ENDBR)}
        self._functions = functions
        self.places: dict[int, Place] = {}
        for probe in self._table():
            if (name := names.get(guest.field(probe, "kprobe.addr"))) is None:
                continue
            self.places[probe + offsets["kprobe.pre_handler"]] = name, "entry"
            for one in (probe, *self._gathered(probe)):
                if guest.field(one, "kprobe.pre_handler") == symbols["pre_handler_kretprobe"]:
                    at = one - offsets["kretprobe.kp"] + offsets["kretprobe.handler"]
                    self.places[at] = name, "exit"

    def _table(self) -> Iterator[int]:
        table = self._guest.marks.symbols["kprobe_table"]
        for bucket in range(_BUCKETS):
            node = self._guest.word(table + 8 * bucket)
            for _ in range(_MOST):
                if not node:
                    break
                yield node - self._guest.marks.offsets["kprobe.hlist"]
                node = self._guest.word(node)

    def _gathered(self, probe: int) -> Iterator[int]:
        """The probes for which this one stands, where there are several on a function."""
        symbols, offset = self._guest.marks.symbols, self._guest.marks.offsets["kprobe.list"]
        if self._guest.field(probe, "kprobe.pre_handler") != symbols["aggr_pre_handler"]:
            return
        node = head = probe + offset
        for _ in range(_MOST):
            if (node := self._guest.word(node)) in (0, head):
                break
            yield node - offset

    def registers(self, place: Place, cpu: Mapping[str, int]) -> dict[str, int]:
        """The registers at the place, of the CPU whose own these are; {}: it is not there.

        They are what the probe is called with: the struct pt_regs that the kernel put on the stack
        as it came from the function, or from its return. It is the end of the frames since then.
        """
        at = self._unwinder.base(cpu["rip"], cpu["rsp"], cpu["rbp"], self._came)
        data = self._guest.bytes(at, _PT_REGS.size) if at is not None else b""
        if not data:
            return {}
        found = dict(zip(_REGISTERS, _PT_REGS.unpack(data), strict=True))
        if place[1] == "entry":
            function = self._functions[place[0]]
            if not 0 <= found["rip"] - function <= _BEGINNING:
                return {}
            found["rip"] = function
        return found

    def _came(self, ip: int) -> bool:
        """Whether this is the code that put them there: ftrace's, which has no tables, or the
        trampoline that a function returned to.
        """
        trampolines = any(0 <= ip - at < _TRAMPOLINE for at in self._returns)
        return trampolines or not self._unwinder.knows(ip)
