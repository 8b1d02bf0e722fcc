"""AITER's fp8 attention on AMD GPUs, whose kernel casts to fp8 itself.

Written against the published interface of AITER; not yet run on a real AMD GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
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
from fluxfast.optimizations.facts import KernelCategory, NumberFormat, Package
from fluxfast.optimizations.precision._torchao import FP8_ARCHITECTURES_AMD

if TYPE_CHECKING:
    from torch import Tensor

# The function moved between releases of AITER; the newer location first.
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


@cache
def aiter_fp8() -> Attend:
    """Return the operator `fluxfast::aiter_fp8`."""
    return register_attention("aiter_fp8", _attend)


def why_unsupported(hardware: Hardware) -> str | None:
    """Return why the hardware cannot run AITER's fp8 attention, or None."""
    if hardware.platform is Platform.ROCM and hardware.architecture in FP8_ARCHITECTURES_AMD:
        return None
    return "requires an AMD MI300 under ROCm; use fa3_fp8 on Hopper, cudnn on other NVIDIA GPUs"


OPTIMIZATION = Optimization(
    name="aiter_fp8",
    axis=Axis.ATTENTION,
    summary="AITER's fp8 attention on AMD",
    apply=install(aiter_fp8),
    proof=attention_proof("aiter_fp8", "attn_fwd|fmha"),
    attention=aiter_fp8,
    number_format=NumberFormat.FP8_INTERNAL,
    kernels={KernelCategory.ATTENTION: "fluxfast::aiter"},
    why_unsupported=why_unsupported,
    packages=(Package(name="amd-aiter", install="pip install amd-aiter"),),
    requires={"bf16": "AITER has no float32 attention"},
    is_lossy=True,
    on_by_default=lambda hardware: why_unsupported(hardware) is None,
)
