"""Read images of the mini world by rules: what is where, and whether it matches a scene or edit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from fluxfast.mini.render import render_scenes
from fluxfast.mini.world import BACKGROUNDS, COLOURS, RADII, RELATIONS, SHAPES, Edit, Scene, Thing

Image = npt.NDArray[np.uint8]  # [height, width, 3]
Mask = npt.NDArray[np.bool_]

FOREGROUND_DISTANCE = 60.0  # RGB distance from the background; the palettes are wider
SPECK = 0.0015  # share of the image's pixels: a third of the smallest thing
TEMPLATE_SIDE = 32
RELATION_DISTANCE = 0.1  # share of the side, between centres; scenes have 0.19 or more
POSITION_TOLERANCE = 0.06  # share of the side, for things that an edit must not move


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The content of an image; a thing that resembles no shape well still gets the nearest name.

    Attributes:
        background: a name of BACKGROUNDS.
        things: the things, from left to right.
    """

    background: str
    things: tuple[Thing, ...]


def read(image: Image) -> Reading:
    """Return the background and things of an image [height, width, 3]."""
    height, width, _ = image.shape
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    background = _nearest(np.median(border, axis=0), BACKGROUNDS)
    away = np.linalg.norm(image.astype(float) - BACKGROUNDS[background], axis=2)
    labels, _ = ndimage.label(away > FOREGROUND_DISTANCE)
    things = [
        _thing(image, labels[box] == number, box)
        for number, box in enumerate(ndimage.find_objects(labels), start=1)
        if np.count_nonzero(labels[box] == number) > SPECK * height * width
    ]
    return Reading(background=background, things=tuple(sorted(things, key=lambda t: t.x)))


def _nearest(colour: npt.NDArray[np.float64], palette: dict[str, tuple[int, int, int]]) -> str:
    return min(palette, key=lambda name: float(np.linalg.norm(colour - np.array(palette[name]))))


def _thing(image: Image, mask: Mask, box: tuple[slice, slice]) -> Thing:
    height, width, _ = image.shape
    rows, columns = box
    inner = ndimage.binary_erosion(mask, iterations=2)
    colour = np.median(image[box][inner if inner.any() else mask], axis=0)
    x, y = (columns.start + columns.stop) / 2 / width, (rows.start + rows.stop) / 2 / height
    radius = max((columns.stop - columns.start) / width, (rows.stop - rows.start) / height) / 2
    size = min(RADII, key=lambda name: abs(RADII[name] - radius))
    return Thing(shape=_shape(mask), colour=_nearest(colour, COLOURS), size=size, x=x, y=y)


def _shape(mask: Mask) -> str:
    """Return the shape with the largest overlap (intersection over union) in the same box."""
    stretched = _stretch(mask)

    def overlap(name: str) -> float:
        template = _templates()[name]
        return float((stretched & template).sum() / (stretched | template).sum())

    return max(SHAPES, key=overlap)


def _stretch(mask: Mask) -> Mask:
    rows = (np.arange(TEMPLATE_SIDE) + 0.5) * mask.shape[0] / TEMPLATE_SIDE
    columns = (np.arange(TEMPLATE_SIDE) + 0.5) * mask.shape[1] / TEMPLATE_SIDE
    return mask[np.ix_(rows.astype(int), columns.astype(int))]


@cache
def _templates() -> dict[str, Mask]:
    templates = {}
    for shape in SHAPES:
        thing = Thing(shape=shape, colour="red", size="large", x=0.5, y=0.5)
        scene = Scene(background="white", things=(thing,), relations=())
        green = render_scenes([scene], side=512)[0, 1].numpy()  # little in red, much in white
        mask = green < 0.5
        templates[shape] = _stretch(mask[ndimage.find_objects(mask.astype(int))[0]])
    return templates


def shows(reading: Reading, scene: Scene) -> bool:
    """Return whether the image has exactly the scene's shapes and colours, in its relations."""
    if _looks(reading.things) != _looks(scene.things):
        return False
    place = {(t.shape, t.colour): t for t in reading.things}
    first, *others = (place[t.shape, t.colour] for t in scene.things)
    return all(
        _relates(first, how, other) for how, other in zip(scene.relations, others, strict=True)
    )


def _looks(things: tuple[Thing, ...]) -> Counter[tuple[str, str]]:
    return Counter((t.shape, t.colour) for t in things)


def _relates(one: Thing, how: str, other: Thing) -> bool:
    x, y = RELATIONS[how]
    return (other.x - one.x) * x + (other.y - one.y) * y > RELATION_DISTANCE


def sizes_and_background_agree(reading: Reading, scene: Scene) -> bool:
    """Return whether sizes and background match, which `shows` does not check."""
    expected = Counter(t.name for t in scene.things)
    found = Counter(t.name for t in reading.things)
    return reading.background == scene.background and expected == found


def follows(reading: Reading, edit: Edit) -> bool:
    """Return whether the edit is done and everything else kept its look and place."""
    after = edit.after
    if reading.background != after.background or len(reading.things) != len(after.things):
        return False
    return any(
        all(_is(found, wanted) for found, wanted in zip(order, after.things, strict=True))
        for order in permutations(reading.things)
    )


def _is(found: Thing, wanted: Thing) -> bool:
    moved = max(abs(found.x - wanted.x), abs(found.y - wanted.y))
    return found.name == wanted.name and moved < POSITION_TOLERANCE
