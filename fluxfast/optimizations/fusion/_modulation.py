"""The modulation vectors of all blocks and all steps of an image, computed before its first step.

They depend on timestep, guidance and pooled prompt only. With one row per step, 76 GEMMs read
6.5 GB of weights in each step; all steps at once read them once per image, in three GEMMs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StackedLinear:
    """Linear layers of one input as one GEMM; their weights and biases become views of its own."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self.weight = torch.cat([layer.weight.detach() for layer in layers])
        self.bias = torch.cat([layer.bias.detach() for layer in layers])
        rows = [layer.out_features for layer in layers]
        parts = zip(torch.split(self.weight, rows), torch.split(self.bias, rows), strict=True)
        for layer, (weight, bias) in zip(layers, parts, strict=True):
            layer.weight.data, layer.bias.data = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        """Return the layers' outputs side by side, (rows, all columns), of (rows, in_features)."""
        return F.linear(x, self.weight, self.bias)


MAX_TABLES = 2  # tables kept: true classifier-free guidance has two passes in each step


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The vectors of all steps of an image, or of one of its two passes.

    Attributes:
        computed_for: schedule, pooled prompt and guidance; held, so that no other tensor gets
            their identity.
        timesteps: (steps,), as the transformer receives them.
        vectors: (steps, batch, all vectors).
    """

    computed_for: tuple[Any, ...]
    timesteps: Tensor
    vectors: Tensor

    def is_for(self, image: tuple[Any, ...]) -> bool:
        """Return whether the table was computed for these very tensors."""
        return all(a is b for a, b in zip(image, self.computed_for, strict=True))


class ModulationTable:
    """Fills the blocks' modulation vectors before each call of the transformer.

    The rows of a step are found by its timestep, on the device, and copied to the memory that the
    blocks (and CUDA graphs of them) read. A timestep that is not in the schedule gives NaN, not the
    rows of another step.

    Attributes:
        tables_computed: number of tables computed so far, one per image and pass.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline, self.transformer = pipeline, pipeline.transformer
        doubles = [(block, block.norm1) for block in self.transformer.transformer_blocks]
        texts = [(block, block.norm1_context) for block, _ in doubles]
        singles = [(block, block.norm) for block in self.transformer.single_transformer_blocks]
        # In the order of the table: a block, the name of its attribute, the length of its vectors.
        self.vectors = [
            (block, name, norm.linear.out_features)
            for name, kind in (("vectors", doubles), ("text_vectors", texts), ("vectors", singles))
            for block, norm in kind
        ]
        self.layers = [
            StackedLinear([norm.linear for _, norm in kind]) for kind in (doubles, texts, singles)
        ]
        self.tables: deque[_Table] = deque(maxlen=MAX_TABLES)
        self.tables_computed = 0
        # One for each batch size, kept: a CUDA graph recorded with it may come back.
        self.current: dict[int, Tensor] = {}
        self.read_by_blocks: Tensor | None = None

    def __call__(self, module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Fill the vectors of this step; a forward pre-hook with keyword arguments."""
        timestep, pooled = keywords["timestep"], keywords["pooled_projections"]
        schedule = self.pipeline.scheduler.timesteps  # the scheduler may have been replaced
        table = self._table_for((schedule, pooled, keywords.get("guidance")))
        of_step = table.timesteps == timestep[0]
        row = table.vectors.index_select(0, of_step.int().argmax().view(1))[0]
        self._current(row).copy_(torch.where(of_step.any(), row, torch.nan))

    def forget(self) -> None:
        """Drop the tables, whose weights have changed."""
        self.tables.clear()

    def _table_for(self, image: tuple[Any, ...]) -> _Table:
        for table in self.tables:
            if table.is_for(image):
                return table
        self.tables.append(self._computed(image))
        self.tables_computed += 1
        return self.tables[-1]

    def _computed(self, image: tuple[Any, ...]) -> _Table:
        """Compute the table of all steps with the arithmetic of pipeline and transformer."""
        schedule, pooled, guidance = image
        batch, dtype, steps = pooled.shape[0], pooled.dtype, len(schedule)
        timesteps = schedule.to(dtype) / 1000
        inputs = [(timesteps * 1000).repeat_interleave(batch)]
        if guidance is not None:
            inputs.append((guidance.to(dtype) * 1000).repeat(steps))
        embedded = self.transformer.time_text_embed(*inputs, pooled.repeat(steps, 1))
        activated = F.silu(embedded)  # the same in each norm
        vectors = torch.cat([layer(activated) for layer in self.layers], dim=1)
        return _Table(
            computed_for=image, timesteps=timesteps, vectors=vectors.view(steps, batch, -1)
        )

    def _current(self, row: Tensor) -> Tensor:
        """Return the memory that the blocks read, of the shape of `row`: (batch, all vectors)."""
        batch = row.shape[0]
        if batch not in self.current:
            self.current[batch] = torch.empty_like(row)
        current = self.current[batch]
        if current is not self.read_by_blocks:
            of_each = torch.split(current, [count for _, _, count in self.vectors], dim=1)
            for (block, name, _), vectors in zip(self.vectors, of_each, strict=True):
                setattr(block, name, vectors)
            self.read_by_blocks = current
        return current
