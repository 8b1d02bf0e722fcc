"""cuDNN's fused attention in bfloat16."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from fluxfast.hardware import Hardware, Platform
from fluxfast.optimizations.attention._operators import (
    attention_proof,
    install,
    register_attention,
)
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Attend, Optimization
from fluxfast.optimizations.facts import KernelCategory

if TYPE_CHECKING:
    from torch import Tensor


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).contiguous()


@cache
def cudnn() -> Attend:
    """Return the operator `fluxfast::cudnn`."""
    return register_attention("cudnn", _attend)


def why_unsupported(hardware: Hardware) -> str | None:
    """Return why the hardware cannot run cuDNN's attention, or None."""
    if hardware.platform is Platform.CUDA and hardware.compute_capability >= (8, 0):
        return None
    return "requires an NVIDIA GPU of compute capability 8.0; use aiter_fp8 on an AMD MI300"


OPTIMIZATION = Optimization(
    name="cudnn",
    axis=Axis.ATTENTION,
    summary="cuDNN's fused attention in bfloat16",
    apply=install(cudnn),
    proof=attention_proof("cudnn", "cudnn_generated.*sdpa"),
    attention=cudnn,
    kernels={KernelCategory.ATTENTION: "fluxfast::cudnn"},
    why_unsupported=why_unsupported,
    requires={"bf16": "cuDNN has no float32 attention"},
    on_by_default=lambda hardware: why_unsupported(hardware) is None,
    preference=2,
)
