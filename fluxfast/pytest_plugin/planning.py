"""Plan the cases of a session. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.matrix import Excluded
from fluxfast.bench.cases.planned import PlannedCase, parse_resolution, planned_cases, shard
from fluxfast.hardware import Hardware
from fluxfast.pytest_plugin.options import Options


@dataclass(frozen=True, kw_only=True)
class SessionPlan:
    """The cases of one matrix and batch size.

    Attributes:
        cases: this shard's cases.
        left_out: by model, the optimizations that the matrix leaves out, with the reason.
    """

    cases: tuple[PlannedCase, ...]
    left_out: Mapping[str, list[Excluded]]


def plan_session(
    options: Options, hardware: Hardware, matrix: str, batch_size: int | None
) -> SessionPlan:
    """Plan the cases that the options ask for.

    Raises:
        FluxFastError: an option names nothing that exists.
    """
    height, width = parse_resolution(options.resolution) if options.resolution else (None, None)
    cases, left_out = planned_cases(
        matrix,
        options.models,
        options.weights,
        hardware,
        height=height,
        width=width,
        batch_size=batch_size,
        num_inference_steps=options.num_inference_steps,
    )
    return SessionPlan(cases=tuple(shard(cases, options.shard)), left_out=left_out)


def reference_ids(cases: Iterable[Case]) -> frozenset[str]:
    """Return the ids of the unoptimized cases whose workload has other cases, too.

    With `--against`, an unoptimized case runs diffusers' code alone on both sides. Only this
    revision measures it, to have the reference for images and speedups.
    """
    cases = list(cases)
    eager = {case: case.eager_among(cases) for case in cases}
    return frozenset(e.id for case, e in eager.items() if e and e != case)
