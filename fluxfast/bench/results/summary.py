"""From raw samples to the few figures that are compared and shown: pure, no torch."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.result import CaseResult, ImageTiming


@dataclass(frozen=True, kw_only=True)
class CaseSummary:
    """Medians over processes of medians within a process.

    `step_ms`: the mean of an image's steps, which a cache makes unequal.
    `eager_ratio`: time of an image over that of the eager pipeline beside it (on a CPU, else None).
    `compile_s`: None where nothing is compiled.
    `spread`: largest over smallest process median of `e2e_s` (or of `eager_ratio`), less one.
    """

    case: Case
    processes: int
    e2e_s: float
    encode_ms: float
    prepare_ms: float
    step_ms: float
    decode_ms: float
    postprocess_ms: float
    eager_ratio: float | None
    compile_s: float | None
    first_image_s: float
    peak_memory_gib: float | None
    spread: float
    counters: dict[str, int]


def summarize(results: Sequence[CaseResult]) -> CaseSummary:
    """The summary of one case from each process that measured it."""
    case = results[0].case

    def stage(value: Callable[[ImageTiming], float]) -> float:
        return statistics.median(statistics.median(value(i) for i in r.images) for r in results)

    ratios = [ratio for r in results if (ratio := eager_ratio(r)) is not None]
    compiles = [r.compile_s for r in results if r.compile_s is not None]
    memory = [r.peak_memory_gib for r in results if r.peak_memory_gib is not None]
    e2e = [statistics.median(i.e2e_s for i in r.images) for r in results]
    spread_of = ratios or e2e
    return CaseSummary(
        case=case,
        processes=len(results),
        e2e_s=statistics.median(e2e),
        encode_ms=stage(lambda i: i.encode_ms),
        prepare_ms=stage(lambda i: i.prepare_ms),
        step_ms=stage(lambda i: statistics.fmean(i.step_ms)),
        decode_ms=stage(lambda i: i.decode_ms),
        postprocess_ms=stage(lambda i: i.postprocess_ms),
        eager_ratio=statistics.median(ratios) if ratios else None,
        compile_s=statistics.median(compiles) if compiles else None,
        first_image_s=statistics.median(r.first_image_s for r in results),
        peak_memory_gib=max(memory) if memory else None,
        spread=max(spread_of) / min(spread_of) - 1,
        counters=dict(results[-1].counters),
    )


def eager_ratio(result: CaseResult) -> float | None:
    """Median of the ratios of each image to the eager image timed just before it."""
    return statistics.median(result.eager_ratios) if result.reference_e2e_s else None
