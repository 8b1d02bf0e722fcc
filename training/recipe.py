"""Sizes and durations of the training: FULL trains the shipped family, TINY is for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fluxfast.models.architecture import MINI

CLIP_WIDTH = MINI.clip["hidden_size"]
CLIP_VISION: dict[str, Any] = dict(
    hidden_size=CLIP_WIDTH,
    intermediate_size=2 * CLIP_WIDTH,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=128,
    patch_size=16,
)
# The shift of mini-schnell's schedule: steps near the noise decide positions. Of 256 captions
# (`python -m training.score --seed 9100`), 207 images are right at the published shift of 1, then
# 212, 217 and 224 at 1.25, 1.6 and 2, and 226 at 2.5 and at 3.
FEW_STEP_SHIFT = 2.5


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One network's training: AdamW with a linear warm-up, then a cosine to zero.

    Attributes:
        iterations: optimizer steps.
        batch_size: examples per step.
        learning_rate: the largest learning rate.
        warmup: steps of the warm-up.
    """

    iterations: int
    batch_size: int
    learning_rate: float
    warmup: int


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The training of the whole family.

    Attributes:
        side: height and width of images in pixels.
        scenes: size of the pool of scenes.
        edits: size of the pool of edits.
        more_edits: size of the last stage's pool of edits.
        trajectories: images of mini-dev that mini-schnell is distilled from.
        autoencoder: training of the VAE.
        contrastive: training of mini-clip.
        reading: training of T5.
        base: training of the transformer with classifier-free guidance.
        dev: distillation of guidance.
        schnell: distillation of steps.
        editing: further training of mini-dev for mini-kontext.
    """

    side: int
    scenes: int
    edits: int
    more_edits: int
    trajectories: int
    autoencoder: Stage
    contrastive: Stage
    reading: Stage
    base: Stage
    dev: Stage
    schnell: Stage
    editing: Stage


FULL = Recipe(
    side=256,
    scenes=49_152,
    edits=24_576,
    more_edits=65_536,
    trajectories=24_576,
    autoencoder=Stage(iterations=1_100, batch_size=64, learning_rate=1e-3, warmup=200),
    contrastive=Stage(iterations=1_000, batch_size=512, learning_rate=1e-3, warmup=300),
    reading=Stage(iterations=1_200, batch_size=256, learning_rate=2e-3, warmup=50),
    base=Stage(iterations=13_000, batch_size=256, learning_rate=1e-3, warmup=300),
    dev=Stage(iterations=1_300, batch_size=256, learning_rate=3e-4, warmup=100),
    schnell=Stage(iterations=3_000, batch_size=256, learning_rate=5e-4, warmup=200),
    editing=Stage(iterations=4_500, batch_size=256, learning_rate=5e-4, warmup=200),
)

_INSTANT = Stage(iterations=2, batch_size=2, learning_rate=1e-4, warmup=1)
TINY = Recipe(
    side=32,
    scenes=12,
    edits=6,
    more_edits=8,
    trajectories=2,
    autoencoder=_INSTANT,
    contrastive=_INSTANT,
    reading=_INSTANT,
    base=_INSTANT,
    dev=_INSTANT,
    schnell=_INSTANT,
    editing=_INSTANT,
)
