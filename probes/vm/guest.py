"""What a frozen machine's memory holds: its tasks, their files and signals, the three layers.

Read through the gdb stub, by the landmarks that its agent gave. Nothing runs in there meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container

from probes.attach import ARM, QUOTA, QUOTAS, REFUSAL
from probes.backends import Backend
from probes.capture import count_of, number_or_pointer
from probes.landmarks import CURRENT, Landmarks
from probes.vm.gdb import Gdb, GdbError
from recordings import events as ev
from recordings.commands import REFUSALS

_RLIMIT_NOFILE, _RLIMIT_SIZE = 7, 16
_SIGACTION_SIZE, _SIG_DFL = 32, 0
# Signals whose default action does not end a task (man 7 signal).
_HARMLESS = {17, 18, 19, 20, 21, 22, 23, 28}
_MOST_TASKS, _MOST_FDS, _DEEPEST = 4096, 256, 64


class Guest:
    """The kernel of a machine that stands. A word that cannot be read is 0."""

    def __init__(self, gdb: Gdb, marks: Landmarks, backend: Backend) -> None:
        self.marks = marks
        self._gdb = gdb
        self._numbers = {point.name: number for number, point in enumerate(backend.points)}
        self._values: dict[int, int] = {}  # the agent's array maps
        self._quotas = 1 << 32

    def bytes(self, address: int, size: int) -> bytes:
        """Nothing where they cannot be read."""
        return self._gdb.read(address % 2**64, size) or b""

    def word(self, address: int, size: int = 8) -> int:
        return int.from_bytes(self.bytes(address, size), "little")

    def field(self, base: int, name: str, size: int = 8) -> int:
        """A field, "struct.path", of the struct at `base`."""
        return self.word(base + self.marks.offsets[name], size) if base else 0

    # -- tasks ---------------------------------------------------------------------------

    def current(self, registers: dict[str, int]) -> int:
        """The task that a virtual CPU, in the kernel, is running: its task_struct."""
        symbols = self.marks.symbols
        variable = next(symbols[name] for name in CURRENT if name in symbols)
        return self.word(registers["gs_base"] + variable)

    def ids(self, task: int) -> tuple[int, int]:
        """(tgid, pid): the process and the thread, as user space numbers them."""
        return self.field(task, "task_struct.tgid", 4), self.field(task, "task_struct.pid", 4)

    def _task(self, pid: int) -> int:
        """The task_struct of a process. Raises GdbError where there is none."""
        first = task = self.marks.symbols["init_task"]
        for _ in range(_MOST_TASKS):
            if self.field(task, "task_struct.pid", 4) == pid:
                return task
            following = self.field(task, "task_struct.tasks")
            task = following - self.marks.offsets["task_struct.tasks"]
            if task == first:
                break
        raise GdbError(f"the machine has no task {pid}")

    def signals(self, task: int) -> tuple[list[int], list[int], list[int]]:
        """The signals pending for the thread, pending for its process, and blocked."""
        group = self.field(task, "task_struct.signal")
        return (
            _members(self.field(task, "task_struct.pending.signal")),
            _members(self.field(group, "signal_struct.shared_pending.signal")),
            _members(self.field(task, "task_struct.blocked")),
        )

    def dies(self, task: int) -> bool:
        """Whether a signal is pending that ends the task once it is taken."""
        pending, shared, blocked = self.signals(task)
        actions = self.field(task, "task_struct.sighand")
        actions += self.marks.offsets["sighand_struct.action"]
        return any(
            self.word(actions + (signo - 1) * _SIGACTION_SIZE) == _SIG_DFL
            for signo in {*pending, *shared} - set(blocked) - _HARMLESS
        )

    def limit(self, task: int, nofile: int) -> int:
        """Set the soft RLIMIT_NOFILE of its process; what it was."""
        group = self.field(task, "task_struct.signal")
        at = group + self.marks.offsets["signal_struct.rlim"] + _RLIMIT_NOFILE * _RLIMIT_SIZE
        before = self.word(at)
        self._gdb.write(at, nofile.to_bytes(8, "little"))
        return before

    # -- the agent's maps ----------------------------------------------------------------

    def quota(self, times: int) -> int:
        """The serial of a new quota; the agent's own count from the other end."""
        if not times:
            return 0
        self._quotas -= 1
        at = self._array(self.marks.quotas) + self._quotas % QUOTAS * QUOTA.size
        self._gdb.write(at, QUOTA.pack(self._quotas, times, 0))
        return self._quotas

    def arm(self, point: str, signo: int, serial: int) -> None:
        """Have the program at a point send a signal to the tasks that come there next."""
        at = self._array(self.marks.arms) + self._numbers[point] * ARM.size
        _, _, stop, _ = ARM.unpack(self.bytes(at, ARM.size) or bytes(ARM.size))
        self._gdb.write(at, ARM.pack(signo, serial, stop, 0))

    def refuse(self, hook: str, errno: int, times: int) -> None:
        """Have the programs at a hook refuse with −`errno`, the next `times` times."""
        at = self._array(self.marks.refusals) + [*REFUSALS].index(hook) * REFUSAL.size
        self._gdb.write(at, REFUSAL.pack(self.quota(times), errno))

    def _array(self, fd: int) -> int:
        """Where the values are of an array map that the agent has this descriptor of."""
        if fd not in self._values:
            file = self._file(self._task(self.marks.agent), fd) or 0
            array = self.field(file, "file.private_data")
            self._values[fd] = array + self.marks.offsets["bpf_array.value"]
        return self._values[fd]

    # -- files ---------------------------------------------------------------------------

    def _table(self, task: int) -> tuple[int, int]:
        """The address of a task's array of files, and how many it has room for."""
        table = self.field(self.field(task, "task_struct.files"), "files_struct.fdt")
        return self.field(table, "fdtable.fd"), self.field(table, "fdtable.max_fds", 4)

    def _file(self, task: int, fd: int) -> int | None:
        """What fdt->fd[fd] leads to; None where the table is not as long."""
        files, most = self._table(task)
        return self.word(files + 8 * fd) if files and fd < most else None

    def fds(self, task: int) -> tuple[list[ev.Open], bool]:
        """The lowest of its open descriptors, as /proc/PID/fd has them; if there may be more."""
        files, most = self._table(task)
        data = self.bytes(files, 8 * min(most, _MOST_FDS))
        slots = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
        found = [ev.Open(number=fd, to=self._named(file)) for fd, file in enumerate(slots) if file]
        return found, most > _MOST_FDS

    def _named(self, file: int) -> str:
        """What a file is called: as d_path() of fs/d_path.c, for files, sockets and pipes."""
        inode = self.field(file, "file.f_inode")
        mode, number = self.field(inode, "inode.i_mode", 2), self.field(inode, "inode.i_ino")
        for kind, word in ((stat.S_IFSOCK, "socket"), (stat.S_IFIFO, "pipe")):
            if stat.S_IFMT(mode) == kind:
                return f"{word}:[{number}]"
        offsets = self.marks.offsets
        dentry = self.field(file, "file.f_path.dentry")
        mount = self.field(file, "file.f_path.mnt") - offsets["mount.mnt"]
        parts: list[str] = []
        for _ in range(_DEEPEST):
            parent = self.field(dentry, "dentry.d_parent")
            root = self.word(mount + offsets["mount.mnt"] + offsets["vfsmount.mnt_root"])
            if dentry == root or parent == dentry:
                above = self.field(mount, "mount.mnt_parent")
                if above in (0, mount):
                    return "/" + "/".join(reversed(parts))
                dentry, mount = self.field(mount, "mount.mnt_mountpoint"), above
                continue
            parts.append(self._text(self.field(dentry, "dentry.d_name.name")))
            dentry = parent
        return "?"

    def _text(self, address: int) -> str:
        data = self.bytes(address, 64)
        while b"\0" not in data and len(data) < 256:
            if not (more := self.bytes(address + len(data), 64)):
                break
            data += more
        return os.fsdecode(data.partition(b"\0")[0])

    # -- the layers ----------------------------------------------------------------------

    def snapshot(
        self,
        file: int,
        socket: int,
        sock: int,
        task: int = 0,
        fd: int | None = None,
        unset: Container[str] = (),
    ) -> ev.Snapshot:
        """The fields of the layers, as bpf/common.c reads them; of address 0: nothing.

        `unset`: those that are slab leftovers at this moment, and no value.
        """
        at = {"file": file, "socket": socket, "sock": sock}
        read: dict[str, dict[str, ev.Ptr | int]] = {layer: {} for layer in at}
        ends = dict.fromkeys(at, 0)
        for layer, _, offset, size in self.marks.fields:
            ends[layer] = max(ends[layer], offset + size)
        data = {layer: self._gdb.read(at[layer], ends[layer]) for layer in at if at[layer]}
        for layer, name, offset, size in self.marks.fields:
            if (struct := data.get(layer)) is not None and name not in unset:
                value = int.from_bytes(struct[offset : offset + size], "little")
                if name == "f_count" and self.marks.f_ref:
                    value = count_of(value)
                read[layer][name] = number_or_pointer(name, value)
        slot = self._file(task, fd) if fd is not None else None
        return ev.Snapshot(
            fd=None if fd is None else ev.Fd(number=fd, file=None if slot is None else hex(slot)),
            file=ev.File(at=hex(file), **read["file"]) if file else None,  # type: ignore[arg-type]
            socket=ev.Socket(at=hex(socket), **read["socket"]) if socket else None,  # type: ignore[arg-type]
            sock=ev.Sock(at=hex(sock), **read["sock"]) if sock else None,  # type: ignore[arg-type]
        )


def _members(mask: int) -> list[int]:
    return [number + 1 for number in range(64) if mask >> number & 1]
