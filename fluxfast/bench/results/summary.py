"""Summarize raw samples into the figures that tables show. Pure functions, no torch."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.image_timing import ImageTiming
from fluxfast.bench.results.machine import profile_of
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.serving import ServingFigures, serving_figures


@dataclass(frozen=True, kw_only=True)
class CaseSummary:
    """The figures of one case: medians over processes of the medians within a process.

    Attributes:
        case: the case.
        processes: how many processes measured it.
        e2e_s: seconds of a call, which generates an image or a batch.
        encode_ms: milliseconds of the text encoders.
        prepare_ms: milliseconds between encoding and the first step.
        step_ms: milliseconds of a step, the mean over the steps of an image.
        step_mcycles: millions of GPU cycles of a step; None where they were not counted.
        decode_ms: milliseconds of the VAE decoder.
        postprocess_ms: milliseconds of postprocessing.
        eager_ratio: the time of an image over that of its paired eager image; None on a GPU.
        compile_s: seconds of compilation; None if nothing is compiled.
        load_s: seconds to load the weights.
        first_image_s: seconds of the first image.
        to_first_image_s: seconds to the first image without those of loading.
        weights_profile: of the last process, the distribution of synthetic weights, or None.
        starts_cold: whether the times of the start compare between cases, see `CaseResult`.
        lora_swap_s: seconds of a swap to a LoRA; None where none was timed.
        other_size_extra_s: extra seconds of the first image of another size; None where not timed.
        peak_memory_gib: the largest peak device memory in GiB; None where it is not measured.
        spread: the largest over the smallest process median of `e2e_s` or `eager_ratio`, less 1.
        counters: the exact counters of the last process.
        measured_at: when the newest process measured it, in ISO 8601; "" where that is unknown.
        cards: the UUIDs of the GPUs that measured it, those that are known.
        serving: percentiles, throughput, energy and start.
    """

    case: Case
    processes: int
    e2e_s: float
    encode_ms: float
    prepare_ms: float
    step_ms: float
    step_mcycles: float | None
    decode_ms: float
    postprocess_ms: float
    eager_ratio: float | None
    compile_s: float | None
    load_s: float
    first_image_s: float
    to_first_image_s: float
    weights_profile: str | None
    starts_cold: bool
    lora_swap_s: float | None
    other_size_extra_s: float | None
    peak_memory_gib: float | None
    spread: float
    counters: dict[str, int]
    measured_at: str
    cards: frozenset[str]
    serving: ServingFigures

    @property
    def cold_first_image_s(self) -> float | None:
        """`to_first_image_s` where it compares between cases; else None."""
        return self.to_first_image_s if self.starts_cold else None

    @property
    def image_s(self) -> float:
        """Seconds of one image; of a batch its share."""
        return self.e2e_s / self.case.batch_size


def summarize(results: Sequence[CaseResult]) -> CaseSummary:
    """Return the summary of one case from the results of its processes."""
    case = results[0].case

    def stage(value: Callable[[ImageTiming], float]) -> float:
        return statistics.median(statistics.median(value(i) for i in r.images) for r in results)

    mcycles = [statistics.median(r.step_mcycles) for r in results if r.step_mcycles]
    ratios = [ratio for r in results if (ratio := eager_ratio(r)) is not None]
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
        step_mcycles=statistics.median(mcycles) if mcycles else None,
        decode_ms=stage(lambda i: i.decode_ms),
        postprocess_ms=stage(lambda i: i.postprocess_ms),
        eager_ratio=statistics.median(ratios) if ratios else None,
        compile_s=_median(r.compile_s for r in results),
        load_s=statistics.median(r.load_s for r in results),
        first_image_s=statistics.median(r.first_image_s for r in results),
        to_first_image_s=statistics.median(r.to_first_image_s for r in results),
        weights_profile=profile_of(results[-1]),
        starts_cold=all(r.starts_cold for r in results),
        lora_swap_s=_median(r.lora_swap_s for r in results),
        other_size_extra_s=_median(r.other_size_extra_s for r in results),
        peak_memory_gib=max(memory) if memory else None,
        spread=max(spread_of) / min(spread_of) - 1,
        counters=dict(results[-1].counters),
        measured_at=max(str(r.provenance.get("date", "")) for r in results),
        cards=frozenset(r.card for r in results if r.card),
        serving=serving_figures(results),
    )


def _median(values: Iterable[float | None]) -> float | None:
    """Return the median of the values that are there; None without any."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def eager_ratio(result: CaseResult) -> float | None:
    """Return the median over images of the time over the paired eager image's; None without."""
    return statistics.median(result.eager_ratios) if result.reference_e2e_s else None
