"""torchao's dynamic fp8 with one scale per row of activations and weights."""

from __future__ import annotations

from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Optimization
from fluxfast.optimizations.facts import NumberFormat
from fluxfast.optimizations.precision._torchao import (
    TORCHAO,
    fp8_proof,
    has_fp8_rows,
    quantize_blocks_fp8,
    why_no_fp8,
)


def apply(build: Build) -> None:
    """Quantize the linear layers of the blocks."""
    from torchao.quantization import PerRow

    quantize_blocks_fp8(build, PerRow())


OPTIMIZATION = Optimization(
    name="fp8_per_row",
    axis=Axis.QUANTIZATION,
    summary="fp8 linear layers, one scale per row",
    apply=apply,
    proof=lambda evidence: fp8_proof(evidence, per_row=True),
    number_format=NumberFormat.FP8_PER_ROW,
    why_unsupported=why_no_fp8,
    packages=(TORCHAO,),
    requires={"bf16": "torchao's scale per row takes bfloat16 only"},
    is_lossy=True,
    on_by_default=has_fp8_rows,
)
