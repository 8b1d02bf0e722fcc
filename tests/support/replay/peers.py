"""The rules of three other tools, on the same samples: is the new run slower than the old one?

Each is given all the samples of the baseline's processes together, which is more than two of them
would have.
"""

import statistics

from asv.commands.compare import _is_result_better as asv_is_better
from asv_runner.statistics import compute_stats


def pytest_benchmark(old, new):
    """`--benchmark-compare-fail=median:5%` (pytest_benchmark/utils.py, RegressionCheck)."""
    return statistics.median(new) > statistics.median(old) * 1.05


def asv(old, new, factor=1.1):
    """`asv continuous` with its default factor: asv's own functions."""
    values, sides = zip(*(_asv_side(samples) for samples in (old, new)), strict=True)
    return asv_is_better(values[0], values[1], *sides, factor)


def _asv_side(samples):
    value, stats = compute_stats(list(samples), 1)
    return value, (stats, list(samples))


def asv_1_percent(old, new):
    """The same, set to be as fine as it is asked to be here."""
    return asv(old, new, factor=1.01)


def nvbench_robust(old, new):
    """SLOW of nvbench-compare-robust (docs/nvbench_compare_robust.md, "Check For A Clear Gap").

    Its interval is [min, third quartile]; the gap has to be 0.5%. That the gap is confirmed in
    cycles is taken for granted, in its favour.
    """
    upper = statistics.quantiles(old, n=4, method="inclusive")[2]
    return min(new) > upper and (min(new) - upper) / upper >= 0.005


PEERS = {
    "pytest-benchmark median:5%": pytest_benchmark,
    "asv, factor 1.1 (its default)": asv,
    "asv, factor 1.01": asv_1_percent,
    "nvbench robust": nvbench_robust,
}
