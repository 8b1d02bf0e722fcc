"""Which combinations of optimizations get a case, matrix by matrix. Pure, no GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from fluxfast.errors import FluxFastError
from fluxfast.hardware import Hardware
from fluxfast.optimizations.base import Axis, Optimization, Situation
from fluxfast.optimizations.registry import (
    available,
    default_choice,
    default_names,
    eager_names,
    in_order,
    is_valid,
    optimization_named,
    optimizations,
    why_invalid,
)

Names = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """An optimization that a matrix leaves out, and why."""

    name: str
    reason: str


def matrix(kind: str, situation: Situation) -> list[Names]:
    """The valid combinations of the matrix `kind` for one model on one machine, each once."""
    return [names for names in _candidates(kind, situation) if is_valid(names, situation)]


def invalid(kind: str, situation: Situation) -> dict[Names, str]:
    """The combinations that the matrix would have, were they not invalid, and why they are."""
    reasons = {n: why_invalid(n, situation) for n in _candidates(kind, situation)}
    return {names: reason for names, reason in reasons.items() if reason}


def _candidates(kind: str, situation: Situation) -> list[Names]:
    if kind not in MATRICES:
        raise FluxFastError(
            "unknown matrix",
            got=kind,
            allowed=", ".join(MATRICES),
            remedy="leave --matrix out for smoke",
        )
    return list(dict.fromkeys(MATRICES[kind](situation)))


def excluded(cases: Iterable[Names], situation: Situation) -> list[Excluded]:
    """What a matrix of these cases lacks, with the reason."""
    covered = {name for names in cases for name in names}
    found = []
    for optimization in optimizations().values():
        reason = optimization.why_unavailable(
            situation.hardware
        ) or optimization.why_unsupported_request(situation)
        if not reason and optimization.name not in covered:
            slow = optimization.slow_to_build(situation.hardware)
            reason = f"left to --matrix full: {slow}" if slow else None
        if reason:
            found.append(Excluded(name=optimization.name, reason=reason))
    return found


def smoke(situation: Situation) -> list[Names]:
    """The unoptimized pipeline, and all on."""
    return [eager_names(situation.hardware), default_names(situation)]


def tiers(situation: Situation) -> list[Names]:
    """The unoptimized pipeline, all on that is lossless, all on, and the cache on top of that."""
    lossless = {axis: default_choice(axis, situation.hardware, lossless=True) for axis in Axis}
    caches = available(Axis.CACHE, situation.hardware)
    return [
        *smoke(situation)[:1],
        default_names(situation, lossless),
        *smoke(situation)[1:],
        *(default_names(situation, {Axis.CACHE: cache.name}) for cache in caches[:1]),
    ]


def peers(situation: Situation) -> list[Names]:
    """The unoptimized pipeline, diffusers' regional compile, flux-fast's settings, the tiers."""
    eager = eager_names(situation.hardware)
    attention = default_choice(Axis.ATTENTION, situation.hardware)
    return [
        eager,
        in_order({*eager, *_used_by("diffusers")}),
        in_order({*eager, *_used_by("flux-fast"), *([attention] if attention else [])}),
        *tiers(situation)[1:],
    ]


def _used_by(project: str) -> set[str]:
    return {o.name for o in optimizations().values() if project in o.used_by}


def ablation(situation: Situation) -> list[Names]:
    """The staircase of flux-fast's plot (all off to all on), each one off, and what can go on top.

    All off is the pipeline that speedups refer to: on a GPU float32 is left to the larger matrices.
    """
    all_on = default_names(situation)
    all_off = len(eager_names(situation.hardware))
    steps: list[Names] = [all_on[:count] for count in range(all_off, len(all_on) + 1)]
    decided = {optimizations()[name].axis for name in all_on}
    on_top = [
        default_names(situation, {o.axis: o.name})
        for o in optimizations().values()
        if o.axis not in decided and o.slow_to_build(situation.hardware) is None
    ]
    each_off = [
        _one_off(all_on, axis, situation)
        for axis in Axis
        if axis is not Axis.DTYPE  # what else needs bfloat16 would go with it and hide its share
    ]
    return [*steps, *each_off, *on_top]


def _one_off(all_on: Names, axis: Axis, situation: Situation) -> Names:
    """All on less the choice of an axis; where others need one, with the next best in its place."""
    names = default_names(situation, {axis: None})
    next_best = default_choice(axis, situation.hardware, besides=all_on)
    if len(names) == len(all_on) - 1 or not next_best:
        return names
    return default_names(situation, {axis: next_best})


def alone(situation: Situation) -> list[Names]:
    """Each optimization by itself on the unoptimized pipeline, with what it needs; the tiers."""
    eager, hardware = eager_names(situation.hardware), situation.hardware
    cases = [
        in_order({*eager, o.name, *_needed(o, hardware)})
        for o in optimizations().values()
        if o.name not in eager
        if o.why_unavailable(hardware) is None and o.slow_to_build(hardware) is None
    ]
    return [*cases, *tiers(situation)[1:]]


def _needed(optimization: Optimization, hardware: Hardware) -> set[str]:
    """What it cannot do without; of an axis the default, or else the first that there is."""
    found = set[str]()
    for need in optimization.requires:
        if isinstance(need, Axis):
            able = [o.name for o in available(need, hardware)]
            name = default_choice(need, hardware) or next(iter(able), None)
        else:
            name = need
        if name is not None:
            found |= {name} | _needed(optimization_named(name), hardware)
    return found


def full(situation: Situation) -> list[Names]:
    """Every combination of what this machine has."""
    return _combinations(situation, lambda optimization: True)


def pairwise(situation: Situation) -> list[Names]:
    """Few combinations, chosen greedily, in which every two settings that can go together do so."""
    quick = _combinations(situation, lambda o: o.slow_to_build(situation.hardware) is None)
    candidates = [names for names in quick if is_valid(names, situation)]
    missing = {pair for names in candidates for pair in _pairs(names)}
    chosen: list[Names] = []
    while missing:
        best = max(candidates, key=lambda names: len(missing.intersection(_pairs(names))))
        chosen.append(best)
        missing.difference_update(_pairs(best))
    return chosen


MATRICES: dict[str, Callable[[Situation], list[Names]]] = {
    "smoke": smoke,
    "tiers": tiers,
    "peers": peers,
    "ablation": ablation,
    "alone": alone,
    "pairwise": pairwise,
    "full": full,
}


# Fusions and the like, each small: their own combinations would make the full matrix 128 times as
# large. They are all on or all off there, and one at a time in the ablation.
DETAILS = (
    Axis.NORMS,
    Axis.ROTARY,
    Axis.ACTIVATION,
    Axis.MODULATION,
    Axis.IMAGES,
    Axis.ENCODER,
    Axis.HOST,
    Axis.GRAPH,
)


def _combinations(situation: Situation, wanted: Callable[[Optimization], bool]) -> list[Names]:
    """Every choice of one or none on each axis, without and with the details that go with it."""
    able = [
        o
        for o in optimizations().values()
        if wanted(o) and o.why_unavailable(situation.hardware) is None
    ]
    columns = [
        [None, *(o.name for o in able if o.axis is axis)] for axis in Axis if axis not in DETAILS
    ]
    rows = [tuple(name for name in row if name) for row in product(*columns)]
    # The preferred first: of an axis the first that goes with the rest is taken.
    details = [o.name for o in sorted(able, key=lambda o: o.preference) if o.axis in DETAILS]
    valid = [row for row in rows if is_valid(row, situation)] if details else []
    return [*rows, *(_with_what_goes(row, details, situation) for row in valid)]


def _with_what_goes(names: Names, details: list[str], situation: Situation) -> Names:
    for detail in details:
        if is_valid((*names, detail), situation):
            names = (*names, detail)
    return in_order(names)


def _pairs(names: Names) -> Iterable[tuple[tuple[Axis, str | None], ...]]:
    """The settings of any two axes; an axis without a choice is set to None."""
    settings: dict[Axis, str | None] = dict.fromkeys(Axis)
    for name in names:
        settings[optimizations()[name].axis] = name
    return combinations(settings.items(), 2)


def label(names: Names, all_on: Names) -> str:
    """What people call a combination: `all on`, `all on − a + b`, or its parts."""
    missing = [name for name in all_on if name not in names]
    added = [name for name in names if name not in all_on]
    # What is added takes the place of one that is missing.
    is_near = len(added) <= 2 and len(missing) - len(added) <= 2
    if names and len(all_on) > 1 and is_near and 2 * len(missing) <= len(all_on):
        signs = [f"− {name}" for name in missing] + [f"+ {name}" for name in added]
        return " ".join(["all on", *signs])
    return joined(names)


def joined(names: Sequence[str]) -> str:
    return " + ".join(names) or "eager"
