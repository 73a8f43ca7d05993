"""Where the fields of kernel structs are, on the running kernel: its BTF, read by libbpf.

libbpf is there wherever the distribution's bcc is. See Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import ctypes as ct
from functools import cache

_KIND_STRUCT, _KIND_UNION, _KIND_FUNC = 4, 5, 12
_SKIPPED = {8, 9, 10, 11, 18}  # typedef, volatile, const, restrict, type tag


class BtfError(Exception):
    """This kernel's BTF cannot be read, in one line."""


class _Type(ct.Structure):
    _fields_ = (("name_off", ct.c_uint32), ("info", ct.c_uint32), ("size", ct.c_uint32))

    @property
    def kind(self) -> int:
        return int(self.info) >> 24 & 0x1F

    @property
    def vlen(self) -> int:
        return int(self.info) & 0xFFFF


class _Member(ct.Structure):
    _fields_ = (("name_off", ct.c_uint32), ("type", ct.c_uint32), ("offset", ct.c_uint32))


@cache
def libbpf() -> ct.CDLL:
    """libbpf, version 1 or 0; raises BtfError."""
    for name in ("libbpf.so.1", "libbpf.so.0"):
        try:
            lib = ct.CDLL(name, use_errno=True)
        except OSError:
            continue
        lib.btf__type_by_id.restype = ct.POINTER(_Type)
        lib.btf__type_by_id.argtypes = (ct.c_void_p, ct.c_uint32)
        lib.btf__name_by_offset.restype = ct.c_char_p
        lib.btf__name_by_offset.argtypes = (ct.c_void_p, ct.c_uint32)
        lib.btf__find_by_name_kind.restype = ct.c_int32
        lib.btf__find_by_name_kind.argtypes = (ct.c_void_p, ct.c_char_p, ct.c_uint32)
        return lib
    raise BtfError("libbpf is missing: apt install libbpf1")


@cache
def kernel_btf() -> Btf:
    """The BTF of the running kernel, parsed once (13 ms). Raises BtfError where it has none."""
    return Btf()


class Btf:
    """The BTF of the running kernel. Raises BtfError where it has none."""

    def __init__(self) -> None:
        self._lib = libbpf()
        # The second name is the one before libbpf 0.5.
        names = ("btf__load_vmlinux_btf", "libbpf_find_kernel_btf")
        load = next(getattr(self._lib, name) for name in names if hasattr(self._lib, name))
        load.restype = ct.c_void_p
        self._btf = load()
        if not self._btf or self._btf > 2**64 - 4096:  # libbpf 0 returns ERR_PTR
            raise BtfError("this kernel has no BTF (/sys/kernel/btf/vmlinux)")
        self._ids: dict[tuple[str, int], int] = {}

    def _name(self, offset: int) -> str:
        return str(self._lib.btf__name_by_offset(self._btf, offset).decode())

    def _find(self, name: str, kind: int) -> int:
        """The id of a type, below 1 where there is none. libbpf compares all names: 1 ms."""
        if (id := self._ids.get((name, kind))) is None:
            id = int(self._lib.btf__find_by_name_kind(self._btf, name.encode(), kind))
            self._ids[name, kind] = id
        return id

    def offset(self, struct: str, path: str) -> int | None:
        """Byte offset of `path` ("a.b") in `struct NAME`; None where there is no such field.

        Fields of anonymous structs and unions are found as C finds them.
        """
        id = self._find(struct, _KIND_STRUCT)
        total = 0
        for part in path.split("."):
            found = self._member(id, part) if id > 0 else None
            if found is None:
                return None
            bits, id = found
            total += bits // 8
        return total

    def function_id(self, name: str) -> int | None:
        """The BTF id of a kernel function; None where it has none."""
        id = self._find(name, _KIND_FUNC)
        return id if id > 0 else None

    def parameters(self, function: str) -> int | None:
        """How many parameters a kernel function takes; None where BTF does not know it."""
        id = self._find(function, _KIND_FUNC)
        if id <= 0:
            return None
        proto = self._lib.btf__type_by_id(self._btf, id).contents.size
        return int(self._lib.btf__type_by_id(self._btf, proto).contents.vlen)

    def _member(self, id: int, name: str) -> tuple[int, int] | None:
        pointer = self._lib.btf__type_by_id(self._btf, id)
        while pointer and pointer.contents.kind in _SKIPPED:
            pointer = self._lib.btf__type_by_id(self._btf, pointer.contents.size)
        if not pointer or pointer.contents.kind not in (_KIND_STRUCT, _KIND_UNION):
            return None
        type = pointer.contents
        members = ct.cast(ct.addressof(type) + ct.sizeof(_Type), ct.POINTER(_Member))
        for i in range(type.vlen):
            member = members[i]
            # With kind_flag the upper 8 bits are a bit-field's size.
            bits = member.offset & 0xFFFFFF if type.info >> 31 else member.offset
            if member.name_off == 0 or not (own := self._name(member.name_off)):
                if found := self._member(member.type, name):
                    return bits + found[0], found[1]
            elif own == name:
                return bits, member.type
        return None
