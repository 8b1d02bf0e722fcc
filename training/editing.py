"""mini-dev goes on learning once mini-schnell has been distilled from it: edits above all, which
mini-kontext shares its transformer for.

The picture after an edit follows from the one before it and the instruction. Guidance has nothing
to choose there, and carries every mistake further; so at any scale what is learned is the velocity
of the pictures themselves. A caption leaves open where things lie exactly: there mini-dev's
guidance stays, and pictures correct what it says at a scale of 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.data import some
from training.distil import any_scales
from training.flow import (
    LABEL_WEIGHT,
    UNGUIDED,
    Examples,
    new_transformer,
    noise_levels,
    noised,
    velocity,
    weighted_error,
)
from training.labels import Teller
from training.loop import Run, fit
from training.recipe import Recipe

CAPTIONS_EVERY = 3  # of three batches one holds captions


def learn_edits(dev: Any, drawn: Examples, edited: Examples, recipe: Recipe, run: Run) -> Any:
    """What mini-dev and mini-kontext ship with."""
    student, stage = new_transformer(run), recipe.editing
    student.load_state_dict(dev.state_dict())
    teller = Teller(student, run.device)

    def loss(iteration: int, generator: torch.Generator) -> Tensor:
        examples = drawn if iteration % CAPTIONS_EVERY == CAPTIONS_EVERY - 1 else edited
        count = stage.batch_size
        rows = some(len(examples), count, generator)
        texts, labels = examples.conditions.rows(rows), examples.labels.rows(rows)
        sigma = noise_levels(count, generator)
        tokens, target = noised(examples.tokens[rows], sigma, generator)
        scale = any_scales(count, generator)
        reference = None if examples.reference is None else examples.reference[rows].float()
        if reference is None:
            plain = torch.full_like(sigma, UNGUIDED)
            with run.autocast(), torch.no_grad():
                guided = velocity(dev, tokens, sigma, texts, scale)
                unguided = velocity(dev, tokens, sigma, texts, plain)
            target = target + guided.float() - unguided.float()
        with run.autocast():
            predicted = velocity(student, tokens, sigma, texts, scale, reference)
            missed = (teller.missed(labels) * labels.weight).mean()
        error = weighted_error(predicted, target, labels.weight)
        return error.add(missed, alpha=LABEL_WEIGHT)

    fit("editing", {"transformer": student, "tell": teller.head}, loss, stage, run)
    teller.remove()
    return student
