"""Merge a LoRA into the weights of a transformer that was just loaded."""

from __future__ import annotations

from torch import nn

from fluxfast.models.lora.adapter import check_fits, merged
from fluxfast.models.lora.read import read_lora
from fluxfast.models.lora.source import LoraSource


def merge_lora(transformer: nn.Module, source: LoraSource) -> None:
    """Add a LoRA to the weights of the transformer's linear layers.

    Raises:
        FluxFastError: the LoRA cannot be read, or does not fit this transformer; no weight is
            changed then.
    """
    layers = {n: m for n, m in transformer.named_modules() if isinstance(m, nn.Linear)}
    device = next(transformer.parameters()).device
    lora = read_lora(source.location, source.scale, device=device)
    check_fits(lora, {n: (m.out_features, m.in_features) for n, m in layers.items()})
    for name, change in lora.layers.items():
        layers[name].weight.data = merged(layers[name].weight.data, [change])
