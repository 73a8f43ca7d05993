"""socket(2), from its entry to its return: net/socket.c and the create function of the family."""

from __future__ import annotations

from recordings.checks import Installed, Leads, Linked, Made, Returned, Values
from recordings.layers import NULL
from recordings.path import Edge, Hold, Path, Step

INSTALLED = Installed("fd_install")

STEPS = (
    Step(
        "PROBE_INIT",
        "Driver activated",
        "",
        "",
        "all planned probes attached, or each missing one named",
        "The probes are in place before the program runs its first instruction.",
        "The agent compiled its BPF programs and attached them while the tracee stood stopped at "
        "the end of execve(2). A probe that could not be attached is named with its reason, and "
        "one that is attached but never fires is told apart from one that fired: a silent gap "
        "would look exactly like a kernel that did nothing.",
        subject="→ backend {backend}",
    ),
    Step(
        "USER_EXEC",
        "Trigger syscall",
        "__x64_sys_socket",
        "net/socket.c",
        "the tracee entered socket()",
        "The program calls {call}: the syscall instruction takes it into the kernel.",
        "The C library put the syscall number and three integers (family, type, protocol) in "
        "registers. That is all user space ever passes: no memory, no pointer. Flag bits such "
        "as SOCK_CLOEXEC travel inside the type; the kernel refuses bits it does not know "
        "(EINVAL) before anything is allocated.",
        subject="→ {program}",
    ),
    Step(
        "STEP_09",
        "CHASSIS_CREATED",
        "sock_alloc",
        "net/socket.c",
        "struct socket is not NULL",
        "sock_alloc() makes the chassis: an inode on sockfs and the struct socket beside it.",
        "One slab object, struct socket_alloc, holds both the struct socket and a VFS inode. "
        "So a socket is a file from birth: it has an inode number (seen in /proc/PID/fd as "
        "socket:[N]), an owner and a lifetime that iput() ends. No descriptor leads to it yet. "
        "If the slab has no memory the call ends here with ENFILE, which hides the ENOMEM.",
        failed="sock_alloc() returned NULL: there is no chassis, the call ends here, with ENFILE.",
        test=Made("socket"),
        subject="← sock_alloc()",
        makes="socket",
        # It gives no errno, only NULL, and its caller makes ENFILE of that.
        edge=Edge(hidden=-23),
    ),
    Step(
        "STEP_10",
        "PRE_LINK_CHECK",
        "sock_alloc",
        "net/socket.c",
        "sk == NULL, ops == NULL, state == SS_UNCONNECTED (1)",
        "A new chassis has to be empty: no protocol (sk), no operations (ops), unconnected.",
        "sock_alloc_inode() cleared the pointers. ops == NULL is what tells __sock_release() "
        "later that no protocol was ever attached: it then skips inet_release() and only drops "
        "the inode. Were these fields slab leftovers, an early error would call through a wild "
        "pointer. (type is not set yet here; it is not shown as a value.)",
        test=Values("socket", (("sk", NULL), ("ops", NULL), ("state", 1))),
        subject="→ sk == NULL",
    ),
    Step(
        "STEP_13",
        "LINK_ESTABLISHED",
        "inet_create",
        "net/ipv4/af_inet.c",
        "at exit: socket.sk is not NULL",
        "The family's create() makes the struct sock and ties the two: socket.sk, sk.sk_socket.",
        "__sock_create() calls pf->create: inet_create() for AF_INET. It finds the protocol for "
        "(type, protocol), asking modprobe if need be, sets socket.ops, allocates the struct sock "
        "from the protocol's own slab, and sock_init_data() ties the two: socket.sk = sk, "
        "sk.sk_socket = socket. From here a failure must also release the sock, through "
        "ops->release.",
        entry="{symbol}(): about to make the struct sock and to tie it to the socket.",
        failed="{symbol}() failed with {result}: what was made so far is released again.",
        test=Linked("socket", "sk", "sock"),
        subject="← {creator}()",
        makes="sock",
        sets=("socket.sk", "sock.sk_socket"),
        edge=Edge(),
    ),
    Step(
        "STEP_14",
        "VFS_WRAP",
        "sock_alloc_file",
        "net/socket.c",
        "struct file is not NULL",
        "sock_alloc_file() wraps the socket in a struct file, so that read() and close() work.",
        "A descriptor number was reserved just before (a limit reached means EMFILE and the whole "
        "socket is released again). Now a pseudo dentry and a struct file with "
        "socket_file_ops are made. The file takes over the socket's inode reference: from here "
        "on, dropping the last file reference is what frees the socket.",
        failed="sock_alloc_file() failed with {result}: no file, and the rest is released again.",
        test=Made("file"),
        subject="← sock_alloc_file()",
        makes="file",
        sets=("file.private_data", "socket.file"),
        edge=Edge(),
    ),
    Step(
        "STEP_15",
        "PRIVATE_DATA_PROBE",
        "sock_alloc_file",
        "net/socket.c",
        "file.private_data == socket",
        "file.private_data is the way from the VFS layer down to the socket.",
        "Every socket syscall goes fd → file → private_data → socket. sock_from_file() trusts "
        "this pointer after comparing f_op with socket_file_ops; were it wrong, send(2) would "
        "treat foreign memory as a socket.",
        test=Leads("file", "private_data", "socket", "private_data"),
        subject="→ file->private_data == socket",
    ),
    Step(
        "STEP_13_BACKLINK",
        "SYMMETRY_PROBE",
        "sock_init_data",
        "net/core/sock.c",
        "sk.sk_socket == socket",
        "sk.sk_socket is the way back up: by it the stack finds, and wakes, the socket's owner.",
        "Packets arrive at the struct sock. To wake a sleeping reader, or to send SIGIO, the "
        "stack needs the way back to the socket. On close it is cut first (sock_orphan), so that "
        "a late packet finds NULL and not a freed socket.",
        test=Leads("sock", "sk_socket", "socket", "sk->sk_socket"),
        subject="→ sk->sk_socket == socket",
    ),
    Step(
        "STEP_16",
        "INDEX_VERIFIED",
        "fd_install",
        "fs/file.c",
        "fd is the lowest free one, and the file is ours",
        "fd_install({fd}, file) has published the file under the number {fd}: "
        "close({fd}) can reach it.",
        "The last act: one pointer store into the descriptor table publishes the file to every "
        "thread of the process. fd_install() returns void; it cannot fail. All that could go "
        "wrong was done before, which is why an error path never has to un-publish a descriptor.",
        entry="fd_install({fd}, file): about to publish the file under the number {fd}. "
        "From then on close({fd}) can reach it.",
        test=INSTALLED,
        subject="→ fd == {fd}",
    ),
    Step(
        "STEP_17",
        "SYSCALL_RETURN",
        "__sys_socket",
        "net/socket.c",
        "the result is that fd, or the errno of the failing edge",
        "socket() returns {result}: the descriptor.",
        "On the way back to user mode the kernel looks at pending signals: a SIGSTOP sent at an "
        "earlier step takes effect exactly here. The call itself is already complete; a signal "
        "does not make socket() fail.",
        failed="socket() returns {result}: the program gets the errno and no descriptor.",
        test=Returned("STEP_16", INSTALLED),
        subject="→ result == {result}",
    ),
)

HOLDS = (
    Hold("socket_create", "in __sock_create, before sock_alloc", "STEP_09"),
    Hold(
        "kernel_module_request",
        "in __request_module, called by the family's create function",
        "STEP_13",
    ),
    Hold("socket_post_create", "in __sock_create, after the family's create function", "STEP_14"),
    Hold("inode_free_security", "in destroy_inode, in cleanup", "CLEANUP_SOCK_FREE_INODE"),
)

PATH = Path(
    "socket",
    STEPS,
    enters="USER_EXEC",
    returns="STEP_17",
    holds=HOLDS,
    refusals=(
        ("security_socket_create", 3),
        ("security_inode_alloc", 5),
        ("security_sk_alloc", 10),
        ("security_socket_post_create", 14),
        ("security_file_alloc", 17),
    ),
)
