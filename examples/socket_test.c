/* The program of the report: one socket(AF_INET, SOCK_STREAM, 0), then its close. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0) {
		printf("socket: %s\n", strerror(errno));
		return 1;
	}
	printf("socket() = %d\n", fd);
	fflush(stdout);
	close(fd);
	return 0;
}
