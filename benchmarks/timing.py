"""How the benchmarks measure a rate."""

import statistics
import time


def rate(work, amount, runs):
    """Return amount/s of `work()`, the median of `runs` after one warm-up."""
    times = []
    for _ in range(runs + 1):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return amount / statistics.median(times[1:])
