/* loop N [T]: T threads (1) each make and close N sockets; fails loudly if one is refused. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int count;

static void *work(void *unused)
{
	(void)unused;
	for (int i = 0; i < count; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		if (fd < 0)
			exit(3);
		close(fd);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argc > 2 ? atoi(argv[2]) : 1;
	pthread_t thread[256];
	struct timespec start, end;

	count = atoi(argv[1]);
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (int i = 1; i < threads; i++)
		pthread_create(&thread[i], NULL, work, NULL);
	work(NULL);
	for (int i = 1; i < threads; i++)
		pthread_join(thread[i], NULL);
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("ns per call %ld\n", ((end.tv_sec - start.tv_sec) * 1000000000L + end.tv_nsec - start.tv_nsec) / count);
	return 0;
}
