"""Compare numbers of GPUs that share an image. Pure; no torch.

The figures are shown and not judged: a verdict is about a change since a baseline of the same
number of GPUs. Cases belong together if everything but the number of GPUs is the same: model of
GPU, role, weights, resolution, batch and steps. The role stands in place of the optimizations,
because several GPUs need one more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.role import Role
from fluxfast.bench.results.machine import (
    hardware_of,
    machine_name,
    profile_of,
    stack_difference,
)
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.summary import CaseSummary, summarize


@dataclass(frozen=True, kw_only=True)
class Degree:
    """One case on one number of GPUs.

    Attributes:
        results: one result of each process.
        is_accepted: the results come from a baseline.
    """

    results: tuple[CaseResult, ...]
    is_accepted: bool = False

    @property
    def case(self) -> Case:
        """The case."""
        return self.results[0].case

    @property
    def gpus(self) -> int:
        """The number of GPUs that share an image."""
        return self.case.gpus

    @property
    def role(self) -> Role | None:
        """The role of the case; None for other combinations, which are not compared."""
        return self.results[-1].role

    @property
    def gpu(self) -> str:
        """The name of one of the GPUs."""
        return machine_name(replace(hardware_of(self.results[-1]), gpus=1))

    @property
    def image_s(self) -> float:
        """Seconds of one image; of a batch its share."""
        return self._summary.image_s

    @property
    def measured_at(self) -> str:
        """When the newest process measured it, in ISO 8601."""
        return self._summary.measured_at

    @cached_property
    def _summary(self) -> CaseSummary:
        return summarize(self.results)

    @property
    def _key(self) -> tuple[Any, ...]:
        """Everything but the number of GPUs that has to be the same."""
        workload = replace(self.case, gpus=1).workload
        return self.gpu, self.role, profile_of(self.results[-1]), workload


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """One role of one workload on several numbers of GPUs of one model.

    Attributes:
        role: the role of all cases.
        degrees: one case for each number of GPUs, the fewest first.
    """

    role: Role
    degrees: tuple[Degree, ...]

    @property
    def gpu(self) -> str:
        """The name of one of the GPUs."""
        return self.degrees[0].gpu

    @property
    def case(self) -> Case:
        """The case on the fewest GPUs."""
        return self.degrees[0].case

    def speedup(self, degree: Degree) -> float | None:
        """Return the time on one GPU over that of a degree; None if one GPU was not measured."""
        one = self.degrees[0]
        return one.image_s / degree.image_s if one.gpus == 1 else None

    def efficiency(self, degree: Degree) -> float | None:
        """Return the speedup over the number of GPUs: 1 if every GPU takes its full share."""
        speedup = self.speedup(degree)
        return None if speedup is None else speedup / degree.gpus

    def stack_change(self, degree: Degree) -> str:
        """Return what differs from the stack of the fewest GPUs, as `torch 2.11.0 → 2.12.0`."""
        return stack_difference(self.degrees[0].results[-1], degree.results[-1])

    def better(self, degree: Degree) -> Degree | None:
        """Return the fastest case on fewer GPUs that is faster than a degree; None without one.

        A difference below half a percent is none.
        """
        fewer = [other for other in self.degrees if other.gpus < degree.gpus]
        best = min(fewer, key=lambda other: other.image_s, default=degree)
        return best if round(degree.image_s / best.image_s, 2) > 1 else None

    def warning(self, degree: Degree) -> str | None:
        """Return the warning about a degree that is slower than one with fewer GPUs, or None."""
        better = self.better(degree)
        if better is None:
            return None
        stack = stack_difference(better.results[-1], degree.results[-1])
        origin = "; ".join(filter(None, ["baseline" if better.is_accepted else "", stack]))
        return (
            f"{_taken(degree)}, {_taken(better)}{f' ({origin})' if origin else ''}: "
            f"use --gpus {better.gpus}"
        )


def accepted_degrees(accepted: Iterable[Iterable[Sequence[CaseResult]]]) -> list[Degree]:
    """Return the cases of baselines, given the results of each case of each baseline."""
    return [
        Degree(results=tuple(results), is_accepted=True)
        for of_baseline in accepted
        for results in of_baseline
    ]


def gpus_text(count: int) -> str:
    """Return a number of GPUs as `1 GPU` or `2 GPUs`."""
    return f"{count} GPU{'' if count == 1 else 's'}"


def _taken(degree: Degree) -> str:
    verb = "takes" if degree.gpus == 1 else "take"
    return f"{gpus_text(degree.gpus)} {verb} {degree.image_s:.3f} s"


def scalings(measured: Iterable[Degree], stored: Iterable[Degree] = ()) -> list[Scaling]:
    """Return each role and workload that was measured and has several numbers of GPUs.

    Args:
        measured: the cases of a run or report. Of two cases of one role on one number of GPUs, as
            before and after a change of the defaults, the newest counts.
        stored: accepted cases, for numbers of GPUs that were not measured.
    """
    found: dict[tuple[Any, ...], dict[int, Degree]] = {}
    for degree in (d for d in measured if d.role):
        of_key = found.setdefault(degree._key, {})
        if degree.measured_at >= of_key.get(degree.gpus, degree).measured_at:
            of_key[degree.gpus] = degree
    for degree in (d for d in stored if d.role):
        if degree._key in found:
            found[degree._key].setdefault(degree.gpus, degree)
    return [
        Scaling(role=role, degrees=tuple(of_key[gpus] for gpus in sorted(of_key)))
        for of_key in found.values()
        if len(of_key) > 1 and (role := next(iter(of_key.values())).role)
    ]
