/* ways WAY…: one socket by each way there is beside a 64-bit socket(2), its result (−errno) printed.
 *
 * int80, socketcall: 32-bit system calls, from a 64-bit program. x32: by that number. uring, worker,
 * slot: IORING_OP_SOCKET, at once, by a worker thread of the kernel's, into a slot that is no
 * descriptor. accept, pair: sockets that no socket(2) makes. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { OP_SOCKET = 45 }; /* IORING_OP_SOCKET, Linux 5.19 */

static long int80(long nr, long a, long b, long c)
{
	long result;

	asm volatile("int $0x80" : "=a"(result) : "a"(nr), "b"(a), "c"(b), "d"(c)
		     : "memory", "r8", "r9", "r10", "r11");
	return (int)result;
}

static long socketcall(void)
{
	unsigned *args = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

	args[0] = AF_INET, args[1] = SOCK_STREAM, args[2] = 0;
	return int80(102, 1, (long)args, 0);
}

static long uring(int flags, int slot)
{
	struct io_uring_params params = {};
	int ring = syscall(SYS_io_uring_setup, 4, &params);
	int none[1] = {-1};

	if (ring < 0)
		return -errno;
	if (slot)
		syscall(SYS_io_uring_register, ring, IORING_REGISTER_FILES, none, 1);
	char *sq = mmap(NULL, params.sq_off.array + 4 * params.sq_entries, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
	char *cq = mmap(NULL, params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe),
			PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_CQ_RING);
	struct io_uring_sqe *sqe = mmap(NULL, params.sq_entries * sizeof(*sqe), PROT_READ | PROT_WRITE,
					MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
	struct io_uring_cqe *cqe = (void *)(cq + params.cq_off.cqes);

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = OP_SOCKET;
	sqe->flags = flags;
	sqe->fd = AF_INET;
	sqe->off = SOCK_STREAM;
	sqe->file_index = slot; /* 1: the first */
	((unsigned *)(sq + params.sq_off.array))[0] = 0;
	__atomic_store_n((unsigned *)(sq + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		return -errno;
	return cqe->res; /* the ring stays open: an exit ends it */
}

static long accepted(void)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(at);
	int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);

	bind(listener, (void *)&at, size);
	listen(listener, 1);
	getsockname(listener, (void *)&at, &size);
	connect(client, (void *)&at, size);
	return accept(listener, NULL, NULL);
}

int main(int argc, char **argv)
{
	int pair[2];

	for (int i = 1; i < argc; i++) {
		const char *way = argv[i];
		long result = -ENOSYS;

		if (!strcmp(way, "int80"))
			result = int80(359, AF_INET, SOCK_STREAM, 0);
		else if (!strcmp(way, "socketcall"))
			result = socketcall();
		else if (!strcmp(way, "x32"))
			result = (result = syscall(0x40000000 | SYS_socket, AF_INET, SOCK_STREAM, 0)) < 0 ? -errno : result;
		else if (!strcmp(way, "uring"))
			result = uring(0, 0);
		else if (!strcmp(way, "worker"))
			result = uring(IOSQE_ASYNC, 0);
		else if (!strcmp(way, "slot"))
			result = uring(0, 1);
		else if (!strcmp(way, "accept"))
			result = accepted();
		else if (!strcmp(way, "pair"))
			result = socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
		printf("%s %ld\n", way, result);
	}
	return 0;
}
