"""The optimizations of a preset, with some enabled or disabled, and why a default is left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fluxfast.errors import FluxFastError, PlanError
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Optimization, Plan
from fluxfast.optimizations.registry import (
    available,
    default_choice,
    default_names,
    eager_names,
    in_order,
    optimization_named,
    optimizations,
    problems_of,
)
from fluxfast.optimizations.situation import Situation

PRESETS = ("default", "lossless", "eager", "low_memory")


def preset_names(
    preset: str,
    situation: Situation,
    *,
    enable: Collection[str] = (),
    disable: Collection[str] = (),
) -> tuple[str, ...]:
    """Return the optimizations of a preset, with some enabled and some disabled.

    Args:
        preset: `default`: the default optimizations of the hardware; `lossless`: those of them that
            are identical to eager up to floating-point reordering and rounding; `eager`: none;
            `low_memory`: the default ones with those that need less memory and take longer.
        situation: what is optimized.
        enable: names to add; each takes the place of the preset's choice of its axis.
        disable: names to leave out; the next best default of the axis takes the place of each.

    Raises:
        PlanError: a name is unknown, or names exclude each other.
        FluxFastError: the preset is unknown.
    """
    return changed_preset(preset, situation, _enabled(enable, disable), excluding=disable)


def changed_preset(
    preset: str,
    situation: Situation,
    chosen: Mapping[Axis, str | None],
    *,
    excluding: Collection[str] = (),
) -> tuple[str, ...]:
    """Return the optimizations of a preset with some axes decided otherwise.

    Args:
        preset: one of PRESETS, see `preset_names`.
        situation: what is optimized.
        chosen: by axis, an optimization; None leaves the axis out.
        excluding: names that are not considered.

    Raises:
        FluxFastError: the preset is unknown.
    """
    if preset not in PRESETS:
        raise FluxFastError(
            "unknown preset",
            got=preset,
            allowed=", ".join(PRESETS),
            remedy="leave preset out for the default optimizations",
        )
    if preset == "eager":
        return _eager_names(situation, chosen, excluding)
    if preset == "low_memory":
        smaller = available(Axis.MEMORY, situation.hardware)
        chosen = {**{o.axis: o.name for o in smaller if o.name not in excluding}, **chosen}
    lossy = {o.name for o in optimizations().values() if o.is_lossy and preset == "lossless"}
    return default_names(situation, chosen, excluding={*excluding, *lossy})


def _enabled(enable: Collection[str], disable: Collection[str]) -> dict[Axis, str]:
    """Return the enabled names by axis, after a check against the disabled ones."""
    enabled: dict[Axis, str] = {}
    for name in (*enable, *disable):
        optimization_named(name)
    for name in dict.fromkeys(enable):
        other = enabled.setdefault(optimization_named(name).axis, name)
        if other != name or name in disable:
            raise PlanError(
                "these optimizations exclude each other",
                got=f"{name} enabled, {f'{other} enabled' if other != name else 'and disabled'}",
                allowed="one optimization per axis, either enabled or disabled",
                remedy="leave one of them out",
            )
    return enabled


def _eager_names(
    situation: Situation, chosen: Mapping[Axis, str | None], excluding: Collection[str]
) -> tuple[str, ...]:
    eager = map(optimization_named, eager_names(situation.hardware))
    wanted = [
        o for o in eager if o.name not in excluding and not o.why_unsupported_request(situation)
    ]
    names = {**{o.axis: o.name for o in wanted}, **chosen}.values()
    return in_order(name for name in names if name)


def _could_run(optimization: Optimization, situation: Situation) -> bool:
    """Return whether the hardware supports what the optimization requires, too."""
    required = [optimization_named(n) for n in optimization.requires if n not in list(Axis)]
    return all(other.why_unavailable(situation.hardware) is None for other in required)


def why_left_out(plan: Plan) -> dict[str, str]:
    """Return the default optimizations of the hardware that a plan lacks, each with the reason.

    An optimization whose axis has another choice is not left out, but replaced.
    """
    left_out = {}
    for axis in Axis:
        name = None if plan.on(axis) else default_choice(axis, plan.situation.hardware)
        if name is not None and _could_run(missing := optimization_named(name), plan.situation):
            problems = problems_of(missing, [*plan.optimizations, missing], plan.situation)
            reasons = [problem.removeprefix(f"{name}: ") for problem in problems]
            left_out[name] = "; ".join(reasons) or "not chosen"
    return left_out
