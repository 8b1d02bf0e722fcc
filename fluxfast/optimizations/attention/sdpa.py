"""PyTorch's scaled_dot_product_attention, with whichever kernel PyTorch picks."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from fluxfast.optimizations.attention._operators import (
    attention_proof,
    install,
    register_attention,
)
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Attend, Optimization

if TYPE_CHECKING:
    from torch import Tensor


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    import torch.nn.functional as F

    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).contiguous()


@cache
def sdpa() -> Attend:
    """Return the operator `fluxfast::sdpa`."""
    return register_attention("sdpa", _attend)


OPTIMIZATION = Optimization(
    name="sdpa",
    axis=Axis.ATTENTION,
    summary="scaled_dot_product_attention behind a custom operator",
    apply=install(sdpa),
    proof=attention_proof("sdpa", "flash_fwd|fmha|_sdpa_"),
    attention=sdpa,
    # diffusers computes the same without it; it is here for comparison.
    on_by_default=lambda hardware: False,
)
