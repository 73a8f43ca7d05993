/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * Backends `kprobe` and `fentry` (FENTRY): the same probes on the functions themselves. Entry and
 * exit of a function are matched by thread: what an exit needs was kept in the thread's call.
 */
/* A plain number, whatever the verifier knows of the type of an argument. */
static __attribute__((always_inline)) inline u64 word(unsigned long long *ctx, u32 n)
{
	u64 value = 0;
	bpf_probe_read_kernel(&value, sizeof(value), ctx + n);
	return value;
}

#if FENTRY /* the context is the function's arguments, and after them its result */
#define ENTRY(fn) int entry_##fn(unsigned long long *ctx)
#define EXIT(fn) int exit_##fn(unsigned long long *ctx)
#define ARG(n) word(ctx, n)
#define RET(fn) word(ctx, NARGS_##fn)
#else
#define ENTRY(fn) int entry_##fn(struct pt_regs *ctx)
#define EXIT(fn) int exit_##fn(struct pt_regs *ctx)
#define ARG(n) ARG##n
#define ARG0 ctx->di
#define ARG1 ctx->si
#define ARG2 ctx->dx
#define RET(fn) ctx->ax
#endif

#define POINT CONSTANT(0x5eed0000)
#define ARG_AT CONSTANT(0x5eed0001)
#define ARG_OFFSET CONSTANT(0x5eed0002)

#define IS_ERR(pointer) ((u64)(pointer) >= (u64)-4095)
enum mark { ENTERED_CREATE = 1, LEFT_CREATE = 2, HAS_INODE = 4 };

ENTRY(__sys_socket)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct call call = {};

	if (!is_tracee())
		return 0;
	if (calls.lookup(&tid)) /* the return of this thread's last call was missed */
		count_lost(LOST_RETURNS);
	call.t0 = bpf_ktime_get_ns();
	call.args[0] = (s32)ARG(0);
	call.args[1] = (s32)ARG(1);
	call.args[2] = (s32)ARG(2);
	call.pid = bpf_get_current_pid_tgid() >> 32;
	call.tid = tid;
	call.fd = -1;
	call.lowest = -1;
	if (calls.update(&tid, &call)) {
		count_lost(LOST_CALLS);
		return 0;
	}
	struct event *e = begin(P_ENTER, &call, 0);
	if (!e)
		return 0;
	e->args[0] = call.args[0];
	e->args[1] = call.args[1];
	e->args[2] = call.args[2];
	e->have |= BIT(HAVE_ARGS);
	u64 regs = user_registers();
	if (regs)
		tell_number(e, REGISTER(regs, orig_ax));
	obey(e);
	finish(e);
	return 0;
}

/* io_uring's way to a socket (Linux 5.19): no system call of its own, perhaps no thread of its own. */
ENTRY(__sys_socket_file)
{
	if (is_tracee())
		uncaptured(ctx);
	return 0;
}

EXIT(sock_alloc_inode)
{
	struct call *call = current_call();
	u64 inode = RET(sock_alloc_inode);

	if (!call || !inode)
		return 0;
	if (call->marks & HAS_INODE) {
		forget_call();
		return 0;
	}
	call->marks |= HAS_INODE;
	u64 slab = inode - OFF_socket_alloc_vfs_inode;
	own(slab, call, KIND_SOCKET);
	struct event *e = begin(P_SOCK_ALLOC_INODE, call, 0);
	if (!e)
		return 0;
	e->object = slab + OFF_socket_alloc_socket;
	submit(e);
	return 0;
}

EXIT(sock_alloc)
{
	struct call *call = current_call();
	u64 socket = RET(sock_alloc);

	if (!call)
		return 0;
	if (call->socket) {
		forget_call();
		return 0;
	}
	call->socket = socket;
	/* sock_alloc_inode's own probe missed it: its free is not that of who had the memory before. */
	if (socket && !(call->marks & HAS_INODE))
		own(socket - OFF_socket_alloc_socket, call, KIND_SOCKET);
	struct event *e = begin(P_SOCK_ALLOC, call, unwound(ctx));
	if (!e)
		return 0;
	read_fields(e, 0, socket, 0, BIT(FIELD_socket_type), 0); /* type is not set yet */
	obey(e);
	finish(e);
	return 0;
}

/* pf->create: inet_create, inet6_create, unix_create, netlink_create */
ENTRY(create)
{
	struct call *call = current_call();

	if (!call)
		return 0;
	call->marks |= ENTERED_CREATE;
	struct event *e = begin(POINT, call, unwound(ctx));
	if (!e)
		return 0;
	read_layers(e, call);
	obey(e);
	finish(e);
	return 0;
}

static __attribute__((always_inline)) inline int created(void *ctx, u32 point, struct call *call,
							 s32 ret)
{
	struct event *e = begin(point, call, unwound(ctx));
	if (!e)
		return 0;
	e->ret = ret;
	e->have |= BIT(HAVE_RET);
	read_layers(e, call);
	obey(e);
	finish(e);
	return 0;
}

EXIT(create)
{
	struct call *call = current_call();

	if (!call)
		return 0;
	call->marks |= LEFT_CREATE;
	return created(ctx, POINT, call, RET(create));
}

/* The families without a probe of their own on create(). */
EXIT(__sock_create)
{
	struct call *call = current_call();

	if (!call)
		return 0;
	if (call->marks & ENTERED_CREATE) {
		count_hit(P_SOCK_CREATE);
		if (!(call->marks & LEFT_CREATE))
			count_lost(LOST_RETURNS);
		return 0;
	}
	if (!call->socket) { /* refused before sock_alloc() */
		count_hit(P_SOCK_CREATE);
		return 0;
	}
	return created(ctx, P_SOCK_CREATE, call, RET(__sock_create));
}

EXIT(sk_alloc)
{
	struct call *call = current_call();
	u64 sock = RET(sk_alloc);

	if (!call || !sock)
		return 0;
	call->sock = sock;
	own(sock, call, KIND_SOCK);
	struct event *e = begin(P_SK_ALLOC, call, 0);
	if (!e)
		return 0;
	e->object = sock;
	submit(e);
	return 0;
}

ENTRY(alloc_fd)
{
	struct call *call = current_call();

	if (!call)
		return 0;
	count_hit(P_ALLOC_FD_ENTRY);
	call->lowest = lowest_free_fd(&call->users);
	return 0;
}

EXIT(alloc_fd)
{
	struct call *call = current_call();
	s32 fd = RET(alloc_fd);

	if (!call)
		return 0;
	if (fd >= 0)
		call->fd = fd;
	struct event *e = begin(P_ALLOC_FD, call, 0);
	if (!e)
		return 0;
	e->ret = fd;
	e->have |= BIT(HAVE_RET);
	submit(e);
	return 0;
}

EXIT(sock_alloc_file)
{
	struct call *call = current_call();
	u64 file = RET(sock_alloc_file);

	if (!call)
		return 0;
	if (!IS_ERR(file)) {
		call->file = file;
		own(file, call, KIND_FILE);
	}
	struct event *e = begin(P_SOCK_ALLOC_FILE, call, unwound(ctx));
	if (!e)
		return 0;
	e->object = IS_ERR(file) ? 0 : file;
	if (IS_ERR(file)) {
		e->ret = file;
		e->have |= BIT(HAVE_RET);
	} else {
		read_layers(e, call);
	}
	obey(e);
	finish(e);
	return 0;
}

/* Fires for every open() too: it is ours only if the file leads to this call's socket. */
ENTRY(fd_install)
{
	struct call *call = current_call();
	u64 file = ARG(1);
	u32 fd = ARG(0), ok = 0;

	if (!call || !call->socket || deref(file, OFF_file_private_data) != call->socket)
		return 0;
	struct event *e = begin(P_FD_INSTALL, call, unwound(ctx));
	if (!e)
		return 0;
	e->fd = fd;
	e->have |= BIT(HAVE_FD);
	e->fd_file = file_of_fd(fd, &ok);
	if (ok)
		e->have |= BIT(HAVE_FD_FILE);
	e->lowest = call->lowest;
	e->users = call->users;
	if (call->lowest >= 0)
		e->have |= BIT(HAVE_LOWEST);
	read_layers(e, call);
	obey(e);
	finish(e);
	return 0;
}

EXIT(__sys_socket)
{
	u32 tid = bpf_get_current_pid_tgid(), ok = 0;
	struct call *call = calls.lookup(&tid);
	s32 ret = RET(__sys_socket);

	if (!call)
		return 0;
	struct event *e = begin(P_EXIT, call, unwound(ctx));
	if (e) {
		e->ret = ret;
		e->have |= BIT(HAVE_RET);
		if (ret >= 0) {
			e->fd = ret;
			e->have |= BIT(HAVE_FD);
			e->fd_file = file_of_fd(ret, &ok);
			if (ok)
				e->have |= BIT(HAVE_FD_FILE);
			e->lowest = call->lowest;
			e->users = call->users;
			if (call->lowest >= 0)
				e->have |= BIT(HAVE_LOWEST);
			read_layers(e, call);
		}
		obey(e);
		finish(e);
	}
	calls.delete(&tid);
	return 0;
}

/* A cleanup function was entered: its argument, less ARG_OFFSET, is the slab object. */
ENTRY(cleanup)
{
	u64 slab = 0;
	bpf_probe_read_kernel(&slab, sizeof(slab), (char *)ctx + ARG_AT);
	slab -= ARG_OFFSET;
	struct object *found = objects.lookup(&slab);

	if (!found)
		return 0;
	if (POINT == P_IPUT) { /* only the last reference is a step */
		u32 count = 0;
		bpf_probe_read_kernel(&count, sizeof(count),
				      (void *)(slab + OFF_socket_alloc_vfs_inode + OFF_inode_i_count));
		if (count != 1)
			return 0;
	}
	/* An object comes to each of these once. What comes a second time is another object in the
	 * same memory, made by nobody of ours: the kernel skipped our program at the free. */
	if (found->seen & BIT(POINT)) {
		objects.delete(&slab);
		return 0;
	}
	found->seen |= BIT(POINT);
	struct event *e = begin(POINT, 0, unwound(ctx));
	if (!e)
		return 0;
	e->t0 = found->t0;
	e->owner_pid = found->pid;
	e->owner_tid = found->tid;
	/* From the object at hand along the links, as they are now. */
	u64 file = 0, socket = 0, sock = 0;
	u32 at_hand = BIT(LAYER_SOCK);
	if (found->kind == KIND_FILE) {
		file = slab;
		socket = deref(file, OFF_file_private_data);
		at_hand = BIT(LAYER_FILE);
	}
	if (found->kind == KIND_SOCKET) {
		socket = slab + OFF_socket_alloc_socket;
		file = deref(socket, OFF_socket_file);
		at_hand = BIT(LAYER_SOCKET) | BIT(LAYER_FILE); /* __fput() cuts socket.file */
	}
	if (found->kind == KIND_SOCK)
		sock = slab;
	else
		sock = deref(socket, OFF_socket_sk);
	read_fields(e, file, socket, sock, 0, at_hand);
	if (is_tracee())
		obey(e);
	finish(e);
	return 0;
}

ENTRY(put_unused_fd)
{
	struct call *call = current_call();

	if (!call)
		return 0;
	struct event *e = begin(P_PUT_UNUSED_FD, call, unwound(ctx));
	if (!e)
		return 0;
	e->fd = ARG(0);
	e->have |= BIT(HAVE_FD);
	read_layers(e, call);
	obey(e);
	finish(e);
	return 0;
}
