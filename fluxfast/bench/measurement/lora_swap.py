"""The pipeline of a case whose LoRA can be swapped, and what a swap may take. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fluxfast.api.optimize import optimize
from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.console import without_loading_bars
from fluxfast.hardware import Platform
from fluxfast.models.loading import load
from fluxfast.models.lora.synthetic import synthetic_lora
from fluxfast.optimizations.axis import Axis
from fluxfast.pipeline.build import BuiltPipeline, forget_compiled_code, load_dtype
from fluxfast.profiling.evidence import dynamo_counters

# Median for all linear layers of the published shape. Measured on an H200 on 2026-11-30, from a
# state dict in host memory: rank 16 in 0.34 to 0.47 s, rank 128 in 0.39 to 0.50 s.
LIMIT_S, LIMIT_ARCHITECTURE = 0.5, "sm_90"


@dataclass(frozen=True, kw_only=True)
class SwappableCase:
    """The pipeline of a case, and random LoRAs for it.

    Attributes:
        built: the pipeline; what is applied to it is what `fluxfast.optimize()` returned.
        loras: state dicts in host memory, by rank.
    """

    built: BuiltPipeline
    loras: Mapping[int, Mapping[str, Tensor]]

    def set_lora(self, rank: int | None) -> None:
        """Swap to the LoRA of this rank, or to none, and wait until the GPU has finished."""
        optimized: Any = self.built.applied
        optimized.set_lora(None if rank is None else self.loras[rank])
        self.built.synchronize()

    @property
    def compiled_and_recorded(self) -> tuple[int, list[Any]]:
        """The number of graphs that Dynamo has compiled, and the transformer's CUDA graphs."""
        replayed = getattr(self.built.pipeline.transformer, "replayed", None)
        graphs = [recorded.graph for recorded in replayed.graphs.values()] if replayed else []
        return dynamo_counters()["unique_graphs"], graphs


@contextmanager
def swappable_case(planned: PlannedCase, ranks: Sequence[int]) -> Iterator[SwappableCase]:
    """Load the weights of a case, apply its optimizations, and close the pipeline at the end.

    Args:
        planned: the case.
        ranks: the ranks of the LoRAs.

    Raises:
        FluxFastError: the weights cannot be loaded, or an optimization cannot be applied.
    """
    forget_compiled_code()
    with without_loading_bars():
        swappable = _loaded(planned, ranks)
    with swappable.built:
        yield swappable


def _loaded(planned: PlannedCase, ranks: Sequence[int]) -> SwappableCase:
    situation = planned.plan.situation
    request, hardware = situation.request, situation.hardware
    pipeline = load(planned.checkpoint, dtype=load_dtype(planned.plan), hardware=hardware)
    loras = {rank: synthetic_lora(pipeline.transformer, rank) for rank in ranks}
    optimized = optimize(
        pipeline,
        preset="eager",
        enable=planned.plan.names,  # by name, so that none of them is left out
        unquantized=sorted(situation.unquantized),
        cache=situation.cache_config if planned.plan.on(Axis.CACHE) else None,
        gpus=hardware.gpus,
        height=request.height,
        width=request.width,
        batch_size=request.batch_size,
        num_inference_steps=request.num_inference_steps,
    )
    built = BuiltPipeline(applied=optimized, plan=planned.plan, load_s=0.0, apply_s=0.0)
    return SwappableCase(built=built, loras=loras)


def limit_s(planned: PlannedCase) -> float | None:
    """Return the limit of the median time of a swap in seconds; None where none was measured."""
    hardware = planned.plan.situation.hardware
    is_known = hardware.platform is Platform.CUDA and hardware.architecture == LIMIT_ARCHITECTURE
    return LIMIT_S if is_known and not planned.checkpoint.is_mini else None
