"""Where the time of denoising steps went, kernel by kernel, from a Chrome trace. No torch.

On a GPU a kernel is a device kernel or copy; on a CPU it is an operator, with what it took itself,
less the operators that it called.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fluxfast.errors import FluxFastError
from fluxfast.optimizations.base import KernelCategory, Optimization
from fluxfast.optimizations.registry import optimizations

STEP = "denoising_step"  # fluxfast.pipeline.observe.Region.DENOISING_STEP, as the trace has it
DEVICE_CATEGORIES = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCH_CATEGORIES = ("cuda_runtime", "cuda_driver", "hip_runtime")


# Names of the kernels of libraries and of Inductor, which names its kernels after what it fused.
# The first category whose pattern matches counts.
LIBRARY_KERNELS = {
    KernelCategory.ATTENTION: r"flash|fmha|sdpa|attention|attn_fwd",
    KernelCategory.GEMM: r"gemm|nvjet|cutlass|_mm\b|scaled_mm|addmm|matmul|"
    r"::linear|gemv|cublas|bmm",
    KernelCategory.QUANTIZE: r"quantize|amax|fp8|float8|e4m3",
    KernelCategory.NORM: r"norm|rms|rotary|layer_norm|var_mean",
    KernelCategory.COPY: r"memcpy|memset|copy|clone|::cat\b|_cat_|contiguous|aten::to\b|CatArray",
}


@cache
def _patterns() -> tuple[tuple[KernelCategory, re.Pattern[str]], ...]:
    """Return each category's pattern: the kernels of libraries and of every optimization."""
    return tuple(
        (
            category,
            re.compile(
                "|".join([pattern, *(o.kernels[category] for o in _with_kernels(category))]),
                re.IGNORECASE,
            ),
        )
        for category, pattern in LIBRARY_KERNELS.items()
    )


def _with_kernels(category: KernelCategory) -> list[Optimization]:
    return [o for o in optimizations().values() if category in o.kernels]


def category_of(name: str) -> KernelCategory:
    """Return the category of a kernel by its name."""
    found = (category for category, pattern in _patterns() if pattern.search(name))
    return next(found, KernelCategory.OTHER)


@dataclass(frozen=True, kw_only=True)
class KernelTime:
    """All runs of one kernel in a step, on average over the steps."""

    name: str
    category: KernelCategory
    runs: float
    step_ms: float


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """The kernels of an average step, longest first; `idle_ms`: nothing of these was running."""

    steps: int
    step_ms: float
    idle_ms: float
    kernels: tuple[KernelTime, ...]

    @property
    def by_category(self) -> dict[KernelCategory, float]:
        """Milliseconds of a step; each category there is, idle last."""
        totals = dict.fromkeys(KernelCategory, 0.0)
        for kernel in self.kernels:
            totals[kernel.category] += kernel.step_ms
        return totals | {KernelCategory.IDLE: self.idle_ms}


def read_profile(path: Path) -> StepProfile:
    """The profile of a trace that `fluxfast profile` or `--trace-file` wrote."""
    events = _events(path)
    steps = _steps(events)
    kernels = [e for e in events if e.get("cat") in DEVICE_CATEGORIES]
    launched_at = _launch_times(events)
    inside = [e for e in kernels if _is_in(launched_at.get(_correlation(e), e["ts"]), steps)]
    operators = [e for e in events if e.get("cat") == "cpu_op" and _is_in(e["ts"], steps)]
    if inside:
        spans = [(min(e["ts"] for e in inside), max(e["ts"] + e["dur"] for e in inside))]
        return _profile(inside, [e["dur"] for e in inside], spans, len(steps))
    if operators and not kernels:
        return _profile(operators, self_times(operators), steps, len(steps))
    raise FluxFastError(
        "there is no denoising step in this trace",
        got=path,
        allowed="a trace of an image drawn by fluxfast",
        remedy="`fluxfast profile CASE --trace-file FILE` writes one",
    )


def _is_in(ts: float, spans: Sequence[tuple[float, float]]) -> bool:
    return any(begin <= ts < end for begin, end in spans)


def _correlation(event: dict[str, Any]) -> Any:
    return event.get("args", {}).get("correlation")


def _launch_times(events: Iterable[dict[str, Any]]) -> dict[Any, float]:
    """When the host launched what has this correlation: the device runs behind the host."""
    return {_correlation(e): e["ts"] for e in events if e.get("cat") in LAUNCH_CATEGORIES}


def _events(path: Path) -> list[dict[str, Any]]:
    try:
        opened = gzip.open if path.name.endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8") as file:
            events = json.load(file)["traceEvents"]
        return [event for event in events if event.get("ph") == "X"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FluxFastError(
            "this trace cannot be read",
            got=f"{path}: {type(error).__name__}: {error}",
            allowed="a Chrome trace as PyTorch writes it, .json or .json.gz",
            remedy="`fluxfast profile CASE --trace-file FILE` writes one",
        ) from error


def _steps(events: Iterable[dict[str, Any]]) -> list[tuple[float, float]]:
    """Beginning and end of each step on the host, in microseconds."""
    found = [e for e in events if e.get("cat") == "user_annotation" and e.get("name") == STEP]
    return sorted((e["ts"], e["ts"] + e["dur"]) for e in found)


def self_times(events: Sequence[dict[str, Any]]) -> list[float]:
    """Of each operator, less the operators that it called on its thread."""
    own = [float(event["dur"]) for event in events]
    order = sorted(range(len(events)), key=lambda i: (events[i]["ts"], -events[i]["dur"]))
    open_on: dict[Any, list[int]] = defaultdict(list)
    for index in order:
        event, stack = events[index], open_on[events[index].get("tid")]
        while stack and events[stack[-1]]["ts"] + events[stack[-1]]["dur"] <= event["ts"]:
            stack.pop()
        if stack:
            own[stack[-1]] -= event["dur"]
        stack.append(index)
    return own


def _profile(
    events: Sequence[dict[str, Any]],
    times: Sequence[float],
    spans: Sequence[tuple[float, float]],
    count: int,
) -> StepProfile:
    """Of `count` steps, which took the time of the spans."""
    totals: dict[str, list[float]] = defaultdict(list)
    for event, time_us in zip(events, times, strict=True):
        totals[event["name"]].append(time_us)
    kernels = [
        KernelTime(
            name=name,
            category=category_of(name),
            runs=len(runs) / count,
            step_ms=sum(runs) / count / 1e3,
        )
        for name, runs in totals.items()
    ]
    length_us = sum(end - begin for begin, end in spans)
    busy_us = _covered_us([(e["ts"], e["ts"] + e["dur"]) for e in events])
    return StepProfile(
        steps=count,
        step_ms=length_us / count / 1e3,
        idle_ms=max(0.0, length_us - busy_us) / count / 1e3,
        kernels=tuple(sorted(kernels, key=lambda kernel: -kernel.step_ms)),
    )


def _covered_us(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of the spans: kernels of two streams run at once."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


@dataclass(frozen=True, kw_only=True)
class KernelChange:
    """One kernel in two profiles, in milliseconds of a step; 0 where it did not run."""

    name: str
    category: KernelCategory
    before_ms: float
    after_ms: float

    @property
    def change_ms(self) -> float:
        return self.after_ms - self.before_ms


def difference(before: StepProfile, after: StepProfile) -> list[KernelChange]:
    """Every kernel of either, and idle time; the largest change first."""
    old, new = ({k.name: k.step_ms for k in profile.kernels} for profile in (before, after))
    changes = [
        KernelChange(
            name=name,
            category=category_of(name),
            before_ms=old.get(name, 0.0),
            after_ms=new.get(name, 0.0),
        )
        for name in {**old, **new}
    ]
    changes.append(
        KernelChange(
            name="idle",
            category=KernelCategory.IDLE,
            before_ms=before.idle_ms,
            after_ms=after.idle_ms,
        )
    )
    return sorted(changes, key=lambda change: -abs(change.change_ms))
