"""What an optimization is, and what it is given: one file in `fluxfast/optimizations/` each, with a
constant `OPTIMIZATION`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxfast.hardware import Hardware
from fluxfast.model import ImageRequest, ModelSpec

if TYPE_CHECKING:
    from diffusers import FluxPipeline

    from fluxfast.cache_config import CacheConfig
    from fluxfast.plan import Plan


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
    HOST = "host"
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
    it out. `is_lossy`: it changes the image by more than the order of sums and their rounding do.
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
