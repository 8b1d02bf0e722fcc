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
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Evidence, Optimization, Proof

if TYPE_CHECKING:
    import torch

SEARCH = "get_module_execution_device"  # the name in the modules of diffusers' pipelines


class PinnedSearch:
    """diffusers' search for a module's execution device, which knows the modules of pinned ones.

    One stands in for the search of each module of diffusers as long as a pipeline of that module is
    pinned, so that pipelines are pinned and released in any order.
    """

    def __init__(self, search: Any) -> None:
        self.search = search
        self.pinned: list[dict[int, torch.device]] = []

    def __call__(self, model: Any) -> Any:
        """Return the device of a model of a pinned pipeline; search for that of another one."""
        known = (devices[id(model)] for devices in self.pinned if id(model) in devices)
        return next(known, None) or self.search(model)


def apply(build: Build) -> None:
    """Pin the device in the pipeline's class, and in the search for a module's device."""
    kind, device = type(build.pipeline), build.pipeline.device
    # cache-dit looks for its own changes in the pipeline's class when it is disabled.
    build.undo.callback(setattr, build.pipeline, "__class__", kind)
    build.pipeline.__class__ = pinned(kind, device)
    # Another optimization may have given the pipeline a class of its own.
    modules = (sys.modules[base.__module__] for base in kind.__mro__)
    home = next(module for module in modules if hasattr(module, SEARCH))
    ours = {id(model): device for model in build.pipeline.components.values()}
    _pin(home, ours)
    build.undo.callback(_release, home, ours)


def _pin(home: Any, ours: dict[int, torch.device]) -> None:
    if not isinstance(getattr(home, SEARCH), PinnedSearch):
        setattr(home, SEARCH, PinnedSearch(getattr(home, SEARCH)))
    getattr(home, SEARCH).pinned.append(ours)


def _release(home: Any, ours: dict[int, torch.device]) -> None:
    search = getattr(home, SEARCH)
    search.pinned = [devices for devices in search.pinned if devices is not ours]
    if not search.pinned:
        setattr(home, SEARCH, search.search)


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

    device = getattr(type(evidence.pipeline), "_execution_device", None)
    is_pinned = isinstance(device, torch.device)  # in diffusers' own classes it is a property
    return Proof(
        is_active=is_pinned,
        detail=f"pinned to {device}" if is_pinned else "not pinned: diffusers searches the modules",
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
