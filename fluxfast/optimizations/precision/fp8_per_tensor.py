"""torchao's dynamic fp8 with one scale per tensor."""

from __future__ import annotations

from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Optimization
from fluxfast.optimizations.facts import NumberFormat
from fluxfast.optimizations.precision._torchao import (
    TORCHAO,
    fp8_proof,
    has_fp8,
    has_fp8_rows,
    quantize_blocks_fp8,
    why_no_fp8,
)


def apply(build: Build) -> None:
    """Quantize the linear layers of the blocks."""
    from torchao.quantization import PerTensor

    quantize_blocks_fp8(build, PerTensor())


OPTIMIZATION = Optimization(
    name="fp8_per_tensor",
    axis=Axis.QUANTIZATION,
    summary="fp8 linear layers, one scale per tensor; the default on RTX 50 (sm_120), whose "
    "cuBLAS refuses one scale per row",
    apply=apply,
    proof=lambda evidence: fp8_proof(evidence, per_row=False),
    number_format=NumberFormat.FP8_PER_TENSOR,
    why_unsupported=why_no_fp8,
    packages=(TORCHAO,),
    is_lossy=True,
    # fp8_per_row is faster on an H200.
    on_by_default=lambda hardware: has_fp8(hardware) and not has_fp8_rows(hardware),
    used_by=("flux-fast",),
)
