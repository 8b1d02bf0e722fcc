"""The cases of a matrix, planned for a machine: what is run, and what is not and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.matrix import Excluded, excluded, joined, label, matrix
from fluxfast.errors import FluxFastError
from fluxfast.hardware import Hardware
from fluxfast.models.spec import model_named
from fluxfast.models.weights import Checkpoint, resolve
from fluxfast.optimizations.base import Plan, Situation
from fluxfast.optimizations.registry import default_names, eager_combinations, plan


@dataclass(frozen=True, kw_only=True)
class PlannedCase:
    """A case with all that is needed to build it; `label` is what people call it."""

    case: Case
    plan: Plan
    checkpoint: Checkpoint
    label: str


def situation_of(checkpoint: Checkpoint, hardware: Hardware, **changes: Any) -> Situation:
    """The checkpoint's own request on this machine, with `changes` to its fields."""
    request = checkpoint.request(**changes)
    return Situation(model=checkpoint.model, hardware=hardware, request=request)


def planned_case(names: Sequence[str], checkpoint: Checkpoint, situation: Situation) -> PlannedCase:
    """The case of these optimizations. Raises PlanError where they cannot be had."""
    checked, request = plan(names, situation), situation.request
    case = Case(
        model=situation.model.name,
        weights=checkpoint.kind.value,
        optimizations=checked.names,
        height=request.height,
        width=request.width,
        batch_size=request.batch_size,
        num_inference_steps=request.num_inference_steps,
    )
    is_eager = checked.names and checked.names in eager_combinations()
    shown = label(checked.names, default_names(situation))
    if is_eager:
        shown = f"eager {joined(checked.names)}"
    return PlannedCase(case=case, plan=checked, checkpoint=checkpoint, label=shown)


def planned_from_id(text: str, hardware: Hardware) -> PlannedCase:
    """The case of that name, planned for this machine."""
    case = Case.from_id(text)
    checkpoint = resolve(model_named(case.model).name, case.weights, hardware)
    situation = situation_of(
        checkpoint,
        hardware,
        height=case.height,
        width=case.width,
        batch_size=case.batch_size,
        num_inference_steps=case.num_inference_steps,
    )
    return planned_case(case.optimizations, checkpoint, situation)


def planned_cases(
    kind: str, models: Sequence[str], weights: str, hardware: Hardware, **changes: Any
) -> tuple[list[PlannedCase], dict[str, list[Excluded]]]:
    """The cases of the matrix `kind` for each model, and what each model's matrix leaves out."""
    cases, left_out = [], {}
    for model in dict.fromkeys(models):
        checkpoint = resolve(model_named(model).name, weights, hardware)
        situation = situation_of(checkpoint, hardware, **changes)
        combinations = matrix(kind, situation)
        cases += [planned_case(names, checkpoint, situation) for names in combinations]
        left_out[model] = excluded(combinations, situation)
    return cases, left_out


def shard(cases: list[PlannedCase], part: str) -> list[PlannedCase]:
    """The part `I/N` of the cases, counted from 1."""
    index, _, count = part.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise FluxFastError(
            "no such shard",
            got=part,
            allowed="I/N with 1 ≤ I ≤ N",
            remedy="for two machines: 1/2 and 2/2",
        )
    return cases[int(index) - 1 :: int(count)]


def parse_resolution(text: str) -> tuple[int, int]:
    """Height and width in pixels of `HEIGHTxWIDTH` or of one side of a square."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and (width or height).isdecimal()):
        raise FluxFastError(
            "no such resolution",
            got=text,
            allowed="HEIGHTxWIDTH in pixels",
            remedy="as 1024x1024, or 1024",
        )
    return int(height), int(width or height)
