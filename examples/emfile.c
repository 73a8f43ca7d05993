/* No descriptor left: socket(2) has built everything when get_unused_fd_flags() says EMFILE, and
 * takes it all apart again (edge 15). */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

int main(void)
{
	struct rlimit limit = {3, 3}; /* 0, 1 and 2 are taken */

	setrlimit(RLIMIT_NOFILE, &limit);
	if (socket(AF_INET, SOCK_STREAM, 0) < 0)
		printf("socket: %s\n", strerror(errno));
	return 0;
}
