"""torchao dynamic int8, where there is no fp8."""

import torch

from fluxfast.hardware import Hardware, Platform
from fluxfast.optimization import Axis, Build, Optimization
from fluxfast.quantize import INT8_PRODUCTS, TORCHAO, has_fp8, quantization_proof, quantize_blocks


def apply(build: Build) -> None:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig

    quantize_blocks(build, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))


def unsupported(hardware: Hardware) -> str | None:
    if hardware.platform is Platform.CUDA and hardware.compute_capability < (8, 0):
        return "needs compute capability 8.0"
    return None


OPTIMIZATION = Optimization(
    name="int8",
    axis=Axis.QUANTIZATION,
    summary="int8 linear layers, one scale a row",
    apply=apply,
    proof=lambda evidence: quantization_proof(evidence, torch.int8, INT8_PRODUCTS, per_row=True),
    unsupported=unsupported,
    packages=(TORCHAO,),
    # PyTorch's int8 matrix product on a CPU is slower than float32's.
    is_lossy=True,
    on_by_default=lambda hardware: hardware.is_gpu and not has_fp8(hardware),
    preference=1,
)
