"""Pools of scenes and edits on the device, from which batches are sampled."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from os import cpu_count
from typing import Any

import torch
from torch import Tensor

from fluxfast.mini.render import pack, render
from fluxfast.mini.world import Edit, Scene, edits, scenes
from training.loop import Run

CHUNK = 2_000


@dataclass(frozen=True, kw_only=True)
class SceneImages:
    """Scenes as `fluxfast.mini.render` packs them: things [N, 3, 7], backgrounds [N, 3]."""

    things: Tensor
    backgrounds: Tensor

    def __len__(self) -> int:
        return len(self.things)

    def render(self, rows: Tensor | slice, side: int) -> Tensor:
        """Return images [n, 3, side, side] in [−1, 1], as the VAE takes them."""
        return render(self.things[rows], self.backgrounds[rows], side) * 2 - 1


def scene_images(of: Sequence[Scene], device: str) -> SceneImages:
    """Pack the scenes on the device."""
    things, backgrounds = pack(of)
    return SceneImages(things=things.to(device), backgrounds=backgrounds.to(device))


def training_scenes(count: int, seed: int) -> list[Scene]:
    """Return scenes that are not held out."""
    return _in_parallel(partial(_scenes_chunk, seed), count)


def training_edits(count: int, seed: int) -> list[Edit]:
    """Return edits that are not held out."""
    return _in_parallel(partial(_edits_chunk, seed), count)


def _scenes_chunk(seed: int, number: int) -> list[Scene]:
    return list(islice(scenes(seed * 1_000_000 + number, held_out=False), CHUNK))


def _edits_chunk(seed: int, number: int) -> list[Edit]:
    return list(islice(edits(seed * 1_000_000 + number, held_out=False), CHUNK))


def _in_parallel(chunk: Any, count: int) -> list[Any]:
    """Return `count` items; each chunk has its own seed, so the number of cores has no effect."""
    if count < CHUNK:
        return list(chunk(0)[:count])
    numbers = range(-(-count // CHUNK))
    with ProcessPoolExecutor(cpu_count(), mp_context=get_context("spawn")) as pool:
        return [item for items in pool.map(chunk, numbers) for item in items][:count]


def token_ids(tokenizer: Any, texts: Sequence[str], length: int, device: str) -> Tensor:
    """Return token ids [N, length], padded as Flux pipelines pad them."""
    ids: Tensor = tokenizer(
        list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    return ids.to(device)


def some(pool: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Return row numbers [batch_size], sampled with replacement."""
    return torch.randint(pool, (batch_size,), generator=generator, device=generator.device)


def storage(run: Run) -> torch.dtype:
    """Return the dtype for tensors that are encoded once and kept."""
    return torch.bfloat16 if run.on_gpu else torch.float32
