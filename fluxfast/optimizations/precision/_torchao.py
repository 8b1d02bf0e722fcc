"""Code that the torchao quantizations share: which layers they take, and how that is proved."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fluxfast.hardware import Hardware, Platform
from fluxfast.optimizations.base import Build, Evidence, Proof
from fluxfast.optimizations.facts import Package

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

TORCHAO = Package(name="torchao", install='pip install "torchao>=0.18"')
# Part of the name of the operator, of Inductor's kernel for it, or of cuBLAS's inside a CUDA graph.
FP8_GEMMS = ("_scaled_mm", "nvjet_sm90_qq")
INT8_GEMMS = ("_int_mm",)
FP8_ARCHITECTURES_AMD = ("gfx942", "gfx950")  # MI300 and MI350
# Lower limit for the largest magnitude of an fp8 row or tensor, that of our own kernels. torchao
# divides zeros by a scale of zero, which gives NaN.
LEAST_AMAX = 1e-12


def is_quantizable(module: nn.Module, name: str) -> bool:
    """Return whether a layer is quantized: linear layers of the blocks, without the modulation.

    A modulation layer has one row per step, so it is bound by reading its weights, not by
    arithmetic.
    """
    from torch import nn

    return (
        isinstance(module, nn.Linear)
        and "transformer_blocks." in name
        and "norm" not in name
        and module.in_features % 16 == 0
        and module.out_features % 16 == 0
    )


def quantize_blocks(build: Build, config: Any, mend: Callable[[Any], None] | None = None) -> None:
    """Quantize the block layers in place, but for those that the situation leaves unquantized.

    Args:
        build: the pipeline.
        config: torchao's configuration; it must not set Inductor's global flags.
        mend: changes a quantized weight in place.
    """
    from torchao.quantization import quantize_

    transformer, left_out = build.pipeline.transformer, build.situation.unquantized

    def is_chosen(module: nn.Module, name: str) -> bool:
        return name not in left_out and is_quantizable(module, name)

    def is_chosen_there(module: nn.Module, name: str) -> bool:
        """Return `is_chosen`, with the layer on the device: the next thing is to quantize it."""
        if not is_chosen(module, name):
            return False
        module.to(build.device)
        return True

    quantize_(transformer, config, filter_fn=is_chosen_there)
    if mend:
        for name, module in transformer.named_modules():
            if is_chosen(module, name):
                mend(module.weight)
    build.quantize = _quantizer(config, mend)


def _quantizer(config: Any, mend: Callable[[Any], None] | None) -> Callable[[Tensor], Tensor]:
    """Return a function that quantizes a weight (out_features, in_features) as a block layer's."""
    from torch import nn
    from torchao.quantization import quantize_

    # One layer for all weights: creating one takes as long as quantizing its weight.
    layer = nn.Linear(1, 1, bias=False, device="meta")

    def quantize(weight: Tensor) -> Tensor:
        layer.weight = nn.Parameter(weight, requires_grad=False)
        quantize_(layer, config)
        quantized: Tensor = layer.weight
        layer.weight = None  # type: ignore[assignment]
        if mend:
            mend(quantized)
        return quantized

    return quantize


def quantize_blocks_fp8(build: Build, granularity: Any) -> None:
    """Quantize the block layers to fp8 in place, with finite results for rows of zeros.

    Args:
        build: the pipeline.
        granularity: torchao's `PerRow()` or `PerTensor()`.
    """
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig

    config = Float8DynamicActivationFloat8WeightConfig(
        granularity=granularity, activation_value_lb=LEAST_AMAX, set_inductor_config=False
    )
    quantize_blocks(build, config, _fill_zero_rows)


def _fill_zero_rows(weight: Any) -> None:
    """Make rows of zeros finite: torchao's lower limit is for activations only."""
    import torch

    is_zero = weight.scale == 0
    weight.qdata.view(torch.uint8).masked_fill_(is_zero, 0)
    weight.scale.masked_fill_(is_zero, 1.0)


def quantization_proof(
    evidence: Evidence, dtype: torch.dtype, gemms: tuple[str, ...], *, per_row: bool
) -> Proof:
    """Return a proof: active if the block layers, and no others, hold `dtype` and a GEMM used it.

    The block layers that the situation leaves unquantized count as others.

    Args:
        evidence: one profiled image.
        dtype: dtype of the quantized values.
        gemms: parts of the names of GEMM operators or kernels that compute in that dtype. A
            quantized weight may still be dequantized and multiplied as something else.
        per_row: one scale per output row is expected, else one per tensor.
    """
    from torch import nn

    unquantized = evidence.plan.situation.unquantized
    ours, left_out, others = list[Any](), list[Any](), list[Any]()
    for name, module in evidence.pipeline.transformer.named_modules():
        if isinstance(module, nn.Linear):
            name = name.replace("_orig_mod.", "")
            kind = others
            if is_quantizable(module, name):
                kind = left_out if name in unquantized else ours
            kind.append(module.weight.data)
    fitting = [
        w
        for w in filter(_is_quantized, ours)
        if w.qdata.dtype is dtype and (w.scale.numel() == w.shape[0]) is per_row
    ]
    unexpected = sum(map(_is_quantized, [*left_out, *others]))
    ran = evidence.operators_matching(*gemms)
    detail = (
        f"{len(fitting)} of {len(ours)} block layers hold {str(dtype).removeprefix('torch.')}, "
        f"multiplied by {ran[0] if ran else 'something else'}"
    )
    if left_out:
        detail += f"; {len(left_out)} are left unquantized"
    if unexpected:
        detail += f"; {unexpected} other layers are quantized, too"
    is_active = 0 < len(ours) == len(fitting) and bool(ran) and not unexpected
    return Proof(is_active=is_active, detail=detail)


def _is_quantized(weight: torch.Tensor) -> bool:
    import torch

    return type(weight) is not torch.Tensor


def fp8_proof(evidence: Evidence, *, per_row: bool) -> Proof:
    """Prove quantization to the fp8 dtype of this machine: MI300 has another than NVIDIA."""
    from torchao.float8.config import e4m3_dtype

    return quantization_proof(evidence, e4m3_dtype, FP8_GEMMS, per_row=per_row)


def has_fp8(hardware: Hardware) -> bool:
    """Return whether the GPU has fp8 tensor cores: Ada (8.9) and later, MI300 and later."""
    if hardware.platform is Platform.ROCM:
        return hardware.architecture in FP8_ARCHITECTURES_AMD
    return hardware.compute_capability >= (8, 9)


def has_fp8_rows(hardware: Hardware) -> bool:
    """Return whether `torch._scaled_mm` is taken to support one scale per row on this hardware.

    On compute capability 12.0 (RTX 50, RTX PRO Blackwell) with torch 2.10 it raises
    CUBLAS_STATUS_NOT_SUPPORTED, while one scale per tensor works (pytorch/pytorch#192707).
    """
    return has_fp8(hardware) and hardware.compute_capability < (12, 0)


def why_no_fp8(hardware: Hardware) -> str | None:
    """Return why the hardware cannot compute GEMMs in fp8, or None."""
    if has_fp8(hardware):
        return None
    return "requires an NVIDIA GPU of compute capability 8.9 or an AMD MI300; use int8 instead"
