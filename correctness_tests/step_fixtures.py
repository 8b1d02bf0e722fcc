"""Fixtures of the step error: its references, the outputs of a case, and the evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isinf, isnan
from typing import Any

import pytest
from left_out import has_images
from stash_keys import NOT_MEASURED

from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.bench.results.artifacts import read_figures, write_figures
from fluxfast.models.arguments import call_arguments
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Evidence
from fluxfast.pipeline.build import BuiltPipeline, build
from fluxfast.profiling.evidence import gather_evidence
from fluxfast.pytest_plugin.plugin import SUITE
from fluxfast.pytest_plugin.session import Suite
from fluxfast.quality.metrics import Quality
from fluxfast.quality.prompts import GeneratedImages, Prompt, prompts_for
from fluxfast.quality.step_error import joined
from fluxfast.quality.step_reference import (
    MeasuredSteps,
    StepReference,
    is_lossy,
    lossy_part,
    on_other_size,
    record_references,
    why_not_forced,
)
from fluxfast.quality.trajectory import STEPS, Outputs, replay

IMAGES_ON_A_GPU = 8  # of mini weights, in batches of the case's size


def write_quality(suite: Suite, planned: PlannedCase, quality: Quality) -> None:
    """Add the figures to those of the case in the folder of results."""
    # JSON has no infinity, which is the PSNR of equal images.
    known = {name: x for name, x in quality.figures.items() if not isnan(x)}
    figures = {name: None if isinf(x) else x for name, x in known.items()}
    before = read_figures(suite.results_folder, "quality", planned.case) or {}
    write_figures(suite.results_folder, "quality", planned.case, {**before, **figures})


@pytest.fixture(scope="session")
def step_references(
    planned: PlannedCase,
    eager_case: PlannedCase,
    suite: Suite,
    prompts: list[Prompt],
    known_steps: dict[Any, Any],
) -> tuple[StepReference, ...]:
    """Return the eager pipeline's steps for the case's request, and for another size and batch."""
    key = planned.case.workload
    if key not in known_steps:
        suite.report(planned, "recording the steps of the eager pipeline")
        request = planned.plan.situation.request
        if not suite.hardware.is_gpu:
            steps = min(request.num_inference_steps, STEPS)
            request = replace(request, num_inference_steps=steps)
        other, size = on_other_size(request), request.batch_size
        batches = [(request, prompts[i : i + size]) for i in range(0, _fed(planned, suite), size)]
        if not planned.case.is_own:
            other_prompts = prompts_for(planned.checkpoint, 1, other.height, other.width)
            batches.append((other, other_prompts))
        with build(eager_case.checkpoint, eager_case.plan) as eager:
            known_steps[key] = record_references(eager, batches)
    found: tuple[StepReference, ...] = known_steps[key]
    return found


def _fed(planned: PlannedCase, suite: Suite) -> int:
    """Return the number of images that are fed: more of small ones, whose errors scatter."""
    has_time = suite.hardware.is_gpu and planned.checkpoint.is_mini
    return IMAGES_ON_A_GPU if has_time else planned.case.batch_size


@pytest.fixture(scope="session")
def known_steps() -> dict[Any, Any]:
    """Return the references and the outputs of lossy optimizations alone, shared by all cases."""
    return {}


@pytest.fixture(scope="session")
def lossy_alone(
    planned: PlannedCase,
    suite: Suite,
    step_references: tuple[StepReference, ...],
    known_steps: dict[Any, Any],
) -> tuple[Outputs | None, ...]:
    """Return for each reference the outputs of the case's lossy optimizations without any other."""
    part, why = lossy_part(planned.plan), why_not_forced(planned.plan, step_references[0])
    if why or not is_lossy(planned.plan) or part.names == planned.plan.names:
        return (None,) * len(step_references)
    key = (planned.case.workload, planned.case.cache, part.names)
    if key not in known_steps:
        suite.report(planned, f"measuring {' + '.join(part.names)} alone")
        with build(planned.checkpoint, part) as built:
            known_steps[key] = tuple(
                replay(built.pipeline, part, reference.trajectory) for reference in step_references
            )
    outputs: tuple[Outputs, ...] = known_steps[key]
    return outputs


@pytest.fixture(scope="session")
def steps(
    planned: PlannedCase,
    suite: Suite,
    step_references: tuple[StepReference, ...],
    lossy_alone: tuple[Outputs | None, ...],
    built: BuiltPipeline,
    show: Callable[[str, Quality], None],
) -> list[MeasuredSteps]:
    """Return the case's outputs for each batch that it is fed with; none if it cannot be."""
    if why := why_not_forced(planned.plan, step_references[0]):
        suite.config.stash.setdefault(NOT_MEASURED, {})[planned.case.id] = why
        return []
    suite.report(planned, "feeding the steps of the eager pipeline")
    # Another size is compiled anew: for every case on a CPU, for single optimizations on a GPU.
    one_size = planned.plan.compiles and not (suite.hardware.is_gpu and planned.role)
    found = [
        MeasuredSteps(
            outputs=replay(built.pipeline, planned.plan, reference.trajectory),
            reference=reference,
            is_lossy=is_lossy(planned.plan),
            lossy_alone=alone,
        )
        for reference, alone in zip(step_references, lossy_alone, strict=True)
        if not one_size or reference.trajectory.height == planned.case.height
    ]
    quality = joined([one.quality for one in found])
    show(planned.label, quality)
    write_quality(suite, planned, quality)
    return found


@pytest.fixture(scope="session")
def evidence(
    request: pytest.FixtureRequest, planned: PlannedCase, built: BuiltPipeline
) -> Evidence:
    """Return the evidence of a profiled step: of the images, or of one step without them.

    The hits of a cache need every step.
    """
    if has_images(planned, request.config.stash[SUITE]) or planned.plan.on(Axis.CACHE):
        repeated: tuple[GeneratedImages, Evidence] = request.getfixturevalue("repeated")
        return repeated[1]
    one_step = replace(built.request, num_inference_steps=1)
    arguments = call_arguments(one_step, planned.checkpoint.model.takes_image)
    return gather_evidence(built, lambda: built.pipeline(**arguments, output_type="latent"))
