"""The decision of DBCache whether a step is like the one before, the same on every rank.

Each rank holds the residuals of its own tokens. cache-dit averages the means of all ranks, which is
not the mean over all tokens where ranks have unequal shares, and which gloo cannot do. Here the
sums over all tokens decide, as on one GPU. Importing this module imports torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fluxfast.optimizations.team import Team


def decide_with(cached: Any, team: Team | None) -> None:
    """Let a cache decide with the residuals of a team's ranks, or with its own.

    Without a team, cache-dit would average with every process of torch.distributed's default group,
    which may generate other images.

    Args:
        cached: the object by which cache-dit replaces the blocks.
        team: the processes that share the image; None where this one computes it alone.
    """
    cached._is_parallelized = lambda: False
    if team is not None:
        manager = cached.context_manager
        manager.similarity = SharedSimilarity(manager, team)


class SharedSimilarity:
    """cache-dit's comparison of two residuals, over the tokens of all ranks."""

    def __init__(self, manager: Any, team: Team) -> None:
        self.manager, self.team, self.compare = manager, team, manager.similarity

    def __call__(self, t1: Tensor, t2: Tensor, **options: Any) -> bool:
        """Return whether the residuals are similar.

        cache-dit compares means of absolute values, so two numbers stand for the residuals.
        """
        if t1.shape == t2.shape and 0 < options["threshold"] < 1:
            t1, t2 = self._sums(t1, t2)
        similar: bool = self.compare(t1, t2, **options)
        return similar

    def _sums(self, before: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        """Return two numbers whose difference and size are the sums over all tokens."""
        size, change = before.abs().float(), (before - now).abs().float()
        sums = [size.sum(), change.sum()]
        least = self.manager.get_important_condition_threshold()
        if least > 0:  # only tokens that change much count, if there is any
            counted = (change.mean(-1) / size.mean(-1) > least).unsqueeze(-1)
            sums += [(size * counted).sum(), (change * counted).sum(), counted.sum().float()]
        totals = self.team.summed(torch.stack(sums))
        counts_some = least > 0 and bool(totals[4] > 0)
        size, change = totals[2:4] if counts_some else totals[:2]
        return size, size - change
