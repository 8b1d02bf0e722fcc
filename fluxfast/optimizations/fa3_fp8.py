"""FlashAttention-3 on query, key and value cast to fp8.

The cast is outside the operator, so that a compiler fuses it with the rotary embedding before it.
It is a bare cast with a scale of one: query and key leave an RMS norm and stay far inside ±448.
"""

import torch
from torch import Tensor

from fluxfast.attention import attention_operator, attention_proof, use_attention
from fluxfast.flash_attention_3 import FA3_PACKAGES, KERNEL, flash_attention_3, hopper_only
from fluxfast.optimization import Axis, Optimization

fa3_fp8 = attention_operator("fa3_fp8", flash_attention_3, out_dtype=torch.bfloat16)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    fp8 = torch.float8_e4m3fn
    return fa3_fp8(query.to(fp8), key.to(fp8), value.to(fp8))


OPTIMIZATION = Optimization(
    name="fa3_fp8",
    axis=Axis.ATTENTION,
    summary="FlashAttention-3 in fp8",
    apply=lambda build: use_attention(build, attend),
    proof=lambda evidence: attention_proof(evidence, "fa3_fp8", f"{KERNEL}.*float_e4m3_t"),
    unsupported=hopper_only,
    packages=FA3_PACKAGES,
    needs={"bf16": "its output is bfloat16"},
    is_lossy=True,
    on_by_default=lambda hardware: hopper_only(hardware) is None,
)
