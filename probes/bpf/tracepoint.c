/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * Backend `tracepoint`: for kernels without kprobes. Allocations that a thread makes while it is
 * in socket() tell of the steps; each is known by its call site (SITE_*_LO .. _HI, the address
 * range of the function that allocates).
 */

int enter_socket(struct sys_enter *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct call call = {};

	if (!is_tracee())
		return 0;
	call.t0 = bpf_ktime_get_ns();
	call.args[0] = ctx->args[0];
	call.args[1] = ctx->args[1];
	call.args[2] = ctx->args[2];
	call.pid = bpf_get_current_pid_tgid() >> 32;
	call.tid = tid;
	call.fd = -1;
	call.lowest = lowest_free_fd(&call.users);
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
	e->lowest = call.lowest;
	e->users = call.users;
	if (call.lowest >= 0)
		e->have |= BIT(HAVE_LOWEST);
	obey(e);
	finish(e);
	return 0;
}

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

int cache_alloc(struct bpf_raw_tracepoint_args *ctx)
{
	u64 site = ctx->args[0], ptr = ctx->args[1];
	struct call *call = current_call();

	if (!call || !ptr)
		return 0;
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

int exit_socket(struct sys_exit *ctx)
{
	u32 tid = bpf_get_current_pid_tgid(), ok = 0;
	s64 ret = ctx->ret;
	struct call *call = calls.lookup(&tid);

	if (!call)
		return 0;
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
	return 0;
}
