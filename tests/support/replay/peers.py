"""Rules of three other tools on the same samples: is the new run slower than the old one?

Each rule receives all samples of the baseline's processes together, more than two of the tools
would have.
"""

import statistics

from asv.commands.compare import _is_result_better as asv_is_better
from asv_runner.statistics import compute_stats


def pytest_benchmark(old, new):
    """Apply `--benchmark-compare-fail=median:5%` (pytest_benchmark/utils.py, RegressionCheck)."""
    return statistics.median(new) > statistics.median(old) * 1.05


def asv(old, new, factor=1.1):
    """Apply `asv continuous` with its default factor, by asv's own functions."""
    values, sides = zip(*(_asv_side(samples) for samples in (old, new)), strict=True)
    return asv_is_better(values[0], values[1], *sides, factor)


def _asv_side(samples):
    value, stats = compute_stats(list(samples), 1)
    return value, (stats, list(samples))


def asv_1_percent(old, new):
    """Apply asv's rule with the finest factor that is useful here."""
    return asv(old, new, factor=1.01)


def nvbench_robust(old, new):
    """Apply SLOW of nvbench-compare-robust ("Check For A Clear Gap" in its docs).

    Its interval is [min, third quartile] and the gap must be 0.5%. The confirmation in cycles is
    assumed to succeed, in the rule's favour.
    """
    upper = statistics.quantiles(old, n=4, method="inclusive")[2]
    return min(new) > upper and (min(new) - upper) / upper >= 0.005


PEERS = {
    "pytest-benchmark median:5%": pytest_benchmark,
    "asv, factor 1.1 (its default)": asv,
    "asv, factor 1.01": asv_1_percent,
    "nvbench robust": nvbench_robust,
}
