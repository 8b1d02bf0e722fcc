"""Plan the cases of a matrix for a machine, and list what is excluded and why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.labels import joined, label, lossless_variant
from fluxfast.bench.cases.matrix import (
    Excluded,
    Names,
    batch_sizes,
    cache_presets,
    excluded,
    matrix,
)
from fluxfast.bench.cases.role import Role, names_by_role, role_of
from fluxfast.errors import FluxFastError
from fluxfast.hardware import Hardware
from fluxfast.models.spec import model_named
from fluxfast.models.weights import Checkpoint, WeightsKind, resolve
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Plan
from fluxfast.optimizations.cache_config import cache_preset
from fluxfast.optimizations.registry import (
    check_decided,
    decides,
    eager_combinations,
    eager_names,
    plan,
)
from fluxfast.optimizations.situation import Situation

RESOLUTION = re.compile(r"([0-9]{1,5})(?:x([0-9]{1,5}))?")


@dataclass(frozen=True, kw_only=True)
class PlannedCase:
    """A case with everything needed to build it.

    Attributes:
        case: the case.
        plan: the checked optimizations for this machine.
        checkpoint: the weights.
        label: a short name for tables, see `labels.label`.
        role: what the optimizations stand for; None for any other combination.
        tolerances: by metric, a tolerance in place of the metric's own.
        quality: by figure of image quality, a bound in place of the budget's.
    """

    case: Case
    plan: Plan
    checkpoint: Checkpoint
    label: str
    role: Role | None = None
    tolerances: Mapping[str, float] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)


def situation_of(checkpoint: Checkpoint, hardware: Hardware, **changes: Any) -> Situation:
    """Return the checkpoint's default request on this machine, with `changes` to its fields."""
    request = checkpoint.request(**changes)
    return Situation(
        model=checkpoint.model,
        hardware=hardware,
        request=request,
        blocks=checkpoint.blocks,
        heads=checkpoint.heads,
    )


def planned_case(
    names: Sequence[str],
    checkpoint: Checkpoint,
    situation: Situation,
    roles: Mapping[Role, Names] | None = None,
    *,
    cache: str | None = None,
) -> PlannedCase:
    """Return the case of these optimizations.

    Args:
        names: the optimizations.
        checkpoint: the weights.
        situation: what is optimized.
        roles: the optimizations of each role in this situation, if they are known.
        cache: the preset of the cache's settings; None for those of the situation.

    Raises:
        PlanError: the optimizations are not supported, or none of them is a cache for the preset.
        FluxFastError: there is no such preset.
    """
    roles = roles or names_by_role(situation)
    if cache is not None:
        check_decided([names], Axis.CACHE, "a preset of the cache without one", option="the preset")
        situation = replace(situation, cache_config=cache_preset(cache))
    checked, request = plan(names, situation), situation.request
    case = Case(
        model=situation.model.name,
        weights=checkpoint.kind.value,
        optimizations=checked.names,
        height=request.height,
        width=request.width,
        batch_size=request.batch_size,
        num_inference_steps=request.num_inference_steps,
        gpus=situation.hardware.gpus,
        cache=cache,
    )
    is_eager = checked.names and checked.names in eager_combinations()
    # The role stands for the cache as it is.
    role, default = role_of(checked.names, roles) if cache is None else None, roles[Role.DEFAULT]
    shown = label(case.combination, default, lossless_variant(default, situation.hardware), role)
    if is_eager:
        shown = f"eager {joined(checked.names)}"
    if request.batch_size > 1:
        shown += f", batch {request.batch_size}"
    return PlannedCase(case=case, plan=checked, checkpoint=checkpoint, label=shown, role=role)


def reference_of(planned: PlannedCase) -> PlannedCase:
    """Return the eager case of the same model, on one GPU and for images one at a time."""
    situation = planned.plan.situation.on_one_gpu
    one_by_one = replace(situation, request=replace(situation.request, batch_size=1))
    return planned_case(eager_names(one_by_one.hardware), planned.checkpoint, one_by_one)


def planned_from_id(text: str, hardware: Hardware, role: Role | None = None) -> PlannedCase:
    """Return the case with this id, planned for this machine.

    Args:
        text: the id.
        hardware: the machine.
        role: plan what stands for this role here, in place of the optimizations in the id.

    Raises:
        FluxFastError: it is no id, the machine does not support the case, nothing stands for the
            role here, or the case comes from a file of one's own, which alone knows its checkpoint
            and prompt.
    """
    case = Case.from_id(text)
    if case.is_own:
        raise FluxFastError(
            "this case comes from a file of cases",
            got=text,
            allowed=f"the id of one of the project's cases, with {', '.join(WeightsKind)} weights",
            remedy="run it with pytest perf_tests --cases FILE -k ID",
        )
    hardware = replace(hardware, gpus=case.gpus)
    checkpoint = resolve(model_named(case.model).name, case.weights, hardware)
    situation = situation_of(
        checkpoint,
        hardware,
        height=case.height,
        width=case.width,
        batch_size=case.batch_size,
        num_inference_steps=case.num_inference_steps,
    )
    if role is None:
        return planned_case(case.optimizations, checkpoint, situation, cache=case.cache)
    known = names_by_role(situation)
    if role not in known:
        raise FluxFastError(
            "no optimizations stand for this role here",
            got=f"{role.value} on {hardware.name}",
            allowed=", ".join(known),
            remedy="leave the case out with -k",
        )
    return planned_case(known[role], checkpoint, situation, known)


def planned_cases(
    kind: str, models: Sequence[str], weights: str, hardware: Hardware, **changes: Any
) -> tuple[list[PlannedCase], dict[str, list[Excluded]]]:
    """Plan the cases of a matrix for each model.

    Args:
        kind: the name of the matrix.
        models: the names of the models.
        weights: `auto` or a WeightsKind.
        hardware: the machine.
        **changes: fields of the request that differ from the checkpoint's defaults.

    Returns:
        The cases, and by model the optimizations that its matrix excludes.
    """
    cases, left_out = [], {}
    for model in dict.fromkeys(models):
        checkpoint = resolve(model_named(model).name, weights, hardware)
        for batch_size in batch_sizes(kind, changes.get("batch_size")):
            of_size = changes | {"batch_size": batch_size}
            situation = situation_of(checkpoint, hardware, **of_size)
            combinations, roles = matrix(kind, situation), names_by_role(situation)
            cases += [planned_case(names, checkpoint, situation, roles) for names in combinations]
            cached = [names for names in combinations if decides(names, Axis.CACHE)]
            cases += [
                planned_case(names, checkpoint, situation, roles, cache=preset)
                for preset, names in product(cache_presets(kind), cached)
            ]
            left_out[model] = excluded(combinations, situation)
    return cases, left_out


def shard(cases: list[PlannedCase], part: str) -> list[PlannedCase]:
    """Return the part `I/N` of the cases, counted from 1: every N-th case."""
    index, _, count = part.partition("/")
    is_part = all(re.fullmatch(r"\d{1,6}", number, re.ASCII) for number in (index, count))
    if not (is_part and 1 <= int(index) <= int(count)):
        raise FluxFastError(
            "this is no shard",
            got=part,
            allowed="I/N with 1 ≤ I ≤ N",
            remedy="for two machines: 1/2 and 2/2",
        )
    return cases[int(index) - 1 :: int(count)]


def parse_resolution(text: str) -> tuple[int, int]:
    """Return height and width in pixels from `HEIGHTxWIDTH`, or from one side of a square."""
    found = RESOLUTION.fullmatch(text)
    if not found:
        raise FluxFastError(
            "this is no resolution",
            got=text,
            allowed="HEIGHTxWIDTH in pixels",
            remedy="write 1024x1024, or 1024 for a square",
        )
    height, width = found.groups()
    return int(height), int(width or height)
