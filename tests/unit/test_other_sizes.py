"""One size after another: which sizes, and what is timed and counted."""

from types import SimpleNamespace

import pytest

from fluxfast.bench.measurement import other_sizes
from fluxfast.bench.measurement.other_sizes import SizeTiming, sizes_of, time_sizes
from tests.support.machines import H200, situation


@pytest.mark.parametrize(
    ("size", "others"),
    [
        ((1024, 1024), [(768, 768), (1280, 1280)]),
        ((256, 256), [(192, 192), (320, 320)]),
        ((768, 1360), [(576, 1024), (960, 1696)]),
    ],
)
def test_a_smaller_and_a_larger_size_follow(size, others):
    height, width = size
    requests = sizes_of(situation(H200, height=height, width=width).request)
    assert [(r.height, r.width) for r in requests] == [size, *others]


def test_the_first_image_of_each_size_is_timed_apart_from_those_that_follow(monkeypatch):
    """Compiling takes 10 s at the first and the second size; an image takes a second."""
    clock, compiled = [0.0], set()

    def generate(height, **_):
        is_new = height not in compiled and len(compiled) < 2
        compiled.add(height)
        clock[0] += 11.0 if is_new else 1.0

    given = situation(H200)
    built = SimpleNamespace(
        request=given.request,
        plan=SimpleNamespace(situation=given),
        applied=generate,
        synchronize=lambda: None,
    )
    graphs = {"unique_graphs": 0}
    monkeypatch.setattr(other_sizes.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(
        other_sizes, "dynamo_counters", lambda: graphs | {"unique_graphs": min(2, len(compiled))}
    )
    timings = time_sizes(built)
    assert [t.extra_s for t in timings] == [10.0, 10.0, other_sizes.LEAST_EXTRA_S]
    assert [t.graphs for t in timings] == [1, 2, 2]
    assert isinstance(timings[0], SizeTiming) and timings[0].steady_s == 1.0
