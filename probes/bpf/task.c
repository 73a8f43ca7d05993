/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * The life of the tracee, the same for every backend: signals, fork, exit. Raw tracepoints,
 * which every kernel has.
 */
static __attribute__((always_inline)) inline u32 tgid_of(u64 task)
{
	u32 tgid = 0;
	bpf_probe_read_kernel(&tgid, sizeof(tgid), (void *)(task + OFF_task_struct_tgid));
	return tgid;
}

int signal_generate(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[2];
	u32 pid = tgid_of(task);

	if (!tracees.lookup(&pid))
		return 0;
	struct event *e = begin(P_SIGNAL_GENERATE, 0);
	if (!e)
		return 0;
	e->signo = ctx->args[0];
	e->ret = (s32)ctx->args[4]; /* TRACE_SIGNAL_* of include/trace/events/signal.h */
	e->owner_pid = pid;
	bpf_probe_read_kernel(&e->owner_tid, 4, (void *)(task + OFF_task_struct_pid));
	events.ringbuf_submit(e, 0);
	return 0;
}

int signal_deliver(struct bpf_raw_tracepoint_args *ctx)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;

	if (!tracees.lookup(&pid))
		return 0;
	struct event *e = begin(P_SIGNAL_DELIVER, 0);
	if (!e)
		return 0;
	e->signo = ctx->args[0];
	e->object = deref(ctx->args[2], OFF_k_sigaction_sa); /* sa.sa_handler comes first */
	e->owner_pid = pid;
	e->owner_tid = bpf_get_current_pid_tgid();
	finish(ctx, e);
	return 0;
}

int process_fork(struct bpf_raw_tracepoint_args *ctx)
{
	u32 parent = tgid_of(ctx->args[0]), child = tgid_of(ctx->args[1]), one = 1;

	if (parent == child || !tracees.lookup(&parent))
		return 0;
	struct event *e = begin(P_FORK, 0);
	if (!e)
		return 0; /* a child that nobody hears of is not followed: nobody would resume it */
#if FOLLOW_FORKS
	if (tracees.update(&child, &one))
		count_lost(LOST_CALLS);
#endif
	e->owner_pid = parent;
	e->object = child;
	events.ringbuf_submit(e, 0);
	return 0;
}

int process_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	u64 signal = deref(ctx->args[0], OFF_task_struct_signal);
	u32 pid = id >> 32, tid = id;
	s32 live = 0;

	if (!tracees.lookup(&pid))
		return 0;
	/* A thread that dies inside a call never reaches its return. */
	calls.delete(&tid);
	struct event *e = begin(P_TASK_EXIT, 0);
	if (!e)
		return 0;
	e->owner_pid = pid;
	e->owner_tid = tid;
	bpf_probe_read_kernel(&live, sizeof(live), (void *)(signal + OFF_signal_struct_live));
	e->left = live; /* threads of the process that have not come here */
	finish(ctx, e);
	return 0;
}
