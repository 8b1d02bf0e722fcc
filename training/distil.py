"""Distil the base: guidance into mini-dev and mini-kontext, few steps into mini-schnell.

The published dev and Kontext are guidance-distilled: one evaluation with the guidance scale as an
input stands for the two of classifier-free guidance (Meng et al. 2023, arXiv:2210.03142).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fluxfast.models.spec import DEV, SCHNELL
from training.data import some, storage
from training.flow import (
    UNGUIDED,
    Conditions,
    Examples,
    is_edit,
    new_transformer,
    noise_levels,
    noised,
    velocity,
    weighted_error,
)
from training.loop import Run, fit
from training.recipe import Recipe

LEAST_GUIDANCE, MOST_GUIDANCE = 1.0, 5.0
STEPS_WITHIN = 7  # steps of mini-dev for one of mini-schnell: 28 per image


def distil_guidance(
    base: Any,
    captioned: Examples,
    edited: Examples,
    empty: Conditions,
    recipe: Recipe,
    run: Run,
) -> Any:
    """Return a student of the base's guided velocity, for guidance scales from 1 to 5."""
    student, stage = new_transformer(run), recipe.dev
    student.load_state_dict(base.state_dict())

    def loss(iteration: int, generator: torch.Generator) -> Tensor:
        examples = edited if is_edit(iteration) else captioned
        count = stage.batch_size
        rows = some(len(examples), count, generator)
        texts, no_texts = examples.conditions.rows(rows), empty.rows(torch.zeros_like(rows))
        sigma = noise_levels(count, generator)
        tokens, _target = noised(examples.tokens[rows], sigma, generator)
        reference = None if examples.reference is None else examples.reference[rows].float()
        scale = any_scales(count, generator)
        plain = torch.full_like(sigma, UNGUIDED)
        with run.autocast(), torch.no_grad():
            with_text = velocity(base, tokens, sigma, texts, plain, reference)
            without = velocity(base, tokens, sigma, no_texts, plain, reference)
        target = without.float() + scale[:, None, None] * (with_text.float() - without.float())
        with run.autocast():
            predicted = velocity(student, tokens, sigma, texts, scale, reference)
        return weighted_error(predicted, target, examples.labels.rows(rows).weight)

    fit("dev", {"transformer": student}, loss, stage, run)
    return student


def any_scales(count: int, generator: torch.Generator) -> Tensor:
    """Return random guidance scales [count] between 1 and 5."""
    span = MOST_GUIDANCE - LEAST_GUIDANCE
    return LEAST_GUIDANCE + span * torch.rand(count, generator=generator, device=generator.device)


def distil_steps(dev: Any, examples: Examples, recipe: Recipe, run: Run) -> Any:
    """Return mini-schnell: each of its four steps replaces seven steps of mini-dev."""
    trajectories, rows = _trajectories(dev, examples, recipe, run)
    student = new_transformer(run, guidance_embeds=False)
    _begin_as(student, dev, run)
    stage, levels = recipe.schnell, _levels(run)

    def loss(_: int, generator: torch.Generator) -> Tensor:
        picked = some(len(rows), stage.batch_size, generator)
        step = some(SCHNELL.num_inference_steps, stage.batch_size, generator)
        texts = examples.conditions.rows(rows[picked])
        here = trajectories[picked, step].float()
        there = trajectories[picked, step + 1].float()
        slope = (there - here) / (levels[step + 1] - levels[step])[:, None, None]
        with run.autocast():
            predicted = velocity(student, here, levels[step], texts, None)
        return weighted_error(predicted, slope, examples.labels.rows(rows[picked]).weight)

    fit("schnell", {"transformer": student}, loss, stage, run)
    return student


def _levels(run: Run) -> Tensor:
    """Return the noise levels of schnell's unshifted schedule: 1, 0.75, 0.5, 0.25, 0."""
    return torch.linspace(1, 0, SCHNELL.num_inference_steps + 1, device=run.device)


@torch.no_grad()
def _trajectories(dev: Any, examples: Examples, recipe: Recipe, run: Run) -> tuple[Tensor, Tensor]:
    """Return mini-dev's latents at schnell's levels [M, 5, T, 64], and the captions' rows [M]."""
    generator, size = run.generator("trajectories"), recipe.schnell.batch_size
    rows = some(len(examples), recipe.trajectories, generator)
    parts = []
    for begin in range(0, len(rows), size):
        parts.append(_trajectory(dev, examples, rows[begin : begin + size], generator, run))
        run.console.stage(f"trajectories: {min(begin + size, len(rows))}/{len(rows)}")
    return torch.cat(parts), rows


def _trajectory(
    dev: Any, examples: Examples, rows: Tensor, generator: torch.Generator, run: Run
) -> Tensor:
    texts = examples.conditions.rows(rows)
    shape = (len(rows), *examples.tokens.shape[1:])
    tokens = torch.randn(shape, generator=generator, device=run.device)
    guidance = torch.full((len(rows),), DEV.guidance_scale, device=run.device)
    count = SCHNELL.num_inference_steps * STEPS_WITHIN
    kept = [tokens]
    with run.autocast():
        for step in range(count):
            sigma = torch.full_like(guidance, 1 - step / count)
            slope = velocity(dev, tokens, sigma, texts, guidance)
            tokens = tokens - slope.float() / count
            if (step + 1) % STEPS_WITHIN == 0:
                kept.append(tokens)
    return torch.stack(kept, dim=1).to(examples.tokens.dtype)


@torch.no_grad()
def _begin_as(student: Any, dev: Any, run: Run) -> None:
    """Initialize the student as mini-dev; the guidance embedding becomes part of a bias."""
    weights = {k: v for k, v in dev.state_dict().items() if "guidance_embedder" not in k}
    student.load_state_dict(weights)
    embed = dev.time_text_embed
    # The transformer scales the guidance in its working precision.
    scale = torch.full((1,), DEV.guidance_scale, device=run.device, dtype=storage(run)) * 1000
    constant = embed.guidance_embedder(embed.time_proj(scale.float()))[0]
    student.time_text_embed.timestep_embedder.linear_2.bias += constant
