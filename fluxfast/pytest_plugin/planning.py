"""Plan the cases of a session. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fluxfast.bench.cases.case import Case, eager_by_workload
from fluxfast.bench.cases.matrix import Excluded
from fluxfast.bench.cases.own import planned_own_cases
from fluxfast.bench.cases.planned import (
    PlannedCase,
    parse_resolution,
    planned_case,
    planned_cases,
    shard,
)
from fluxfast.bench.verdicts.metrics import PERFORMANCE_METRICS
from fluxfast.errors import FluxFastError
from fluxfast.hardware import Hardware
from fluxfast.models.spec import model_named
from fluxfast.models.weights import resolve
from fluxfast.optimizations.axis import Axis
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


def default_matrix(module: Any, options: Options, hardware: Hardware) -> str:
    """Return the matrix of a test module: its MATRIX, or SYNTHETIC_MATRIX if a model has those."""
    matrix = str(getattr(module, "MATRIX", "smoke"))
    if options.cases or not hasattr(module, "SYNTHETIC_MATRIX"):
        return matrix
    names = (model_named(name).name for name in options.models)
    kinds = {resolve(name, options.weights, hardware).kind for name in names}
    return str(module.SYNTHETIC_MATRIX) if any(kind.profile for kind in kinds) else matrix


def matrix_and_sizes(
    module: Any, options: Options, hardware: Hardware
) -> tuple[str, int | None, int | None]:
    """Return matrix, batch size and most steps on a CPU of a test module, see `plan_session`."""
    matrix = options.matrix or default_matrix(module, options, hardware)
    batch_size = options.batch_size
    if batch_size is None:
        batch_size = getattr(module, "BATCH_SIZE", None)
    return matrix, batch_size, getattr(module, "MOST_STEPS_ON_A_CPU", None)


def plan_session(
    options: Options,
    hardware: Hardware,
    matrix: str,
    batch_size: int | None,
    most_steps_on_a_cpu: int | None = None,
) -> SessionPlan:
    """Plan the cases that the options ask for.

    Args:
        options: the options of the suite.
        hardware: the machine.
        matrix: the name of the matrix.
        batch_size: images of one prompt at a time; None for the model's own.
        most_steps_on_a_cpu: the most denoising steps of cases on a CPU, unless an option names
            their number or a cache decides from step to step; None for the model's own.

    Raises:
        FluxFastError: an option names nothing that exists, or the matrix has no case.
    """
    if options.cases:
        return _plan_own(options, options.cases, hardware, matrix)
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
    _check_found(cases, options, hardware, matrix)
    if most_steps_on_a_cpu and not hardware.is_gpu and options.num_inference_steps is None:
        cases = [_shortened(planned, most_steps_on_a_cpu) for planned in cases]
    return SessionPlan(cases=tuple(shard(cases, options.shard)), left_out=left_out)


def _shortened(planned: PlannedCase, steps: int) -> PlannedCase:
    """Return the case with at most this many steps; a case with a cache as it is."""
    situation = planned.plan.situation
    if planned.plan.on(Axis.CACHE) or situation.request.num_inference_steps <= steps:
        return planned
    request = replace(situation.request, num_inference_steps=steps)
    return planned_case(planned.plan.names, planned.checkpoint, replace(situation, request=request))


def _plan_own(options: Options, file: Path, hardware: Hardware, matrix: str) -> SessionPlan:
    metrics = [metric.name for metric in PERFORMANCE_METRICS]
    cases, left_out = planned_own_cases(file, matrix, hardware, metrics)
    if options.matrix and not left_out:
        raise FluxFastError(
            "--matrix has no effect: every case of the file states its optimizations",
            got=f"--matrix {options.matrix} --cases {file}",
            allowed="--matrix with a case that has neither optimizations nor a preset",
            remedy="leave --matrix out",
        )
    _check_found(cases, options, hardware, matrix)
    return SessionPlan(cases=tuple(shard(cases, options.shard)), left_out=left_out)


def _check_found(
    cases: Sequence[PlannedCase], options: Options, hardware: Hardware, matrix: str
) -> None:
    """Refuse a session without cases, which would pass."""
    if not cases:
        raise FluxFastError(
            "the matrix has no case here",
            got=f"{matrix} of {options.cases or ', '.join(options.models)} on {hardware.name}",
            allowed="a matrix with a case: `cache` has none of a model without a cache",
            remedy="name a model that has one, such as dev with its own steps, or another matrix",
        )


def check_takes_cases(options: Options, module: Any) -> None:
    """Refuse --cases for a test module that measures the project's cases alone."""
    if options.cases and not getattr(module, "TAKES_OWN_CASES", False):
        raise FluxFastError(
            f"{module.__name__} takes no cases of your own",
            got=f"--cases {options.cases}",
            allowed="pytest perf_tests --cases FILE, pytest correctness_tests --cases FILE",
            remedy="leave --cases out",
        )


def check_times(module: Any, hardware: Hardware) -> None:
    """Refuse to time processes that share an image on a CPU, where they only rehearse GPUs."""
    times = not getattr(module, "KEEPS_COMPILED_CODE", False)
    if times and hardware.gpus > 1 and not hardware.is_gpu:
        raise FluxFastError(
            "processes that share an image on a CPU are not timed",
            got=f"--gpus {hardware.gpus} without a GPU",
            allowed="pytest correctness_tests --gpu cpu --gpus N, which times nothing",
            remedy="leave --gpus out",
        )


def reference_ids(cases: Iterable[Case]) -> frozenset[str]:
    """Return the ids of the unoptimized cases whose workload has other cases, too.

    With `--against`, an unoptimized case runs diffusers' code alone on both sides. Only this
    revision measures it, to have the reference for images and speedups.
    """
    cases = list(cases)
    eager = eager_by_workload(cases)
    with_eager = ((case, eager.get(case.workload)) for case in cases)
    return frozenset(one.id for case, one in with_eager if one and one != case)
