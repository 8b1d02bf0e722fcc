"""FlashAttention-3 from either of its two distributions, and what both optimizations require."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

from fluxfast.errors import FluxFastError
from fluxfast.hardware import Hardware
from fluxfast.optimizations.facts import Package

if TYPE_CHECKING:
    from torch import Tensor

# The wheel first; building hopper/ of Dao-AILab/flash-attention installs `flash_attn_interface`.
FA3_PACKAGES = (
    Package(name="fa3-fwd", install="pip install fa3-fwd"),
    Package(name="flash-attn-3", install="build hopper/ of Dao-AILab/flash-attention"),
)
# Their modules, and the namespace in which each registers its operators.
MODULES = {"fa3_fwd_interface": "fa3_fwd", "flash_attn_interface": "flash_attn_3"}
KERNEL = "FlashAttnFwdSm90"  # part of the name of every FlashAttention-3 kernel on Hopper


def flash_attention_3(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return attention of (batch, tokens, heads, head_dim) in bfloat16 or fp8, as bfloat16."""
    out = importlib.import_module(_module()).flash_attn_func(query, key, value)
    attended: Tensor = out[0] if isinstance(out, tuple) else out
    return attended


def flash_attention_3_into(query: Tensor, key: Tensor, value: Tensor, rows: Tensor) -> None:
    """Write attention into the first channels of rows (batch, tokens, ≥ channels), in bfloat16.

    Raises:
        FluxFastError: the distribution has no operator that writes into a given tensor.
    """
    import torch

    name = _module()
    importlib.import_module(name)
    fwd = getattr(getattr(torch.ops, MODULES[name]), "fwd", None)
    if fwd is None:
        raise FluxFastError(
            "this FlashAttention-3 cannot write into a given tensor",
            got=f"{name} without torch.ops.{MODULES[name]}.fwd",
            allowed="fa3-fwd 0.0.3, or a build of hopper/ that registers PyTorch operators",
            remedy="install one of them, or disable gelu_epilogue",
        )
    batch, tokens, heads, head_dim = query.shape
    out = rows[..., : heads * head_dim].view(batch, tokens, heads, head_dim)
    fwd(query, key, value, out=out, num_splits=1)


def _module() -> str:
    return next(name for name in MODULES if importlib.util.find_spec(name))


def hopper_only(hardware: Hardware) -> str | None:
    """Return why the hardware cannot run FlashAttention-3, or None."""
    if hardware.is_hopper:
        return None
    return "requires a Hopper GPU (sm_90); use cudnn on other NVIDIA GPUs, aiter_fp8 on AMD"
