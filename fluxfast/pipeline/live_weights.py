"""Rewrite the weights of an optimized transformer in place, under the names of its original layers.

An optimized layer holds a weight of its own: rows of several original layers, quantized, or a view
of a stacked weight. CUDA graphs and compiled code read its memory, so new values are written into
that memory. Equal inputs give equal bytes: writing the original weights restores a layer exactly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from fluxfast.models.lora.adapter import Lora, LowRank, Shape, check_fits, merged
from fluxfast.optimizations.base import Build
from fluxfast.optimizations.fusion.fused_projections import FUSED_LAYERS
from fluxfast.optimizations.parallel._calls import send_weights
from fluxfast.optimizations.precision._plain_tensors import plain_tensors
from fluxfast.pipeline.snapshot import Original, Snapshot, memory


def recorded_layers(transformer: nn.Module, snapshot: Snapshot) -> dict[str, Original]:
    """Return the weights of the linear layers by name, recorded before they are optimized."""
    return {
        name: snapshot.original_of(module.weight)
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear)
    }


class LiveWeights:
    """The weights of an optimized transformer, which LoRAs change and restore.

    Attributes:
        originals: the weight of each original linear layer.
    """

    def __init__(self, build: Build, originals: dict[str, Original]) -> None:
        """Begin with the weights that the build was given."""
        self.originals = originals
        self._build = build
        self._transformer: Any = build.pipeline.transformer
        self._changed = set[str]()

    @property
    def shapes(self) -> dict[str, Shape]:
        """(out_features, in_features) of the original layers."""
        return {n: (o.data.shape[0], o.data.shape[1]) for n, o in self.originals.items()}

    @torch.no_grad()
    def set_loras(self, loras: Sequence[Lora]) -> None:
        """Write the original weights plus these LoRAs; none restores the original weights.

        Raises:
            FluxFastError: a LoRA does not fit; nothing is changed then.
        """
        for lora in loras:
            check_fits(lora, self.shapes)
        changes = defaultdict[str, list[LowRank]](list)
        for lora in loras:
            for name, change in lora.layers.items():
                changes[name].append(change)
        wanted = {self._live_name(name) for name in changes}
        self._changed |= wanted  # so that the next call restores what an error here leaves
        for live_name in sorted(self._changed):
            self._write(live_name, changes)
        changed, self._changed = self._changed, wanted
        if (team := self._build.team) and team.is_led:
            send_weights(team, self._transformer, tuple(sorted(changed)))
        for derive in self._build.on_new_weights:
            derive()

    def _live_name(self, name: str) -> str:
        """Return the layer that holds an original layer's weight now."""
        owner, _, own = name.rpartition(".")
        for fused, separate in FUSED_LAYERS.items():
            if own in separate and hasattr(self._transformer.get_submodule(owner), fused):
                return f"{owner}.{fused}"
        return name

    def _parts(self, live_name: str) -> Iterator[str]:
        """Yield the original layers whose rows a layer holds, in their order."""
        owner, _, own = live_name.rpartition(".")
        for name in FUSED_LAYERS.get(own, (own,)):
            yield f"{owner}.{name}" if owner else name

    def _write(self, live_name: str, changes: dict[str, list[LowRank]]) -> None:
        live = self._transformer.get_submodule(live_name).weight
        parts = [
            merged(self._original(name, live), changes.get(name, ()))
            for name in self._parts(live_name)
        ]
        new = parts[0] if len(parts) == 1 else torch.cat(parts)
        if is_traceable_wrapper_subclass(live):
            assert self._build.quantize is not None
            new = self._build.quantize(new)
        for held, fresh in zip(plain_tensors(live), plain_tensors(new), strict=True):
            held.copy_(fresh)

    def _original(self, name: str, live: Tensor) -> Tensor:
        """Return an original weight on the device; a copy is kept before its memory is written."""
        original = self.originals[name]
        is_plain = not is_traceable_wrapper_subclass(live)
        if is_plain and memory(original.data) == memory(live):
            original.data = original.data.clone()
        return original.data.to(live.device, non_blocking=True)
