/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * Failures on purpose: programs that make a function of the LSM layer refuse (fmod_ret), or a
 * cgroup refuse a new sock. Armed by the map, a number of times; only for the tracee's own calls.
 */
#define HOOK CONSTANT(0x5eed0000)

struct refusal {
	u32 serial; /* of its quota */
	s32 error;  /* positive */
};

BPF_ARRAY(refusals, struct refusal, 16); /* by hook */

int refuse(unsigned long long *ctx)
{
	u32 hook = HOOK;
	struct call *call = current_call();
	struct refusal *refusal = refusals.lookup(&hook);

	if (!call || !refusal)
		return 0;
	s32 error = refusal->error;
	/* Anything else is no errno to the caller, who would go on with what there is not. */
	if (error < 1 || error > 4095 || !take(refusal->serial))
		return 0;
	struct event *e = begin(P_REFUSED, call, 0);
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

	return !refusal || !take(refusal->serial);
}
