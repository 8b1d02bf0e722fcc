"""Low-rank changes of weights: the data types, the merge, and the check against a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fluxfast.errors import FluxFastError

Shape = tuple[int, int]
MOST_NAMES = 4  # in an error


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank:
    """A change of one linear layer's weight: scale · up @ down.

    Attributes:
        down: (rank, in_features).
        up: (out_features, rank).
        scale: the strength that the user chose times alpha / rank.
    """

    down: Tensor
    up: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """The rank of the change."""
        return self.down.shape[0]

    @property
    def shape(self) -> Shape:
        """Shape of the weight that it changes: (out_features, in_features)."""
        return self.up.shape[0], self.down.shape[1]


@dataclass(frozen=True, kw_only=True)
class AppliedLora:
    """A LoRA that is part of the weights, as reports print it.

    Attributes:
        name: file name, hub id, or the name that diffusers' `adapter_name` gave it.
        scales: the strengths at which its layers are applied, without alpha / rank.
        ranks: the ranks of its layers.
        layers: how many layers it changes.
    """

    name: str
    scales: frozenset[float]
    ranks: frozenset[int]
    layers: int

    def __str__(self) -> str:
        """Return one line, such as `cartoon (scale 0.8, rank 16, 494 layers)`."""
        scale, rank = _range(self.scales), _range(self.ranks)
        return f"{self.name} (scale {scale}, rank {rank}, {self.layers} layers)"


def _range(values: Iterable[float]) -> str:
    ordered = sorted(values)
    ends = ordered[:1] + ordered[1:][-1:]
    return "–".join(f"{value:g}" for value in ends)


@dataclass(frozen=True, kw_only=True, eq=False)
class Lora:
    """A LoRA of a Flux transformer.

    Attributes:
        name: file name or hub id.
        scale: the strength that the user chose.
        layers: the change of each layer, by diffusers' name of the layer.
    """

    name: str
    scale: float
    layers: Mapping[str, LowRank]

    @property
    def applied(self) -> AppliedLora:
        """The facts for a report."""
        return AppliedLora(
            name=self.name,
            scales=frozenset({self.scale}),
            ranks=frozenset(change.rank for change in self.layers.values()),
            layers=len(self.layers),
        )


def describe(loras: Sequence[AppliedLora]) -> str:
    """Return one line for a report: `2 LoRAs: a (scale 1, rank 16, 494 layers), b (…)`."""
    if not loras:
        return "no LoRA"
    count = "1 LoRA" if len(loras) == 1 else f"{len(loras)} LoRAs"
    return f"{count}: {', '.join(map(str, loras))}"


def merged(weight: Tensor, changes: Iterable[LowRank]) -> Tensor:
    """Return weight + Σ scale · up @ down as a new tensor of the weight's dtype and device.

    The sum is computed in float32 (float64 for a float64 weight) and rounded once. peft's `merge`
    multiplies up and down, scales, and adds in the dtype of the weights, one adapter after the
    other: in bfloat16 each of these steps rounds to 8 bits, while a change is often smaller than
    one rounding step of the weight. Without changes the weight's values are returned bit for bit.

    Args:
        weight: (out_features, in_features).
        changes: low-rank changes of that shape.
    """
    total = weight.to(torch.promote_types(weight.dtype, torch.float32), copy=True)
    return add(total, changes).to(weight.dtype)


def add(total: Tensor, changes: Iterable[LowRank]) -> Tensor:
    """Add low-rank changes in place to a float32 (or float64) tensor, and return the tensor."""
    for change in changes:
        total.addmm_(change.up.to(total), change.down.to(total), alpha=change.scale)
    return total


def check_fits(lora: Lora, shapes: Mapping[str, Shape]) -> None:
    """Raise unless each layer of the LoRA is a linear layer of the model, of the same shape.

    Args:
        lora: the LoRA.
        shapes: (out_features, in_features) of the model's linear layers, by diffusers' names.

    Raises:
        FluxFastError: the model lacks a layer, or a layer has another shape.
    """
    absent = [name for name in lora.layers if name not in shapes]
    if absent:
        raise FluxFastError(
            f"LoRA {lora.name} changes layers that this transformer does not have",
            got=listed(absent),
            allowed="linear layers of this transformer",
            remedy="use a LoRA that was trained for this model",
        )
    misshapen = [
        f"{name} {change.shape} instead of {shapes[name]}"
        for name, change in lora.layers.items()
        if change.shape != shapes[name]
    ]
    if misshapen:
        raise FluxFastError(
            f"LoRA {lora.name} has layers of another shape than this transformer",
            got=listed(misshapen),
            allowed="(out_features, in_features) of the transformer's own layers",
            remedy="use a LoRA that was trained for this model; Flux-Control LoRAs, which widen "
            "x_embedder, are loaded with pipeline.load_lora_weights before optimize()",
        )


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    rest = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")
