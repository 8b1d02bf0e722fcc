"""Train mini-clip: a joint space of images and captions, and the pipelines' CLIP text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fluxfast.mini.world import COLOURS, RELATIONS, SHAPES, Scene
from fluxfast.models.architecture import MINI
from training.data import SceneImages, some, token_ids
from training.loop import Run, fit
from training.recipe import CLIP_VISION, CLIP_WIDTH, Recipe

NEAR_MISSES = 3
IMAGE_NOISE = 0.02


def near_misses(scene: Scene, random: Random) -> list[str]:
    """Return captions that are wrong in one word: a colour, a shape, and a relation or the size."""
    index = random.randrange(len(scene.things))
    thing = scene.things[index]

    def with_thing(**change: str) -> str:
        things = list(scene.things)
        things[index] = replace(thing, **change)  # type: ignore[arg-type]
        return replace(scene, things=tuple(things)).caption

    colour = random.choice([c for c in COLOURS if c != thing.colour])
    shape = random.choice([s for s in SHAPES if s != thing.shape])
    return [with_thing(colour=colour), with_thing(shape=shape), _misplaced(scene, random)]


def _misplaced(scene: Scene, random: Random) -> str:
    """Return a caption with a reversed relation, or with another size if there is no relation."""
    if not scene.relations:
        thing = scene.things[0]
        size = "small" if thing.size == "large" else "large"
        return replace(scene, things=(replace(thing, size=size),)).caption
    opposite = {
        how: next(o for o, w in RELATIONS.items() if w == (-x, -y))
        for how, (x, y) in RELATIONS.items()
    }
    index = random.randrange(len(scene.relations))
    reversed_relations = list(scene.relations)
    reversed_relations[index] = opposite[reversed_relations[index]]
    return replace(scene, relations=tuple(reversed_relations)).caption


def train_contrastive(
    scenes: Sequence[Scene], images: SceneImages, tokenizer: Any, recipe: Recipe, run: Run
) -> Any:
    """Return a CLIPModel that separates a scene's caption from others and from near misses."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(run.seed)
    clip = CLIPModel(
        CLIPConfig(
            text_config=text_config(tokenizer), vision_config=CLIP_VISION, projection_dim=CLIP_WIDTH
        )
    ).to(run.device)
    stage, random = recipe.contrastive, Random(f"near misses {run.seed}")
    length = MINI.clip["max_position_embeddings"] // 2  # the longest caption has 23 tokens
    wrong = [text for scene in scenes for text in near_misses(scene, random)]
    right_ids = token_ids(tokenizer, [s.caption for s in scenes], length, run.device)
    wrong_ids = token_ids(tokenizer, wrong, length, run.device).view(-1, NEAR_MISSES, length)

    def loss(_: int, generator: torch.Generator) -> Tensor:
        rows = some(len(scenes), stage.batch_size, generator)
        image = _small(images.render(rows, recipe.side))
        noise = torch.randn(image.shape, generator=generator, device=run.device)
        with run.autocast():
            image_vectors = _unit(clip.get_image_features(image + IMAGE_NOISE * noise))
            texts = torch.cat([right_ids[rows], wrong_ids[rows].flatten(0, 1)])
            text_vectors = _unit(clip.get_text_features(texts))
        right, misses = (
            text_vectors[: len(rows)],
            text_vectors[len(rows) :].view(len(rows), NEAR_MISSES, -1),
        )
        scale = clip.logit_scale.exp().clamp(max=100)
        among = (
            torch.cat(
                [image_vectors @ right.T, (misses @ image_vectors[:, :, None])[:, :, 0]], dim=1
            )
            * scale
        )
        same = _same_caption(right_ids[rows])
        among[:, : len(rows)] = among[:, : len(rows)].masked_fill(same, -torch.inf)
        back = (right @ image_vectors.T * scale).masked_fill(same, -torch.inf)
        target = torch.arange(len(rows), device=run.device)
        return functional.cross_entropy(among, target) + functional.cross_entropy(back, target)

    fit("contrastive", {"clip": clip}, loss, stage, run)
    return clip


def text_config(tokenizer: Any) -> dict[str, Any]:
    return MINI.clip | dict(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=CLIP_WIDTH,
    )


def _same_caption(ids: Tensor) -> Tensor:
    """[B, B]: pairs of different rows that have the same caption, which are no negatives."""
    same = (ids[:, None] == ids[None]).all(-1)
    return same & ~torch.eye(len(ids), dtype=torch.bool, device=ids.device)


def _small(image: Tensor) -> Tensor:
    side = CLIP_VISION["image_size"]
    return functional.interpolate(image, (side, side), mode="bilinear", antialias=True)


def _unit(features: Any) -> Tensor:
    tensor = features if isinstance(features, Tensor) else features.pooler_output
    return functional.normalize(tensor.float(), dim=-1)
