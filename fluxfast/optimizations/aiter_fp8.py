"""AITER's fp8 attention on AMD GPUs, which casts to fp8 by itself.

Written against the published interface of AITER; not yet run on a real AMD GPU.
"""

import importlib
import importlib.util

from torch import Tensor

from fluxfast.attention import attention_operator, attention_proof, use_attention
from fluxfast.hardware import Hardware, Platform
from fluxfast.optimization import Axis, Optimization, Package
from fluxfast.quantize import FP8_ARCHITECTURES_AMD

# The function moved between releases of AITER; the newer home first.
MODULES = ("aiter.ops.triton.attention.mha_v3", "aiter.ops.triton.mha")


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    name = next(name for name in MODULES if _exists(name))
    out = importlib.import_module(name).flash_attn_fp8_func(query, key, value)
    attended: Tensor = out[0] if isinstance(out, tuple | list) else out
    return attended.to(query.dtype).contiguous()


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


aiter_fp8 = attention_operator("aiter_fp8", _attend)


def unsupported(hardware: Hardware) -> str | None:
    if hardware.platform is Platform.ROCM and hardware.architecture in FP8_ARCHITECTURES_AMD:
        return None
    return "needs an AMD MI300 under ROCm; take fa3_fp8 on Hopper, cudnn on other NVIDIA GPUs"


OPTIMIZATION = Optimization(
    name="aiter_fp8",
    axis=Axis.ATTENTION,
    summary="AITER's fp8 attention on AMD",
    apply=lambda build: use_attention(build, aiter_fp8),
    proof=lambda evidence: attention_proof(evidence, "aiter_fp8", "attn_fwd|fmha"),
    unsupported=unsupported,
    packages=(Package(name="amd-aiter", install="pip install amd-aiter"),),
    needs={"bf16": "AITER has no float32 attention"},
    is_lossy=True,
    on_by_default=lambda hardware: unsupported(hardware) is None,
)
