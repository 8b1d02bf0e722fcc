"""FlashAttention-3 on query, key and value cast to fp8.

The cast is outside of the operator, so a compiler fuses it with RoPE before it. It is a bare cast
with a scale of one: query and key leave an RMS norm and stay far inside ±448.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from fluxfast.optimizations.attention._flash_attention_3 import (
    FA3_PACKAGES,
    KERNEL,
    flash_attention_3,
    hopper_only,
)
from fluxfast.optimizations.attention._operators import (
    attention_proof,
    install,
    register_attention,
)
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Attend, Optimization
from fluxfast.optimizations.facts import KernelCategory, NumberFormat

if TYPE_CHECKING:
    from torch import Tensor


@cache
def fa3_fp8() -> Attend:
    """Return attention that casts to fp8 and calls the operator `fluxfast::fa3_fp8`."""
    import torch

    operator = register_attention("fa3_fp8", flash_attention_3, out_dtype=torch.bfloat16)
    fp8 = torch.float8_e4m3fn

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return operator(query.to(fp8), key.to(fp8), value.to(fp8))

    return attend


OPTIMIZATION = Optimization(
    name="fa3_fp8",
    axis=Axis.ATTENTION,
    summary="FlashAttention-3 in fp8",
    apply=install(fa3_fp8),
    proof=attention_proof("fa3_fp8", f"{KERNEL}.*float_e4m3_t"),
    attention=fa3_fp8,
    number_format=NumberFormat.FP8_UNSCALED,
    kernels={KernelCategory.ATTENTION: "fluxfast::fa3"},
    why_unsupported=hopper_only,
    packages=FA3_PACKAGES,
    requires={"bf16": "its output is bfloat16"},
    is_lossy=True,
    on_by_default=lambda hardware: hopper_only(hardware) is None,
)
