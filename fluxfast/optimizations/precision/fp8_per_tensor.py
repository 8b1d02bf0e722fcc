"""torchao's dynamic fp8 with one scale per tensor."""

from __future__ import annotations

from fluxfast.optimizations.base import Axis, Build, NumberFormat, Optimization
from fluxfast.optimizations.precision._torchao import (
    TORCHAO,
    fp8_proof,
    quantize_blocks,
    why_no_fp8,
)


def apply(build: Build) -> None:
    """Quantize the linear layers of the blocks."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerTensor

    quantize_blocks(
        build,
        Float8DynamicActivationFloat8WeightConfig(
            granularity=PerTensor(), set_inductor_config=False
        ),
    )


OPTIMIZATION = Optimization(
    name="fp8_per_tensor",
    axis=Axis.QUANTIZATION,
    summary="fp8 linear layers, one scale per tensor",
    apply=apply,
    proof=lambda evidence: fp8_proof(evidence, per_row=False),
    number_format=NumberFormat.FP8_PER_TENSOR,
    why_unsupported=why_no_fp8,
    packages=(TORCHAO,),
    is_lossy=True,
    # fp8_per_row is faster on an H200.
    on_by_default=lambda hardware: False,
    used_by=("flux-fast",),
)
