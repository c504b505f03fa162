/* Sets the time of day of a process wrong, at any moment.

   Loaded into a process before its C library (LD_PRELOAD). The file CLOCK_SHIFT contains a number of
   seconds as decimal text. It is read again, and added to the time of day, whenever the process asks
   for that. The monotonic clock is not affected. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long shift(void)
{
    const char *path = getenv("CLOCK_SHIFT");
    FILE *file = path ? fopen(path, "re") : NULL;
    long seconds = 0;
    if (!file)
        return 0;
    if (fscanf(file, "%ld", &seconds) != 1)
        seconds = 0;
    fclose(file);
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
    int (*real)(clockid_t, struct timespec *);
    int result;
    *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    result = real(clock, at);
    if (result == 0 && clock == CLOCK_REALTIME)
        at->tv_sec += shift();
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise))
        return -1;
    at->tv_sec = precise.tv_sec;
    at->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at)
{
    struct timespec precise;
    if (clock_gettime(CLOCK_REALTIME, &precise))
        return -1;
    if (at)
        *at = precise.tv_sec;
    return precise.tv_sec;
}
