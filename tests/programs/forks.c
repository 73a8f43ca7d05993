/* Parent and child each make one socket; the child's is UDP. */
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	if (fork() == 0) {
		socket(AF_INET, SOCK_DGRAM, 0);
		return 0;
	}
	wait(NULL);
	socket(AF_INET, SOCK_STREAM, 0);
	return 0;
}
