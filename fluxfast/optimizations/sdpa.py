"""PyTorch's scaled_dot_product_attention, whichever kernel it picks."""

import torch.nn.functional as F
from torch import Tensor

from fluxfast.attention import attention_operator, attention_proof, use_attention
from fluxfast.optimization import Axis, Optimization


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).contiguous()


sdpa = attention_operator("sdpa", _attend)

OPTIMIZATION = Optimization(
    name="sdpa",
    axis=Axis.ATTENTION,
    summary="scaled_dot_product_attention behind a custom operator",
    apply=lambda build: use_attention(build, sdpa),
    proof=lambda evidence: attention_proof(evidence, "sdpa", "flash_fwd|fmha|_sdpa_"),
    # It is what diffusers does without it; here to be compared with.
    on_by_default=lambda hardware: False,
)
