"""The pipeline told its device.

diffusers looks for it several times an image, in every module of every model, for any of them could
have been offloaded. Here none is. And what it makes on the host beside the prompts' embeddings is
made on the device: copying it would make the host wait for the text encoders before it draws noise.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from fluxfast.hardware import Hardware
from fluxfast.optimizations.base import Axis, Build, Evidence, Optimization, Proof

if TYPE_CHECKING:
    import torch

SEARCH = "get_module_execution_device"  # as the modules of diffusers' pipelines import it


def apply(build: Build) -> None:
    kind, device = type(build.pipeline), build.pipeline.device
    # cache-dit looks for what it changed in the pipeline's own class.
    build.undo.callback(setattr, build.pipeline, "__class__", kind)
    build.pipeline.__class__ = pinned(kind, device)
    # Another optimization may have given the pipeline a class of its own.
    modules = (sys.modules[of.__module__] for of in kind.__mro__)
    home = next(module for module in modules if hasattr(module, SEARCH))
    search = getattr(home, SEARCH)
    ours = {id(model) for model in build.pipeline.components.values()}
    build.undo.callback(setattr, home, SEARCH, search)
    setattr(home, SEARCH, lambda model: device if id(model) in ours else search(model))


def pinned(kind: Any, device: torch.device) -> Any:
    """The class of a pipeline that is on this device for good."""

    class Pinned(kind):  # type: ignore[misc]
        _execution_device = device

        def encode_prompt(self, *arguments: Any, **keywords: Any) -> Any:
            with device:
                return super().encode_prompt(*arguments, **keywords)

    Pinned.__name__ = kind.__name__
    return Pinned


def proof(evidence: Evidence) -> Proof:
    import torch

    known = vars(type(evidence.pipeline)).get("_execution_device")
    return Proof(
        is_active=isinstance(known, torch.device),
        detail=f"the pipeline runs on {known}" if known else "the device is looked for",
    )


def why_unsupported(hardware: Hardware) -> str | None:
    if hardware.is_gpu:
        return None
    return "saves a GPU milliseconds of waiting; a CPU's image takes too long for them to show"


OPTIMIZATION = Optimization(
    name="known_device",
    axis=Axis.HOST,
    summary="no search for the device in every module",
    apply=apply,
    proof=proof,
    why_unsupported=why_unsupported,
    on_by_default=lambda hardware: True,
)
