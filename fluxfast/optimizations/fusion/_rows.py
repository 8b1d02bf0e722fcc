"""Rows as they come from a kernel, and the GEMMs that take them.

Importing this module imports Triton.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fluxfast.kernels.gemm_gelu import product_of_two


class Fp8Rows(NamedTuple):
    """Rows in fp8 as `torch._scaled_mm` takes them: value = fp8 · scale.

    Attributes:
        values: float8_e4m3fn (batch, tokens, channels).
        scales: float32 (batch, tokens, 1).
        inner_scales: scales for the GELU of the next GEMM, in the shape of `scales`; None or empty
            where they were not requested.
    """

    values: Tensor
    scales: Tensor
    inner_scales: Tensor | None = None


class SplitRows(NamedTuple):
    """Rows in two parts along the channels that were not concatenated.

    Attributes:
        left: (batch, tokens, left channels).
        right: (batch, tokens, right channels).
    """

    left: Tensor
    right: Tensor


Rows = Tensor | Fp8Rows | SplitRows


def linear(layer: Any, rows: Rows) -> Tensor:
    """Return layer(rows), (batch, tokens, columns), by an fp8 GEMM if the rows are fp8."""
    out: Tensor
    if isinstance(rows, Tensor):
        out = layer(rows)
        return out
    if isinstance(rows, SplitRows):
        out = product_of_two(*rows, layer.weight, layer.bias)
        return out
    return _fp8_gemm(layer, rows, rows.scales.flatten(0, 1), layer.fp8_scale, layer.bias)


def unscaled_linear(layer: Any, rows: Fp8Rows) -> Tensor:
    """Return the GEMM of the fp8 values, without their scales and the layer's bias.

    On Hopper, cuBLASLt has one tile for GEMMs with one scale per row, 128 × 128, and larger tiles
    without scales (docs/notebook, round 2): on long rows these take less energy, and energy
    decides where the GPU is power-limited.
    """
    return _fp8_gemm(layer, rows, layer.fp8_unit, layer.fp8_unit, bias=None)


def _fp8_gemm(
    layer: Any, rows: Fp8Rows, row_scales: Tensor, column_scales: Tensor, bias: Tensor | None
) -> Tensor:
    out = torch._scaled_mm(
        rows.values.flatten(0, 1),
        layer.fp8_weight,
        scale_a=row_scales,
        scale_b=column_scales,
        bias=bias,
        out_dtype=layer.bias.dtype,
        use_fast_accum=True,
    )
    return out.view(*rows.values.shape[:2], -1)
