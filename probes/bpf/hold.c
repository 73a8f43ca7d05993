/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * Holds: a sleepable LSM program reads a page of the tracee that userfaultfd keeps missing. The
 * task sleeps there, inside the kernel, until the agent fills the page (probes/hold.py).
 */
#define HOLD CONSTANT(0x5eed0000)
#define PAGE_SHIFT 12
enum hold { HOLD_SOCKET_CREATE, HOLD_MODULE_REQUEST, HOLD_POST_CREATE, HOLD_INODE_FREE };

struct page {
	u32 tgid, number;
};

BPF_ARRAY(holds, u32, 8);                   /* by hook: whether it holds */
BPF_HASH(pages, struct page, u32, 32768);   /* → the tid that was held there: used once */

/* A page that holds nobody yet; 0: none is left. An addition that tells what was there before
 * needs Linux 5.12, hence the map: who gets its key in first has the page. */
static __attribute__((always_inline)) inline u64 take_page(struct region *region, u32 tgid, u32 tid)
{
	u64 next = region->next;
	struct page page = {.tgid = tgid};

#pragma unroll
	for (int i = 0; i < 16; i++) {
		if (next + i >= region->count)
			return 0;
		page.number = next + i;
		if (!pages.insert(&page, &tid)) {
			lock_xadd(&region->next, 1);
			return region->base + ((next + i) << PAGE_SHIFT);
		}
	}
	return 0;
}

static __attribute__((always_inline)) inline struct event *held(u32 point, struct call *call,
								struct object *object, u64 inode)
{
	struct event *e = begin(point, call, 0);

	if (!e)
		return 0;
	e->object = HOLD;
	/* An inode's free security hook is of its destruction. */
	u32 at_hand = HOLD == HOLD_INODE_FREE ? BIT(LAYER_SOCKET) : 0;
	if (call) {
		read_fields(e, call->file, call->socket, call->sock, 0, at_hand);
	} else {
		u64 socket = inode - OFF_socket_alloc_vfs_inode + OFF_socket_alloc_socket;
		e->t0 = object->t0;
		e->owner_pid = object->pid;
		e->owner_tid = object->tid;
		read_fields(e, deref(socket, OFF_socket_file), socket, deref(socket, OFF_socket_sk), 0,
			    at_hand);
	}
	return e;
}

int hold(unsigned long long *ctx)
{
	u32 which = HOLD, tid = bpf_get_current_pid_tgid();
	u32 tgid = bpf_get_current_pid_tgid() >> 32, word;
	struct region *region = regions.lookup(&tgid);
	u32 *armed = holds.lookup(&which);
	struct object *object = 0;
	u64 argument = 0, inode = 0;

	if (!region || !armed || !*armed)
		return 0;
	bpf_probe_read_kernel(&argument, sizeof(argument), ctx);
	struct call *call = current_call();
	if (which == HOLD_INODE_FREE) { /* the inode of a socket that some call made */
		u64 slab = argument - OFF_socket_alloc_vfs_inode;
		inode = argument;
		object = objects.lookup(&slab);
		if (!object)
			return 0;
		if (call && call->socket != slab + OFF_socket_alloc_socket)
			call = 0;
	} else {
		if (!call)
			return 0;
		/* Not for a socket that the kernel makes for itself meanwhile. */
		if (which == HOLD_SOCKET_CREATE && call->socket)
			return 0;
		/* In a register, a constant: the verifier knows it, and which hooks have no ctx[4]. */
		if (HOLD == HOLD_POST_CREATE) {
			u32 kern = ctx[4];

			if (!call->socket && !kern) /* sock_alloc's own probe missed it */
				call->socket = argument;
			if (call->socket != argument)
				return 0;
		}
	}
	struct object owner = {};
	if (object)
		owner = *object; /* it may be gone when we wake up */
	u64 address = take_page(region, tgid, tid);
	if (!address) {
		count_lost(LOST_HOLDS);
		return 0;
	}
	struct event *e = held(P_HELD, call, &owner, inode);
	if (!e)
		return 0;
	e->site = address;
	if (which == HOLD_MODULE_REQUEST)
		bpf_probe_read_kernel_str(e->cache, sizeof(e->cache), (void *)argument);
	submit(e);

	s64 result = bpf_copy_from_user(&word, sizeof(word), (void *)address);

	e = held(P_RELEASED, call, &owner, inode);
	if (!e)
		return 0;
	e->site = address;
	e->ret = result;
	e->have |= BIT(HAVE_RET);
	submit(e);
	return 0;
}

/* exec(2) drops the memory that the pages were in. */
int process_exec(struct bpf_raw_tracepoint_args *ctx)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;

	if (!regions.lookup(&tgid))
		return 0;
	regions.delete(&tgid);
	struct event *e = begin(P_EXEC, 0, 0);
	if (!e)
		return 0;
	e->owner_pid = tgid;
	submit(e);
	return 0;
}
