"""What an optimization is, which there are, and which of them can be had together: pure, no GPU.

An optimization is one file in `fluxfast/optimizations/` with a constant `OPTIMIZATION`. `plan()`
checks everything that was asked for and only then is anything changed.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxfast.errors import PlanError
from fluxfast.hardware import Hardware
from fluxfast.model import ImageRequest, ModelSpec

if TYPE_CHECKING:
    from diffusers import FluxPipeline

    from fluxfast.cache_config import CacheConfig


class Axis(StrEnum):
    """What an optimization decides, in the order in which people add them; a plan has at most one
    of each. A staircase climbs in this order, and names of cases list it.
    """

    DTYPE = "dtype"
    PROJECTIONS = "projections"
    ATTENTION = "attention"
    MEMORY_FORMAT = "memory_format"
    CACHE = "cache"
    QUANTIZATION = "quantization"
    COMPILER_FLAGS = "compiler_flags"
    COMPILE = "compile"
    NORMS = "norms"
    ROTARY = "rotary"
    ACTIVATION = "activation"
    MODULATION = "modulation"
    DECODER = "decoder"
    IMAGES = "images"
    ENCODER = "encoder"
    GRAPH = "graph"


@dataclass(frozen=True, kw_only=True)
class Package:
    """A distribution that an optimization needs, and how to install it."""

    name: str
    install: str


@dataclass(frozen=True, kw_only=True)
class Situation:
    """All that a plan depends on."""

    model: ModelSpec
    hardware: Hardware
    request: ImageRequest
    cache_config: CacheConfig | None = None


@dataclass(frozen=True, kw_only=True)
class Artifacts:
    """Where exported packages live, and whether one that is there is loaded instead of made."""

    folder: Path
    use_cached: bool = False


@dataclass(kw_only=True)
class Build:
    """A pipeline as optimizations are applied to it; what they change globally goes on `undo`."""

    pipeline: FluxPipeline
    plan: Plan
    artifacts: Artifacts
    undo: ExitStack = field(default_factory=ExitStack)

    @property
    def situation(self) -> Situation:
        return self.plan.situation


@dataclass(frozen=True, kw_only=True)
class ProfiledStep:
    """One denoising step under the profiler.

    `counts`: how often each operator, runtime call and device kernel ran, by name; `kernels`: of
    these what ran on the device (nothing on a CPU). `own_ms`: what each kernel took in all; on a
    CPU each operator, less the operators that it called.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    kernels: Mapping[str, int] = field(default_factory=dict)
    own_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def kernel_ms(self) -> float:
        """Of the device; 0 on a CPU."""
        return sum(self.own_ms.values()) if self.kernels else 0.0


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was seen of a built pipeline while it drew an image.

    `step`: the first denoising step.
    `cached_steps`: how many steps of the last image cache-dit answered from its cache.
    `compiled_graphs`: graphs that Dynamo compiled for this pipeline.
    """

    pipeline: FluxPipeline
    plan: Plan
    step: ProfiledStep
    cached_steps: int
    compiled_graphs: int

    @property
    def operators(self) -> frozenset[str]:
        """Names of the operators and device kernels of the step."""
        return frozenset(self.step.counts)

    def operators_matching(self, *fragments: str) -> list[str]:
        return sorted(o for o in self.operators if any(f in o for f in fragments))


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Whether an optimization was seen to be in force, and what was seen."""

    in_force: bool
    seen: str


def always(_: Any) -> None:
    """No objection."""


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """A named way to make the pipeline faster.

    `unsupported` says why a machine cannot have it, `objection` why this model or request cannot;
    both return None where there is nothing to say. `needs` and `conflicts` map the name of another
    optimization (or, for `needs`, of an axis) to the reason. Of several defaults of one axis the
    one with the lowest `preference` is taken. `slow_to_build` says why the default matrices leave
    it out. `is_lossy`: it changes the image by more than the order of sums does.
    """

    name: str
    axis: Axis
    summary: str
    apply: Callable[[Build], None]
    proof: Callable[[Evidence], Proof]
    on_by_default: Callable[[Hardware], bool]
    preference: int = 0
    is_lossy: bool = False
    unsupported: Callable[[Hardware], str | None] = always
    objection: Callable[[Situation], str | None] = always
    packages: tuple[Package, ...] = ()
    needs: Mapping[str, str] = field(default_factory=dict)
    conflicts: Mapping[str, str] = field(default_factory=dict)
    slow_to_build: Callable[[Hardware], str | None] = always

    def why_not(self, hardware: Hardware) -> str | None:
        """Why this machine, with the packages on it, cannot have it; None if it can."""
        reason = self.unsupported(hardware)
        if reason:
            return reason
        if self.packages and not any(p.name in hardware.packages for p in self.packages):
            first = self.packages[0]
            return f"{first.name} is not installed; install it with: {first.install}"
        return None


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

    A default gives way to a choice that it does not go with; a choice never gives way.
    """
    chosen = chosen or {}
    fixed = [name for name in chosen.values() if name]
    names = fixed + [
        name
        for axis in Axis
        if axis not in chosen and (name := default_choice(axis, situation.hardware))
    ]
    while misfits := _misfits(names, situation, keep=fixed):
        names.remove(misfits[-1])
    return in_order(names)


def default_choice(axis: Axis, hardware: Hardware, *, lossless: bool = False) -> str | None:
    """What this machine prefers of an axis (among what is lossless), or None."""
    able = [o for o in choices(axis) if o.on_by_default(hardware) and o.why_not(hardware) is None]
    able = [o for o in able if not (lossless and o.is_lossy)]
    return min(able, key=lambda o: o.preference).name if able else None


def _misfits(names: list[str], situation: Situation, keep: list[str]) -> list[str]:
    wanted = [optimization_named(name) for name in in_order(names)]
    return [o.name for o in wanted if o.name not in keep and _problems(o, wanted, situation)]


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names in the order of their axes."""
    order = list(optimizations())
    return tuple(sorted(names, key=lambda name: order.index(optimization_named(name).name)))


def without(names: Iterable[str], axis: Axis, situation: Situation) -> tuple[str, ...]:
    """`names` less the choice of `axis` and less what needs it."""
    left = [name for name in names if optimization_named(name).axis is not axis]
    while misfits := _misfits(left, situation, keep=[]):
        left.remove(misfits[-1])
    return in_order(left)
