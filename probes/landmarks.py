"""What a debugger outside of the machine must know of its kernel: where things are.

The agent of a machine that can be frozen says it before its stream's first line, to
probes/vm/frozen.py. Addresses hold for as long as the machine is up.
"""

from __future__ import annotations

import os

import msgspec

from probes.attach import Attached, fields, offset
from probes.kallsyms import Kallsyms

# Where a function returns to that a kretprobe watches; the name differs between kernels.
TRAMPOLINES = ("arch_rethook_trampoline", "__kretprobe_trampoline", "kretprobe_trampoline")
# Per-CPU, before the task itself: in Linux 6.2 to 6.14 it is the first member of another variable.
CURRENT = ("current_task", "pcpu_hot")
# Where a CPU spins until another has done something.
SPINS = ("native_queued_spin_lock_slowpath", "smp_call_function_many_cond")
# The tables for unwinding a stack: probes/vm/unwind.py.
ORC = (
    "_stext", "orc_lookup", "orc_lookup_end", "__start_orc_unwind_ip", "__start_orc_unwind",
)  # fmt: skip
# The kernel's kprobes, and what their handlers are that are no user's own: probes/vm/kprobes.py.
_KPROBES = ("kprobe_table", "aggr_pre_handler", "pre_handler_kretprobe")

_OFFSETS = (
    "task_struct.tgid", "task_struct.pid", "task_struct.tasks", "task_struct.files",
    "task_struct.signal", "task_struct.sighand", "task_struct.blocked",
    "task_struct.pending.signal", "signal_struct.shared_pending.signal", "signal_struct.rlim",
    "sighand_struct.action",
    "files_struct.fdt", "fdtable.fd", "fdtable.max_fds", "file.private_data", "file.f_inode",
    "file.f_path.dentry", "file.f_path.mnt", "dentry.d_parent", "dentry.d_name.name",
    "mount.mnt", "mount.mnt_parent", "mount.mnt_mountpoint", "vfsmount.mnt_root",
    "inode.i_mode", "inode.i_ino", "inode.i_count", "socket.sk", "socket.file",
    "socket_alloc.socket", "socket_alloc.vfs_inode", "sock.sk_rcu", "bpf_array.value",
    "orc_entry.end", "kprobe.hlist", "kprobe.list", "kprobe.addr", "kprobe.pre_handler",
    "kretprobe.kp", "kretprobe.handler",
)  # fmt: skip


class Landmarks(msgspec.Struct, tag_field="ev", tag="landmarks"):
    """`symbols`: name → address. `offsets`: "struct.field" → bytes. `fields`: as FIELDS, with their
    offsets: (layer, name, offset, bytes). `arms`, `quotas`, `refusals`: descriptors of these maps
    in the process `agent`. `refusing`: the hooks whose refusals wait for nothing but the map.
    """

    symbols: dict[str, int]
    offsets: dict[str, int]
    fields: list[tuple[str, str, int, int]]
    f_ref: bool
    agent: int
    arms: int
    quotas: int
    refusals: int
    refusing: list[str]


class Named(msgspec.Struct, tag_field="ev", tag="named"):
    """The answer to a `Name` command: address → "function+0x1a"."""

    names: dict[int, str]


def landmarks(symbols: Kallsyms, attached: Attached) -> Landmarks:
    """Of the running kernel. What it does not have is not in there."""
    btf = attached.btf
    functions = [point.symbol for point in attached.backend.points if point.steps]
    names = [*functions, *TRAMPOLINES, *CURRENT, *ORC, *SPINS, *_KPROBES, "init_task"]
    split = (name.partition(".")[::2] for name in _OFFSETS)
    found = {f"{owner}.{path}": offset(btf, owner, path) for owner, path in split}
    return Landmarks(
        symbols={name: at for name in names if (at := symbols.address(name)) is not None},
        offsets={name: at for name, at in found.items() if at is not None},
        fields=[(found.layer, found.name, at, found.field.size) for _, found, at in fields(btf)],
        f_ref=btf.offset("file", "f_ref") is not None,
        agent=os.getpid(),
        arms=attached.fd("arms"),
        quotas=attached.fd("quotas"),
        refusals=attached.fd("refusals"),
        refusing=sorted(attached.refusing),
    )
