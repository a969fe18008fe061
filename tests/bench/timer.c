/*
 * timer COUNT COMMAND: runs COMMAND by /bin/sh, as the server's archiver does with system(), COUNT times one after the
 * other, and prints how long each took in microseconds. Ends with 1 at the first command that fails.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int count, char **words) {
    if (count != 3) return 2;
    for (int n = atoi(words[1]); n > 0; n--) {
        struct timespec begin, end;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        if (system(words[2]) != 0) return 1;
        clock_gettime(CLOCK_MONOTONIC, &end);
        printf("%.1f\n", (end.tv_sec - begin.tv_sec) * 1e6 + (end.tv_nsec - begin.tv_nsec) / 1e3);
    }
    return 0;
}
