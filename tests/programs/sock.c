/* sock FAMILY TYPE PROTOCOL…: each triple one socket(2), its result (−errno) printed; not closed. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	for (int i = 1; i + 2 < argc; i += 3) {
		int fd = socket(atoi(argv[i]), atoi(argv[i + 1]), atoi(argv[i + 2]));
		printf("%d\n", fd < 0 ? -errno : fd);
	}
	return 0;
}
