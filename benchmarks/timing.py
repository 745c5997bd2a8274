"""How the benchmarks measure a rate."""

from statistics import median

from captioning.complexity import median_seconds


def rate(work, amount, runs):
    """Return amount/s of `work()`, the median of `runs` after one warm-up."""
    return amount / median_seconds(work, runs, warm_up=1)


def rates(ours, baseline, amount, runs):
    """Return (ours, baseline) in amount/s, the medians of `runs` in which both take turns, after one warm-up each."""
    times = [[median_seconds(work, 1, warm_up=0) for work in (ours, baseline)] for _ in range(runs + 1)]
    return tuple(amount / median(column) for column in zip(*times[1:], strict=True))
