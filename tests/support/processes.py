"""Results of processes with synthetic times: images and processes scatter as asked."""

import random

from fluxfast.bench.results.image_timing import ImageTiming
from tests.support.results import result

ONE_CARD = {**result().environment, "gpu": {"uuid": "GPU-a"}}


def process(step_ms=100.0, images=8, noise=0.001, seed=0, clock_mhz=None, **changes):
    """Return the result of a process whose images scatter by `noise` around `step_ms`."""
    draw = random.Random(seed)
    timings = tuple(
        ImageTiming(
            e2e_s=step / 1e3 * 28 + 0.2,
            encode_ms=30.0,
            prepare_ms=1.0,
            step_ms=(step,) * 28,
            decode_ms=80.0 * draw.gauss(1, noise),
            postprocess_ms=10.0,
            sm_clock_mhz=clock_mhz,
        )
        for step in (step_ms * draw.gauss(1, noise) for _ in range(images))
    )
    return result(**{"images": timings, "environment": ONE_CARD, **changes})


def processes(step_ms=100.0, count=3, between=0.001, seed=0, **changes):
    """Return the results of processes that scatter by `between` around `step_ms`."""
    draw = random.Random(f"processes {seed}")
    return [
        process(step_ms * draw.gauss(1, between), seed=seed * 100 + n, **changes)
        for n in range(count)
    ]
