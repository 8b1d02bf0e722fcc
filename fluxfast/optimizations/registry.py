"""Discover the optimizations, choose the defaults of a machine, and check combinations.

Pure and without torch. `plan()` checks everything that is asked for before anything is changed.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations

from fluxfast.errors import FluxFastError, PlanError
from fluxfast.hardware import Hardware
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Optimization, Plan
from fluxfast.optimizations.situation import Situation


@cache
def optimizations() -> dict[str, Optimization]:
    """Return every optimization by name, in the order of their axes.

    Raises:
        FluxFastError: two files define one name, or a file defines no `OPTIMIZATION`.
    """
    found: dict[str, Optimization] = {}
    files: dict[str, str] = {}
    for module in _modules():
        loaded = importlib.import_module(module)
        optimization = getattr(loaded, "OPTIMIZATION", None)
        if not isinstance(optimization, Optimization):
            raise FluxFastError(
                "a file of fluxfast/optimizations/ defines no optimization",
                got=str(loaded.__file__),
                allowed="a constant OPTIMIZATION of type Optimization",
                remedy="define it, or let the name of a shared file begin with an underscore",
            )
        if optimization.name in found:
            raise FluxFastError(
                f"two files define the optimization {optimization.name!r}",
                got=f"{files[optimization.name]} and {loaded.__file__}",
                allowed="one file for each name",
                remedy="rename one of them",
            )
        found[optimization.name], files[optimization.name] = optimization, str(loaded.__file__)
    order = list(Axis)
    return dict(sorted(found.items(), key=lambda item: (order.index(item[1].axis), item[0])))


def list_optimizations() -> tuple[Optimization, ...]:
    """Return every optimization, in the order of their axes."""
    return tuple(optimizations().values())


def _modules() -> Iterator[str]:
    """Yield the dotted name of each optimization's module: a folder of a kind, then a file."""
    import fluxfast.optimizations as root

    for kind in pkgutil.iter_modules(root.__path__, f"{root.__name__}."):
        if not kind.ispkg:
            continue
        folder = importlib.import_module(kind.name)
        for file in pkgutil.iter_modules(folder.__path__, f"{kind.name}."):
            if not file.name.rpartition(".")[2].startswith("_"):
                yield file.name


def optimization_named(name: str) -> Optimization:
    """Return the optimization of that name.

    Raises:
        PlanError: there is none; the error lists the names.
    """
    known = optimizations()
    if name not in known:
        raise PlanError(
            "unknown optimization",
            got=name,
            allowed=", ".join(known),
            remedy="`fluxfast doctor` describes each one",
        )
    return known[name]


def choices(axis: Axis) -> list[Optimization]:
    """Return the optimizations of an axis."""
    return [o for o in optimizations().values() if o.axis is axis]


def plan(names: Iterable[str], situation: Situation) -> Plan:
    """Return the checked plan for `names`.

    Raises:
        PlanError: with every reason why the combination is not supported.
    """
    requested, hardware = list(names), situation.hardware
    if problems := list(_problems(requested, situation)):
        raise PlanError(
            f"incompatible optimizations: {'; '.join(problems)}",
            got=f"{' + '.join(requested)} on {hardware.name} ({hardware.architecture})",
            allowed="optimizations that are supported here, with what they require and no conflict",
            remedy="leave out the optimizations that are named, or see `fluxfast doctor`",
        )
    ordered = tuple(optimization_named(name) for name in in_order(requested))
    return Plan(optimizations=ordered, situation=situation)


def _problems(requested: list[str], situation: Situation) -> Iterator[str]:
    wanted = [optimization_named(name) for name in requested]
    if len(set(requested)) < len(requested):
        repeated = [name for name in sorted(set(requested)) if requested.count(name) > 1]
        yield from (f"{name} is given twice" for name in repeated)
    yield from _axis_clashes(wanted)
    for optimization in wanted:
        yield from problems_of(optimization, wanted, situation)
    yield from _why_not_shared(wanted, situation)


def _why_not_shared(wanted: list[Optimization], situation: Situation) -> Iterator[str]:
    """Yield why an image would not be divided between the GPUs that are to share it.

    Each GPU would compute the whole image, and nothing would show it.
    """
    gpus = situation.hardware.gpus
    if gpus == 1 or any(o.axis is Axis.PARALLEL for o in wanted):
        return
    reasons = [
        problem
        for o in choices(Axis.PARALLEL)
        for problem in problems_of(o, [*wanted, o], situation) or [f"{o.name} is left out"]
    ]
    yield f"{gpus} GPUs would not share an image: {'; '.join(reasons)}"


def _axis_clashes(wanted: list[Optimization]) -> list[str]:
    by_axis: dict[Axis, set[str]] = {}
    for optimization in wanted:
        by_axis.setdefault(optimization.axis, set()).add(optimization.name)
    if len(by_axis) == len(wanted):
        return []
    return [
        f"{' and '.join(sorted(names))} exclude each other: a plan has one choice of {axis.value}"
        for axis in Axis
        if len(names := by_axis.get(axis, set())) > 1
    ]


def problems_of(
    optimization: Optimization, wanted: list[Optimization], situation: Situation
) -> list[str]:
    """Return why an optimization does not go with those wanted, or with the situation."""
    present = {o.name for o in wanted} | {o.axis for o in wanted}
    reasons = [
        optimization.why_unavailable(situation.hardware),
        optimization.why_unsupported_request(situation),
    ]
    reasons += [
        f"requires {_one_of(need)}: {why}"
        for need, why in optimization.requires.items()
        if need not in present
    ]
    name, conflicts = optimization.name, optimization.conflicts
    reasons += [
        f"conflicts with {other.name}: {why}"
        for other in wanted
        if (why := conflicts.get(other.name) or other.conflicts.get(name))
    ]
    return [f"{optimization.name}: {reason}" for reason in reasons if reason]


def _one_of(name: str) -> str:
    """Describe a requirement: an optimization, or any choice of an axis."""
    if isinstance(name, Axis):
        return f"one of {', '.join(o.name for o in choices(name))}"
    return name


def is_valid(names: Iterable[str], situation: Situation) -> bool:
    """Return whether `plan` accepts the names."""
    return next(_problems(list(names), situation), None) is None


def why_invalid(names: Iterable[str], situation: Situation) -> str | None:
    """Return the reasons of the PlanError that `plan` would raise, or None."""
    return "; ".join(_problems(list(names), situation)) or None


def default_names(
    situation: Situation,
    chosen: Mapping[Axis, str | None] | None = None,
    *,
    excluding: Collection[str] = (),
) -> tuple[str, ...]:
    """Return the default optimizations.

    A default that does not go with a choice is replaced by the next best of its axis, or left out.
    A choice is never changed.

    Args:
        situation: what is optimized.
        chosen: fixes the choice of an axis; None leaves the axis out.
        excluding: names that are not considered.
    """
    chosen = chosen or {}
    fixed = [name for name in chosen.values() if name]
    refused = set(excluding)
    names = fixed + [
        name
        for axis in Axis
        if axis not in chosen
        and (name := default_choice(axis, situation.hardware, excluding=refused))
    ]
    while misfits := _misfits(names, situation, keep=fixed):
        refused.add(misfits[-1])
        names.remove(misfits[-1])
        axis = optimization_named(misfits[-1]).axis
        if next_best := default_choice(axis, situation.hardware, excluding=refused):
            names.append(next_best)
    return in_order(names)


def default_choice(
    axis: Axis, hardware: Hardware, *, lossless: bool = False, excluding: Collection[str] = ()
) -> str | None:
    """Return the default optimization of an axis on this hardware, or None.

    Args:
        axis: the axis to decide.
        hardware: the machine.
        lossless: consider lossless optimizations only.
        excluding: names that are not considered.
    """
    able = [o for o in available(axis, hardware) if o.on_by_default(hardware)]
    able = [o for o in able if o.name not in excluding and not (lossless and o.is_lossy)]
    return min(able, key=lambda o: o.preference).name if able else None


def available(axis: Axis, hardware: Hardware) -> list[Optimization]:
    """Return the optimizations of an axis that this hardware can run."""
    return [o for o in choices(axis) if o.why_unavailable(hardware) is None]


def eager_names(hardware: Hardware) -> tuple[str, ...]:
    """Return the optimizations of the unoptimized pipeline: bfloat16 on a GPU, none on a CPU."""
    return tuple(o.name for o in _references() if o.on_by_default(hardware))


def eager_combinations() -> tuple[tuple[str, ...], ...]:
    """Return the combinations that count as unoptimized on some hardware, the fastest first."""
    names = [o.name for o in _references()]
    counts = range(len(names), -1, -1)
    return tuple(found for count in counts for found in combinations(names, count))


def _references() -> list[Optimization]:
    return [o for o in optimizations().values() if o.is_reference]


def compiles(names: Iterable[str]) -> bool:
    """Return whether one of the names runs a compiler; an unknown (former) name does not."""
    known = optimizations()
    return any(name in known and known[name].compiles for name in names)


def decides(names: Iterable[str], axis: Axis) -> bool:
    """Return whether one of the names decides the axis; an unknown (former) name does not."""
    known = optimizations()
    return any(name in known and known[name].axis is axis for name in names)


def check_decided(plans: Iterable[Sequence[str]], axis: Axis, problem: str, *, option: str) -> None:
    """Check that one of the plans, given by names, decides the axis that an option acts on.

    Raises:
        PlanError: none does, with the problem.
    """
    plans = list(plans)
    if not any(decides(names, axis) for names in plans):
        raise PlanError(
            problem,
            got="; ".join(" + ".join(names) or "no optimizations" for names in plans),
            allowed=f"optimizations with one of {', '.join(o.name for o in choices(axis))}",
            remedy=f"enable one of them, or leave {option} out",
        )


def _misfits(names: list[str], situation: Situation, keep: list[str]) -> list[str]:
    wanted = [optimization_named(name) for name in in_order(names)]
    return [o.name for o in wanted if o.name not in keep and problems_of(o, wanted, situation)]


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names in the order of their axes."""
    order = list(optimizations())
    return tuple(sorted(names, key=lambda name: order.index(optimization_named(name).name)))
