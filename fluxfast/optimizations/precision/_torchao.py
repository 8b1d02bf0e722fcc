"""Code that the torchao quantizations share: which layers they take, and how that is proved."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fluxfast.hardware import Hardware, Platform
from fluxfast.optimizations.axis import Axis
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


def is_modulation(module: nn.Module, name: str) -> bool:
    """Return whether a layer computes the modulation vectors of a block."""
    from torch import nn

    return isinstance(module, nn.Linear) and "transformer_blocks." in name and "norm" in name


def quantize_blocks(build: Build, config: Any, mend: Callable[[Any], None] | None = None) -> None:
    """Quantize the block layers in place, but for those that the situation leaves unquantized.

    Args:
        build: the pipeline.
        config: torchao's configuration; it must not set Inductor's global flags.
        mend: changes a quantized weight in place.
    """
    left_out = build.situation.unquantized

    def is_chosen(module: nn.Module, name: str) -> bool:
        return name not in left_out and is_quantizable(module, name)

    names = quantize_layers(build.pipeline.transformer, config, is_chosen, build.device, mend)
    build.quantizers |= dict.fromkeys(names, _quantizer(config, mend))


def quantize_modulation(build: Build, config: Any) -> None:
    """Quantize the layers that compute the modulation of the blocks in place."""
    names = quantize_layers(build.pipeline.transformer, config, is_modulation, build.device)
    build.quantizers |= dict.fromkeys(names, _quantizer(config, mend=None))


def quantize_layers(
    network: nn.Module,
    config: Any,
    is_chosen: Callable[[nn.Module, str], bool],
    device: torch.device,
    mend: Callable[[Any], None] | None = None,
) -> list[str]:
    """Quantize the chosen linear layers of a network in place, and return their names."""
    from torchao.quantization import quantize_

    def is_chosen_there(module: nn.Module, name: str) -> bool:
        """Return `is_chosen`, with the layer on the device: the next thing is to quantize it."""
        return is_chosen(module, name) and bool(module.to(device))

    quantize_(network, config, filter_fn=is_chosen_there)
    chosen = {n: module for n, module in network.named_modules() if is_chosen(module, n)}
    if mend:
        for module in chosen.values():
            mend(module.weight)
    return list(chosen)


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


def int8_weights() -> Any:
    """Return torchao's configuration of int8 weights, one scale per row, for plain activations."""
    from torchao.quantization import Int8WeightOnlyConfig

    return Int8WeightOnlyConfig(set_inductor_config=False)


def int8_weights_proof(
    network: nn.Module, is_chosen: Callable[[nn.Module, str], bool], *, of: str
) -> Proof:
    """Return a proof: active if every chosen layer of a network holds int8 with a scale per row."""
    import torch

    layers: list[Any] = [m for name, m in network.named_modules() if is_chosen(m, name)]
    weights = [layer.weight for layer in layers if _is_quantized(layer.weight.data)]
    fitting = [w for w in weights if w.qdata.dtype is torch.int8 and w.scale.numel() == len(w)]
    return Proof(
        is_active=0 < len(layers) == len(fitting),
        detail=f"{len(fitting)} of {len(layers)} {of} hold int8",
    )


def why_no_memory_to_save(hardware: Hardware) -> str | None:
    """Return why int8 weights for plain activations are of no use on the hardware, or None."""
    return None if hardware.is_gpu else "requires a GPU: it saves the memory of one"


def quantization_proof(
    evidence: Evidence, dtype: torch.dtype, gemms: tuple[str, ...], *, per_row: bool
) -> Proof:
    """Return a proof: active if the block layers, and no others, hold `dtype` and a GEMM used it.

    The block layers that the situation leaves unquantized count as others. Modulation layers are
    judged by the optimization that quantizes them.

    Args:
        evidence: one profiled image.
        dtype: dtype of the quantized values.
        gemms: parts of the names of GEMM operators or kernels that compute in that dtype. A
            quantized weight may still be dequantized and multiplied as something else.
        per_row: one scale per output row is expected, else one per tensor.
    """
    from torch import nn

    unquantized = evidence.plan.situation.unquantized
    of_modulation = evidence.plan.on(Axis.MODULATION_QUANTIZATION) is not None
    ours, left_out, others = list[Any](), list[Any](), list[Any]()
    for name, module in evidence.pipeline.transformer.named_modules():
        if isinstance(module, nn.Linear):
            name = name.replace("_orig_mod.", "")
            if of_modulation and is_modulation(module, name):
                continue
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
