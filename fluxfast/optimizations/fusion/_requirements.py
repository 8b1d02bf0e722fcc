"""Shared by the block fusions: supported machines, requirements and proofs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fluxfast.hardware import Hardware, Platform
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Evidence, Optimization, Proof
from fluxfast.optimizations.facts import KernelCategory, Package

TRITON = (Package(name="triton", install='pip install "triton>=3.6"'),)
REQUIRES: Mapping[str, str] = {
    "fused_projections": "its blocks take query, key and value from one GEMM",
    Axis.ATTENTION: "its blocks attend through an operator",
}
CONFLICTS: Mapping[str, str] = {
    "export_aoti": "its views of torchao's weights have not been packaged yet; use regional",
}


def nvidia_only(hardware: Hardware) -> str | None:
    """Return why the hardware cannot run this project's Triton kernels, or None."""
    if hardware.platform is Platform.CUDA and hardware.compute_capability >= (8, 0):
        return None
    return "its Triton kernels are for NVIDIA GPUs of compute capability 8.0 and later"


def use_kernels(**switches: bool) -> Callable[[Build], None]:
    """Return an `apply` that switches on the named steps of `BlockKernels` in every block."""

    def apply(build: Build) -> None:
        from fluxfast.optimizations.fusion import _blocks

        _blocks.use_kernels(build, **switches)

    return apply


def kernel_proof(operator: str, *kernels: str) -> Callable[[Evidence], Proof]:
    """Return a proof: active if the operator (any variant) or one of its kernels ran in a step.

    A CUDA graph hides the operator and shows the kernel.
    """

    def proof(evidence: Evidence) -> Proof:
        found = evidence.operators_matching(f"fluxfast::{operator}", *kernels)
        missing = f"no {kernels[0]} in a step"
        return Proof(is_active=bool(found), detail=found[0][:100] if found else missing)

    return proof


def block_fusion(
    *,
    name: str,
    axis: Axis,
    summary: str,
    apply: Callable[[Build], None],
    proof: Callable[[Evidence], Proof],
    kernels: Mapping[KernelCategory, str],
    **facts: Any,
) -> Optimization:
    """Return a fusion of block steps in Triton kernels that run on every NVIDIA GPU from sm_80."""
    shared: dict[str, Any] = dict(
        why_unsupported=nvidia_only,
        packages=TRITON,
        requires=REQUIRES,
        conflicts=CONFLICTS,
        on_by_default=lambda hardware: True,
    )
    return Optimization(
        name=name,
        axis=axis,
        summary=summary,
        apply=apply,
        proof=proof,
        kernels=kernels,
        **(shared | facts),
    )


def epilogue_fusion(*, alternative: str, requires: Mapping[str, str], **facts: Any) -> Optimization:
    """Return a fusion into the epilogue of a GEMM: its tiles are for Hopper.

    Args:
        alternative: the optimization to use instead where this one is not supported.
        requires: what it requires beyond every block fusion.
        **facts: the other arguments of `block_fusion`.
    """
    why = f"its GEMM computes bfloat16, or fp8 with one scale per row; use {alternative}"

    def hopper_only(hardware: Hardware) -> str | None:
        if hardware.is_hopper:
            return None
        return f"its tiles are for Hopper GPUs (sm_90); use {alternative} on other NVIDIA GPUs"

    return block_fusion(
        why_unsupported=hopper_only,
        requires={**REQUIRES, **requires},
        conflicts={**CONFLICTS, "int8": why, "fp8_per_tensor": why},
        **facts,
    )
