"""How a socket is taken apart: by close(2), by a failing call, or by the end of its process."""

from __future__ import annotations

from recordings.checks import Once
from recordings.path import Step

STEPS = (
    Step(
        "CLEANUP_SOCK_CLOSE",
        "SOCK_CLOSE",
        "sock_close",
        "net/socket.c",
        "the file's release operation ran",
        "sock_close(): the last reference to the file is gone, its release operation runs.",
        "file_operations.release of socket_file_ops. It calls __sock_release() with the inode, "
        "so that async notification is removed under the inode's lock.",
        test=Once(),
        stack=("sock_close",),
    ),
    Step(
        "CLEANUP_SOCK_RELEASE",
        "SOCK_RELEASE",
        "__sock_release",
        "net/socket.c",
        "the socket is taken apart once",
        "__sock_release(): ops->release if a protocol is attached, then the inode.",
        "sock_release() is this function inlined into its callers, so the probe sits at "
        "__sock_release: it is the same step. With ops == NULL (an early error) only the inode "
        "is dropped; else inet_release() ends the protocol first.",
        test=Once(),
        stack=("__sock_release", "sock_release"),
    ),
    Step(
        "CLEANUP_INET_RELEASE",
        "INET_RELEASE",
        "inet_release",
        "net/ipv4/af_inet.c",
        "the protocol lets go of the sock",
        "inet_release() ends the protocol: it cuts socket.sk and drops the sock.",
        "It sets socket.sk = NULL and calls sk_prot->close (tcp_close for TCP). The sock may "
        "outlive this call: a TCP connection still in FIN_WAIT keeps it without any socket or "
        "descriptor. This, and not iput(), is what frees the struct sock.",
        entry="inet_release(): about to end the protocol, to cut socket.sk and to drop the sock.",
        test=Once(),
        stack=("inet_release", "inet6_release"),
    ),
    Step(
        "CLEANUP_SK_DESTRUCT",
        "SK_DESTRUCT",
        "__sk_destruct",
        "net/core/sock.c",
        "the sock is freed once",
        "__sk_destruct(): the last reference to the struct sock is gone; it goes back to its slab.",
        "Its slab (TCP, UDP, …) may hand the same address out again at once. An address alone "
        "never identifies an object: the ledger counts generations.",
        test=Once(),
        # Often a tail call: then the free of the sock itself is what is seen.
        stack=("__sk_destruct", "__sk_free", "sk_free", "kmem_cache_free"),
    ),
    Step(
        "CLEANUP_PUT_UNUSED_FD",
        "PUT_UNUSED_FD",
        "put_unused_fd",
        "fs/file.c",
        "the reserved number is given back once",
        "put_unused_fd({fd}) gives back a number that was reserved and never installed.",
        "Only the error edges after get_unused_fd_flags() come here. The number was never "
        "visible to user space.",
        test=Once(),
    ),
    Step(
        "CLEANUP_FPUT",
        "FPUT",
        "__fput",
        "fs/file_table.c",
        "the struct file is torn down once",
        "__fput(): the last reference to the struct file is gone.",
        "close(2) takes the file out of the table and drops a reference. The last one runs "
        "__fput(), from task work on the way to user mode on older kernels, at once on newer "
        "ones. It calls the release operation, then drops dentry and inode.",
        test=Once(),
        stack=("__fput", "____fput"),
    ),
    Step(
        "CLEANUP_IPUT",
        "IPUT",
        "iput",
        "fs/inode.c",
        "the inode's last reference is dropped once",
        "iput() drops the inode's last reference; evict() and destroy_inode() follow.",
        "The inode and the struct socket are one slab object, so this is what ends the socket. "
        "The memory itself waits for an RCU grace period.",
        test=Once(),
    ),
    Step(
        "CLEANUP_SOCK_FREE_INODE",
        "SOCK_FREE_INODE",
        "sock_free_inode",
        "net/socket.c",
        "the struct socket is freed once",
        "sock_free_inode(): an RCU grace period is over; struct socket and inode go to their slab.",
        "Path lookup may still look at the inode without a lock, so its memory is freed only "
        "after every CPU has passed a quiescent state, often by another task (pid 0).",
        test=Once(),
        stack=("sock_free_inode", "rcu_do_batch", "rcu_core"),
    ),
    Step(
        "CLEANUP_GET_SIGNAL",
        "GET_SIGNAL",
        "get_signal",
        "kernel/signal.c",
        "the signal is delivered at the return to user mode",
        "get_signal(): on the way to user mode the task takes its pending signal.",
        "Here, and not inside socket(), a fatal signal ends the task. What the call had made "
        "is by then complete and in the descriptor table, and exit closes it.",
    ),
    Step(
        "CLEANUP_DO_EXIT",
        "DO_EXIT",
        "do_exit",
        "kernel/exit.c",
        "the task ends",
        "do_exit(): the task ends; exit_files() closes every descriptor it had.",
        "A process cannot leak descriptors past its own end: exit_files() drops its reference to "
        "the table, and the last user of the table closes each file in it.",
    ),
)
