"""A synthetic sequence of nightly results: `python -m tests.support.synthetic_history DATABASE`.

Sixty nights of three cases on a simulated H200, with three processes each, from a seed. The two
optimized cases have +4% by a commit on night 15, one night of +25% (night 24: another job on the
machine), −3.5% with a new torch on night 33, and +6% by a commit on night 48. The unoptimized case
has only the spike. The nights have autoregressive noise of 0.5%, as real ones do.
"""

import hashlib
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from fluxfast.bench.results.result import CaseResult
from fluxfast.hardware import Hardware, Platform
from fluxfast.history.database import append, measurement_of, opened
from tests.support.results import case, result

NIGHTS = 60
FIRST = datetime(2026, 9, 1, 2, 17, tzinfo=UTC)
SLOWER, SPIKE, UPGRADE, SLOWER_AGAIN = 15, 24, 33, 48
STEPS = {SLOWER: 1.04, UPGRADE: 0.965, SLOWER_AGAIN: 1.06}
OPTIMIZED = ("bf16", "fused_projections", "fa3_fp8", "fp8_per_row", "regional")
IMAGE_S = {
    case(num_inference_steps=28, optimizations=("bf16",)): 5.06,
    case(num_inference_steps=28, optimizations=OPTIMIZED): 2.72,
    case(model="schnell", num_inference_steps=4, optimizations=OPTIMIZED): 0.50,
}


def nightly_results(seed: int = 7) -> list[CaseResult]:
    """Return the results, oldest first."""
    random = np.random.default_rng(seed)
    results = []
    for one_case, image_s in IMAGE_S.items():
        wander = autoregressive(random, NIGHTS, deviation=0.005)
        level = 1.0
        for night in range(NIGHTS):
            if one_case.optimizations == OPTIMIZED:
                level *= STEPS.get(night, 1.0)
            spike = 1.25 if night == SPIKE else 1.0
            for process in range(3):
                factor = level * spike * np.exp(wander[night] + random.normal(0, 0.003))
                results.append(nightly_result(one_case, image_s * factor, night, process))
    return sorted(results, key=lambda r: r.provenance["date"])


def autoregressive(random: np.random.Generator, count: int, deviation: float, rho: float = 0.6):
    """Return autoregressive noise of order 1 with coefficient `rho` and a standard deviation."""
    values = [random.normal(0, deviation)]
    for _ in range(count - 1):
        values.append(rho * values[-1] + random.normal(0, deviation * (1 - rho**2) ** 0.5))
    return np.array(values)


def nightly_result(one_case, image_s: float, night: int, process: int) -> CaseResult:
    """Return the result of one process in one night."""
    date = FIRST + timedelta(days=night, minutes=process)
    return result(
        image_s,
        case=one_case,
        hardware=Hardware(
            platform=Platform.CUDA,
            name="NVIDIA H200",
            architecture="sm_90",
            memory_gib=139.8,
            packages={"torch": "2.11.0" if night < UPGRADE else "2.12.0", "torchao": "0.18.0"},
        ),
        provenance={
            "commit": hashlib.sha256(f"commit of night {night}".encode()).hexdigest()[:40],
            "dirty": False,
            "date": date.isoformat(timespec="seconds"),
            "command": "synthetic, from tests/support/synthetic_history.py",
            "process": process,
        },
    )


if __name__ == "__main__":
    with opened(Path(sys.argv[1]), new=True) as connection:
        append(connection, map(measurement_of, nightly_results()))
