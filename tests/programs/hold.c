/* hold WHAT: one socket() each, its result printed, in situations that a hold must bear.
 *
 * handler: SIGUSR1 has a handler, which prints "USR1". exec PROGRAM ARGS…: it becomes that program.
 * vfork: the child, in the parent's memory, is first. seccomp: only what it needs itself is allowed.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void handler(int signo)
{
	(void)signo;
	write(1, "USR1\n", 5);
}

#define ALLOW(name) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), \
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static void forbid(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(socket), ALLOW(write), ALLOW(exit_group), ALLOW(newfstatat), ALLOW(fstat),
		ALLOW(ioctl), ALLOW(brk), ALLOW(mmap), ALLOW(getrandom),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "handler"))
		signal(SIGUSR1, handler);
	if (!strcmp(what, "exec"))
		execv(argv[2], argv + 2);
	if (!strcmp(what, "seccomp"))
		forbid();
	if (!strcmp(what, "vfork") && vfork() == 0) {
		socket(AF_INET, SOCK_DGRAM, 0);
		_exit(0);
	}
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	printf("%d\n", fd < 0 ? -errno : fd);
	return 0;
}
