"""T5's encoder in PyTorch's fused operators with its weights in int8. Importing it imports Triton.

torchao writes each weight in bfloat16 before it multiplies; here a GEMM converts it in registers.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fluxfast.kernels.int8_product import int8_product
from fluxfast.optimizations.fusion._t5 import FusedT5


class Int8T5(FusedT5):
    """Stand in for the `forward` of a T5 encoder whose layers `int8_encoder` has quantized."""

    def _products(self, tokens: Tensor, *layers: Any) -> list[Tensor]:
        rows = tokens.flatten(0, 1)
        weights = [layer.weight for layer in layers]
        products = (int8_product(rows, w.qdata, w.scale.flatten(), None) for w in weights)
        return [product.view(*tokens.shape[:2], -1) for product in products]
