"""Reports of many cases and of many images: calls and memory grow no faster than they do."""

import cProfile
import pstats
import tracemalloc

import pytest

from fluxfast.bench.results.store import write_result
from fluxfast.cli.main import main
from fluxfast.report.regression import Term, fit
from tests.support.processes import process
from tests.support.results import CANARIES, case

MORE = 4
NEARLY_LINEAR = 1.1 * MORE
NAMES = ("fused_projections", "channels_last", "fp8_per_row", "dbcache", "fused_norms", "fa3_fp8")


def write_cases(folder, count):
    """Write results of `count` cases, in a workload of its own for every second one."""
    for number in range(count):
        names = tuple(name for bit, name in enumerate(NAMES) if number >> bit & 1)
        steps = 1 if number % 2 else 2 + number
        one = case(num_inference_steps=steps, height=512 + 16 * (number >> 6),
                   optimizations=("bf16", *names))  # fmt: skip
        write_result(folder, process(images=3, canaries=CANARIES, case=one))


def write_images(folder, count):
    write_result(folder, process(images=count, canaries=CANARIES))


@pytest.fixture(scope="module")
def report_of(tmp_path_factory):
    """Return a function that reports on as many cases or images, in Markdown and JSON."""

    def report(write, count):
        folder = tmp_path_factory.mktemp("scale")
        write(folder / "now", count)
        write(folder / "before", count)
        return [
            "report", str(folder / "now"), "--against", str(folder / "before"),
            *("--markdown", str(folder / "summary.md"), "--json", str(folder / "report.json")),
        ]  # fmt: skip

    main(report(write_cases, 1))  # imports are not counted
    return report


def calls(command):
    """Return how many functions a command calls, those of libraries included."""
    with cProfile.Profile() as profile:
        assert main(command) == 0
    return pstats.Stats(profile).total_calls


def peak(run):
    """Return the largest number of bytes that a call holds at a time."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_calls_of_a_report_grow_with_its_cases(report_of):
    few, many = calls(report_of(write_cases, 12)), calls(report_of(write_cases, 12 * MORE))
    assert many < NEARLY_LINEAR * few


def test_calls_and_memory_of_a_report_grow_with_its_images(report_of):
    few, many = report_of(write_images, 40), report_of(write_images, 40 * MORE)
    assert calls(many) < NEARLY_LINEAR * calls(few)
    assert peak(lambda: main(many)) < NEARLY_LINEAR * peak(lambda: main(few))


def test_ten_thousand_workloads_are_fitted_in_linear_memory():
    """A matrix with a column for each would take 800 MB, and its decomposition hours."""
    count = 10_000
    workloads = [f"{number} steps" for number in range(count)] * 2
    column = [0.0] * count + [1.0] * count
    fits = []
    term = Term("fp8_per_row")
    bytes_held = peak(lambda: fits.append(fit(workloads, {term: column}, column, 0.95)))
    assert bytes_held < 1000 * count
    assert fits[0][term].value == pytest.approx(1.0) and len(fits[0]) == count + 1
