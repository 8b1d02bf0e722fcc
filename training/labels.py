"""Token labels: an auxiliary task in which the transformer predicts each token's shape and colour.

The velocity loss depends little on words: things cover a tenth of an image, and at most noise
levels they are already visible. Predicting each token's shape and colour from text and noise is
learned much sooner and binds words to places. The prediction head is discarded after its stage.
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
from training.data import SceneImages

SHAPE_LABELS = len(SHAPES) + 1  # the last label is no shape
COLOUR_LABELS = len(COLOURS) + len(BACKGROUNDS)
LABELS = SHAPE_LABELS + COLOUR_LABELS
WEIGHT_OF_THINGS = 4.0  # loss weight of a token where a thing may lie, relative to background


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Labels [N, T] of each token: shape, colour, and weight in a loss."""

    shape: Tensor
    colour: Tensor
    weight: Tensor

    def rows(self, rows: Tensor) -> Labels:
        return Labels(
            shape=self.shape[rows], colour=self.colour[rows], weight=self.weight[rows].float()
        )

    def before(self, other: Labels) -> Labels:
        """Return these labels followed by the other's, in one sequence."""
        return Labels(
            shape=torch.cat([self.shape, other.shape], dim=1),
            colour=torch.cat([self.colour, other.colour], dim=1),
            weight=torch.cat([self.weight, other.weight], dim=1),
        )

    def loss(self, logits: Tensor) -> Tensor:
        """Return the cross-entropy [N, T] of logits [N, T, LABELS]."""
        by_label = logits.float().movedim(2, 1)
        shape, colour = torch.split(by_label, [SHAPE_LABELS, COLOUR_LABELS], dim=1)
        return functional.cross_entropy(
            shape, self.shape.long(), reduction="none"
        ) + functional.cross_entropy(colour, self.colour.long(), reduction="none")


class LabelHead:
    """Predict labels from the last hidden states of a transformer's latest call."""

    def __init__(self, transformer: Any, device: str) -> None:
        self.head = nn.Linear(transformer.inner_dim, LABELS).to(device)
        self._states = torch.empty(0)
        self._hook = transformer.norm_out.register_forward_pre_hook(self._keep)

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._states = inputs[0]

    def loss(self, labels: Labels) -> Tensor:
        """Return the cross-entropy [N, T] of the predictions for the call's tokens."""
        return labels.loss(self.head(self._states))

    def remove(self) -> None:
        self._hook.remove()
        self._states = torch.empty(0)


def label(images: SceneImages, places: Tensor, tokens_per_side: int) -> Labels:
    """Return labels of images in `tokens_per_side`² tokens, decided at each token's centre.

    Args:
        images: the scenes.
        places: [N, 3, 3], centre (x, y) and half width of the square in which the text allows a
            thing. The weight depends on the text alone, so it changes only how soon a thing is
            learned.
        tokens_per_side: tokens per row and column.
    """
    device = images.things.device
    centres = (torch.arange(tokens_per_side, device=device) + 0.5) / tokens_per_side
    y, x = (axis.flatten() for axis in torch.meshgrid(centres, centres, indexing="ij"))
    palette = [torch.tensor(list(c.values()), device=device) / 255 for c in (COLOURS, BACKGROUNDS)]
    background = _nearest(images.backgrounds, palette[1]) + len(COLOURS)
    shape = torch.full((len(images), len(x)), NO_SHAPE, device=device, dtype=torch.uint8)
    colour = background[:, None].expand_as(shape)
    weight = torch.ones_like(shape, dtype=torch.bfloat16)
    for thing, place in zip(images.things.unbind(1), places.to(device).unbind(1), strict=True):
        kind, centre_x, centre_y, radius = (thing[:, i, None] for i in range(4))
        covered = ((x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2) & (kind < NO_SHAPE)
        shape = torch.where(covered, kind.to(shape.dtype), shape)
        colour = torch.where(covered, _nearest(thing[:, 4:], palette[0])[:, None], colour)
        centre_x, centre_y, reach = (place[:, i, None] for i in range(3))
        within = torch.maximum((x - centre_x).abs(), (y - centre_y).abs()) < reach
        weight = torch.where(within, torch.full_like(weight, WEIGHT_OF_THINGS), weight)
    return Labels(shape=shape, colour=colour, weight=weight / weight.float().mean().item())


def _nearest(colours: Tensor, palette: Tensor) -> Tensor:
    """Return the index in `palette` [P, 3] of each of `colours` [N, 3]."""
    return torch.cdist(colours, palette).argmin(dim=1).to(torch.uint8)


def caption_places(scenes: Sequence[Scene]) -> Tensor:
    """Return [N, 3, 3]: centre and half width of each thing's place that a caption implies."""
    rows = []
    for scene in scenes:
        centres = layout(scene.relations)
        places = [
            (*centre, thing.radius + STRAY_CELLS / CELLS)
            for centre, thing in zip(centres, scene.things, strict=True)
        ]
        rows.append(places + [(0.0, 0.0, 0.0)] * (MOST_THINGS - len(places)))
    return torch.tensor(rows)


def exact_places(images: SceneImages) -> Tensor:
    """Return [N, 3, 3]: centre and radius of each thing, for edits, whose input image is known."""
    return images.things[:, :, 1:4]
