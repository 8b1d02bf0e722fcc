"""The world of the mini family: scenes of a few flat shapes, their captions, and edits of them.

A scene is drawn from a `random.Random`, so a seed is a data set. Captions and edits whose digest
falls in a sixteenth of all are held out: training never sees them.
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
RADII = {"small": 0.085, "large": 0.145}  # of the side of the picture
GAP = 0.02  # between the bounding boxes of two things, and to the border
# Which way the second of two things lies, as (x, y) with y downwards.
RELATIONS = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}
REACH = 0.44  # between the centres of a thing and of one that it stands beside
REACH_IN_A_ROW = 0.33  # where the first stands between the others
# Centres lie on the corners of as many cells a side, which are a transformer's tokens at 256×256:
# a shape then looks the same to it wherever it lies.
CELLS = 16
STRAY_CELLS = 1  # from where the caption has it, either way
HELD_OUT_SIXTEENTHS = 1
TRIES = 200


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One shape; its centre in parts of the side, y downwards."""

    shape: str
    colour: str
    size: str
    x: float
    y: float

    @property
    def radius(self) -> float:
        return RADII[self.size]

    @property
    def name(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One to three things; `relations[i]` is how the first stands to the one numbered i + 1."""

    background: str
    things: tuple[Thing, ...]
    relations: tuple[str, ...]

    @property
    def caption(self) -> str:
        first, *others = self.things
        clauses = [
            f"{how} a {other.name}" for how, other in zip(self.relations, others, strict=True)
        ]
        subject = " ".join([f"a {first.name}", " and ".join(clauses)]).strip()
        return f"{subject} on a {self.background} background"


@dataclass(frozen=True, kw_only=True)
class Edit:
    """An instruction, and the scene before and after it. `relations` of `after` are not kept."""

    instruction: str
    before: Scene
    after: Scene


def is_held_out(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] % 16 < HELD_OUT_SIXTEENTHS


def scenes(seed: int, *, held_out: bool) -> Iterator[Scene]:
    """Endless scenes, of captions that are all held out or all not."""
    random = Random(f"scenes {seed}")
    while True:
        scene = sample_scene(random)
        if is_held_out(scene.caption) == held_out:
            yield scene


def edits(seed: int, *, held_out: bool) -> Iterator[Edit]:
    """Endless edits, held out by scene and instruction together."""
    random = Random(f"edits {seed}")
    while True:
        edit = sample_edit(random)
        if is_held_out(f"{edit.before.caption}: {edit.instruction}") == held_out:
            yield edit


def sample_scene(random: Random) -> Scene:
    """A scene whose things do not touch and differ in their (shape, colour)."""
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
            if _stands(things, relations):
                return Scene(background=background, things=things, relations=relations)


def layout(relations: Sequence[str]) -> list[tuple[float, float]]:
    """About where the centres of a scene's things lie: what a caption does not say a small model
    would have to make up."""
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


def _stands(things: tuple[Thing, ...], relations: tuple[str, ...]) -> bool:
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
    """A scene and one change of it, named by shape, or by colour too where shapes repeat."""
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
