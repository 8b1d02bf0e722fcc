"""Render scenes from signed distances to each shape, antialiased over one pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fluxfast.mini.world import BACKGROUNDS, COLOURS, SHAPES, Scene, Thing

MOST_THINGS = 3
NO_SHAPE = len(SHAPES)  # fills up scenes of fewer things
# A thing is (shape, x, y, radius, red, green, blue): lengths as fractions of the side, colours 0–1.
VALUES_PER_THING = 7


def pack(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Return scenes as tensors: things [N, 3, 7] and background colours [N, 3]."""
    things = torch.tensor([_rows(scene) for scene in scenes], dtype=torch.float32)
    backgrounds = torch.tensor([BACKGROUNDS[s.background] for s in scenes], dtype=torch.float32)
    return things, backgrounds / 255


def _rows(scene: Scene) -> list[list[float]]:
    rows = [_row(thing) for thing in scene.things]
    return rows + [[float(NO_SHAPE)] + [0.0] * (VALUES_PER_THING - 1)] * (MOST_THINGS - len(rows))


def _row(thing: Thing) -> list[float]:
    colour = [value / 255 for value in COLOURS[thing.colour]]
    return [float(SHAPES.index(thing.shape)), thing.x, thing.y, thing.radius, *colour]


def render(things: Tensor, backgrounds: Tensor, side: int) -> Tensor:
    """Return images [N, 3, side, side] in [0, 1] on the device of the arguments.

    Args:
        things: [N, 3, 7], as `pack` returns them.
        backgrounds: [N, 3], as `pack` returns them.
        side: pixels.
    """
    centres = (torch.arange(side, device=things.device) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    image = backgrounds[:, :, None, None].expand(-1, -1, side, side)
    for thing in things.unbind(1):
        shape, cx, cy, radius = (thing[:, i, None, None] for i in range(4))
        radius = radius.clamp(min=1e-6)
        outside = _distance(shape, (x - cx) / radius, (y - cy) / radius) * radius * side
        cover = (0.5 - outside).clamp(0, 1)[:, None]
        image = image + cover * (thing[:, 4:, None, None] - image)
    return image


def render_scenes(scenes: Sequence[Scene], side: int) -> Tensor:
    """Return images of the scenes on the CPU: [N, 3, side, side] in [0, 1]."""
    return render(*pack(scenes), side)


def _distance(shape: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the signed distance to each row's shape in radii; infinite for NO_SHAPE."""
    distance = torch.full_like(x, torch.inf)
    for number, name in enumerate(SHAPES):
        rows = (shape == number).flatten()
        distance[rows] = DISTANCES[name](x[rows], y[rows])
    return distance


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 1


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.88


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    """Return the distance to a triangle that points upwards, its centre lowered by 0.2."""
    y = y - 0.2
    sides = x.abs() * math.cos(math.pi / 6) - y * 0.5
    return torch.maximum(sides - 0.6, y - 0.6)


def _cross(x: Tensor, y: Tensor) -> Tensor:
    long, short = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    return torch.maximum(long - 1, short - 0.32)


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.76).abs() - 0.24


def _star(x: Tensor, y: Tensor) -> Tensor:
    """Return the distance to a five-pointed star: a half-plane after folding onto one sector."""
    sector = 2 * math.pi / 5
    angle = torch.atan2(x, -y)
    folded = ((angle + sector / 2) % sector - sector / 2).abs()
    along, across = torch.hypot(x, y) * folded.cos(), torch.hypot(x, y) * folded.sin()
    inner = 0.42  # radius of the notches between the points
    notch = (inner * math.cos(sector / 2), inner * math.sin(sector / 2))
    edge = (notch[0] - 1, notch[1])
    length = math.hypot(*edge)
    return (edge[1] * (along - 1) - edge[0] * across) / length


DISTANCES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
    "star": _star,
}
