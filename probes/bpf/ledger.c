/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * Where objects go, the same for every backend: the frees of memory that a call allocated, from
 * the slab's own tracepoints (any task may do it, RCU does), and close(2).
 */
static __attribute__((always_inline)) inline void freed(void *ctx, int kfree, u64 site, u64 ptr)
{
	struct object *found = objects.lookup(&ptr);

	if (!found)
		return;
	u32 kind = found->kind;
	struct event *e = begin(kfree ? P_FREE_KMALLOC : P_FREE_SOCKET + kind, 0,
				known_stack(ctx, kind, site));
	if (e) {
		e->t0 = found->t0;
		e->owner_pid = found->pid;
		e->owner_tid = found->tid;
		e->kind = kind;
		e->fd = found->fd;
		e->site = site;
		e->object = ptr;
	}
	if (FREED_BEFORE && !kfree)
		objects.delete(&ptr);
	if (e) {
		u64 socket = kind == KIND_SOCKET ? ptr + OFF_socket_alloc_socket : 0;
		if (socket)
			e->object = socket;
		read_fields(e, kind == KIND_FILE ? ptr : 0, socket, kind == KIND_SOCK ? ptr : 0, 0, ~0);
		if (is_tracee())
			obey(e);
		finish(e);
	}
	objects.delete(&ptr);
}

int cache_free(struct bpf_raw_tracepoint_args *ctx)
{
	freed(ctx, 0, ctx->args[0], ctx->args[1]);
	return 0;
}

int kfree_free(struct bpf_raw_tracepoint_args *ctx)
{
	freed(ctx, 1, ctx->args[0], ctx->args[1]);
	return 0;
}

int enter_close(struct sys_enter *ctx)
{
	u32 tid = bpf_get_current_pid_tgid(), ok = 0;
	s32 fd = ctx->args[0];

	if (!is_tracee())
		return 0;
	u64 file = file_of_fd(fd, &ok);
	if (!file)
		return 0;
	struct object *found = objects.lookup(&file);
	if (!found)
		return 0;
	struct object target = *found;
	target.fd = fd;
	closing.update(&tid, &target);
	return 0;
}

int exit_close(struct sys_exit *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct object *target = closing.lookup(&tid);

	if (!target)
		return 0;
	struct event *e = begin(P_CLOSE, 0, known_stack(ctx, P_CLOSE, 0));
	if (e) {
		e->t0 = target->t0;
		e->owner_pid = target->pid;
		e->owner_tid = target->tid;
		e->fd = target->fd;
		e->have |= BIT(HAVE_RET) | BIT(HAVE_FD);
		e->ret = ctx->ret;
		obey(e);
		finish(e);
	}
	closing.delete(&tid);
	return 0;
}
