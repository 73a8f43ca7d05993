/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * Failures on purpose: programs that make a function of the LSM layer refuse (fmod_ret), or a
 * cgroup refuse a new sock. Armed by the map, a number of times; only for the tracee's own calls.
 */
#define HOOK CONSTANT(0x5eed0000)

struct refusal {
	u32 times;
	s32 error; /* positive */
};

BPF_ARRAY(refusals, struct refusal, 16); /* by hook */

int refuse(unsigned long long *ctx)
{
	u32 hook = HOOK;
	struct call *call = current_call();
	struct refusal *refusal = refusals.lookup(&hook);

	if (!call || !refusal || !refusal->times)
		return 0;
	/* Anything else is no errno to the caller, who would go on with what there is not. */
	if (refusal->error < 1 || refusal->error > 4095)
		return 0;
	refusal->times -= 1;
	s32 error = refusal->error;
	struct event *e = begin(P_REFUSED, call);
	if (e) {
		e->object = hook;
		e->ret = error;
		submit(e);
	}
	return -error;
}

/* Of type cgroup_sock: it runs for the tasks of the tracee's cgroup only. 1: yes, 0: no. */
int refuse_sock(void *ctx)
{
	u32 hook = HOOK;
	struct refusal *refusal = refusals.lookup(&hook);

	if (!refusal || !refusal->times)
		return 1;
	refusal->times -= 1;
	return 0;
}
