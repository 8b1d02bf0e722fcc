"""Pin the pipeline's execution device.

Several times per image diffusers searches every module of every model for the execution device,
because any module may be offloaded; here no module is. `encode_prompt` also creates its tensors on
the device instead of on the host: copying them would make the host wait for the text encoders
before it samples the noise.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from fluxfast.hardware import Hardware
from fluxfast.optimizations.base import Axis, Build, Evidence, Optimization, Proof

if TYPE_CHECKING:
    import torch

SEARCH = "get_module_execution_device"  # the name in the modules of diffusers' pipelines


def apply(build: Build) -> None:
    """Pin the device in the pipeline's class, and in the search for a module's device."""
    kind, device = type(build.pipeline), build.pipeline.device
    # cache-dit looks for its own changes in the pipeline's class when it is disabled.
    build.undo.callback(setattr, build.pipeline, "__class__", kind)
    build.pipeline.__class__ = pinned(kind, device)
    # Another optimization may have given the pipeline a class of its own.
    modules = (sys.modules[base.__module__] for base in kind.__mro__)
    home = next(module for module in modules if hasattr(module, SEARCH))
    search = getattr(home, SEARCH)
    ours = {id(model) for model in build.pipeline.components.values()}
    build.undo.callback(setattr, home, SEARCH, search)
    setattr(home, SEARCH, lambda model: device if id(model) in ours else search(model))


def pinned(kind: Any, device: torch.device) -> Any:
    """Return a subclass of a pipeline's class that runs on this device only."""

    class Pinned(kind):  # type: ignore[misc]
        _execution_device = device

        def encode_prompt(self, *arguments: Any, **keywords: Any) -> Any:
            with device:
                return super().encode_prompt(*arguments, **keywords)

    Pinned.__name__ = kind.__name__
    return Pinned


def proof(evidence: Evidence) -> Proof:
    """Return a proof: active if the pipeline's class has a pinned device."""
    import torch

    device = vars(type(evidence.pipeline)).get("_execution_device")
    return Proof(
        is_active=isinstance(device, torch.device),
        detail=f"pinned to {device}" if device else "not pinned: diffusers searches the modules",
    )


def why_unsupported(hardware: Hardware) -> str | None:
    """Return why a pinned device saves no noticeable time on this hardware, or None."""
    if hardware.is_gpu:
        return None
    return "requires a GPU: it saves milliseconds, which do not show in an image on a CPU"


OPTIMIZATION = Optimization(
    name="known_device",
    axis=Axis.HOST,
    summary="execution device pinned, not searched for in every module",
    apply=apply,
    proof=proof,
    why_unsupported=why_unsupported,
    on_by_default=lambda hardware: True,
)
