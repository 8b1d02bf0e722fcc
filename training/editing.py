"""Continue to train mini-dev after distilling mini-schnell, mostly on edits, for mini-kontext.

mini-kontext shares mini-dev's transformer. The image after an edit follows from the image before it
and the instruction, so guidance has nothing to choose and amplifies every error; at any scale the
target is the velocity of the image itself. A caption leaves exact positions open: there the target
keeps mini-dev's guidance, and images correct its prediction at a scale of 1.
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
from training.labels import LabelHead
from training.loop import Run, fit
from training.recipe import Recipe

CAPTIONS_EVERY = 3  # one batch of three holds captions


def learn_edits(dev: Any, captioned: Examples, edited: Examples, recipe: Recipe, run: Run) -> Any:
    """Return the transformer that mini-dev and mini-kontext ship with."""
    student, stage = new_transformer(run), recipe.editing
    student.load_state_dict(dev.state_dict())
    label_head = LabelHead(student, run.device)

    def loss(iteration: int, generator: torch.Generator) -> Tensor:
        examples = captioned if iteration % CAPTIONS_EVERY == CAPTIONS_EVERY - 1 else edited
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
            label_loss = (label_head.loss(labels) * labels.weight).mean()
        error = weighted_error(predicted, target, labels.weight)
        return error.add(label_loss, alpha=LABEL_WEIGHT)

    fit("editing", {"transformer": student, "tell": label_head.head}, loss, stage, run)
    label_head.remove()
    return student
