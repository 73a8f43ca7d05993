/* table: socket(2) at every size of the descriptor table, and in holes, up to 70 000 descriptors or
 * what RLIMIT_NOFILE can be raised to. Prints the number of each socket, one a line. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LAST = 70000 };

static void check(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static void socket_at(int number)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	check(fd == number, "socket");
	printf("%d\n", fd);
}

int main(void)
{
	struct rlimit limit = {LAST, LAST};
	/* Beside next_fd, far from it, and several words of full_fds_bits away. */
	const int holes[] = {5, 63, 64, 100, 4095, 4096, 19000, 65535, 65536, 69998};
	int next = 3, last, count = 0;

	if (setrlimit(RLIMIT_NOFILE, &limit)) {
		getrlimit(RLIMIT_NOFILE, &limit);
		limit.rlim_cur = limit.rlim_max;
		check(!setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
	}
	last = limit.rlim_cur < LAST ? limit.rlim_cur : LAST;
	for (int boundary = 64; next < last; boundary *= 2) {
		int end = boundary < last ? boundary : last;
		while (next < end - 1)
			check(dup(0) == next++, "dup");
		while (next <= end + 1 && next < last)
			socket_at(next++);
	}
	while (count < (int)(sizeof(holes) / sizeof(*holes)) && holes[count] < last)
		count++;
	for (int i = count - 1; i >= 0; i--) { /* one hole at a time, from the top */
		close(holes[i]);
		socket_at(holes[i]);
	}
	for (int i = 0; i < count; i++)
		close(holes[i]);
	for (int i = 0; i < count; i++) /* all of them, from the bottom */
		socket_at(holes[i]);
	return 0;
}
