"""cuDNN's fused attention in bfloat16."""

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fluxfast.attention import attention_operator, attention_proof, use_attention
from fluxfast.hardware import Hardware, Platform
from fluxfast.optimization import Axis, Optimization


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).contiguous()


cudnn = attention_operator("cudnn", _attend)


def unsupported(hardware: Hardware) -> str | None:
    if hardware.platform is Platform.CUDA and hardware.compute_capability >= (8, 0):
        return None
    return "needs an NVIDIA GPU of compute capability 8.0; take aiter_fp8 on an AMD MI300"


OPTIMIZATION = Optimization(
    name="cudnn",
    axis=Axis.ATTENTION,
    summary="cuDNN's fused attention in bfloat16",
    apply=lambda build: use_attention(build, cudnn),
    proof=lambda evidence: attention_proof(evidence, "cudnn", "cudnn_generated.*sdpa"),
    unsupported=unsupported,
    needs={"bf16": "cuDNN has no float32 attention"},
    on_by_default=lambda hardware: unsupported(hardware) is None,
    preference=2,
)
