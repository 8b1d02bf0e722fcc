"""The modulation vectors of every block for every step of an image, computed before its first step.

They depend on timestep, guidance and the pooled prompt alone. One row a step, 76 products read
6.5 GB of weights in each; all steps at once read them once an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxfast.fused_blocks import fused_blocks


class ModulationTable:
    """Fills the blocks' modulation vectors before each call of the transformer.

    The rows of a step are found by its timestep, on the device, and copied to where the blocks (and
    CUDA graphs of them) read. A timestep that is not of the schedule gives NaN, not another's rows.
    """

    def __init__(self, pipeline: Any) -> None:
        self.transformer, self.scheduler = pipeline.transformer, pipeline.scheduler
        self.computed_for: tuple[Any, ...] = ()
        self.timesteps = self.table = torch.empty(0)
        self.tables_computed = 0
        # One for each batch size, kept: a CUDA graph recorded with it may come back.
        self.current: dict[int, Tensor] = {}

    def __call__(self, module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """A forward pre-hook of the transformer, which the pipeline calls with keywords."""
        timestep, pooled = keywords["timestep"], keywords["pooled_projections"]
        image = (self.scheduler.timesteps, pooled, keywords.get("guidance"))
        if len(self.computed_for) != 3 or any(
            a is not b for a, b in zip(image, self.computed_for, strict=True)
        ):
            self._compute(*image)
            self.computed_for = image
        of_step = self.timesteps == timestep[0]
        row = self.table.index_select(0, of_step.int().argmax().view(1))[0]
        self._current(pooled.shape[0]).copy_(torch.where(of_step.any(), row, torch.nan))

    def _compute(self, schedule: Tensor, pooled: Tensor, guidance: Tensor | None) -> None:
        """Each product once for all steps, with the arithmetic of pipeline and transformer."""
        batch, dtype = pooled.shape[0], pooled.dtype
        self.timesteps = schedule.to(dtype) / 1000
        steps = len(schedule)
        inputs = [(self.timesteps * 1000).repeat_interleave(batch)]
        if guidance is not None:
            inputs.append((guidance.to(dtype) * 1000).repeat(steps))
        embedded = self.transformer.time_text_embed(*inputs, pooled.repeat(steps, 1))
        activated = F.silu(embedded)  # the same in each norm
        products = [norm.linear(activated) for _, _, norm in self._norms()]
        self.table = torch.cat(products, dim=1).view(steps, batch, -1)
        self.tables_computed += 1

    def _current(self, batch: int) -> Tensor:
        """What the blocks read of a step of this batch size: (batch, all vectors)."""
        if batch not in self.current:
            self.current[batch] = self.table.new_empty(self.table.shape[1:])
        current, first = self.current[batch], 0
        for block, name, norm in self._norms():
            width = norm.linear.out_features
            setattr(block, name, current[:, first : first + width])
            first += width
        return current

    def _norms(self) -> Iterator[tuple[Any, str, Any]]:
        """Each norm with a modulation: its block, and the block's name for the vectors."""
        for block in fused_blocks(self.transformer):
            if hasattr(block, "norm1"):
                yield block, "vectors", block.norm1
                yield block, "text_vectors", block.norm1_context
            else:
                yield block, "vectors", block.norm
