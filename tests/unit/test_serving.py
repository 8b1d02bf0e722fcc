"""Latency, throughput, energy and start of a case, from its raw samples."""

from dataclasses import replace

import pytest

from fluxfast.bench.results.serving import percentile, serving_figures
from fluxfast.bench.results.summary import summarize
from fluxfast.bench.verdicts.tables import verdict_table
from tests.support.results import case, result


def timed(*calls_s, **changes):
    one = result(**changes)
    images = tuple(replace(one.images[0], e2e_s=seconds) for seconds in calls_s)
    return replace(one, images=images)


def test_a_percentile_needs_samples_beyond_it():
    values = [float(n) for n in range(1, 101)]
    assert percentile(values, 90) == pytest.approx(90.1)  # as numpy.percentile has it
    assert percentile(values, 99) == pytest.approx(99.01)
    assert percentile(values[:99], 99) is None and percentile(values[:10], 90) == pytest.approx(9.1)
    assert percentile(values[:9], 90) is None


def test_percentiles_are_over_the_calls_of_all_processes():
    figures = serving_figures([timed(*[1.0] * 5), timed(*[2.0] * 4, 9.0)])
    assert (figures.samples, figures.p50_s, figures.p99_s) == (10, 1.5, None)
    assert figures.p90_s == pytest.approx(2.7)


def test_the_throughput_of_a_batch_counts_its_images():
    of_four = timed(8.0, 8.0, case=case(batch_size=4))
    assert serving_figures([of_four]).images_per_s == 0.5
    table = verdict_table([("default", summarize([of_four]), None)])
    assert "2.00" in table and "0.50" in table  # seconds of an image, images per second
    assert "images" not in verdict_table([("default", summarize([timed(8.0)]), None)])


@pytest.mark.parametrize(
    ("calls_s", "telemetry", "expected"),
    [
        pytest.param((1.0, 1.0), ({"energy_j": 500.0}, {"energy_j": 700.0}), 2 / 1200, id="gpu"),
        pytest.param((0.3, 0.3), ({"energy_j": 100.0},) * 2, None, id="too short for the counter"),
        pytest.param((1.0, 1.0), ({"sm_clock_mhz": 1980.0},) * 2, None, id="no energy"),
        pytest.param((1.0, 1.0), (), None, id="no telemetry"),
    ],
)
def test_images_per_joule_need_energy_that_can_be_read(calls_s, telemetry, expected):
    one = timed(*calls_s, telemetry=telemetry)
    silent = timed(1.0, 1.0)
    assert serving_figures([one, silent]).images_per_joule == expected


def test_the_start_is_the_median_of_whole_starts():
    starts = [(1.0, 0.5, 30.0), (8.0, 0.5, 9.0), (1.0, 0.5, 10.0)]
    results = [
        timed(2.0, load_s=load_s, apply_s=apply_s, first_image_s=first_s)
        for load_s, apply_s, first_s in starts
    ]
    figures = serving_figures(results)
    assert (figures.load_s, figures.first_image_s, figures.start_s) == (1.0, 10.0, 17.5)
