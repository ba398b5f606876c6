/* A clock set back by SET_BACK_SECONDS, for a process that loads this first (LD_PRELOAD).
 *
 * Only what says what time of day it is goes back. What measures a span goes on: libfaketime, which does more, has
 * Python 3.11's time.sleep fail and a JVM spin. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long set_back(void)
{
    static long seconds = -1;
    if (seconds < 0) {
        const char *said = getenv("SET_BACK_SECONDS");
        seconds = said ? atol(said) : 0;
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec -= set_back();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise))
        return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *there)
{
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (there)
        *there = precise.tv_sec;
    return precise.tv_sec;
}
