"""References of the step error, and the checks of one case. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from fluxfast.models.spec import ImageRequest
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Plan
from fluxfast.optimizations.registry import eager_names, plan
from fluxfast.pipeline.build import BuiltPipeline
from fluxfast.quality.metrics import Quality
from fluxfast.quality.prompts import Prompt
from fluxfast.quality.step_error import (
    Differences,
    check_lossless,
    check_lossy,
    differences,
    lossless_ratios,
    ratio,
    step_quality,
    transformer_error,
)
from fluxfast.quality.trajectory import Outputs, Trajectory, in_float32, record, replay


@dataclass(frozen=True, kw_only=True)
class StepReference:
    """The eager pipeline's results for one batch.

    Attributes:
        trajectory: inputs and outputs of the eager pipeline.
        precise: the outputs of the same weights in float32; None where eager is float32 already.
    """

    trajectory: Trajectory
    precise: Outputs | None

    @cached_property
    def rounding(self) -> Differences | None:
        """The differences of the eager pipeline from float32, the same for every case."""
        if self.precise is None:
            return None
        return differences(self.trajectory.outputs, self.precise)


def record_references(
    eager: BuiltPipeline, batches: Sequence[tuple[ImageRequest, Sequence[Prompt]]]
) -> tuple[StepReference, ...]:
    """Return the reference of each batch. The pipeline is float32 afterwards: close it.

    Args:
        eager: the eager pipeline.
        batches: requests, each with the prompts of a batch.
    """
    recorded = [record(eager, request, prompts) for request, prompts in batches]
    if eager.pipeline.transformer.dtype is torch.float32:
        return tuple(StepReference(trajectory=one, precise=None) for one in recorded)
    pipeline = in_float32(eager.pipeline)
    return tuple(
        StepReference(trajectory=one, precise=replay(pipeline, eager.plan, one)) for one in recorded
    )


def on_other_size(request: ImageRequest) -> ImageRequest:
    """Return the request of another, not square size: 0.75 × the height, 1.25 × the width."""
    height, width = request.height * 3 // 64 * 16, request.width * 5 // 64 * 16
    return replace(request, height=height, width=width, batch_size=1)


def lossy_part(planned: Plan) -> Plan:
    """Return the reference implementation of a plan: its lossy optimizations on eager, no other.

    It is for one GPU, as the eager pipeline that both are compared with.
    """
    situation = planned.situation.on_one_gpu
    lossy = [o.name for o in planned.optimizations if o.is_lossy]
    return plan({*eager_names(situation.hardware), *lossy}, situation)


def is_lossy(planned: Plan) -> bool:
    """Return whether an optimization of the plan changes what the transformer computes."""
    return any(o.is_lossy for o in planned.optimizations)


def why_not_forced(planned: Plan, reference: StepReference) -> str | None:
    """Return why a plan cannot be fed the reference's steps, or None."""
    steps = len(reference.trajectory.latents)
    wanted = planned.situation.request.num_inference_steps
    if planned.on(Axis.CACHE) and steps != wanted:
        return f"a cache of {wanted} steps is not fed with a trajectory of {steps}"
    return None


@dataclass(frozen=True, kw_only=True)
class MeasuredSteps:
    """The outputs of one case for one batch, next to what they are compared with.

    Attributes:
        outputs: of the case.
        reference: of the eager pipeline.
        is_lossy: the transformer's outputs may differ by more than rounding.
        lossy_alone: of the reference implementation of a lossy case; None if that is the case.
    """

    outputs: Outputs
    reference: StepReference
    is_lossy: bool
    lossy_alone: Outputs | None = None

    @cached_property
    def found(self) -> Differences:
        """The differences from the eager pipeline."""
        return differences(self.outputs, self.reference.trajectory.outputs)

    @cached_property
    def found_alone(self) -> Differences | None:
        """The differences of a lossy case's reference implementation; None if that is the case."""
        if self.lossy_alone is None:
            return None
        return differences(self.lossy_alone, self.reference.trajectory.outputs)

    @cached_property
    def against_float32(self) -> tuple[Differences, Differences] | None:
        """The differences from float32, and those of the eager pipeline, if it has less."""
        precise, rounding = self.reference.precise, self.reference.rounding
        if precise is None or rounding is None:
            return None
        return differences(self.outputs, precise), rounding

    @cached_property
    def quality(self) -> Quality:
        """The figures of the differences from the eager pipeline, and of their ratios."""
        values = dict(step_quality(self.found).values)
        if self.found_alone:
            times = ratio(transformer_error(self.found), transformer_error(self.found_alone))
            values["error_ratio"] = (times,)
        elif self.against_float32 and not self.is_lossy:
            values["error_ratio"] = tuple(lossless_ratios(*self.against_float32).values())
        return Quality(values=values)


def check_definition(batches: Sequence[MeasuredSteps]) -> list[str]:
    """Return where the batches of a case are not lossless, or exceed those of its lossy part."""
    problems = list[str]()
    if rounded := [one.against_float32 for one in batches if one.against_float32]:
        problems += check_lossless(rounded, steps_are_lossy=batches[0].is_lossy)
    if pairs := [(one.found, one.found_alone) for one in batches if one.found_alone]:
        problems += check_lossy(pairs)
    return problems
