"""Apply a plan to a pipeline in place, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fluxfast.console import no_progress
from fluxfast.optimizations.axis import BEFORE_THE_DEVICE
from fluxfast.optimizations.base import Artifacts, Build, Optimization, Plan, no_reason

if TYPE_CHECKING:
    from fluxfast.optimizations.team import Team

DEFAULT_ARTIFACTS = Artifacts(folder=Path.home() / ".cache" / "fluxfast")


def apply_plan(
    pipeline: Any,
    plan: Plan,
    *,
    artifacts: Artifacts = DEFAULT_ARTIFACTS,
    progress: Callable[[str], None] = no_progress,
    after_each: Callable[[Optimization], None] = no_reason,
    undo: ExitStack | None = None,
    team: Team | None = None,
) -> Build:
    """Apply a plan to a pipeline in place; on an error, undo what was applied.

    Args:
        pipeline: the pipeline. Weights in host memory go to the device of the plan, each layer that
            is quantized after it was: so the device needs no room for all of them as they are.
        plan: the checked plan.
        artifacts: the folder of exported packages.
        progress: called with the name of each stage.
        after_each: called with each optimization after it was applied.
        undo: callbacks that run after those of the optimizations, when the plan is undone.
        team: the processes that share an image; None where this process computes it alone.

    Raises:
        FluxFastError: an optimization cannot be applied.
    """
    build = Build(
        pipeline=pipeline, plan=plan, artifacts=artifacts, undo=undo or ExitStack(), team=team
    )
    try:
        with torch.no_grad():
            order = plan.in_order_of_application
            early = [o for o in order if o.axis in BEFORE_THE_DEVICE]  # they come first
            _apply_each(early, build, progress, after_each)
            _move_to_device(build)
            _apply_each(order[len(early) :], build, progress, after_each)
    except BaseException:
        build.undo.close()
        raise
    return build


def _apply_each(
    optimizations: Iterable[Optimization],
    build: Build,
    progress: Callable[[str], None],
    after_each: Callable[[Optimization], None],
) -> None:
    for optimization in optimizations:
        progress(f"applying {optimization.name}")
        optimization.apply(build)
        after_each(optimization)


def _move_to_device(build: Build) -> None:
    """Move what is still in host memory to the device, but for what is to stay there."""
    if build.device.type == "cpu":
        return
    staying = {id(weight) for module in build.in_host_memory for weight in module.parameters()}
    for network in build.pipeline.components.values():
        if isinstance(network, nn.Module):
            for tensor in (*network.parameters(), *network.buffers()):
                if tensor.device.type == "cpu" and id(tensor) not in staying:
                    _set_device(tensor, build.device)


def _set_device(tensor: Tensor, device: torch.device) -> None:
    """Move a parameter or buffer; whoever holds it sees the values that were moved."""
    tensor.data = tensor.data.to(device)
