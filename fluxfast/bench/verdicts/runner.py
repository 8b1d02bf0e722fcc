"""Is this the machine that the baseline was recorded on? Judged by its canaries, and by whether its
GPU was held back all the time. Pure, no torch.

A canary is work that no code of this project or of diffusers can change. One that takes another
time than in the baseline says that the runner differs, so no figure of the case says anything.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from fluxfast.bench.results.result import CaseResult

# How far a canary may be from its median in the baseline, as a factor, both ways. On one H200 and
# another the same step differs by up to 3% (docs/h200.md); a slice or a cap by far more. On a
# shared host Python took 3.9 to 8.9 ms from case to case, while steps of one stayed within 0.9%.
DEVICE_BAND = {"gemm_ms": 1.06, "attention_ms": 1.06, "copy_ms": 1.06}
HOST_BAND = {"launch_us": 2.5, "python_ms": 2.5}
# Shared CPUs: neighbours come and go, and each figure is a ratio to work timed beside it.
CPU_BAND = dict.fromkeys(DEVICE_BAND | HOST_BAND, 3.0)


def why_invalid_runner(
    measured: Sequence[CaseResult], accepted: Sequence[CaseResult]
) -> str | None:
    """What tells this runner from the baseline's; None where nothing does or nothing is known."""
    bands = DEVICE_BAND | HOST_BAND if measured[0].on_gpu else CPU_BAND
    found = [why for result in measured if (why := _held_back(result))]
    for name, band in bands.items():
        now, before = _typical(name, measured), _typical(name, accepted)
        if now and before and not 1 / band <= now / before <= band:
            found.append(
                f"canary {name} {now:.3g}, baseline {before:.3g}: {now / before - 1:+.0%}, "
                f"allowed ×{1 / band:.2f} to ×{band:.2f}"
            )
    return "; ".join(found) or None


def _held_back(result: CaseResult) -> str | None:
    """Where more images than can be left out were drawn by a GPU that was held back."""
    images: Sequence[str] = result.sampling.get("held_back", ())
    if not images:
        return None
    return f"the GPU was held back in {len(images)} of {len(result.images)} images: {images[-1]}"


def undisturbed(results: Sequence[CaseResult], every: Sequence[CaseResult]) -> Sequence[CaseResult]:
    """Of these processes those whose canaries are within their band of those of `every` process."""
    return [result for result in results if why_invalid_runner([result], every) is None]


def _typical(name: str, results: Sequence[CaseResult]) -> float | None:
    readings = [reading for result in results for reading in result.canaries.get(name, ())]
    return statistics.median(readings) if readings else None
