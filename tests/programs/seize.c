/*
 * seize UID: as that user, try to get into every new process, until standard input ends.
 *
 * Guesses the next pids from /proc/loadavg, and loops PTRACE_SEIZE and pidfd_getfd(2) over them.
 * Prints a line for each process that was seized while it ran our interpreter, and for each
 * descriptor taken that the program could not have opened. The last line counts the processes looked at.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define AHEAD 4   /* pids beyond the newest */
#define BEHIND 4  /* pids before it */
#define FDS 24

static char seen[1 << 22];
static long reached;

static int newest(void)
{
	static int fd = -1;
	char text[128];
	ssize_t got;

	if (fd < 0)
		fd = open("/proc/loadavg", O_RDONLY);
	got = pread(fd, text, sizeof(text) - 1, 0);
	if (got <= 0)
		return 0;
	text[got] = 0;
	return atoi(strrchr(text, ' ') + 1);
}

/* The program itself has its terminal, a pipe, and the libraries that it loads. */
static int privileged(const char *to)
{
	return !strncmp(to, "anon_inode:", 11) || !strncmp(to, "socket:", 7) ||
	       (!strncmp(to, "/dev/", 5) && strncmp(to, "/dev/pts/", 9));
}

static void look(int pid)
{
	char path[64], to[256];
	int pidfd, fd, number;
	ssize_t got;

	if (pid == getpid())
		return;
	pidfd = syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0)
		return;
	for (number = 0; number < FDS; number++) {
		fd = syscall(SYS_pidfd_getfd, pidfd, number, 0);
		if (fd < 0) {
			if (errno == EPERM || errno == ESRCH)
				break;
			continue;
		}
		if (!seen[pid])
			reached++;
		seen[pid] = 1;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		got = readlink(path, to, sizeof(to) - 1);
		to[got < 0 ? 0 : got] = 0;
		if (privileged(to))
			printf("descriptor %d %d %s\n", pid, number, to);
		close(fd);
	}
	close(pidfd);
	if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) {
		if (!seen[pid])
			reached++;
		seen[pid] = 1;
		ptrace(PTRACE_INTERRUPT, pid, 0, 0);
		waitpid(pid, 0, __WALL);
		snprintf(path, sizeof(path), "/proc/%d/exe", pid);
		got = readlink(path, to, sizeof(to) - 1);
		to[got < 0 ? 0 : got] = 0;
		if (strstr(to, "python"))
			printf("seized %d %s\n", pid, to);
		if (ptrace(PTRACE_DETACH, pid, 0, 0))
			waitpid(pid, 0, __WALL);  /* it was killed: a zombie is its tracer's first */
	}
}

int main(int argc, char **argv)
{
	struct pollfd end = {.fd = 0, .events = POLLIN};
	int uid = argc > 1 ? atoi(argv[1]) : 0;
	int pid, last;

	if (!uid || setgroups(0, 0) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid))
		return 2;
	setvbuf(stdout, 0, _IOLBF, 0);
	printf("ready\n");
	while (poll(&end, 1, 0) == 0) {
		last = newest();
		for (pid = last - BEHIND; pid <= last + AHEAD; pid++)
			look(pid);
	}
	printf("reached %ld\n", reached);
	return 0;
}
