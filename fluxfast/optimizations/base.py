"""The data types of an optimization: what it is, what it is applied to, and the proof.

An optimization is one file with a constant `OPTIMIZATION`. It carries every fact that another
module needs to know about it; no other module lists optimizations by name. Nothing here, and
nothing at the top level of an optimization's file, imports torch: plans, matrices and reports work
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxfast.hardware import Hardware
from fluxfast.optimizations.axis import BEFORE_THE_DEVICE, Axis
from fluxfast.optimizations.facts import KernelCategory, NumberFormat, Package
from fluxfast.optimizations.situation import Situation

if TYPE_CHECKING:
    import torch
    from diffusers import FluxPipeline
    from torch import Tensor, nn

    from fluxfast.optimizations.team import Team

Attend = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]


@dataclass(frozen=True, kw_only=True)
class Artifacts:
    """The folder of exported packages.

    Attributes:
        folder: where packages are written and read.
        use_cached: load the package that is there instead of exporting a new one.
    """

    folder: Path
    use_cached: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Optimizations in the order of their axes, checked against each other and the situation."""

    optimizations: tuple[Optimization, ...]
    situation: Situation

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the optimizations, in the order of their axes."""
        return tuple(o.name for o in self.optimizations)

    @property
    def in_order_of_application(self) -> tuple[Optimization, ...]:
        """The optimizations as they are applied: in the order of their axes, with exceptions.

        The exchange between GPUs is around attention, so it comes just after that. What needs less
        memory comes before what needs its weights on the device. The compiler comes last: it
        compiles the result of the others.
        """
        order = list(Axis)
        order.remove(Axis.PARALLEL)
        order.insert(order.index(Axis.ATTENTION) + 1, Axis.PARALLEL)
        order.sort(key=lambda axis: axis not in BEFORE_THE_DEVICE)
        return tuple(
            sorted(self.optimizations, key=lambda o: (o.axis is Axis.COMPILE, order.index(o.axis)))
        )

    @property
    def compiles(self) -> bool:
        """Return whether the plan compiles the transformer."""
        return self.on(Axis.COMPILE) is not None

    def on(self, axis: Axis) -> Optimization | None:
        """Return the optimization of an axis, or None."""
        return next((o for o in self.optimizations if o.axis is axis), None)

    def number_format(self, axis: Axis) -> NumberFormat | None:
        """Return the number format of the optimization on an axis; None for the model's own."""
        chosen = self.on(axis)
        return chosen.number_format if chosen else None


@dataclass(kw_only=True)
class Build:
    """A pipeline while optimizations are applied to it.

    Attributes:
        pipeline: the pipeline. Attributes that optimizations set on it or on its modules are
            discarded with it.
        plan: the plan that is applied.
        artifacts: where exported packages are.
        undo: callbacks that restore every global setting, run when the pipeline is closed.
        compiler_options: Inductor options for everything that is compiled for this pipeline.
        quantize: returns a weight quantized as those of the block layers are; None if they are not.
        on_new_weights: functions that derive anew what was derived from the weights, in the same
            memory, after the weights were rewritten.
        ahead: calls of other networks whose kernels are compiled together with those of a step.
        in_host_memory: modules whose weights stay in host memory, and are copied for their turn.
        team: the processes that share an image; None where this process computes it alone.
    """

    pipeline: FluxPipeline
    plan: Plan
    artifacts: Artifacts
    undo: ExitStack = field(default_factory=ExitStack)
    compiler_options: dict[str, Any] = field(default_factory=dict)
    quantize: Callable[[Tensor], Tensor] | None = None
    on_new_weights: list[Callable[[], None]] = field(default_factory=list)
    ahead: list[Callable[[], object]] = field(default_factory=list)
    in_host_memory: list[nn.Module] = field(default_factory=list)
    team: Team | None = None

    @property
    def device(self) -> torch.device:
        """Return where the pipeline computes; its weights may be in host memory until then."""
        import torch

        return torch.device(self.situation.hardware.device)

    @property
    def situation(self) -> Situation:
        """The situation that was planned for."""
        return self.plan.situation


@dataclass(frozen=True, kw_only=True)
class ProfiledStep:
    """One denoising step under the profiler.

    Attributes:
        counts: how often each operator, runtime call and device kernel ran, by name.
        kernels: how often each device kernel ran; empty on a CPU.
        own_ms: the total time of each device kernel in milliseconds, by name. On a CPU, the total
            time of each operator, without the operators that it called.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    kernels: Mapping[str, int] = field(default_factory=dict)
    own_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def kernel_ms(self) -> float:
        """Total time of the device kernels in milliseconds; 0 on a CPU."""
        return sum(self.own_ms.values()) if self.kernels else 0.0


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Observations of one image whose first denoising step is profiled; proofs derive from them.

    Attributes:
        pipeline: the pipeline, to look at its modules.
        plan: the plan that was applied.
        step: the first denoising step.
        cached_steps: how many steps of the image came from a cache.
        compiled_graphs: how many graphs Dynamo compiled for this pipeline.
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
        """Return the sorted names of operators and kernels that contain one of the fragments."""
        return sorted(o for o in self.operators if any(f in o for f in fragments))


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The answer whether an optimization is active, and the observation that shows it.

    Attributes:
        is_active: True if the observation shows the optimization at work.
        detail: the observation, for people: a kernel name, a dtype, a count.
    """

    is_active: bool
    detail: str


def no_reason(_: Any) -> None:
    """Return None: there is no reason against the optimization."""


def no_steps(_: Any) -> int:
    """Return 0: no step of the image came from a cache."""
    return 0


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """A named way to make the pipeline faster, with every fact that other modules need.

    Attributes:
        name: the name in case ids, options and baselines.
        axis: the decision that the optimization makes.
        summary: one line for tables and help texts.
        apply: change the pipeline of a build; global settings go on `build.undo`.
        proof: derive from the evidence whether the optimization is active.
        on_by_default: whether this hardware has it on by default.
        preference: of several defaults of one axis, the lowest is chosen.
        is_lossy: it changes the image by more than floating-point reordering and rounding. Others
            are held to the definition of lossless in `quality/step_error.py`.
        is_reference: it belongs to the unoptimized pipeline where it is on by default (bfloat16,
            and what divides an image between GPUs).
        why_unsupported: the reason why a machine cannot run it, or None.
        why_unsupported_request: the reason why a model or request does not go with it, or None.
        packages: distributions that provide it; any one of them is enough.
        requires: other optimizations (or axes) that it needs, each with the reason.
        conflicts: other optimizations that it excludes, each with the reason.
        slow_to_build: the reason why ablation, alone and pairwise leave it out, or None.
        slow_to_generate: the reason why correctness tests take its shortest model only, or None.
        compiles: it runs a compiler, so its cases are compared with compiled ones.
        number_format: the number format of its GEMMs or attention; None for the model's own.
        load_dtype: the torch dtype in which weights are loaded; None for float32.
        attention: returns the attention function on (batch, tokens, heads, head_dim); the first
            call registers the operator.
        kernels: patterns (regular expressions) of its own kernel names, by category.
        cached_steps: how many steps of the last image came from its cache, given the pipeline.
        package_mib: size of its exported package in MiB, given plan and artifacts; None without.
        used_by: other projects whose settings include it, for `--matrix peers`.
        option: flux-fast's command-line option that enables it where it is off by default.
        budget: key of its bounds in correctness_tests/budgets.yaml; None for its name.
    """

    name: str
    axis: Axis
    summary: str
    apply: Callable[[Build], None]
    proof: Callable[[Evidence], Proof]
    on_by_default: Callable[[Hardware], bool]
    preference: int = 0
    is_lossy: bool = False
    is_reference: bool = False
    why_unsupported: Callable[[Hardware], str | None] = no_reason
    why_unsupported_request: Callable[[Situation], str | None] = no_reason
    packages: tuple[Package, ...] = ()
    requires: Mapping[str, str] = field(default_factory=dict)
    conflicts: Mapping[str, str] = field(default_factory=dict)
    slow_to_build: Callable[[Hardware], str | None] = no_reason
    slow_to_generate: Callable[[Hardware], str | None] = no_reason
    compiles: bool = False
    number_format: NumberFormat | None = None
    load_dtype: str | None = None
    attention: Callable[[], Attend] | None = None
    kernels: Mapping[KernelCategory, str] = field(default_factory=dict)
    cached_steps: Callable[[Any], int] = no_steps
    package_mib: Callable[[Plan, Artifacts], float] | None = None
    used_by: tuple[str, ...] = ()
    option: str | None = None
    budget: str | None = None

    def why_unavailable(self, hardware: Hardware) -> str | None:
        """Return why this machine, with its packages, cannot run it; None if it can."""
        reason = self.why_unsupported(hardware)
        if reason:
            return reason
        if self.packages and not any(p.name in hardware.packages for p in self.packages):
            first = self.packages[0]
            return f"{first.name} is not installed; install it with: {first.install}"
        return None
