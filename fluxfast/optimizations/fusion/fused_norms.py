"""LayerNorm with modulation, the gated residual before it and the cast to fp8 after it, fused."""

from __future__ import annotations

from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.facts import KernelCategory
from fluxfast.optimizations.fusion._requirements import block_fusion, kernel_proof, use_kernels

OPTIMIZATION = block_fusion(
    name="fused_norms",
    axis=Axis.NORMS,
    summary="LayerNorm, modulation, gated residual and cast in one pass",
    apply=use_kernels(norms=True),
    proof=kernel_proof("norm_modulate", "fluxfast_residual_norm"),
    kernels={KernelCategory.NORM: "norm_modulate|fluxfast_residual"},
)
