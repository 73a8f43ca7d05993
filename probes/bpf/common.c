/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * What all backends share: the event that goes to the agent, the maps, and the reads.
 * probes/capture.py mirrors struct event and decodes it. Offsets of kernel fields (OFF_*), the
 * numbers of the points (P_*) and of the kinds come as -D from Python; an offset that this
 * kernel's BTF does not have is -1, and the field is then not read and its bit not set.
 */
#include <uapi/linux/ptrace.h>

#define BPF_LICENSE Dual MIT/GPL
#define KERNEL_STACK 16384 /* bytes of a task's stack, at least (THREAD_SIZE) */
#define SIGCHLD 17
#define SIGCONT 18
#define SIGSTOP 19

/* One program serves several functions: it is loaded once for each, with these constants patched
 * in its code before (probes/attach.py). */
#define CONSTANT(n)                                                                                \
	({                                                                                         \
		u64 value;                                                                         \
		asm volatile("%0 = " #n " ll" : "=r"(value));                                      \
		value;                                                                             \
	})
/* What was read beside the fields of the layers, whose bits are their numbers (below 32). */
enum have { HAVE_RET = 32, HAVE_FD, HAVE_FD_FILE, HAVE_LOWEST, HAVE_STOP, HAVE_SIGNAL,
	    HAVE_NR, HAVE_ARGS };
#define BIT(n) (1ULL << (n))
#define JOBCTL_STOP_PENDING BIT(17) /* include/linux/sched/jobctl.h */

enum layer { LAYER_FILE, LAYER_SOCKET, LAYER_SOCK, LAYERS };

struct event {
	u32 point, cpu;
	u64 t;
	u64 t0; /* when the call began: with tid it names the call */
	u64 have;
	s64 ret;
	u64 args[3];
	u64 layer[LAYERS]; /* addresses; 0: not part of this event */
	u64 field[FIELDS]; /* a value only where its bit in `have` is set */
	u64 fd_file, ops_release, f_release;
	u64 site, object;
	u64 stack; /* the id of a struct stack that was sent before; 0: none was read */
	u32 pid, tid;
	u32 owner_pid, owner_tid; /* the thread whose call it is; current may be another */
	s32 fd, lowest, users;
	s32 stop, signo, sig_ret, left;
	u32 kind, pad;
	char comm[16], cache[32];
};
_Static_assert(sizeof(struct event) == EVENT_SIZE, "probes/capture.py mirrors struct event");

/* A kernel stack, sent once. With `key`: also what lies in memory from the program's context on, for
 * the agent to find the return addresses there (struct known_stack). */
struct stack {
	u32 point, size, length, pad; /* P_STACK; bytes of `frames` and of `memory` */
	u64 id, key;
	u64 frames[STACK_DEPTH];
	u64 memory[STACK_WORDS];
};
_Static_assert(sizeof(struct stack) == STACK_SIZE, "probes/unwound.py mirrors struct stack");

/* Where a stack that was unwound once has its return addresses: bytes from the program's context on.
 * From the agent. */
struct known_stack {
	u64 id;
	u32 n, pad;
	u32 at[KNOWN_FRAMES];
	u64 frame[KNOWN_FRAMES];
};

struct sys_enter {
	u64 common;
	s64 nr;
	u64 args[6];
};

struct sys_exit {
	u64 common;
	s64 nr;
	s64 ret;
};

struct call {
	u64 t0;
	u64 args[3];
	u64 socket, sock, file;
	u32 pid, tid;
	s32 fd, lowest, users;
	u32 marks; /* backend's own: which functions were entered */
};

struct object {
	u64 t0;
	u64 seen; /* BIT(point): the cleanup functions that it came to */
	u32 pid, tid, kind;
	s32 fd;
};

struct arm { /* of the agent alone */
	u32 signo, serial; /* of its quota; 0: no signal */
	u32 stop, pad;
};

struct quota { /* something is done so many times, whoever comes first */
	u32 serial, times;
	u64 used; /* no fewer were used */
};

struct token {
	u32 serial, number;
};

struct region { /* pages of a tracee that userfaultfd keeps missing: see hold.c */
	u64 base;
	u64 next; /* how many were used */
	u64 count;
};

/* Job control of a tracee: how many SIGSTOPs of ours, sent to have it wait, and of anybody else it
 * got since its last SIGCONT. */
struct tracee {
	u64 since;     /* when the first of our own came */
	u32 expected;  /* sent by us, not generated yet: an interrupt does that */
	u32 waits;     /* our own */
	u32 stops;     /* of others */
	u32 undone;    /* `stops` when the last SIGCONT came, which undid them */
	u32 waited;    /* the newest was our own */
	u32 pad;
};

#define BPF_LRU(name, key, value, size) BPF_TABLE("lru_hash", key, value, name, size)
#define EEXIST 17

BPF_RINGBUF_OUTPUT(events, RING_PAGES);     /* the first map: see ring_fill() */
BPF_HASH(tracees, u32, struct tracee, 65536); /* by tgid */
BPF_HASH(stacks, u64, u32, 4096);           /* ids of the stacks that were sent */
/* By point, call site and depth, which the kernel randomises (64 of them for each path). */
BPF_HASH(known, u64, struct known_stack, 4096);
BPF_HASH(samples, u64, u32, 16384);         /* key → how often it was sent with its memory */
BPF_HASH(guarded, u32, u32, 65536);        /* tgid: it is resumed, should the agent die */
BPF_HASH(calls, u32, struct call, 65536);   /* tid → the call it is in */
BPF_HASH(objects, u64, struct object, 262144);
BPF_ARRAY(arms, struct arm, 64);           /* by point */
BPF_ARRAY(quotas, struct quota, QUOTAS);   /* by serial % QUOTAS */
BPF_LRU(tokens, struct token, u32, 16384); /* those that were taken; old ones decide nothing */
BPF_HASH(closing, u32, struct object, 16384); /* tid → what close(2) is about to close */
BPF_HASH(regions, u32, struct region, 64); /* tgid → where it can be held */
BPF_HASH(postponed, u32, u32, 16384);      /* tid → it stops at the end of this system call */
enum control { STOP_EVERYWHERE, HOLDS_ARMED, TRACEES_WAIT /* whatever the ring holds */, AGENT_PID };
BPF_ARRAY(control, u32, 4);
BPF_ARRAY(waits, u64, 1);                  /* SIGSTOPs by which tracees wait */
BPF_ARRAY(woken, u64, 1);                  /* when the agent was last woken up */
BPF_PERCPU_ARRAY(hits, u64, 64);           /* by point */
BPF_ARRAY(lost, u64, 7);
enum lost_what { LOST_RING, LOST_CALLS, LOST_OBJECTS, LOST_RETURNS, LOST_HOLDS, LOST_SIGNALS,
		 UNSEEN_FREES };

static __attribute__((always_inline)) inline u32 control_value(u32 which)
{
	u32 *value = control.lookup(&which);

	return value ? *value : 0;
}

static __attribute__((always_inline)) inline void count_hit(u32 point)
{
	u64 *n = hits.lookup(&point);
	if (n)
		*n += 1;
}

static __attribute__((always_inline)) inline void count_lost(u32 what)
{
	u64 *n = lost.lookup(&what);
	if (n)
		lock_xadd(n, 1);
}

static __attribute__((always_inline)) inline u64 deref(u64 base, long offset)
{
	u64 value = 0;
	if (base && offset >= 0)
		bpf_probe_read_kernel(&value, sizeof(value), (void *)(base + offset));
	return value;
}

/* How many bytes wait in the ring. bpf_ringbuf_query() is helper 134 (Linux 5.8), which bcc does
 * not know; 1: the first map. */
static __attribute__((always_inline)) inline u64 ring_fill(void)
{
	u64 (*query)(void *, u64) = (void *)134;

	return query((void *)bpf_pseudo_fd(1, -1), 0);
}

/* Of the ring the last part is for what is rare and all else depends on (fork, exec, exit), the
 * part before it for calls: signals may come in any number, from anybody. */
static __attribute__((always_inline)) inline u64 room_for(u32 point)
{
	if (point == P_FORK || point == P_EXEC || point == P_TASK_EXIT)
		return RING_SIZE;
	if (point == P_SIGNAL_GENERATE || point == P_SIGNAL_DELIVER)
		return RING_SIZE / 4 * 3;
	return RING_SIZE / 16 * 15;
}

static __attribute__((always_inline)) inline u64 mixed(u64 hash, u64 value)
{
	hash = (hash ^ value) * 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 29;
}

/* The id of the current stack, by unwinding it. `key`, `context`: see struct stack. */
static __attribute__((always_inline)) inline u64 unwound_at(void *ctx, u64 key, u64 context,
							    u64 length)
{
	u64 frames[STACK_DEPTH], id = 1;
	u32 one = 1;
	long size = bpf_get_stack(ctx, frames, sizeof(frames), 0);

	if (size <= 0)
		return 0;
#pragma unroll
	for (int i = 0; i < STACK_DEPTH; i++)
		if (i * 8 < size)
			id = mixed(id, frames[i]);
	if (!key && stacks.lookup(&id))
		return id;
	struct stack *s = events.ringbuf_reserve(sizeof(struct stack));
	if (!s) {
		count_lost(LOST_RING);
		return 0;
	}
	s->point = P_STACK;
	s->size = size;
	s->id = id;
	s->key = key;
	__builtin_memcpy(s->frames, frames, sizeof(frames));
	s->length = 0;
	if (length > sizeof(s->memory))
		length = sizeof(s->memory);
	if (key && !bpf_probe_read_kernel(s->memory, length, (void *)context))
		s->length = length;
	events.ringbuf_submit(s, BPF_RB_NO_WAKEUP);
	stacks.update(&id, &one);
	return id;
}

static __attribute__((always_inline)) inline u64 unwound(void *ctx)
{
	return unwound_at(ctx, 0, 0, 0);
}

/* The same for a program whose context lies on the stack. Unwinding takes longer than all else that a
 * probe does. But the frames of one path have fixed sizes: if the context is as deep in the task's
 * stack as it was when this place was unwound before, and each return address is where the unwinder
 * found it then, with the same value, it would go the same way again. */
static __attribute__((always_inline)) inline u64 known_stack(void *ctx, u64 point, u64 site)
{
	u64 copy = (u64)ctx, context = 0, key = 0;
	struct known_stack *k;

	bpf_probe_read_kernel(&context, sizeof(context), &copy); /* a plain number to the verifier */
	u64 depth = context - deref(bpf_get_current_task(), OFF_task_struct_stack);
	if (depth < KERNEL_STACK) { /* else it is an interrupt's stack */
		key = mixed(mixed(mixed(1, point), site), depth);
		k = known.lookup(&key);
		if (k) {
			u32 i;
			for (i = 0; i < KNOWN_FRAMES; i++)
				if (i >= k->n || deref(context, k->at[i]) != k->frame[i])
					break;
			if (i == k->n)
				return k->id;
		}
		u32 *n = samples.lookup(&key), one = 1;
		if (k || (n && *n >= STACK_SAMPLES))
			key = 0;
		else if (n)
			*n += 1;
		else
			samples.update(&key, &one);
	}
	return unwound_at(ctx, key, context, KERNEL_STACK - depth);
}

/* `stack`: unwound(), known_stack(), or 0. */
static __attribute__((always_inline)) inline struct event *begin(u32 point, struct call *call,
								 u64 stack)
{
	u64 room = room_for(point);

	count_hit(point);
	struct event *e = 0;
	if (room == RING_SIZE || ring_fill() < room)
		e = events.ringbuf_reserve(sizeof(struct event));
	if (!e) {
		count_lost(room == RING_SIZE / 4 * 3 ? LOST_SIGNALS : LOST_RING);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->stack = stack;
	u64 id = bpf_get_current_pid_tgid();
	e->t = bpf_ktime_get_ns();
	e->point = point;
	e->cpu = bpf_get_smp_processor_id();
	e->pid = id >> 32;
	e->tid = id;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	if (call) {
		e->t0 = call->t0;
		e->owner_pid = call->pid;
		e->owner_tid = call->tid;
	}
	return e;
}

/* FILE_FIELDS, SOCKET_FIELDS, SOCK_FIELDS are lists of F(number, offset, bytes), from Python: the
 * fields that this kernel has. Little-endian: a narrow field fills the low bytes of its slot. */
#define F(number, offset, bytes)                                                                   \
	if (!(unset & BIT(number)))                                                                \
		e->have |= (u64)!bpf_probe_read_kernel(&e->field[number], bytes,                   \
						       (void *)(base + (offset)))                  \
			   << (number);

/* Whether the object that the event's call made in this slab object is not freed.
 *
 * Asked after its fields were read: until the tracepoint of its free, which comes before the free,
 * the memory is nobody else's. So no other CPU can free it between the reading and the question. RCU
 * alone would not do: SLAB_TYPESAFE_BY_RCU (the socks of TCP, files since 6.12) keeps the type of the
 * memory, not its owner. */
static __attribute__((always_inline)) inline int is_alive(struct event *e, u64 slab)
{
	struct object *object = objects.lookup(&slab);

	return object && object->t0 == e->t0 && object->tid == e->owner_tid;
}

static __attribute__((always_inline)) inline u32 inode_count(u64 socket)
{
	u32 count = 0;
	bpf_probe_read_kernel(&count, sizeof(count),
			      (void *)(socket - OFF_socket_alloc_socket +
				       OFF_socket_alloc_vfs_inode + OFF_inode_i_count));
	return count;
}

/* f_count; since Linux 6.13 f_ref, which counts from 0 and is dead above (linux/file_ref.h). */
#define NO_REFERENCE(f_count) (F_REF ? (f_count) >= 0xc000000000000000ULL : !(f_count))

/* Read the fields of these layers (0: not there), but those whose bits are in `unset`: what the
 * kernel has not set yet at this point is slab leftovers, and no value.
 *
 * An object that is freed keeps its address in the event, and has no fields. So does one whose last
 * reference is gone, as RCU frees most of them later; but not in the functions that destroy it: they
 * have it `at_hand`, BIT(layer). */
static __attribute__((always_inline)) inline void read_fields(struct event *e, u64 file, u64 socket,
							      u64 sock, u64 unset, u32 at_hand)
{
	u32 destroyed;
	u64 base;
	e->layer[LAYER_FILE] = file;
	e->layer[LAYER_SOCKET] = socket;
	e->layer[LAYER_SOCK] = sock;
	if ((base = file)) {
		FILE_FIELDS(F)
		destroyed = NO_REFERENCE(e->field[FIELD_file_f_count]) && !(at_hand & BIT(LAYER_FILE));
		if (destroyed || !is_alive(e, file))
			e->have &= ~FILE_BITS;
	}
	if ((base = socket)) {
		SOCKET_FIELDS(F)
		destroyed = !inode_count(socket) && !(at_hand & BIT(LAYER_SOCKET));
		if (destroyed || !is_alive(e, socket - OFF_socket_alloc_socket))
			e->have &= ~SOCKET_BITS;
	}
	if ((base = sock)) {
		SOCK_FIELDS(F)
		destroyed = !e->field[FIELD_sock_skc_refcnt] && !(at_hand & BIT(LAYER_SOCK));
		if (destroyed || !is_alive(e, sock))
			e->have &= ~SOCK_BITS;
	}
}

/* All layers that the call has made so far. */
static __attribute__((always_inline)) inline void read_layers(struct event *e, struct call *call)
{
	read_fields(e, call->file, call->socket, call->sock, 0, 0);
}

/* The tables of system calls of x86-64. */
enum abi { ABI_64, ABI_I386, ABI_X32 };
#define TS_COMPAT 2 /* arch/x86/include/asm/thread_info.h */
#define PF_IO_WORKER 0x10 /* include/linux/sched.h */
#define X32_BIT 0x40000000
#define REGISTER(regs, name) deref(regs, __builtin_offsetof(struct pt_regs, name))

/* By which of them the current task made the system call that it is in. */
static __attribute__((always_inline)) inline u32 abi_of(u32 nr)
{
	u64 thread = bpf_get_current_task() + OFF_task_struct_thread_info;
	u32 status = 0;

	bpf_probe_read_kernel(&status, sizeof(status), (void *)(thread + OFF_thread_info_status));
	return status & TS_COMPAT ? ABI_I386 : nr & X32_BIT ? ABI_X32 : ABI_64;
}

static __attribute__((always_inline)) inline void tell_number(struct event *e, u32 nr)
{
	e->object = nr;
	e->kind = X86_64 ? abi_of(nr) : ABI_64;
	e->have |= BIT(HAVE_NR);
}

/* The registers with which the current task came into the kernel; 0: not known. */
static __attribute__((always_inline)) inline u64 user_registers(void)
{
#if !X86_64
	return 0;
#elif TASK_PT_REGS /* bpf_task_pt_regs(bpf_get_current_task_btf()), which bcc does not know */
	void *(*task)(void) = (void *)158;
	void *(*registers)(void *) = (void *)175;

	return (u64)registers(task());
#else /* task_pt_regs() of arch/x86/include/asm/processor.h; a kernel with KASAN has a larger stack */
	u64 stack = deref(bpf_get_current_task(), OFF_task_struct_stack);
	u64 regs = stack + KERNEL_STACK - sizeof(struct pt_regs);
	u64 cs = stack ? REGISTER(regs, cs) : 0;

	return cs == 0x33 || cs == 0x23 ? regs : 0;
#endif
}

static __attribute__((always_inline)) inline u64 files_of_current(void)
{
	return deref(bpf_get_current_task(), OFF_task_struct_files);
}

/* What fdt->fd[fd] of the current task leads to; *ok tells whether it could be read. */
static __attribute__((always_inline)) inline u64 file_of_fd(u32 fd, u32 *ok)
{
	u64 fdt = deref(files_of_current(), OFF_files_struct_fdt);
	u32 max = 0;
	u64 file = 0;
	*ok = 0;
	if (!fdt || bpf_probe_read_kernel(&max, sizeof(max), (void *)(fdt + OFF_fdtable_max_fds)))
		return 0;
	if (fd >= max)
		return 0;
	u64 table = deref(fdt, OFF_fdtable_fd);
	if (table && !bpf_probe_read_kernel(&file, sizeof(file), (void *)(table + 8 * (u64)fd)))
		*ok = 1;
	return file;
}

/* The index of the lowest clear bit; 64: none is clear. */
static __attribute__((always_inline)) inline u32 first_zero(u64 word)
{
	u64 low = ~word & -(~word);
	u32 n = 0;

	if (!low)
		return 64;
	if (!(low & 0x00000000ffffffffULL)) n += 32;
	if (!(low & 0x0000ffff0000ffffULL)) n += 16;
	if (!(low & 0x00ff00ff00ff00ffULL)) n += 8;
	if (!(low & 0x0f0f0f0f0f0f0f0fULL)) n += 4;
	if (!(low & 0x3333333333333333ULL)) n += 2;
	if (!(low & 0x5555555555555555ULL)) n += 1;
	return n;
}

/* How many words of full_fds_bits lowest_free_fd() looks at: each stands for 4096 numbers. */
#define FULL_WORDS 64

/* The lowest number that no file has, as find_next_fd() of fs/file.c finds it; -1: not read, or
 * FULL_WORDS are not enough. A full table grows: its size is then the number. The limit on numbers
 * (RLIMIT_NOFILE) plays no part. `users`: how many tasks share the table. */
static __attribute__((always_inline)) inline s32 lowest_free_fd(s32 *users)
{
	u64 files = files_of_current();
	u64 fdt = deref(files, OFF_files_struct_fdt);
	u64 open = deref(fdt, OFF_fdtable_open_fds);
	u64 full = deref(fdt, OFF_fdtable_full_fds_bits);
	u32 next = 0, max = 0, bit;
	u64 word = 0;

	if (!open || !full ||
	    bpf_probe_read_kernel(users, sizeof(*users), (void *)(files + OFF_files_struct_count)) ||
	    bpf_probe_read_kernel(&next, sizeof(next), (void *)(files + OFF_files_struct_next_fd)) ||
	    bpf_probe_read_kernel(&max, sizeof(max), (void *)(fdt + OFF_fdtable_max_fds)))
		return -1;
	next /= 64; /* all numbers below next_fd are taken, so all words before this one are full */
	for (u32 i = 0; i < FULL_WORDS; i++) {
		u32 at = next / 64 + i;
		if (at * 4096 >= max)
			return max;
		if (bpf_probe_read_kernel(&word, sizeof(word), (void *)(full + 8 * (u64)at)))
			return -1;
		if (!i)
			word |= (1ULL << next % 64) - 1;
		bit = first_zero(word);
		if (bit == 64)
			continue;
		at = at * 64 + bit;
		if (at * 64 >= max)
			return max;
		if (bpf_probe_read_kernel(&word, sizeof(word), (void *)(open + 8 * (u64)at)))
			return -1;
		bit = first_zero(word);
		return bit == 64 ? -1 : at * 64 + bit; /* 64: another task is changing the table */
	}
	return -1;
}

static __attribute__((always_inline)) inline void own(u64 address, struct call *call, u32 kind)
{
	struct object object = {.t0 = call->t0, .pid = call->pid, .tid = call->tid, .kind = kind,
				.fd = call->fd};
	struct object *before = objects.lookup(&address);

	/* The memory was free meanwhile, and no probe saw that: the kernel has not called it. */
	if (before && (before->t0 != object.t0 || before->tid != object.tid))
		count_lost(UNSEEN_FREES);
	if (objects.update(&address, &object))
		count_lost(LOST_OBJECTS);
}

/* A pending signal would keep a held task from sleeping: where holds are armed, the stop is sent
 * at the end of the system call. There the task stops in any case. */
static __attribute__((always_inline)) inline int postpone(u32 point)
{
	u32 one = 1, tid = bpf_get_current_pid_tgid(), pid = bpf_get_current_pid_tgid() >> 32;

	if (!control_value(HOLDS_ARMED) || point == P_EXIT || point == P_CLOSE ||
	    !regions.lookup(&pid))
		return 0;
	return (calls.lookup(&tid) || closing.lookup(&tid)) && !postponed.update(&tid, &one);
}

static __attribute__((always_inline)) inline int was_postponed(u32 point)
{
	u32 tid = bpf_get_current_pid_tgid();

	return (point == P_EXIT || point == P_CLOSE) && !postponed.delete(&tid);
}

#define AT_ONCE 64 /* programs that take at once: CPUs, where none is preempted */

/* Take one of the times that a quota has, if there is one.
 *
 * An addition that tells what was there before needs Linux 5.12, and a spin lock is not for programs
 * of tracing. So the map decides: who gets a number's key in first has it. Numbers are taken in order;
 * those from `used` on only by programs that have not come to add to it. */
static __attribute__((always_inline)) inline int take(u32 serial)
{
	u32 slot = serial % QUOTAS, one = 1;
	struct quota *quota = quotas.lookup(&slot);
	struct token token = {.serial = serial};

	if (!serial || !quota || quota->serial != serial)
		return 0;
	u32 first = quota->used;
	for (u32 i = 0; i < AT_ONCE; i++) {
		token.number = first + i;
		if (token.number >= quota->times)
			return 0;
		s64 error = tokens.insert(&token, &one);
		if (!error) {
			lock_xadd(&quota->used, 1);
			return 1;
		}
		if (error != -EEXIST) /* we interrupt what holds a lock of the map */
			return 0;
	}
	return 0;
}

/* Do what is armed at this point to the current task, and note what the kernel said. */
static __attribute__((always_inline)) inline void obey(struct event *e)
{
	u32 point = e->point;
	struct arm *arm = arms.lookup(&point);

	if (arm && take(arm->serial)) {
		e->signo = arm->signo;
		e->sig_ret = bpf_send_signal(arm->signo);
		e->have |= BIT(HAVE_SIGNAL);
	}
	if (was_postponed(point) || (arm && arm->stop) || control_value(STOP_EVERYWHERE)) {
		if (postpone(point))
			return;
		e->stop = bpf_send_signal(SIGSTOP);
		e->have |= BIT(HAVE_STOP);
	}
}

/* Hand the event over. The agent is woken up once in WAKE_INTERVAL: it looks again after that time
 * for as long as there is something (probes/spool.py). */
static __attribute__((always_inline)) inline void submit(struct event *e)
{
	u32 zero = 0;
	u64 t = e->t, *last = woken.lookup(&zero);

	if (last && t - *last < WAKE_INTERVAL) {
		events.ringbuf_submit(e, BPF_RB_NO_WAKEUP);
		return;
	}
	if (last)
		*last = t;
	events.ringbuf_submit(e, BPF_RB_FORCE_WAKEUP);
}

static __attribute__((always_inline)) inline u32 ptraced(u64 task)
{
	u32 flags = 0;

	bpf_probe_read_kernel(&flags, sizeof(flags), (void *)(task + OFF_task_struct_ptrace));
	return flags;
}

/* Stop the current thread if the ring is filled above the mark, or the agent says so, until the
 * agent has caught up: it sends SIGCONT then. Each thread is stopped by an event of its own: one
 * SIGSTOP for all of them leaves the others running for some time. A process that the guardian does
 * not know yet runs on: nobody would resume it, should the agent die. */
static __attribute__((always_inline)) inline void wait_for_agent(u32 point)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	u64 jobctl;

	if (ring_fill() < RING_MARK && !control_value(TRACEES_WAIT))
		return;
	struct tracee *tracee = tracees.lookup(&pid);
	if (!tracee || !guarded.lookup(&pid))
		return;
	/* Another debugger would see the signal, and perhaps take it away. */
	if (ptraced(bpf_get_current_task()))
		return;
	/* A signal keeps a task that is to be held from sleeping. */
	if (control_value(HOLDS_ARMED) && point != P_EXIT && point != P_CLOSE && regions.lookup(&pid))
		return;
	/* It is about to stop: by somebody else, and then our SIGCONT would undo that; or by us. */
	jobctl = deref(bpf_get_current_task(), OFF_task_struct_jobctl);
	if (jobctl & JOBCTL_STOP_PENDING)
		return;
	lock_xadd(&tracee->expected, 1);
	if (bpf_send_signal_thread(SIGSTOP))
		lock_xadd(&tracee->expected, -1);
}

static __attribute__((always_inline)) inline void finish(struct event *e)
{
	u32 point = e->point, stops = (e->have & BIT(HAVE_STOP)) && !e->stop;

	submit(e);
	if (!stops)
		wait_for_agent(point);
}

static __attribute__((always_inline)) inline int is_tracee(void)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	return tracees.lookup(&pid) != 0;
}

static __attribute__((always_inline)) inline struct call *current_call(void)
{
	u32 tid = bpf_get_current_pid_tgid();
	return calls.lookup(&tid);
}

/* A call makes one socket. A second is of a call whose beginning was missed, and before that the
 * return of this one: the kernel skips a program that already runs on its CPU, for another thread.
 * Nothing of that other call may be told as this one's. */
static __attribute__((always_inline)) inline void forget_call(void)
{
	u32 tid = bpf_get_current_pid_tgid();
	calls.delete(&tid);
	count_lost(LOST_RETURNS);
}

/* A socket is made for a tracee that is in no call of ours. How, its stack tells. */
static __attribute__((always_inline)) inline void uncaptured(void *ctx)
{
	struct event *e = begin(P_UNCAPTURED, 0, unwound(ctx));
	if (!e)
		return;
	e->owner_pid = e->pid;
	e->owner_tid = e->tid;
	finish(e);
}
