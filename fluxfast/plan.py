"""Which optimizations there are and which of them can be had together: pure, no GPU.

`plan()` checks everything that was asked for, and only then is anything changed.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from fluxfast.errors import PlanError
from fluxfast.hardware import Hardware
from fluxfast.optimization import Axis, Optimization, Situation


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Optimizations in the order of their axes, checked against each other and the situation."""

    optimizations: tuple[Optimization, ...]
    situation: Situation

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(o.name for o in self.optimizations)

    @property
    def in_order_of_application(self) -> tuple[Optimization, ...]:
        """What compiles comes last: it compiles what the others made of the pipeline."""
        return tuple(sorted(self.optimizations, key=lambda o: o.axis is Axis.COMPILE))

    @property
    def compiles(self) -> bool:
        return self.choice(Axis.COMPILE) is not None

    def choice(self, axis: Axis) -> str | None:
        return next((o.name for o in self.optimizations if o.axis is axis), None)


@cache
def optimizations() -> dict[str, Optimization]:
    """Every optimization there is, in the order of their axes; a file that does not load raises."""
    import fluxfast.optimizations as folder

    found: dict[str, Optimization] = {}
    for module in pkgutil.iter_modules(folder.__path__):
        optimization = importlib.import_module(f"{folder.__name__}.{module.name}").OPTIMIZATION
        if optimization.name in found:
            raise RuntimeError(f"two files define the optimization {optimization.name!r}")
        found[optimization.name] = optimization
    order = list(Axis)
    return dict(sorted(found.items(), key=lambda item: (order.index(item[1].axis), item[0])))


def optimization_named(name: str) -> Optimization:
    known = optimizations()
    if name not in known:
        raise PlanError(
            "unknown optimization",
            got=name,
            allowed=", ".join(known),
            remedy="`fluxfast doctor` says what each one does",
        )
    return known[name]


def choices(axis: Axis) -> list[Optimization]:
    return [o for o in optimizations().values() if o.axis is axis]


def plan(names: Iterable[str], situation: Situation) -> Plan:
    """The plan for `names`, or a PlanError that lists every reason why it cannot be had."""
    asked, hardware = list(names), situation.hardware
    problems = _all_problems(asked, situation)
    if problems:
        raise PlanError(
            "these optimizations cannot be had here",
            got=f"{' + '.join(asked)} on {hardware.name} ({hardware.architecture})",
            allowed="a combination without\n           " + "\n           ".join(problems),
            remedy="leave out what is named, or see `fluxfast doctor`",
        )
    ordered = tuple(optimization_named(name) for name in in_order(asked))
    return Plan(optimizations=ordered, situation=situation)


def _all_problems(asked: list[str], situation: Situation) -> list[str]:
    wanted = [optimization_named(name) for name in asked]
    problems = [f"{name} is given twice" for name in sorted(set(asked)) if asked.count(name) > 1]
    problems += _axis_clashes(wanted)
    for optimization in wanted:
        problems += _problems(optimization, wanted, situation)
    return problems


def _axis_clashes(wanted: list[Optimization]) -> list[str]:
    clashes = []
    for axis in Axis:
        names = sorted({o.name for o in wanted if o.axis is axis})
        if len(names) > 1:
            clashes.append(f"only one of {', '.join(names)}: each decides {axis.value}")
    return clashes


def _problems(
    optimization: Optimization, wanted: list[Optimization], situation: Situation
) -> list[str]:
    present = {o.name for o in wanted} | {o.axis for o in wanted}
    reasons = [optimization.why_not(situation.hardware), optimization.objection(situation)]
    reasons += [
        f"needs {_one_of(name)}: {why}"
        for name, why in optimization.needs.items()
        if name not in present
    ]
    for other in wanted:
        why = optimization.conflicts.get(other.name) or other.conflicts.get(optimization.name)
        reasons += [f"not with {other.name}: {why}"] if why else []
    return [f"{optimization.name}: {reason}" for reason in reasons if reason]


def _one_of(name: str) -> str:
    """A need is an optimization, or an axis: then any choice of it will do."""
    if isinstance(name, Axis):
        return f"one of {', '.join(o.name for o in choices(name))}"
    return name


def is_valid(names: Iterable[str], situation: Situation) -> bool:
    return why_invalid(names, situation) is None


def why_invalid(names: Iterable[str], situation: Situation) -> str | None:
    """The reasons of the PlanError that `plan` would raise, or None."""
    return "; ".join(_all_problems(list(names), situation)) or None


def default_names(
    situation: Situation, chosen: Mapping[Axis, str | None] | None = None
) -> tuple[str, ...]:
    """What is on where nothing else is said; `chosen` fixes an axis, None switching it off.

    A default gives way to a choice that it does not go with, and the next best of its axis takes
    its place; a choice never gives way.
    """
    chosen = chosen or {}
    fixed = [name for name in chosen.values() if name]
    names = fixed + [
        name
        for axis in Axis
        if axis not in chosen and (name := default_choice(axis, situation.hardware))
    ]
    refused = set[str]()
    while misfits := _misfits(names, situation, keep=fixed):
        refused.add(misfits[-1])
        names.remove(misfits[-1])
        axis = optimization_named(misfits[-1]).axis
        if next_best := default_choice(axis, situation.hardware, besides=refused):
            names.append(next_best)
    return in_order(names)


def default_choice(
    axis: Axis, hardware: Hardware, *, lossless: bool = False, besides: Collection[str] = ()
) -> str | None:
    """What this machine prefers of an axis (among what is lossless, besides these), or None."""
    able = [o for o in choices(axis) if o.on_by_default(hardware) and o.why_not(hardware) is None]
    able = [o for o in able if o.name not in besides]
    able = [o for o in able if not (lossless and o.is_lossy)]
    return min(able, key=lambda o: o.preference).name if able else None


def _misfits(names: list[str], situation: Situation, keep: list[str]) -> list[str]:
    wanted = [optimization_named(name) for name in in_order(names)]
    return [o.name for o in wanted if o.name not in keep and _problems(o, wanted, situation)]


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names in the order of their axes."""
    order = list(optimizations())
    return tuple(sorted(names, key=lambda name: order.index(optimization_named(name).name)))
