"""The synthetic world of the mini family: scenes of a few flat shapes, captions, and edits.

A scene is sampled from a `random.Random`, so a seed defines a data set. One sixteenth of all
captions and edits, chosen by a digest of their text, is held out of training.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

SHAPES = ("circle", "square", "triangle", "cross", "ring", "star")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (40, 80, 220),
    "yellow": (245, 215, 50),
    "orange": (245, 135, 25),
    "purple": (140, 60, 185),
    "cyan": (60, 205, 225),
    "pink": (245, 140, 190),
}
BACKGROUNDS = {"white": (250, 250, 250), "grey": (128, 128, 128), "black": (12, 12, 12)}
# All lengths are fractions of the image's side.
RADII = {"small": 0.085, "large": 0.145}
GAP = 0.02  # between the bounding boxes of two things, and to the border
# The direction from the first thing to the second, as (x, y) with y downwards.
RELATIONS = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}
REACH = 0.44  # between the centres of two things in a relation
REACH_IN_A_ROW = 0.33  # the same where the first thing is between the others
# Centres lie on the corners of a grid of 16 × 16 cells, the transformer's tokens at 256×256, so
# that a shape looks the same to the transformer at every place.
CELLS = 16
STRAY_CELLS = 1  # largest offset from the layout that the caption implies, in either direction
HELD_OUT_SIXTEENTHS = 1
TRIES = 200


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One shape of a scene.

    Attributes:
        shape: a name of SHAPES.
        colour: a name of COLOURS.
        size: a name of RADII.
        x: centre as a fraction of the side.
        y: centre as a fraction of the side, downwards.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float

    @property
    def radius(self) -> float:
        """Radius as a fraction of the side."""
        return RADII[self.size]

    @property
    def name(self) -> str:
        """Size, colour and shape, as a caption has them."""
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One to three things on a background.

    Attributes:
        background: a name of BACKGROUNDS.
        things: the things, in the order of the caption.
        relations: `relations[i]` is the relation of the first thing to thing i + 1.
    """

    background: str
    things: tuple[Thing, ...]
    relations: tuple[str, ...]

    @property
    def caption(self) -> str:
        """The text that describes the scene."""
        first, *others = self.things
        clauses = [
            f"{how} a {other.name}" for how, other in zip(self.relations, others, strict=True)
        ]
        subject = " ".join([f"a {first.name}", " and ".join(clauses)]).strip()
        return f"{subject} on a {self.background} background"


@dataclass(frozen=True, kw_only=True)
class Edit:
    """An instruction with the scene before and after it.

    Attributes:
        instruction: the text for Kontext.
        before: the scene of the input image.
        after: the scene of the edited image; its relations are not kept up to date.
    """

    instruction: str
    before: Scene
    after: Scene


def is_held_out(text: str) -> bool:
    """Return whether training leaves this text out."""
    return hashlib.sha256(text.encode()).digest()[0] % 16 < HELD_OUT_SIXTEENTHS


def scenes(seed: int, *, held_out: bool) -> Iterator[Scene]:
    """Yield endless scenes whose captions are all held out of training, or all not."""
    random = Random(f"scenes {seed}")
    while True:
        scene = sample_scene(random)
        if is_held_out(scene.caption) == held_out:
            yield scene


def edits(seed: int, *, held_out: bool) -> Iterator[Edit]:
    """Yield endless edits: caption and instruction together are all held out, or all not."""
    random = Random(f"edits {seed}")
    while True:
        edit = sample_edit(random)
        if is_held_out(f"{edit.before.caption}: {edit.instruction}") == held_out:
            yield edit


def sample_scene(random: Random) -> Scene:
    """Return a scene whose things do not touch and differ in shape or colour."""
    while True:
        count = random.choices((1, 2, 3), weights=(1, 2, 1))[0]
        looks = random.sample([(s, c) for s in SHAPES for c in COLOURS], count)
        sizes = random.choices(tuple(RADII), k=count)
        relations = tuple(random.choices(tuple(RELATIONS), k=count - 1))
        background = random.choice(tuple(BACKGROUNDS))
        for _ in range(TRIES):
            things = tuple(
                _place(random, shape, colour, size, place)
                for (shape, colour), size, place in zip(
                    looks, sizes, layout(relations), strict=True
                )
            )
            if _is_free_of_overlap(things, relations):
                return Scene(background=background, things=things, relations=relations)


def layout(relations: Sequence[str]) -> list[tuple[float, float]]:
    """Return the approximate centre (x, y) of each thing, as fractions of the side.

    Places follow from the relations: a small model cannot invent what a caption leaves open.
    """
    ways = [RELATIONS[how] for how in relations]
    places = [(0.0, 0.0), *((float(x), float(y)) for x, y in ways)]
    if len(ways) == 2 and ways[0] == ways[1]:
        x, y = ways[0]
        places[1:] = [(x - y / 2, y - x / 2), (x + y / 2, y + x / 2)]
    middle_x, middle_y = ((min(axis) + max(axis)) / 2 for axis in zip(*places, strict=True))
    reach = REACH_IN_A_ROW if _in_a_row(ways) else REACH
    return [(0.5 + reach * (x - middle_x), 0.5 + reach * (y - middle_y)) for x, y in places]


def _in_a_row(ways: Sequence[tuple[int, int]]) -> bool:
    return len(ways) == 2 and ways[0] == (-ways[1][0], -ways[1][1])


def _place(random: Random, shape: str, colour: str, size: str, place: tuple[float, float]) -> Thing:
    margin = math.ceil((RADII[size] + GAP) * CELLS)
    x, y = (
        min(
            max(round(centre * CELLS) + random.randint(-STRAY_CELLS, STRAY_CELLS), margin),
            CELLS - margin,
        )
        / CELLS
        for centre in place
    )
    return Thing(shape=shape, colour=colour, size=size, x=x, y=y)


def _is_free_of_overlap(things: tuple[Thing, ...], relations: tuple[str, ...]) -> bool:
    first = things[0]
    for how, other in zip(relations, things[1:], strict=True):
        x, y = RELATIONS[how]
        distance = (other.x - first.x) * x + (other.y - first.y) * y
        if distance < first.radius + other.radius + GAP:
            return False
    return len(things) < 3 or _apart(things[1], things[2])


def _apart(one: Thing, other: Thing) -> bool:
    reach = one.radius + other.radius + GAP
    return max(abs(one.x - other.x), abs(one.y - other.y)) >= reach


def sample_edit(random: Random) -> Edit:
    """Return an edit that names a thing by shape, and by colour too where shapes repeat."""
    before = sample_scene(random)
    kinds: list[Callable[[Random, Scene, int], tuple[str, Scene]]] = [_recolour, _reshape, _repaint]
    if len(before.things) > 1:
        kinds.append(_remove)
    instruction, after = random.choice(kinds)(random, before, random.randrange(len(before.things)))
    return Edit(instruction=instruction, before=before, after=after)


def _called(scene: Scene, index: int) -> str:
    thing = scene.things[index]
    alike = [t for t in scene.things if t.shape == thing.shape]
    return f"the {thing.shape}" if len(alike) == 1 else f"the {thing.colour} {thing.shape}"


def _changed(scene: Scene, index: int, thing: Thing) -> Scene:
    things = (*scene.things[:index], thing, *scene.things[index + 1 :])
    return replace(scene, things=things)


def _recolour(random: Random, scene: Scene, index: int) -> tuple[str, Scene]:
    thing = scene.things[index]
    taken = {t.colour for t in scene.things if t.shape == thing.shape}
    colour = random.choice([c for c in COLOURS if c not in taken])
    after = _changed(scene, index, replace(thing, colour=colour))
    return f"make {_called(scene, index)} {colour}", after


def _reshape(random: Random, scene: Scene, index: int) -> tuple[str, Scene]:
    thing = scene.things[index]
    taken = {t.shape for t in scene.things if t.colour == thing.colour}
    shape = random.choice([s for s in SHAPES if s not in taken])
    after = _changed(scene, index, replace(thing, shape=shape))
    return f"turn {_called(scene, index)} into a {shape}", after


def _repaint(random: Random, scene: Scene, index: int) -> tuple[str, Scene]:
    background = random.choice([b for b in BACKGROUNDS if b != scene.background])
    return f"make the background {background}", replace(scene, background=background)


def _remove(random: Random, scene: Scene, index: int) -> tuple[str, Scene]:
    things = (*scene.things[:index], *scene.things[index + 1 :])
    return f"remove {_called(scene, index)}", replace(scene, things=things, relations=())


# What mini weights generate when no prompt is given.
DEFAULT_SEED = 4
DEFAULT_SCENE = next(scenes(DEFAULT_SEED, held_out=True))
DEFAULT_EDIT = next(edits(DEFAULT_SEED, held_out=True))
