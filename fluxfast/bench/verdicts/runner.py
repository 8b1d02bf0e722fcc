"""Check that a machine is in the state of the baseline's machine: canaries and throttling.

A canary benchmark is work that no change of this project or of diffusers affects. If its time
differs from the baseline, the machine differs, and the figures of the case say nothing about the
code. Pure functions, no torch.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from fluxfast.bench.results.result import CaseResult

# The largest allowed factor between a canary and its median in the baseline, in both directions.
# The same step differs by up to 3% between two H200s (docs/notebook), by far more on a MIG slice
# or under a power cap. On a shared host the Python canary took 3.9 to 8.9 ms from case to case,
# while the steps of one case stayed within 0.9%.
DEVICE_BAND = {"gemm_ms": 1.06, "attention_ms": 1.06, "copy_ms": 1.06}
# Of GPUs that share an image: the band of a copy within one; it was not measured between two yet.
LINK_BAND = {"link_ms": 1.06}
HOST_BAND = {"launch_us": 2.5, "python_ms": 2.5}
# Other processes on a shared CPU vary its load, and each figure is a ratio to paired work.
CPU_BAND = dict.fromkeys(DEVICE_BAND | HOST_BAND, 3.0)
# The canaries that hardly depend on the versions of PyTorch and its libraries.
ANY_ENVIRONMENT = ("copy_ms", "python_ms")


def why_invalid_runner(
    measured: Sequence[CaseResult], accepted: Sequence[CaseResult]
) -> str | None:
    """Return how this machine differs from the baseline's; None if it does not, or is unknown."""
    bands = DEVICE_BAND | LINK_BAND | HOST_BAND if measured[0].on_gpu else CPU_BAND
    found = [why for result in measured if (why := _throttled(result))]
    for name, band in bands.items():
        now, before = _typical(name, measured), _typical(name, accepted)
        if now and before and not 1 / band <= now / before <= band:
            found.append(
                f"canary {name} {now:.3g}, baseline {before:.3g}: {now / before - 1:+.0%}, "
                f"allowed ×{1 / band:.2f} to ×{band:.2f}"
            )
    return "; ".join(found) or None


def _throttled(result: CaseResult) -> str | None:
    """Return how many images were throttled, if more than could be discarded; else None."""
    images: Sequence[str] = result.sampling.get("held_back", ())
    if not images:
        return None
    return f"the GPU was throttled in {len(images)} of {len(result.images)} images: {images[-1]}"


def without_environment(result: CaseResult) -> CaseResult:
    """Return a result without the readings that another environment changes, too.

    Another PyTorch has other GEMM, attention and launch times, and another diffusers another eager
    image. Judged by them, a difference of environments would look like one of the machine, or
    cancel.
    """
    kept = {name: value for name, value in result.canaries.items() if name in ANY_ENVIRONMENT}
    return replace(result, canaries=kept, reference_e2e_s=())


def _typical(name: str, results: Sequence[CaseResult]) -> float | None:
    readings = [reading for result in results for reading in result.canaries.get(name, ())]
    return statistics.median(readings) if readings else None
