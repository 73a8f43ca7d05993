"""The kernel stack of a frozen task, unwound by the kernel's own tables (ORC).

Read from the machine's memory, as arch/x86/kernel/unwind_orc.c does; asm/orc_types.h and
asm/orc_lookup.h say what is where. Addresses only: the agent knows their names.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from probes.landmarks import ORC
from probes.vm.guest import Guest

MOST = 32  # frames
_BLOCK = 256  # bytes of code for each word of orc_lookup
_ENTRY = struct.Struct("<hhH")  # sp_offset, bp_offset, flags
_BP_AT, _IP_AT, _CS_AT, _SP_AT = 32, 128, 136, 152  # in struct pt_regs
# ORC_REG_*: what a frame is found by. The numbers are others in 7.2 than in 6.12; that of the stack
# pointer, by which the frame is found where a function begins, tells which they are.
_NUMBERS = (
    {1: "previous sp", 4: "bp", 5: "sp", 8: "at bp", 9: "at sp"},
    {3: "sp", 4: "bp", 8: "previous sp", 9: "at sp", 10: "at bp"},
)


@dataclass(frozen=True)
class _Orc:
    """How to find the caller's frame, by which of _NUMBERS. `kind`: "call", "regs", "partial"."""

    sp_offset: int
    bp_offset: int
    sp_by: str
    bp_by: str
    kind: str


class Unwinder:
    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._tables = [guest.marks.symbols.get(name, 0) for name in ORC]
        # Before 6.4 the type has two bits and counts from "call", and a bit says where it ends.
        self._old = "orc_entry.end" in guest.marks.offsets
        self._known: dict[int, _Orc | None] = {}
        begins = self._entry(guest.marks.symbols["__sys_socket"])
        number = begins[2] & 15 if begins is not None else 0
        self._numbers = next((set for set in _NUMBERS if set.get(number) == "sp"), _NUMBERS[0])

    def frames(self, ip: int, sp: int, bp: int, returns: Mapping[int, int]) -> list[int]:
        """The addresses of a stack, innermost first: `ip` and where each function returns to.

        `returns`: stack slot → where its function truly returns to, for those whose return address
        a kretprobe has replaced. It ends where the tables do: in user mode, or in a module.
        """
        word = self._guest.word
        found = [ip]
        exact = True  # the instruction itself, not the one after a call
        while len(found) < MOST and (orc := self._orc(ip if exact else ip - 1)) is not None:
            if (before := self._before(orc, sp, bp)) is None:
                break
            exact = orc.kind != "call"
            if orc.kind == "call":
                ip = returns.get(before - 8) or word(before - 8)
                bp = self._bp(orc, before, bp)
                sp = before
            else:
                regs = before - (_IP_AT if orc.kind == "partial" else 0)
                if word(regs + _CS_AT) & 3:  # of user mode
                    break
                ip, sp = word(regs + _IP_AT), word(regs + _SP_AT)
                bp = word(regs + _BP_AT) if orc.kind == "regs" else bp
            if not ip:
                break
            found.append(ip)
        return found

    def base(self, ip: int, sp: int, bp: int, until: Callable[[int], bool]) -> int | None:
        """The stack pointer in the first caller that `until` says yes to; None: not found.

        The callers return to where `until` is asked for.
        """
        for number in range(MOST):
            orc = self._orc(ip if number == 0 else ip - 1)
            before = self._before(orc, sp, bp) if orc is not None and orc.kind == "call" else None
            if orc is None or before is None:
                break
            ip = self._guest.word(before - 8)
            bp = self._bp(orc, before, bp)
            sp = before
            if until(ip):
                return sp
        return None

    def knows(self, ip: int) -> bool:
        """Whether the tables tell of an instruction."""
        return self._orc(ip) is not None

    def _before(self, orc: _Orc, sp: int, bp: int) -> int | None:
        """The stack pointer of the caller, or where a struct pt_regs is."""
        match orc.sp_by:
            case "bp":
                return bp + orc.sp_offset
            case "sp":
                return sp + orc.sp_offset
            case "at bp":
                return self._guest.word(bp + orc.sp_offset)
            case "at sp":
                return self._guest.word(sp) + orc.sp_offset
        return None

    def _bp(self, orc: _Orc, before: int, bp: int) -> int:
        match orc.bp_by:
            case "previous sp":
                return self._guest.word(before + orc.bp_offset)
            case "bp":
                return self._guest.word(bp + orc.bp_offset)
        return bp

    def _orc(self, ip: int) -> _Orc | None:
        """The table's entry for an instruction; None where it has none, or says that it ends."""
        if ip not in self._known:
            self._known[ip] = self._found(ip)
        return self._known[ip]

    def _found(self, ip: int) -> _Orc | None:
        if (entry := self._entry(ip)) is None:
            return None
        sp_offset, bp_offset, flags = entry
        if not (kind := _kind(flags, self._old)):
            return None
        by = self._numbers.get
        return _Orc(sp_offset, bp_offset, by(flags & 15, ""), by(flags >> 4 & 15, ""), kind)

    def _entry(self, ip: int) -> tuple[int, int, int] | None:
        """sp_offset, bp_offset and flags of the table's entry for an instruction."""
        text, lookup, end, ips, entries = self._tables
        block = lookup + (ip - text) // _BLOCK * 4
        if not all(self._tables) or not lookup <= block < end - 4:
            return None
        first, last = self._guest.word(block, 4), self._guest.word(block + 4, 4)
        data = self._guest.bytes(ips + first * 4, (last - first + 1) * 4)
        number = None
        for i, (offset,) in enumerate(struct.iter_unpack("<i", data)):
            if ips + (first + i) * 4 + offset > ip:
                break
            number = first + i
        raw = self._guest.bytes(entries + number * 6, 6) if number is not None else b""
        return _ENTRY.unpack(raw) if raw else None


def _kind(flags: int, old: bool) -> str:
    if old:
        ends, kinds = flags >> 10 & 1, ("call", "regs", "partial", "")
        return "" if ends else kinds[flags >> 8 & 3]
    return dict(enumerate(("", "", "call", "regs", "partial"))).get(flags >> 8 & 7, "")
