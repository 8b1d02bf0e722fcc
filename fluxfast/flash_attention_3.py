"""FlashAttention-3, from whichever of its two distributions is installed."""

from __future__ import annotations

import importlib
import importlib.util

from torch import Tensor

from fluxfast.hardware import Hardware
from fluxfast.optimization import Package

# The wheel first; building hopper/ of Dao-AILab/flash-attention installs `flash_attn_interface`.
FA3_PACKAGES = (
    Package(name="fa3-fwd", install="pip install fa3-fwd"),
    Package(name="flash-attn-3", install="build hopper/ of Dao-AILab/flash-attention"),
)
MODULES = ("fa3_fwd_interface", "flash_attn_interface")
KERNEL = "FlashAttnFwdSm90"  # in the name of every FlashAttention-3 device kernel on Hopper


def flash_attention_3(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of (batch, tokens, heads, head_dim) in bfloat16 or fp8; bfloat16 out."""
    name = next(name for name in MODULES if importlib.util.find_spec(name))
    out = importlib.import_module(name).flash_attn_func(query, key, value)
    attended: Tensor = out[0] if isinstance(out, tuple) else out
    return attended


def hopper_only(hardware: Hardware) -> str | None:
    if hardware.compute_capability == (9, 0):
        return None
    return "needs a Hopper GPU (sm_90); take cudnn on other NVIDIA GPUs, aiter_fp8 on AMD"
