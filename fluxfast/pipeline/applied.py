"""A plan applied to a pipeline: the object that `optimize()`, the commands and the suites share."""

from __future__ import annotations

import gc
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any, Self

import torch

if TYPE_CHECKING:
    from fluxfast.optimizations.base import Build, Plan

# Several optimized pipelines share the compiled code of a block, of which PyTorch keeps 8 versions.
RECOMPILE_LIMIT = 64


def on_device(pipeline: Any) -> Any:
    """Return a context in which the pipeline's GPU is the current one."""
    device = pipeline.device
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class AppliedPlan:
    """A pipeline with a plan applied; leaving its context undoes the plan.

    Attributes:
        pipeline: the pipeline, changed in place.
        plan: the optimizations.
    """

    pipeline: Any
    plan: Plan
    _build: Build

    def __init__(self, build: Build) -> None:
        """Take over a pipeline to which the build's plan was applied."""
        vars(self).update(pipeline=build.pipeline, plan=build.plan, _build=build)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the pipeline: the same arguments, the same result."""
        with ExitStack() as stack:
            stack.enter_context(on_device(self.pipeline))
            if self.plan.compiles:
                stack.enter_context(torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT))
            return self.pipeline(*arguments, **keywords)

    def __enter__(self) -> Self:
        """Return this object."""
        return self

    def __exit__(self, *_: object) -> None:
        """Undo the plan."""
        self.undo()

    @property
    def is_active(self) -> bool:
        """Return whether the optimizations are applied: True until `undo()`."""
        return "_build" in vars(self)

    def undo(self) -> Any:
        """Restore what was there before, and return the pipeline; a second call does nothing."""
        if self.is_active:
            vars(self).pop("_build").undo.close()
            free_memory()
        return self.pipeline


def free_memory() -> None:
    """Collect garbage and return unused GPU memory to the driver."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
