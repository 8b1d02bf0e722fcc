"""RMS norm of queries and keys, RoPE, and the cast that attention reads, fused."""

from __future__ import annotations

from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.facts import KernelCategory
from fluxfast.optimizations.fusion._requirements import block_fusion, kernel_proof, use_kernels

OPTIMIZATION = block_fusion(
    name="fused_rotary",
    axis=Axis.ROTARY,
    summary="QK norm, RoPE and cast in one pass",
    apply=use_kernels(rotary=True),
    proof=kernel_proof("qkv_rotary", "fluxfast_qkv_rotary"),
    kernels={KernelCategory.NORM: "qkv_rotary"},
    preference=1,
)
