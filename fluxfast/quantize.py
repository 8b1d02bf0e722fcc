"""What the torchao quantizations share: which layers they take, and how to see that they did."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fluxfast.hardware import Hardware, Platform
from fluxfast.optimization import Build, Evidence, Package, Proof

TORCHAO = Package(name="torchao", install='pip install "torchao>=0.18"')
# In the name of the operator, of inductor's kernel for it, or of cuBLAS's where a graph hides both.
FP8_PRODUCTS = ("_scaled_mm", "nvjet_sm90_qq")
INT8_PRODUCTS = ("_int_mm",)
FP8_ARCHITECTURES_AMD = ("gfx942", "gfx950")  # MI300 and MI350


def is_quantizable(module: nn.Module, name: str) -> bool:
    """Linear layers of the blocks, less the modulation.

    One row a step is bound by its weights, not by arithmetic.
    """
    return (
        isinstance(module, nn.Linear)
        and "transformer_blocks." in name
        and "norm" not in name
        and module.in_features % 16 == 0
        and module.out_features % 16 == 0
    )


def quantize_blocks(build: Build, config: Any) -> None:
    """Quantize the block layers in place; `config` must not set inductor's global flags."""
    from torchao.quantization import quantize_

    quantize_(build.pipeline.transformer, config, filter_fn=is_quantizable)


def quantization_proof(
    evidence: Evidence, dtype: torch.dtype, products: tuple[str, ...], *, per_row: bool
) -> Proof:
    """In force if the block layers, and no others, hold `dtype` with a scale for each row, or one.

    And if one of the `products` ran: a quantized weight may still be multiplied as something else.
    """
    ours, others = list[Any](), list[Any]()
    for name, module in evidence.pipeline.transformer.named_modules():
        if isinstance(module, nn.Linear):
            is_ours = is_quantizable(module, name.replace("_orig_mod.", ""))
            (ours if is_ours else others).append(module.weight.data)
    fitting = [
        w
        for w in filter(_is_quantized, ours)
        if w.qdata.dtype is dtype and (w.scale.numel() == w.shape[0]) is per_row
    ]
    beyond = sum(map(_is_quantized, others))
    ran = evidence.operators_matching(*products)
    seen = (
        f"{len(fitting)} of {len(ours)} block layers hold {str(dtype).removeprefix('torch.')}, "
        f"multiplied by {ran[0] if ran else 'something else'}"
    )
    if beyond:
        seen += f"; {beyond} other layers are quantized, too"
    return Proof(in_force=0 < len(ours) == len(fitting) and bool(ran) and not beyond, seen=seen)


def _is_quantized(weight: torch.Tensor) -> bool:
    return type(weight) is not torch.Tensor


def fp8_proof(evidence: Evidence, *, per_row: bool) -> Proof:
    """Of the fp8 type that torchao takes on this machine: MI300 has another than NVIDIA."""
    from torchao.float8.config import e4m3_dtype

    return quantization_proof(evidence, e4m3_dtype, FP8_PRODUCTS, per_row=per_row)


def has_fp8(hardware: Hardware) -> bool:
    """Tensor cores for fp8: Ada (8.9) and later, MI300 and later."""
    if hardware.platform is Platform.ROCM:
        return hardware.architecture in FP8_ARCHITECTURES_AMD
    return hardware.compute_capability >= (8, 9)


def fp8_unsupported(hardware: Hardware) -> str | None:
    if has_fp8(hardware):
        return None
    return "needs an NVIDIA GPU of compute capability 8.9 or an AMD MI300; take int8 instead"
