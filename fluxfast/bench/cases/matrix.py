"""The matrices: which combinations of optimizations get a case. Pure functions, no GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations, product

from fluxfast.bench.cases.role import Role, names_by_role
from fluxfast.errors import FluxFastError
from fluxfast.hardware import Hardware
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Optimization
from fluxfast.optimizations.cache_config import CACHE_PRESETS
from fluxfast.optimizations.registry import (
    available,
    default_choice,
    default_names,
    eager_names,
    in_order,
    is_valid,
    optimization_named,
    optimizations,
    problems_of,
    why_invalid,
)
from fluxfast.optimizations.situation import Situation

Names = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """An optimization that a matrix excludes.

    Attributes:
        name: the optimization.
        reason: why no case of the matrix has it.
    """

    name: str
    reason: str


def matrix(kind: str, situation: Situation) -> list[Names]:
    """Return the valid combinations of a matrix for one model on one machine, each once."""
    return [names for names in _candidates(kind, situation) if is_valid(names, situation)]


def invalid(kind: str, situation: Situation) -> dict[Names, str]:
    """Return the combinations that a matrix omits because they are invalid, with the reason."""
    reasons = {n: why_invalid(n, situation) for n in _candidates(kind, situation)}
    return {names: reason for names, reason in reasons.items() if reason}


def _candidates(kind: str, situation: Situation) -> list[Names]:
    if kind not in MATRICES:
        raise FluxFastError(
            "unknown matrix",
            got=kind,
            allowed=", ".join(MATRICES),
            remedy="name one of these, or omit --matrix for smoke",
        )
    return list(dict.fromkeys(MATRICES[kind](situation)))


def excluded(cases: Iterable[Names], situation: Situation) -> list[Excluded]:
    """Return the optimizations that none of these cases has, with the reason."""
    covered = {name for names in cases for name in names}
    found = []
    for optimization in optimizations().values():
        reason = optimization.why_unavailable(
            situation.hardware
        ) or optimization.why_unsupported_request(situation)
        if not reason and optimization.name not in covered:
            slow = optimization.slow_to_build(situation.hardware)
            where = "full or peers" if optimization.used_by else "full"
            reason = f"only in --matrix {where}: {slow}" if slow else None
        if reason:
            found.append(Excluded(name=optimization.name, reason=reason))
    return found


def smoke(situation: Situation) -> list[Names]:
    """Return the unoptimized pipeline and the default optimizations."""
    return [eager_names(situation.hardware), default_names(situation)]


def default(situation: Situation) -> list[Names]:
    """Return the default optimizations alone."""
    return [default_names(situation)]


def tiers(situation: Situation) -> list[Names]:
    """Return eager, the lossless preset, the default optimizations, and those with a cache."""
    known = names_by_role(situation)
    order = (Role.EAGER, Role.LOSSLESS, Role.DEFAULT, Role.CACHE)
    return [known[role] for role in order if role in known]


def peers(situation: Situation) -> list[Names]:
    """Return eager, diffusers' regional compilation, flux-fast's settings, and the tiers."""
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


def memory(situation: Situation) -> list[Names]:
    """Return the default optimizations, and the preset that needs less memory."""
    known = names_by_role(situation)
    return [known[Role.DEFAULT], known[Role.LOW_MEMORY]]


def cache(situation: Situation) -> list[Names]:
    """Return the default optimizations without and with a cache; nothing where there is none."""
    known = names_by_role(situation)
    cached = known.get(Role.CACHE)
    return [known[Role.DEFAULT], cached] if cached and is_valid(cached, situation) else []


def ablation(situation: Situation) -> list[Names]:
    """Return a cumulative ablation, a leave-one-out ablation, and additions to the defaults.

    The cumulative ablation goes from the unoptimized pipeline to the default optimizations, like
    flux-fast's plot. It starts at the pipeline that speedups refer to; on a GPU float32 is only in
    the larger matrices.
    """
    default = default_names(situation)
    all_off = len(eager_names(situation.hardware))
    steps: list[Names] = [default[:count] for count in range(all_off, len(default) + 1)]
    decided = {optimizations()[name].axis for name in default}
    on_top = [
        default_names(situation, {o.axis: o.name})
        for o in optimizations().values()
        if o.axis not in decided and o.slow_to_build(situation.hardware) is None
    ]
    each_off = [
        _one_off(default, axis, situation)
        for axis in Axis
        if axis is not Axis.DTYPE  # without bfloat16, the optimizations that need it go, too
    ]
    return [*steps, *each_off, *on_top]


def _one_off(default: Names, axis: Axis, situation: Situation) -> Names:
    """Return the defaults without one axis; where others need that axis, with its next best."""
    names = default_names(situation, {axis: None})
    next_best = default_choice(axis, situation.hardware, excluding=default)
    if len(names) == len(default) - 1 or not next_best:
        return names
    return default_names(situation, {axis: next_best})


def alone(situation: Situation) -> list[Names]:
    """Return eager with each single optimization and its requirements, then the tiers."""
    eager, hardware = eager_names(situation.hardware), situation.hardware
    cases = [
        in_order({*eager, o.name, *_needed(o, hardware)})
        for o in optimizations().values()
        if o.name not in eager
        if o.why_unavailable(hardware) is None and o.slow_to_build(hardware) is None
    ]
    return [*cases, *tiers(situation)[1:]]


def _needed(optimization: Optimization, hardware: Hardware) -> set[str]:
    """Return what an optimization requires; for an axis, its default or first available one."""
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
    """Return every combination of the available optimizations."""
    return _combinations(situation, lambda optimization: True)


def pairwise(situation: Situation) -> list[Names]:
    """Return few combinations, chosen greedily, that cover every valid pair of settings."""
    quick = _combinations(situation, lambda o: o.slow_to_build(situation.hardware) is None)
    pairs = {names: set(_pairs(names)) for names in quick if is_valid(names, situation)}
    missing = set().union(*pairs.values())
    chosen: list[Names] = []
    while missing:
        best = max(pairs, key=lambda names: len(missing & pairs[names]))
        chosen.append(best)
        missing -= pairs[best]
    return chosen


MATRICES: dict[str, Callable[[Situation], list[Names]]] = {
    "smoke": smoke,
    "default": default,
    "throughput": default,
    "memory": memory,
    "cache": cache,
    "tiers": tiers,
    "peers": peers,
    "ablation": ablation,
    "alone": alone,
    "pairwise": pairwise,
    "full": full,
}


# Matrices whose combinations are measured with several batch sizes.
BATCH_SIZES = {"throughput": (1, 4)}


def batch_sizes(kind: str, given: int | None) -> tuple[int | None, ...]:
    """Return the batch sizes of a matrix; None for that of the checkpoint.

    Args:
        kind: the name of the matrix.
        given: the only batch size to measure, if the user states one.
    """
    return (given,) if given is not None else BATCH_SIZES.get(kind, (None,))


def cache_presets(kind: str) -> tuple[str, ...]:
    """Return the presets with which a matrix measures its combinations with a cache once more."""
    return tuple(CACHE_PRESETS) if kind == "cache" else ()


# Axes of fusions and other small optimizations. Their combinations would make the full matrix 128
# times as large, so there they are all enabled or all disabled; the ablation separates them.
DETAILS = (
    Axis.NORMS,
    Axis.ROTARY,
    Axis.ACTIVATION,
    Axis.MODULATION,
    Axis.IMAGES,
    Axis.ENCODER,
    Axis.HOST,
    Axis.GRAPH,
    Axis.GUIDANCE,
    Axis.MEMORY,
)


def _combinations(situation: Situation, wanted: Callable[[Optimization], bool]) -> list[Names]:
    """Return every choice of one or none on each axis, without and with its valid DETAILS."""
    able = [
        o
        for o in optimizations().values()
        if wanted(o) and o.why_unavailable(situation.hardware) is None
    ]
    columns = [
        [None, *(o.name for o in able if o.axis is axis)] for axis in Axis if axis not in DETAILS
    ]
    rows = [tuple(name for name in row if name) for row in product(*columns)]
    # By preference: the first valid optimization of an axis is taken.
    details = [o for o in sorted(able, key=lambda o: o.preference) if o.axis in DETAILS]
    valid = [row for row in rows if is_valid(row, situation)] if details else []
    return [*rows, *(_with_valid_details(row, details, situation) for row in valid)]


def _with_valid_details(names: Names, details: list[Optimization], situation: Situation) -> Names:
    """Return a valid combination with every detail that goes with it and those before."""
    chosen = [optimization_named(name) for name in names]
    for detail in details:
        is_decided = any(detail.axis is one.axis for one in chosen)
        if not is_decided and not problems_of(detail, chosen, situation):
            chosen.append(detail)
    return in_order(one.name for one in chosen)


def _pairs(names: Names) -> Iterable[tuple[tuple[Axis, str | None], ...]]:
    """Return the settings of every two axes; an axis without a choice is set to None."""
    settings: dict[Axis, str | None] = dict.fromkeys(Axis)
    for name in names:
        settings[optimizations()[name].axis] = name
    return combinations(settings.items(), 2)
