"""GELU, the concatenation with attention and the cast to fp8, fused."""

from __future__ import annotations

from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.facts import KernelCategory
from fluxfast.optimizations.fusion._requirements import block_fusion, kernel_proof, use_kernels

OPTIMIZATION = block_fusion(
    name="fused_gelu",
    axis=Axis.ACTIVATION,
    summary="GELU, concatenation and cast in one pass",
    apply=use_kernels(gelu=True),
    proof=kernel_proof("gelu_join", "fluxfast_gelu_join"),
    kernels={KernelCategory.QUANTIZE: "gelu_join"},
    preference=1,
)
