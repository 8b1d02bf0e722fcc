"""From a plan to a pipeline that is ready to draw, and back."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from fluxfast.models.arguments import call_arguments
from fluxfast.models.spec import ImageRequest
from fluxfast.models.weights import Checkpoint, load
from fluxfast.optimizations.base import Artifacts, Axis, Build, Plan

if TYPE_CHECKING:
    from diffusers import FluxPipeline
    from PIL.Image import Image

DEFAULT_ARTIFACTS = Artifacts(folder=Path.home() / ".cache" / "fluxfast")


@dataclass(kw_only=True)
class BuiltPipeline:
    """A pipeline with a plan applied. Closing it restores every global setting the plan changed.

    `load_s`: reading or making the weights; `apply_s`: applying the optimizations (an export
    included; torch.compile works later, in the first image).
    """

    pipeline: FluxPipeline
    plan: Plan
    load_s: float
    apply_s: float
    undo: ExitStack

    def __enter__(self) -> BuiltPipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.undo.close()
        self.__dict__.pop("pipeline", None)
        forget_compiled_code()

    @property
    def request(self) -> ImageRequest:
        return self.plan.situation.request

    def generate(self, output_type: str = "pil") -> list[Image] | Any:
        """The images of the plan's request: PIL images, or what diffusers' `output_type` names."""
        return self.pipeline(
            **call_arguments(self.request, self.plan.situation.model.takes_image),
            output_type=output_type,
        ).images

    def synchronize(self) -> None:
        if self.plan.situation.hardware.is_gpu:
            torch.cuda.synchronize()


def build(
    checkpoint: Checkpoint,
    plan: Plan,
    *,
    artifacts: Artifacts = DEFAULT_ARTIFACTS,
    progress: Callable[[str], None] = lambda stage: None,
) -> BuiltPipeline:
    """Load the checkpoint and apply the plan to it; on an error everything is undone."""
    forget_compiled_code()
    progress("loading weights")
    started = time.perf_counter()
    pipeline = load(checkpoint, dtype=load_dtype(plan), hardware=plan.situation.hardware)
    loaded = time.perf_counter()
    working = Build(pipeline=pipeline, plan=plan, artifacts=artifacts)
    try:
        with torch.no_grad():
            for optimization in plan.in_order_of_application:
                progress(f"applying {optimization.name}")
                optimization.apply(working)
    except BaseException:
        working.undo.close()
        raise
    return BuiltPipeline(
        pipeline=working.pipeline,
        plan=plan,
        load_s=loaded - started,
        apply_s=time.perf_counter() - loaded,
        undo=working.undo,
    )


def load_dtype(plan: Plan) -> torch.dtype:
    """Return the dtype in which the plan wants the weights loaded; float32 by default."""
    chosen = plan.on(Axis.DTYPE)
    dtype: torch.dtype = getattr(torch, (chosen and chosen.load_dtype) or "float32")
    return dtype


def forget_compiled_code() -> None:
    """Drop compiled graphs and freed memory, so that one case does not see another."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    free_memory()


def free_memory() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
