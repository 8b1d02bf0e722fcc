"""Build an optimized pipeline from a plan, and undo it.

Building or closing a pipeline resets torch.compile in the whole process (`forget_compiled_code`),
so that a case does not use the graphs or counters of another. A second compiled pipeline that is
open then stays correct, but compiles again at its next image.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from fluxfast.console import no_progress
from fluxfast.errors import FluxFastError
from fluxfast.models.arguments import call_arguments
from fluxfast.models.loading import load
from fluxfast.models.spec import ImageRequest
from fluxfast.models.weights import Checkpoint
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Artifacts, Plan
from fluxfast.pipeline.applied import AppliedPlan, free_memory
from fluxfast.pipeline.apply import DEFAULT_ARTIFACTS
from fluxfast.pipeline.kernels_ahead import begin_to_compile
from fluxfast.pipeline.ranks import apply_on_every_rank, is_launched

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(kw_only=True)
class BuiltPipeline(AbstractContextManager["BuiltPipeline"]):
    """A pipeline of the project's own, which generates the images that its plan is for.

    `build` keeps nothing of the unoptimized pipeline: closing discards the pipeline.

    Attributes:
        applied: the pipeline with the plan applied; absent after `close`.
        plan: the plan that was applied.
        load_s: seconds for reading or generating the weights.
        apply_s: seconds for applying the optimizations and for asking for their kernels. An export
            is included; torch.compile compiles later, in the first image.
        starts_cold: whether it was built from a cold start, see `bench.measurement.cold_start`.
        kernels: the threads that compile kernels ahead, see `begin_to_compile`.
    """

    applied: AppliedPlan
    plan: Plan
    load_s: float
    apply_s: float
    starts_cold: bool = False
    kernels: Future[None] | None = None

    def __exit__(self, *_: object) -> None:
        """Close the pipeline."""
        self.close()

    def close(self) -> None:
        """Restore every global setting, drop the pipeline and free its memory."""
        _wait_for(self.kernels)
        self.__dict__.pop("applied").undo()
        forget_compiled_code()

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline itself: what calls it is timed without anything in between."""
        return self.applied.pipeline

    @property
    def request(self) -> ImageRequest:
        """The request that was planned for."""
        return self.plan.situation.request

    @overload
    def generate(self, output_type: Literal["pil"] = "pil") -> list[Image]: ...

    @overload
    def generate(self, output_type: Literal["pt", "latent"]) -> Tensor: ...

    def generate(self, output_type: str = "pil") -> Any:
        """Return the images of the plan's request.

        Args:
            output_type: diffusers' output type; `pil` gives PIL images, `pt` a tensor
                [N, 3, H, W] in [0, 1], `latent` latents [N, T, 64].
        """
        return self.pipeline(
            **call_arguments(self.request, self.plan.situation.model.takes_image),
            output_type=output_type,
        ).images

    def synchronize(self) -> None:
        """Wait until the GPU has finished; return at once on a CPU."""
        if self.plan.situation.hardware.is_gpu:
            torch.cuda.synchronize()


def build(
    checkpoint: Checkpoint,
    plan: Plan,
    *,
    artifacts: Artifacts = DEFAULT_ARTIFACTS,
    progress: Callable[[str], None] = no_progress,
) -> BuiltPipeline:
    """Load the checkpoint and apply the plan; on an error, restore every global setting.

    Args:
        checkpoint: the weights.
        plan: the checked plan.
        artifacts: the folder of exported packages.
        progress: called with the name of each stage.

    Raises:
        FluxFastError: the weights cannot be loaded, or an optimization cannot be applied.
    """
    _check_not_launched(plan)
    forget_compiled_code()
    dtype, began = load_dtype(plan), time.perf_counter()
    with ExitStack() as on_error:
        kernels = begin_to_compile(checkpoint, plan, dtype, progress)
        on_error.callback(_wait_for, kernels)
        progress("loading weights")
        started = time.perf_counter()
        hardware = plan.situation.hardware
        shrinks = plan.on(Axis.QUANTIZATION) is not None
        pipeline = load(checkpoint, dtype=dtype, hardware=hardware, shrinks=shrinks)
        loaded = time.perf_counter()
        applied = AppliedPlan(
            apply_on_every_rank(pipeline, plan, artifacts=artifacts, progress=progress)
        )
        on_error.pop_all()
    return BuiltPipeline(
        applied=applied,
        plan=plan,
        load_s=loaded - started,
        apply_s=time.perf_counter() - loaded + started - began,
        kernels=kernels,
    )


def _wait_for(kernels: Future[None] | None) -> None:
    """Let no thread compile into the caches of whoever builds next."""
    if kernels is not None:
        wait([kernels])


def _check_not_launched(plan: Plan) -> None:
    """Refuse to be one of several processes that torchrun has started for the same image."""
    if plan.situation.hardware.gpus > 1 and is_launched():
        raise FluxFastError(
            "fluxfast starts the processes for the other GPUs itself",
            got="several processes of torchrun or of another launcher",
            allowed="one process; under torchrun, fluxfast.optimize(pipeline, gpus=N)",
            remedy="run the command without torchrun",
        )


def load_dtype(plan: Plan) -> torch.dtype:
    """Return the dtype in which the plan wants the weights loaded; float32 by default."""
    chosen = plan.on(Axis.DTYPE)
    dtype: torch.dtype = getattr(torch, (chosen and chosen.load_dtype) or "float32")
    return dtype


def forget_compiled_code() -> None:
    """Reset torch.compile, its counters and freed memory for the whole process."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    free_memory()
