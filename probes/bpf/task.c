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

#define SEND_SIG_PRIV 1 /* in place of a siginfo: the kernel sends it */
#define TRACE_SIGNAL_IGNORED 1
#define CLD_STOPPED 5
#define CLD_CONTINUED 6

/* Keep account of who stopped a tracee; nonzero: the signal is of our own waiting, and no event.
 * No instance of signal_generate is ever skipped for another: interrupts are off there. */
static __attribute__((always_inline)) inline int of_waiting(struct bpf_raw_tracepoint_args *ctx,
							    struct tracee *tracee)
{
	u32 signo = ctx->args[0], sender = bpf_get_current_pid_tgid() >> 32, zero = 0;
	u64 info = ctx->args[1];
	s32 code = 0;

	if (signo == SIGSTOP && info == SEND_SIG_PRIV && !ctx->args[3] && tracee->expected) {
		u64 *n = waits.lookup(&zero);
		lock_xadd(&tracee->expected, -1);
		if (!tracee->waits)
			tracee->since = bpf_ktime_get_ns();
		tracee->waits += 1;
		tracee->waited = !tracee->stops;
		if (n)
			lock_xadd(n, 1);
		return 1;
	}
	if (signo == SIGSTOP && ctx->args[4] != TRACE_SIGNAL_IGNORED && !ptraced(ctx->args[2])) {
		tracee->stops += 1;
		tracee->waited = 0;
	}
	if (signo == SIGCONT) {
		int ours = sender == control_value(AGENT_PID) && tracee->waits && !tracee->stops;
		tracee->undone = tracee->stops;
		tracee->stops = tracee->waits = 0;
		return ours;
	}
	if (signo == SIGCHLD && ctx->args[4] == TRACE_SIGNAL_IGNORED && info > SEND_SIG_PRIV) {
		struct tracee *child = tracees.lookup(&sender);
		bpf_probe_read_kernel(&code, sizeof(code), (void *)(info + 8)); /* si_code */
		return child && child->waited && (code == CLD_STOPPED || code == CLD_CONTINUED);
	}
	return 0;
}

int signal_generate(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[2];
	u32 pid = tgid_of(task);
	struct tracee *tracee = tracees.lookup(&pid);

	if (!tracee || of_waiting(ctx, tracee))
		return 0;
	struct event *e = begin(P_SIGNAL_GENERATE, 0, 0);
	if (!e)
		return 0;
	e->signo = ctx->args[0];
	e->ret = (s32)ctx->args[4]; /* TRACE_SIGNAL_* of include/trace/events/signal.h */
	e->owner_pid = pid;
	bpf_probe_read_kernel(&e->owner_tid, 4, (void *)(task + OFF_task_struct_pid));
	submit(e);
	wait_for_agent(P_SIGNAL_GENERATE); /* who sends it, if that is a tracee */
	return 0;
}

int signal_deliver(struct bpf_raw_tracepoint_args *ctx)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct tracee *tracee = tracees.lookup(&pid);

	if (!tracee || (ctx->args[0] == SIGSTOP && tracee->waits && !tracee->stops))
		return 0;
	/* That of our own waiting is queued where the task blocked it for a moment. */
	u64 handler = deref(ctx->args[2], OFF_k_sigaction_sa); /* sa.sa_handler comes first */
	if (ctx->args[0] == SIGCONT && tracee->waited && !handler)
		return 0;
	struct event *e = begin(P_SIGNAL_DELIVER, 0, unwound(ctx));
	if (!e)
		return 0;
	e->signo = ctx->args[0];
	e->object = handler;
	e->owner_pid = pid;
	e->owner_tid = bpf_get_current_pid_tgid();
	finish(e);
	return 0;
}

#define FOLLOW CONSTANT(0x5eed0003) /* not a -D: with and without it is one compilation */

int process_fork(struct bpf_raw_tracepoint_args *ctx)
{
	u32 parent = tgid_of(ctx->args[0]), child = tgid_of(ctx->args[1]);
	struct tracee tracee = {};

	if (parent == child)
		return 0;
	tracees.delete(&child); /* of a process that had this number before */
	guarded.delete(&child);
	if (!tracees.lookup(&parent))
		return 0;
	struct event *e = begin(P_FORK, 0, 0);
	if (!e)
		return 0; /* a child that nobody hears of is not followed: nobody would resume it */
	if (FOLLOW && tracees.update(&child, &tracee))
		count_lost(LOST_CALLS);
	e->owner_pid = parent;
	e->object = child;
	e->site = deref(ctx->args[1], OFF_task_struct_start_boottime);
	submit(e);
	wait_for_agent(P_FORK);
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
	bpf_probe_read_kernel(&live, sizeof(live), (void *)(signal + OFF_signal_struct_live));
	if (!live) { /* its number is another's soon */
		tracees.delete(&pid);
		guarded.delete(&pid);
	}
	struct event *e = begin(P_TASK_EXIT, 0, unwound(ctx));
	if (!e)
		return 0;
	e->owner_pid = pid;
	e->owner_tid = tid;
	e->left = live; /* threads of the process that have not come here */
	finish(e);
	return 0;
}
