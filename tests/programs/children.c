/* children N: N children, all at once, make and close one socket each; so does the parent, last. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int count = argc > 1 ? atoi(argv[1]) : 1;

	for (int i = 0; i < count; i++) {
		pid_t child = fork();

		if (child < 0) {
			perror("fork");
			return 3;
		}
		if (child == 0) {
			close(socket(AF_INET, SOCK_STREAM, 0));
			_exit(0);
		}
	}
	while (wait(NULL) > 0)
		;
	close(socket(AF_INET, SOCK_STREAM, 0));
	return 0;
}
