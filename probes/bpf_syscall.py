"""bpf(2) and perf_event_open(2): maps, programs, attaching (include/uapi/linux/bpf.h).

A descriptor is all that keeps a map, a program or an attachment alive: when this process ends,
however it ends, the kernel takes them away.
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import errno
import fcntl
import mmap
import os
import platform
import resource
from collections.abc import Container, Iterator
from pathlib import Path

import msgspec

_X86 = platform.machine() == "x86_64"
_SYS_BPF, _SYS_PERF_EVENT_OPEN = (321, 298) if _X86 else (280, 241)
(
    _MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _, _PROG_LOAD,
) = range(6)  # fmt: skip
_PROG_GET_NEXT_ID, _OBJ_GET_INFO_BY_FD, _RAW_TRACEPOINT_OPEN, _LINK_CREATE = 11, 15, 17, 28
PROG_KPROBE, PROG_TRACEPOINT, PROG_CGROUP_SOCK, PROG_RAW_TRACEPOINT = 2, 5, 9, 17
PROG_TRACING, PROG_LSM = 26, 29
# enum bpf_attach_type
CGROUP_INET_SOCK_CREATE, TRACE_FENTRY, TRACE_FEXIT, MODIFY_RETURN, LSM_MAC = 2, 24, 25, 26, 27
F_SLEEPABLE = 1 << 4
_ARRAY, _PERCPU_ARRAY = 2, 6
_F_MMAPABLE = 1 << 10
_AGAIN = 20  # times that a load is tried, which any signal breaks off
_LOG_SIZE = 1 << 16
# A record of a ring buffer: its length and two flags (32 bits), 32 bits more, the data.
RING_HEADER, RING_BUSY, RING_DISCARDED = 8, 1 << 31, 1 << 30
RING_LENGTH = RING_DISCARDED - 1
_PERF_TYPE_TRACEPOINT, _PERF_FLAG_FD_CLOEXEC = 2, 8
_PERF_IOC_ENABLE, _PERF_IOC_SET_BPF = 0x2400, 0x40042408

_libc = ct.CDLL(None, use_errno=True)


def _bpf(command: int, *fields: tuple[int, int, int]) -> int:
    """bpf(command, attr): `fields` are (offset, size, value) in union bpf_attr. Raises OSError."""
    attr = bytearray(128)
    for offset, size, value in fields:
        attr[offset : offset + size] = value.to_bytes(size, "little")
    packed = ct.create_string_buffer(bytes(attr), 128)
    result = _libc.syscall(_SYS_BPF, command, packed, 128)
    if result < 0 and ct.get_errno() == errno.EPERM and command in (_MAP_CREATE, _PROG_LOAD):
        with _memory_unlimited():
            result = _libc.syscall(_SYS_BPF, command, packed, 128)
    if result < 0:
        error = ct.get_errno()
        raise OSError(error, os.strerror(error))
    return int(result)


@contextlib.contextmanager
def _memory_unlimited() -> Iterator[None]:
    """Before Linux 5.11 maps and programs count as locked memory. What we start inherits none."""
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (-1, -1))
    try:
        yield
    finally:
        number = ct.get_errno()
        resource.setrlimit(resource.RLIMIT_MEMLOCK, before)
        ct.set_errno(number)


def _info(fd: int) -> ct.Array[ct.c_uint32]:
    """struct bpf_map_info or bpf_prog_info of a descriptor, as 32-bit words."""
    info = (ct.c_uint32 * 64)()
    _bpf(_OBJ_GET_INFO_BY_FD, (0, 4, fd), (4, 4, ct.sizeof(info)), (8, 8, ct.addressof(info)))
    return info


class MapShape(msgspec.Struct):
    """What BPF_MAP_CREATE needs: enum bpf_map_type, sizes in bytes."""

    type: int
    key: int
    value: int
    entries: int
    flags: int


def map_shape(fd: int) -> MapShape:
    info = _info(fd)
    return MapShape(info[0], info[2], info[3], info[4], info[5])


class Map:
    """A BPF map. Keys and values are bytes; of a per-CPU map the values of all CPUs in a row.

    An array is read and written as memory. During bpf(2) the kernel runs no kprobe's program on
    that CPU (bpf_disable_instrumentation): where it preempts, not even for another task.
    """

    def __init__(self, shape: MapShape) -> None:
        """Creates it. Raises OSError."""
        self.shape = shape
        self._memory: mmap.mmap | None = None
        flags = shape.flags | (_F_MMAPABLE if shape.type == _ARRAY else 0)
        fields = (shape.type, shape.key, shape.value, shape.entries, flags)
        self.fd = _bpf(_MAP_CREATE, *((4 * i, 4, value) for i, value in enumerate(fields)))
        size = shape.value
        self._stride = -(-size // 8) * 8
        if shape.type == _ARRAY:
            self._memory = mmap.mmap(self.fd, self._stride * shape.entries)
        if shape.type == _PERCPU_ARRAY:
            cpus = Path("/sys/devices/system/cpu/possible").read_text().strip()
            size = -(-size // 8) * 8 * (int(cpus.replace(",", "-").rpartition("-")[2]) + 1)
        self._value = ct.create_string_buffer(size)

    def _do(self, command: int, key: bytes, value: int = 0) -> None:
        buffer = ct.create_string_buffer(key, len(key))
        _bpf(command, (0, 4, self.fd), (8, 8, ct.addressof(buffer)), (16, 8, value))

    def __getitem__(self, key: bytes) -> bytes:
        """Raises OSError (ENOENT) where the key is not there."""
        if self._memory is not None:
            at = int.from_bytes(key, "little") * self._stride
            return self._memory[at : at + self.shape.value]
        self._do(_MAP_LOOKUP, key, ct.addressof(self._value))
        return self._value.raw

    def __setitem__(self, key: bytes, value: bytes) -> None:
        if self._memory is not None:
            at = int.from_bytes(key, "little") * self._stride
            self._memory[at : at + len(value)] = value
            return
        buffer = ct.create_string_buffer(value, len(value))
        self._do(_MAP_UPDATE, key, ct.addressof(buffer))

    def __delitem__(self, key: bytes) -> None:
        self._do(_MAP_DELETE, key)

    def total(self, index: int) -> int:
        """A number of an array of u64; of a per-CPU one the sum over all CPUs."""
        value = self[index.to_bytes(4, "little")]
        return sum(int.from_bytes(value[i : i + 8], "little") for i in range(0, len(value), 8))


class Ring:
    """The reading end of a BPF ring buffer (kernel/bpf/ringbuf.c)."""

    def __init__(self, fd: int, size: int) -> None:
        """Map it: a page with our position, one with the producers', and the data twice in a row,
        so that no record is in two pieces. Raises OSError."""
        read = {"flags": mmap.MAP_SHARED, "prot": mmap.PROT_READ}
        consumer = mmap.mmap(fd, mmap.PAGESIZE)
        producer = mmap.mmap(fd, mmap.PAGESIZE + 2 * size, offset=mmap.PAGESIZE, **read)
        self._consumed = memoryview(consumer).cast("Q")
        self._produced = memoryview(producer)[:8].cast("Q")
        self._data = memoryview(producer)[mmap.PAGESIZE :]
        self._words = self._data.cast("I")
        self._mask = size - 1

    @property
    def fill(self) -> int:
        """Bytes that wait, records that are being written included."""
        return self._produced[0] - self._consumed[0]

    def take(self, offset: int, values: Container[int]) -> tuple[bytes, list[int]]:
        """Take all complete records out: with their headers, each a multiple of 8 bytes long.

        Also returns where the data of those records begins whose 32-bit word at `offset` has one
        of the `values`.
        """
        words, mask = self._words, self._mask
        start = at = self._consumed[0]
        end = self._produced[0]
        offset = (offset + RING_HEADER) >> 2
        found = []
        while at < end:
            word = (at & mask) >> 2
            length = words[word]
            if length & RING_BUSY:
                break
            if words[word + offset] in values:
                found.append(at - start + RING_HEADER)
            at += (length & RING_LENGTH) + RING_HEADER + 7 & ~7
        data = bytes(self._data[start & mask : (start & mask) + at - start])
        self._consumed[0] = at
        return data, found


def load(code: bytes, type: int, attach_type: int = 0, btf_id: int = 0, flags: int = 0) -> int:
    """Load a program (tracing, LSM: for the kernel function with this BTF id); its descriptor.

    Raises OSError, whose text ends with the verifier's last words.
    """
    instructions = ct.create_string_buffer(code, len(code))
    license = ct.create_string_buffer(b"Dual MIT/GPL")
    log = ct.create_string_buffer(_LOG_SIZE)
    fields = (
        (0, 4, type),
        (4, 4, len(code) // 8),
        (8, 8, ct.addressof(instructions)),
        (16, 8, ct.addressof(license)),
        (44, 4, flags),
        (68, 4, attach_type),
        (108, 4, btf_id),
    )
    for left in reversed(range(_AGAIN)):
        try:
            return _bpf(_PROG_LOAD, *fields)
        except OSError as error:
            first = error
        if first.errno != errno.EAGAIN or not left:
            break
    verbose = ((24, 4, 1), (28, 4, _LOG_SIZE), (32, 8, ct.addressof(log)))
    with contextlib.suppress(OSError):
        os.close(_bpf(_PROG_LOAD, *fields, *verbose))
    lines = [line for line in log.value.decode(errors="replace").splitlines() if line]
    said = [line for line in lines if not line.startswith("processed ")][-1:]
    raise OSError(first.errno, "; ".join([first.strerror or "", *said]))


def attach_raw(program: int, tracepoint: str = "") -> int:
    """Attach to a raw tracepoint; without a name, to the function the program was loaded on."""
    name = ct.create_string_buffer(tracepoint.encode())
    where = ct.addressof(name) if tracepoint else 0
    return _bpf(_RAW_TRACEPOINT_OPEN, (0, 8, where), (8, 4, program))


def attach_cgroup(program: int, folder: Path) -> int:
    """Attach to a cgroup, to be asked for each new sock of its tasks."""
    cgroup = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _bpf(_LINK_CREATE, (0, 4, program), (4, 4, cgroup), (8, 4, CGROUP_INET_SOCK_CREATE))
    finally:
        os.close(cgroup)


def _attach_perf(program: int, *fields: tuple[int, int, int]) -> int:
    """perf_event_open(attr) for this program; `fields` as in _bpf, of struct perf_event_attr."""
    attr = bytearray(112)
    attr[4:8] = (112).to_bytes(4, "little")
    for offset, size, value in fields:
        attr[offset : offset + size] = value.to_bytes(size, "little")
    packed = ct.create_string_buffer(bytes(attr), 112)
    fd = _libc.syscall(_SYS_PERF_EVENT_OPEN, packed, -1, 0, -1, _PERF_FLAG_FD_CLOEXEC)
    if fd < 0:
        error = ct.get_errno()
        raise OSError(error, os.strerror(error))
    fcntl.ioctl(fd, _PERF_IOC_SET_BPF, program)
    fcntl.ioctl(fd, _PERF_IOC_ENABLE, 0)
    return int(fd)


def attach_tracepoint(program: int, id: int) -> int:
    """Attach to a tracepoint by the id that tracefs gives it."""
    return _attach_perf(program, (0, 4, _PERF_TYPE_TRACEPOINT), (8, 8, id), (16, 8, 1))


def attach_kprobe(program: int, function: str, at_return: bool) -> int:
    """Attach to the entry, or the return, of a kernel function."""
    pmu = Path("/sys/bus/event_source/devices/kprobe")
    name = ct.create_string_buffer(function.encode())
    config = 1 << int((pmu / "format/retprobe").read_text().rpartition(":")[2]) if at_return else 0
    type = int((pmu / "type").read_text())
    return _attach_perf(program, (0, 4, type), (8, 8, config), (56, 8, ct.addressof(name)))


def recursion_misses(program: int) -> int:
    """Times the kernel skipped a program because one ran already on that CPU.

    `recursion_misses` of struct bpf_prog_info; 0 before Linux 5.12, which does not count them.
    """
    info = _info(program)
    return int(info[52]) | int(info[53]) << 32


def program_ids() -> set[int]:
    """The ids of all BPF programs in the kernel."""
    ids: set[int] = set()
    attr = (ct.c_uint32 * 32)()
    while _libc.syscall(_SYS_BPF, _PROG_GET_NEXT_ID, attr, 128) >= 0:
        ids.add(int(attr[1]))
        attr[0] = attr[1]
    return ids
