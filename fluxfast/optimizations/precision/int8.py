"""torchao's dynamic int8, for GPUs without fp8."""

from __future__ import annotations

from fluxfast.hardware import Hardware, Platform
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Evidence, Optimization, Proof
from fluxfast.optimizations.facts import NumberFormat
from fluxfast.optimizations.precision._int8_gemm import float64_gemms
from fluxfast.optimizations.precision._torchao import (
    INT8_GEMMS,
    TORCHAO,
    has_fp8,
    quantization_proof,
    quantize_blocks,
)


def apply(build: Build) -> None:
    """Quantize the linear layers of the blocks."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig

    quantize_blocks(build, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))
    if not build.situation.hardware.is_gpu:
        build.undo.enter_context(float64_gemms())


def proof(evidence: Evidence) -> Proof:
    """Return a proof: active if the block layers hold int8 and an int8 GEMM ran."""
    import torch

    return quantization_proof(evidence, torch.int8, INT8_GEMMS, per_row=True)


def why_unsupported(hardware: Hardware) -> str | None:
    """Return why the hardware cannot compute GEMMs in int8, or None."""
    if hardware.platform is Platform.CUDA and hardware.compute_capability < (8, 0):
        return "requires compute capability 8.0"
    return None


def slow_to_generate(hardware: Hardware) -> str | None:
    """Return why int8 images are slow to generate on this hardware, or None."""
    return None if hardware.is_gpu else "PyTorch's int8 GEMM is slower than float32's on a CPU"


OPTIMIZATION = Optimization(
    name="int8",
    axis=Axis.QUANTIZATION,
    summary="int8 linear layers, one scale per row",
    apply=apply,
    proof=proof,
    number_format=NumberFormat.INT8_PER_ROW,
    why_unsupported=why_unsupported,
    slow_to_generate=slow_to_generate,
    packages=(TORCHAO,),
    is_lossy=True,
    on_by_default=lambda hardware: hardware.is_gpu and not has_fp8(hardware),
    preference=1,
)
