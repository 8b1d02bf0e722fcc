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
# Their modules, and what each calls its operators, whose `fwd` can write into a given tensor.
MODULES = {"fa3_fwd_interface": "fa3_fwd_cuda", "flash_attn_interface": "flash_attn_3_cuda"}
KERNEL = "FlashAttnFwdSm90"  # in the name of every FlashAttention-3 device kernel on Hopper


def flash_attention_3(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of (batch, tokens, heads, head_dim) in bfloat16 or fp8; bfloat16 out."""
    out = importlib.import_module(_module()).flash_attn_func(query, key, value)
    attended: Tensor = out[0] if isinstance(out, tuple) else out
    return attended


def flash_attention_3_into(query: Tensor, key: Tensor, value: Tensor, rows: Tensor) -> None:
    """The same into the first channels of rows (batch, tokens, channels or more), in bfloat16."""
    name = _module()
    batch, tokens, heads, head_dim = query.shape
    out = rows[..., : heads * head_dim].view(batch, tokens, heads, head_dim)
    operators = getattr(importlib.import_module(name), MODULES[name])
    operators.fwd(query, key, value, out=out, num_splits=1)


def _module() -> str:
    return next(name for name in MODULES if importlib.util.find_spec(name))


def hopper_only(hardware: Hardware) -> str | None:
    if hardware.compute_capability == (9, 0):
        return None
    return "needs a Hopper GPU (sm_90); take cudnn on other NVIDIA GPUs, aiter_fp8 on AMD"
