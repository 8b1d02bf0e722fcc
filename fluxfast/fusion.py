"""What the fusions of block steps share: where they run, what they need, how they are seen."""

from __future__ import annotations

from fluxfast.hardware import Hardware, Platform
from fluxfast.optimization import Axis, Evidence, Package, Proof

TRITON = (Package(name="triton", install='pip install "triton>=3.6"'),)
FUSION_NEEDS = {
    "fused_projections": "its blocks take query, key and value from one product",
    Axis.ATTENTION: "its blocks attend through an operator",
}
FUSION_CONFLICTS = {
    "export_aoti": "its views of torchao's weights have not been packaged yet; take regional",
}


def nvidia_only(hardware: Hardware) -> str | None:
    if hardware.platform is Platform.CUDA and hardware.compute_capability >= (8, 0):
        return None
    return "its Triton kernels are for NVIDIA GPUs of compute capability 8.0 and later"


def hopper_tiles(hardware: Hardware, instead: str) -> str | None:
    """Of a product with an epilogue of its own."""
    if hardware.compute_capability == (9, 0):
        return None
    return f"its tiles are for Hopper GPUs (sm_90); take {instead} on other NVIDIA GPUs"


def epilogue_conflicts(instead: str) -> dict[str, str]:
    """What quantizes the layers of such a product in another way."""
    why = f"its kernel multiplies bfloat16, or fp8 with a scale for each row; take {instead}"
    return {"int8": why, "fp8_per_tensor": why}


def fusion_proof(evidence: Evidence, operator: str, *kernels: str) -> Proof:
    """In force if the operator (any of its variants) or one of its kernels ran in a step.

    A CUDA graph hides the operator and shows the kernel.
    """
    seen = evidence.operators_matching(f"fluxfast::{operator}", *kernels)
    return Proof(in_force=bool(seen), seen=seen[0][:100] if seen else f"no {kernels[0]} in a step")
