"""How the benchmarks measure a rate."""

from captioning.complexity import median_seconds


def rate(work, amount, runs):
    """Return amount/s of `work()`, the median of `runs` after one warm-up."""
    return amount / median_seconds(work, runs, warm_up=1)
