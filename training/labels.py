"""What lies where in a picture: a second thing for the transformer to tell of each token.

A velocity says little of words: things cover a tenth of a picture, and most noise levels show them
already. Telling each token's shape and colour from text and noise is learned much sooner, and
binds the words to places; what tells is thrown away after its stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fluxfast.mini.render import MOST_THINGS, NO_SHAPE
from fluxfast.mini.world import BACKGROUNDS, CELLS, COLOURS, SHAPES, STRAY_CELLS, Scene, layout
from training.data import Pictures

SHAPE_LABELS = len(SHAPES) + 1  # the last is no shape
COLOUR_LABELS = len(COLOURS) + len(BACKGROUNDS)
LABELS = SHAPE_LABELS + COLOUR_LABELS
WEIGHT_OF_THINGS = 4.0  # in a loss, of a token where a thing may lie, against one of background


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Of each token: its shape and colour as numbers, and its weight in a loss, all [N, T]."""

    shape: Tensor
    colour: Tensor
    weight: Tensor

    def rows(self, rows: Tensor) -> Labels:
        return Labels(
            shape=self.shape[rows], colour=self.colour[rows], weight=self.weight[rows].float()
        )

    def before(self, other: Labels) -> Labels:
        """These tokens and then the other's, in one sequence."""
        return Labels(
            shape=torch.cat([self.shape, other.shape], dim=1),
            colour=torch.cat([self.colour, other.colour], dim=1),
            weight=torch.cat([self.weight, other.weight], dim=1),
        )

    def loss(self, logits: Tensor) -> Tensor:
        """Cross-entropy [N, T] of logits [N, T, LABELS]."""
        by_label = logits.float().movedim(2, 1)
        shape, colour = torch.split(by_label, [SHAPE_LABELS, COLOUR_LABELS], dim=1)
        return functional.cross_entropy(
            shape, self.shape.long(), reduction="none"
        ) + functional.cross_entropy(colour, self.colour.long(), reduction="none")


class Teller:
    """Tells labels from the last hidden states of a transformer's latest call."""

    def __init__(self, transformer: Any, device: str) -> None:
        self.head = nn.Linear(transformer.inner_dim, LABELS).to(device)
        self._states = torch.empty(0)
        self._hook = transformer.norm_out.register_forward_pre_hook(self._keep)

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._states = inputs[0]

    def missed(self, labels: Labels) -> Tensor:
        """Cross-entropy [N, T] of what it tells of the call's tokens."""
        return labels.loss(self.head(self._states))

    def remove(self) -> None:
        self._hook.remove()
        self._states = torch.empty(0)


def label(pictures: Pictures, places: Tensor, tokens_per_side: int) -> Labels:
    """Labels of pictures in `tokens_per_side`² tokens; what lies in a token's centre counts.

    `places` [N, 3, 3]: centre (x, y) and reach of where the text lets a thing lie. The weight
    depends on the text alone, so that it does not change what is learned, only how soon.
    """
    device = pictures.things.device
    centres = (torch.arange(tokens_per_side, device=device) + 0.5) / tokens_per_side
    y, x = (axis.flatten() for axis in torch.meshgrid(centres, centres, indexing="ij"))
    palette = [torch.tensor(list(c.values()), device=device) / 255 for c in (COLOURS, BACKGROUNDS)]
    background = _nearest(pictures.backgrounds, palette[1]) + len(COLOURS)
    shape = torch.full((len(pictures), len(x)), NO_SHAPE, device=device, dtype=torch.uint8)
    colour = background[:, None].expand_as(shape)
    weight = torch.ones_like(shape, dtype=torch.bfloat16)
    for thing, place in zip(pictures.things.unbind(1), places.to(device).unbind(1), strict=True):
        kind, centre_x, centre_y, radius = (thing[:, i, None] for i in range(4))
        covered = ((x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2) & (kind < NO_SHAPE)
        shape = torch.where(covered, kind.to(shape.dtype), shape)
        colour = torch.where(covered, _nearest(thing[:, 4:], palette[0])[:, None], colour)
        centre_x, centre_y, reach = (place[:, i, None] for i in range(3))
        within = torch.maximum((x - centre_x).abs(), (y - centre_y).abs()) < reach
        weight = torch.where(within, torch.full_like(weight, WEIGHT_OF_THINGS), weight)
    return Labels(shape=shape, colour=colour, weight=weight / weight.float().mean().item())


def _nearest(colours: Tensor, palette: Tensor) -> Tensor:
    """The number in `palette` [P, 3] of each of `colours` [N, 3]."""
    return torch.cdist(colours, palette).argmin(dim=1).to(torch.uint8)


def told_places(scenes: Sequence[Scene]) -> Tensor:
    """[N, 3, 3]: where each caption has its things lie, as far as they may stray."""
    rows = []
    for scene in scenes:
        centres = layout(scene.relations)
        told = [
            (*centre, thing.radius + STRAY_CELLS / CELLS)
            for centre, thing in zip(centres, scene.things, strict=True)
        ]
        rows.append(told + [(0.0, 0.0, 0.0)] * (MOST_THINGS - len(told)))
    return torch.tensor(rows)


def seen_places(pictures: Pictures) -> Tensor:
    """[N, 3, 3]: where things lie in pictures that are given, as an edit's are."""
    return pictures.things[:, :, 1:4]
