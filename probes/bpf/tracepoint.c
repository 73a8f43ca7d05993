/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * Backend `tracepoint`: for kernels without kprobes. Allocations that a thread makes while it is
 * in socket() tell of the steps; each is known by its call site (SITE_*_LO .. _HI, the address
 * range of the function that allocates).
 */

/* `known`: the arguments could be read. */
static __attribute__((always_inline)) inline void entered(void *ctx, u32 nr, u64 *args, int known)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct call call = {};

	call.t0 = bpf_ktime_get_ns();
	call.pid = bpf_get_current_pid_tgid() >> 32;
	call.tid = tid;
	call.fd = -1;
	call.lowest = lowest_free_fd(&call.users);
	if (calls.update(&tid, &call)) {
		count_lost(LOST_CALLS);
		return;
	}
	struct event *e = begin(P_ENTER, &call, 0);
	if (!e)
		return;
	tell_number(e, nr);
	e->args[0] = args[0];
	e->args[1] = args[1];
	e->args[2] = args[2];
	if (known)
		e->have |= BIT(HAVE_ARGS);
	e->lowest = call.lowest;
	e->users = call.users;
	if (call.lowest >= 0)
		e->have |= BIT(HAVE_LOWEST);
	obey(e);
	finish(e);
}

#if RAW_SYSCALLS /* as syscalls:sys_enter_socket has no 32-bit ones */
enum { SOCKET = 41, X32_SOCKET = X32_BIT | SOCKET, I386_SOCKET = 359, I386_SOCKETCALL = 102 };
#define SYS_SOCKET 1 /* of socketcall(2) */

static __attribute__((always_inline)) inline int may_be_socket(u32 nr)
{
	return nr == SOCKET || nr == X32_SOCKET || nr == I386_SOCKET || nr == I386_SOCKETCALL;
}

int enter_socket(struct bpf_raw_tracepoint_args *ctx)
{
	u64 regs = ctx->args[0], args[3] = {};
	u32 nr = ctx->args[1], narrow[3] = {};
	int known = 1;

	if (!may_be_socket(nr) || !is_tracee())
		return 0;
	if (abi_of(nr) != ABI_I386) {
		if (nr != SOCKET && nr != X32_SOCKET)
			return 0;
		args[0] = REGISTER(regs, di);
		args[1] = REGISTER(regs, si);
		args[2] = REGISTER(regs, dx);
	} else if (nr == I386_SOCKET) {
		args[0] = REGISTER(regs, bx);
		args[1] = REGISTER(regs, cx);
		args[2] = REGISTER(regs, dx);
	} else if (nr == I386_SOCKETCALL && (u32)REGISTER(regs, bx) == SYS_SOCKET) {
		u64 at = (u32)REGISTER(regs, cx);
		known = !bpf_probe_read_user(narrow, sizeof(narrow), (void *)at);
		args[0] = narrow[0];
		args[1] = narrow[1];
		args[2] = narrow[2];
	} else {
		return 0;
	}
	entered(ctx, nr, args, known);
	return 0;
}
#else
int enter_socket(struct sys_enter *ctx)
{
	u64 args[3] = {ctx->args[0], ctx->args[1], ctx->args[2]};

	if (is_tracee())
		entered(ctx, ctx->nr, args, 1);
	return 0;
}
#endif

static __attribute__((always_inline)) inline void made_sock(void *ctx, u32 point, struct call *call, u64 site, u64 ptr)
{
	call->sock = ptr;
	own(ptr, call, KIND_SOCK);
	struct event *e = begin(point, call, known_stack(ctx, point, site));
	if (!e)
		return;
	e->site = site;
	e->object = ptr;
	/* The sock itself is not initialised yet: its fields are no values. */
	read_fields(e, 0, call->socket, 0, 0, 0);
	obey(e);
	finish(e);
}

/* Whether the current task is in a system call that makes sockets without socket(2). Not so sure
 * where io_uring may be at work: its requests run in workers, and amid any system call. */
static __attribute__((always_inline)) inline int is_accept(void)
{
	enum { ACCEPT = 43, SOCKETPAIR = 53, ACCEPT4 = 288 };
	u64 task = bpf_get_current_task(), regs = user_registers();
	u32 flags = 0, nr = regs ? REGISTER(regs, orig_ax) : 0;

	bpf_probe_read_kernel(&flags, sizeof(flags), (void *)(task + OFF_task_struct_flags));
	return (nr == ACCEPT || nr == SOCKETPAIR || nr == ACCEPT4) && abi_of(nr) == ABI_64 &&
	       !(flags & PF_IO_WORKER) && !deref(task, OFF_task_struct_io_uring);
}

int cache_alloc(struct bpf_raw_tracepoint_args *ctx)
{
	u64 site = ctx->args[0], ptr = ctx->args[1];
	struct call *call = current_call();

	if (!ptr)
		return 0;
	if (!call) {
		if (site >= SITE_SOCK_ALLOC_LO && site < SITE_SOCK_ALLOC_HI && is_tracee() && !is_accept())
			uncaptured(ctx);
		return 0;
	}
	if (site >= SITE_SK_ALLOC_LO && site < SITE_SK_ALLOC_HI) {
		made_sock(ctx, P_SK_ALLOC, call, site, ptr);
		return 0;
	}

	u32 point;
	if (site >= SITE_SOCK_ALLOC_LO && site < SITE_SOCK_ALLOC_HI)
		point = P_SOCK_ALLOC;
	else if (site >= SITE_LSM_INODE_LO && site < SITE_LSM_INODE_HI)
		point = P_LSM_INODE;
	else if (site >= SITE_DENTRY_LO && site < SITE_DENTRY_HI)
		point = P_DENTRY;
	else if (site >= SITE_FILE_LO && site < SITE_FILE_HI)
		point = P_FILE;
	else
		return 0;

	if (point == P_SOCK_ALLOC) {
		if (call->socket) {
			forget_call();
			return 0;
		}
		call->socket = ptr + OFF_socket_alloc_socket;
		own(ptr, call, KIND_SOCKET);
	} else if (point == P_FILE) {
		call->file = ptr;
		own(ptr, call, KIND_FILE);
	}
	struct event *e = begin(point, call, known_stack(ctx, point, site));
	if (!e)
		return 0;
	e->site = site;
	e->object = point == P_SOCK_ALLOC ? call->socket : ptr;
#if CACHE_ARG
	u64 name = deref(ctx->args[2], OFF_kmem_cache_name);
	bpf_probe_read_kernel_str(e->cache, sizeof(e->cache), (void *)name);
#endif
	if (point == P_SOCK_ALLOC) /* nothing is initialised yet: only the address is a value */
		e->layer[LAYER_SOCKET] = call->socket;
	else if (point == P_LSM_INODE) /* inside sock_alloc(): type is not set yet */
		read_fields(e, 0, call->socket, 0, BIT(FIELD_socket_type), 0);
	else
		read_fields(e, 0, call->socket, call->sock, 0, 0);
	if (point == P_FILE) /* the struct file is not initialised yet */
		e->layer[LAYER_FILE] = ptr;
	obey(e);
	finish(e);
	return 0;
}

/* Protocols without a slab of their own (netlink, packet) take their sock from kmalloc(). */
int kmalloc_alloc(struct bpf_raw_tracepoint_args *ctx)
{
	u64 site = ctx->args[0], ptr = ctx->args[1];

	if (site < SITE_SK_ALLOC_LO || site >= SITE_SK_ALLOC_HI || !ptr)
		return 0;
	struct call *call = current_call();
	if (call)
		made_sock(ctx, P_SK_KMALLOC, call, site, ptr);
	return 0;
}

static __attribute__((always_inline)) inline void left(void *ctx, s64 ret)
{
	u32 tid = bpf_get_current_pid_tgid(), ok = 0;
	struct call *call = calls.lookup(&tid);

	if (!call)
		return;
	struct event *e = begin(P_EXIT, call, known_stack(ctx, P_EXIT, 0));
	if (e) {
		e->ret = ret;
		e->have |= BIT(HAVE_RET);
	}
	if (ret >= 0) {
		u64 file = file_of_fd(ret, &ok);
		call->fd = ret;
		if (file && ok) {
			call->file = file;
			own(file, call, KIND_FILE);
			/* Follow the links as they are, not as they were expected to be. */
			u64 socket = deref(file, OFF_file_private_data);
			u64 sock = deref(socket, OFF_socket_sk);
			if (socket)
				call->socket = socket;
			if (sock)
				call->sock = sock;
		}
		if (e) {
			e->fd = ret;
			e->have |= BIT(HAVE_FD);
			if (ok) {
				e->fd_file = file;
				e->have |= BIT(HAVE_FD_FILE);
			}
			e->lowest = call->lowest;
			e->users = call->users;
			if (call->lowest >= 0)
				e->have |= BIT(HAVE_LOWEST);
			read_layers(e, call);
			/* For the names of the tables where the kernel lists no data symbols. */
			e->f_release = deref(e->field[FIELD_file_f_op], OFF_file_operations_release);
			e->ops_release = deref(e->field[FIELD_socket_ops], OFF_proto_ops_release);
		}
	}
	if (e) {
		obey(e);
		finish(e);
	}
	calls.delete(&tid);
}

#if RAW_SYSCALLS
int exit_socket(struct bpf_raw_tracepoint_args *ctx)
{
	u64 regs = ctx->args[0];

	if (may_be_socket(REGISTER(regs, orig_ax)))
		left(ctx, ctx->args[1]);
	return 0;
}
#else
int exit_socket(struct sys_exit *ctx)
{
	left(ctx, ctx->ret);
	return 0;
}
#endif
