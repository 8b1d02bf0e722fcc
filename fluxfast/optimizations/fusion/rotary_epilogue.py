"""RMS norm of queries and keys, RoPE and the cast in the epilogue of the GEMM before them."""

from __future__ import annotations

from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build
from fluxfast.optimizations.facts import KernelCategory
from fluxfast.optimizations.fusion._requirements import epilogue_fusion, kernel_proof, use_kernels


def apply(build: Build) -> None:
    """Switch on the epilogue, which reads cos/sin tables of half the channels."""
    from fluxfast.optimizations.fusion._blocks import halve_rope_tables

    use_kernels(rotary_epilogue=True)(build)
    halve_rope_tables(build.pipeline.transformer)


OPTIMIZATION = epilogue_fusion(
    name="rotary_epilogue",
    axis=Axis.ROTARY,
    summary="QK norm, RoPE and cast in the epilogue of the GEMM before them",
    apply=apply,
    proof=kernel_proof("qkv_product", "fluxfast_qkv_product"),
    kernels={KernelCategory.GEMM: "qkv_product"},
    alternative="fused_rotary",
    requires={
        "bf16": "its GEMM computes bfloat16 or fp8",
        "fused_norms": "its kernel writes the fp8 rows that this GEMM reads",
    },
)
