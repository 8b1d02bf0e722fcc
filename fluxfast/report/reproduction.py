"""The command that measures a case of a report alone, or compares it again. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from functools import cache

from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.matrix import Names, matrix
from fluxfast.bench.cases.planned import situation_of
from fluxfast.bench.cases.role import Role
from fluxfast.errors import FluxFastError
from fluxfast.hardware import Hardware
from fluxfast.models.weights import resolve
from fluxfast.report.compared import PYTEST

SEARCHED = ("smoke", "tiers", "ablation", "alone")  # planned within milliseconds, small ones first
LARGEST = "full"


def matrix_finder(hardware: Hardware) -> Callable[[Case, Role | None], str]:
    """Return a function that names a small matrix which has a case on this machine.

    A case that none of them has, such as one of a default before, may be in the largest.
    """

    @cache
    def combinations(kind: str, model: str, weights: str, steps: int) -> Sequence[Names]:
        try:
            checkpoint = resolve(model, weights, hardware)
            return matrix(kind, situation_of(checkpoint, hardware, num_inference_steps=steps))
        except FluxFastError:  # weights that are not on this machine
            return ()

    def matrix_with(case: Case, role: Role | None) -> str:
        if case.cache is not None:
            return "cache"
        if role is Role.LOW_MEMORY:
            return "memory"
        workload = (case.model, case.weights, case.num_inference_steps)
        having = (k for k in SEARCHED if case.optimizations in combinations(k, *workload))
        return next(having, LARGEST)

    return matrix_with


def reproduction_command(
    case: Case,
    gpu_option: str,
    against: Sequence[str] = (),
    program: Sequence[str] = PYTEST,
    *,
    matrix: str = LARGEST,
) -> str:
    """Return the command that measures a case alone, or compares it again.

    FILE stands for the file of cases that a case of one's own comes from.

    Args:
        case: the case.
        gpu_option: the value of `--gpu`.
        against: the options that name the other side; none to measure the case alone.
        program: the words that run pytest.
        matrix: a matrix that has the case.
    """
    test = "test_verdict" if against else "test_latency"
    words = [*program, f"perf_tests/test_latency.py::{test}[{case.id}]"]
    if case.gpus > 1:
        words += ["--gpus", str(case.gpus)]
    if case.is_own:
        return shlex.join([*words, "--gpu", gpu_option, "--cases", "FILE"])
    words += ["--gpu", gpu_option, "--matrix", matrix, "--model", case.model]
    words += ["--weights", case.weights, "--resolution", f"{case.height}x{case.width}"]
    words += ["--batch-size", str(case.batch_size)]
    words += ["--num-inference-steps", str(case.num_inference_steps)]
    return shlex.join([*words, *against])
