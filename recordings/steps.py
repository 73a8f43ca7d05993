"""The steps: their ids (never renumbered), names, sentences and longer stories.

`source` is the kernel function and file the step is named after. `sentence` stands on the
screen, two rows of 78 columns at most; `entry` in its place where the function has only begun, and
`failed` where it failed. They take a call's own numbers by name: {fd}, {call}, {symbol}, {result}
(recordings/words.py). What a check has to find out, a sentence does not say.
`story` is one key away: what the kernel does here, why, what would go wrong otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepKind:
    id: str
    name: str
    source: str
    check: str
    sentence: str
    story: str
    entry: str = ""
    failed: str = ""

    @property
    def cleanup(self) -> bool:
        return self.id.startswith("CLEANUP_")


_TABLE = (
    StepKind(
        "PROBE_INIT",
        "Driver activated",
        "the agent",
        "all planned probes attached, or each missing one named",
        "The probes are in place before the program runs its first instruction.",
        "The agent compiled its BPF programs and attached them while the tracee stood stopped at "
        "the end of execve(2). A probe that could not be attached is named with its reason, and "
        "one that is attached but never fires is told apart from one that fired: a silent gap "
        "would look exactly like a kernel that did nothing.",
    ),
    StepKind(
        "USER_EXEC",
        "Trigger syscall",
        "__x64_sys_socket, net/socket.c",
        "the tracee entered socket()",
        "The program calls {call}: the syscall instruction takes it into the kernel.",
        "The C library put the syscall number and three integers (family, type, protocol) in "
        "registers. That is all user space ever passes: no memory, no pointer. Flag bits such "
        "as SOCK_CLOEXEC travel inside the type; the kernel refuses bits it does not know "
        "(EINVAL) before anything is allocated.",
    ),
    StepKind(
        "STEP_09",
        "CHASSIS_CREATED",
        "sock_alloc, net/socket.c",
        "struct socket is not NULL",
        "sock_alloc() makes the chassis: an inode on sockfs and the struct socket beside it.",
        "One slab object, struct socket_alloc, holds both the struct socket and a VFS inode. "
        "So a socket is a file from birth: it has an inode number (seen in /proc/PID/fd as "
        "socket:[N]), an owner and a lifetime that iput() ends. No descriptor leads to it yet. "
        "If the slab has no memory the call ends here with ENFILE, which hides the ENOMEM.",
        failed="sock_alloc() returned NULL: there is no chassis, the call ends here, with ENFILE.",
    ),
    StepKind(
        "STEP_10",
        "PRE_LINK_CHECK",
        "sock_alloc, net/socket.c",
        "sk == NULL, ops == NULL, state == SS_UNCONNECTED (1)",
        "A new chassis has to be empty: no protocol (sk), no operations (ops), unconnected.",
        "sock_alloc_inode() cleared the pointers. ops == NULL is what tells __sock_release() "
        "later that no protocol was ever attached: it then skips inet_release() and only drops "
        "the inode. Were these fields slab leftovers, an early error would call through a wild "
        "pointer. (type is not set yet here; it is not shown as a value.)",
    ),
    StepKind(
        "STEP_13",
        "LINK_ESTABLISHED",
        "inet_create, net/ipv4/af_inet.c",
        "at exit: socket.sk is not NULL",
        "The family's create() makes the struct sock and ties the two: socket.sk, sk.sk_socket.",
        "__sock_create() calls pf->create: inet_create() for AF_INET. It finds the protocol for "
        "(type, protocol), asking modprobe if need be, sets socket.ops, allocates the struct sock "
        "from the protocol's own slab, and sock_init_data() ties the two: socket.sk = sk, "
        "sk.sk_socket = socket. From here a failure must also release the sock, through "
        "ops->release.",
        entry="{symbol}(): about to make the struct sock and to tie it to the socket.",
        failed="{symbol}() failed with {result}: what was made so far is released again.",
    ),
    StepKind(
        "STEP_14",
        "VFS_WRAP",
        "sock_alloc_file, net/socket.c",
        "struct file is not NULL",
        "sock_alloc_file() wraps the socket in a struct file, so that read() and close() work.",
        "A descriptor number was reserved just before (a limit reached means EMFILE and the whole "
        "socket is released again). Now a pseudo dentry and a struct file with "
        "socket_file_ops are made. The file takes over the socket's inode reference: from here "
        "on, dropping the last file reference is what frees the socket.",
        failed="sock_alloc_file() failed with {result}: no file, and the rest is released again.",
    ),
    StepKind(
        "STEP_15",
        "PRIVATE_DATA_PROBE",
        "sock_alloc_file, net/socket.c",
        "file.private_data == socket",
        "file.private_data is the way from the VFS layer down to the socket.",
        "Every socket syscall goes fd → file → private_data → socket. sock_from_file() trusts "
        "this pointer after comparing f_op with socket_file_ops; were it wrong, send(2) would "
        "treat foreign memory as a socket.",
    ),
    StepKind(
        "STEP_13_BACKLINK",
        "SYMMETRY_PROBE",
        "sock_init_data, net/core/sock.c",
        "sk.sk_socket == socket",
        "sk.sk_socket is the way back up: by it the stack finds, and wakes, the socket's owner.",
        "Packets arrive at the struct sock. To wake a sleeping reader, or to send SIGIO, the "
        "stack needs the way back to the socket. On close it is cut first (sock_orphan), so that "
        "a late packet finds NULL and not a freed socket.",
    ),
    StepKind(
        "STEP_16",
        "INDEX_VERIFIED",
        "fd_install, fs/file.c",
        "fd is the lowest free one, and the file is ours",
        "fd_install({fd}, file) has published the file under the number {fd}: "
        "close({fd}) can reach it.",
        "The last act: one pointer store into the descriptor table publishes the file to every "
        "thread of the process. fd_install() returns void; it cannot fail. All that could go "
        "wrong was done before, which is why an error path never has to un-publish a descriptor.",
        entry="fd_install({fd}, file): about to publish the file under the number {fd}. "
        "From then on close({fd}) can reach it.",
    ),
    StepKind(
        "STEP_17",
        "SYSCALL_RETURN",
        "__sys_socket, net/socket.c",
        "the result is that fd, or the errno of the failing edge",
        "socket() returns {result}: the descriptor.",
        "On the way back to user mode the kernel looks at pending signals: a SIGSTOP sent at an "
        "earlier step takes effect exactly here. The call itself is already complete; a signal "
        "does not make socket() fail.",
        failed="socket() returns {result}: the program gets the errno and no descriptor.",
    ),
    StepKind(
        "CLEANUP_SOCK_CLOSE",
        "SOCK_CLOSE",
        "sock_close, net/socket.c",
        "the file's release operation ran",
        "sock_close(): the last reference to the file is gone, its release operation runs.",
        "file_operations.release of socket_file_ops. It calls __sock_release() with the inode, "
        "so that async notification is removed under the inode's lock.",
    ),
    StepKind(
        "CLEANUP_SOCK_RELEASE",
        "SOCK_RELEASE",
        "__sock_release, net/socket.c",
        "the socket is taken apart once",
        "__sock_release(): ops->release if a protocol is attached, then the inode.",
        "sock_release() is this function inlined into its callers, so the probe sits at "
        "__sock_release: it is the same step. With ops == NULL (an early error) only the inode "
        "is dropped; else inet_release() ends the protocol first.",
    ),
    StepKind(
        "CLEANUP_INET_RELEASE",
        "INET_RELEASE",
        "inet_release, net/ipv4/af_inet.c",
        "the protocol lets go of the sock",
        "inet_release() ends the protocol: it cuts socket.sk and drops the sock.",
        "It sets socket.sk = NULL and calls sk_prot->close (tcp_close for TCP). The sock may "
        "outlive this call: a TCP connection still in FIN_WAIT keeps it without any socket or "
        "descriptor. This, and not iput(), is what frees the struct sock.",
        entry="inet_release(): about to end the protocol, to cut socket.sk and to drop the sock.",
    ),
    StepKind(
        "CLEANUP_SK_DESTRUCT",
        "SK_DESTRUCT",
        "__sk_destruct, net/core/sock.c",
        "the sock is freed once",
        "__sk_destruct(): the last reference to the struct sock is gone; it goes back to its slab.",
        "Its slab (TCP, UDP, …) may hand the same address out again at once. An address alone "
        "never identifies an object: the ledger counts generations.",
    ),
    StepKind(
        "CLEANUP_PUT_UNUSED_FD",
        "PUT_UNUSED_FD",
        "put_unused_fd, fs/file.c",
        "the reserved number is given back once",
        "put_unused_fd({fd}) gives back a number that was reserved and never installed.",
        "Only the error edges after get_unused_fd_flags() come here. The number was never "
        "visible to user space.",
    ),
    StepKind(
        "CLEANUP_FPUT",
        "FPUT",
        "__fput, fs/file_table.c",
        "the struct file is torn down once",
        "__fput(): the last reference to the struct file is gone.",
        "close(2) takes the file out of the table and drops a reference. The last one runs "
        "__fput(), from task work on the way to user mode on older kernels, at once on newer "
        "ones. It calls the release operation, then drops dentry and inode.",
    ),
    StepKind(
        "CLEANUP_IPUT",
        "IPUT",
        "iput, fs/inode.c",
        "the inode's last reference is dropped once",
        "iput() drops the inode's last reference; evict() and destroy_inode() follow.",
        "The inode and the struct socket are one slab object, so this is what ends the socket. "
        "The memory itself waits for an RCU grace period.",
    ),
    StepKind(
        "CLEANUP_SOCK_FREE_INODE",
        "SOCK_FREE_INODE",
        "sock_free_inode, net/socket.c",
        "the struct socket is freed once",
        "sock_free_inode(): an RCU grace period is over; struct socket and inode go to their slab.",
        "Path lookup may still look at the inode without a lock, so its memory is freed only "
        "after every CPU has passed a quiescent state, often by another task (pid 0).",
    ),
    StepKind(
        "CLEANUP_GET_SIGNAL",
        "GET_SIGNAL",
        "get_signal, kernel/signal.c",
        "the signal is delivered at the return to user mode",
        "get_signal(): on the way to user mode the task takes its pending signal.",
        "Here, and not inside socket(), a fatal signal ends the task. What the call had made "
        "is by then complete and in the descriptor table, and exit closes it.",
    ),
    StepKind(
        "CLEANUP_DO_EXIT",
        "DO_EXIT",
        "do_exit, kernel/exit.c",
        "the task ends",
        "do_exit(): the task ends; exit_files() closes every descriptor it had.",
        "A process cannot leak descriptors past its own end: exit_files() drops its reference to "
        "the table, and the last user of the table closes each file in it.",
    ),
)

STEPS: dict[str, StepKind] = {kind.id: kind for kind in _TABLE}

# The ten steps of one socket() call, in the kernel's order.
CALL_STEPS: tuple[str, ...] = tuple(kind.id for kind in _TABLE if not kind.cleanup)
CLEANUP_STEPS: tuple[str, ...] = tuple(kind.id for kind in _TABLE if kind.cleanup)

# Of the outcome of a check.
SIGNS = {"pass": "✓", "fail": "✗", "unobservable": "○"}
