"""The step error of timed cases, where this process has had the eager pipeline. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.bench.measurement.paired import PairedReference
from fluxfast.optimizations.registry import eager_names
from fluxfast.pipeline.build import BuiltPipeline
from fluxfast.quality.prompts import Prompt, own_prompts, prompts_for
from fluxfast.quality.step_error import differences, step_quality
from fluxfast.quality.step_reference import StepReference, why_not_forced
from fluxfast.quality.trajectory import Trajectory, record, replay


@dataclass(kw_only=True)
class StepErrors:
    """The trajectories of the eager pipelines that this process measured, by workload."""

    _recorded: dict[tuple[Any, ...], Trajectory] = field(default_factory=dict)

    def of(
        self, planned: PlannedCase, built: BuiltPipeline, paired: PairedReference | None
    ) -> Mapping[str, float]:
        """Return the figures of a case; none where the eager pipeline was not measured before.

        Args:
            planned: the case.
            built: its pipeline, after everything was timed.
            paired: the eager pipeline that was timed next to it on a CPU.
        """
        workload, plan = planned.case.workload, built.plan
        if workload not in self._recorded:
            is_eager = plan.names == eager_names(plan.situation.hardware)
            eager = paired.eager if paired else built if is_eager else None
            if eager is None:
                return {}
            self._recorded[workload] = record(eager, built.request, _prompts(planned))
        reference = StepReference(trajectory=self._recorded[workload], precise=None)
        if why_not_forced(plan, reference):
            return {}
        outputs = replay(built.pipeline, plan, reference.trajectory)
        figures = step_quality(differences(outputs, reference.trajectory.outputs)).figures
        return {name: value for name, value in figures.items() if isfinite(value)}


def _prompts(planned: PlannedCase) -> list[Prompt]:
    """Return one batch of prompts."""
    request, checkpoint = planned.plan.situation.request, planned.checkpoint
    if planned.case.is_own:
        return own_prompts(request, checkpoint.model.takes_image, request.batch_size)
    return prompts_for(checkpoint, request.batch_size, request.height, request.width)
