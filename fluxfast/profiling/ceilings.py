"""Measured ceilings of this machine at a step's shapes: GEMM, attention and copy throughput.

Each ceiling is measured in a loop over one kernel. A pipeline whose kernels alternate can exceed
them when the GPU is power-limited.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxfast.hardware import Hardware
from fluxfast.optimizations.base import Attend
from fluxfast.profiling.device_clock import median_ms
from fluxfast.profiling.roofline import Ceilings, Shape

COPIED_BYTES = 2**30


def _random_values(*shape: int, device: str, dtype: torch.dtype) -> Tensor:
    """Return random values: zeros take less power and run faster. fp8 values go up to 448."""
    spread = 100.0 if dtype is torch.float8_e4m3fn else 1.0
    return torch.randn(shape, device=device).mul_(spread).to(dtype)


def gemm_tflops(shape: Shape, hardware: Hardware, *, fp8: bool) -> float:
    """Return TFLOP/s of a step's largest GEMM, the output projection of a single block.

    Args:
        shape: the sizes of the step.
        hardware: the machine; bfloat16 on a GPU, float32 on a CPU.
        fp8: whether to measure `torch._scaled_mm` with one scale per row.
    """
    tokens, inner, outer = shape.tokens, shape.hidden + shape.mlp, shape.hidden
    device, dtype = hardware.device, torch.bfloat16 if hardware.is_gpu else torch.float32
    if fp8:
        call = scaled_gemm(tokens, inner, outer, device)
    else:
        rows, weight = (
            _random_values(n, inner, device=device, dtype=dtype) for n in (tokens, outer)
        )
        call = lambda: F.linear(rows, weight)  # noqa: E731
    return 2.0 * tokens * inner * outer / median_ms(call, device) / 1e9


def scaled_gemm(
    tokens: int, inner: int, outer: int, device: str, *, per_row: bool = True
) -> Callable[[], Tensor]:
    """Return a call of `torch._scaled_mm` on random fp8 operands, with fast accumulation.

    Args:
        tokens: rows of the activations [tokens, inner].
        inner: the dimension that is summed.
        outer: rows of the weight [outer, inner].
        device: a torch device.
        per_row: one scale per row; otherwise one per tensor.
    """
    rows, weight = (
        _random_values(n, inner, device=device, dtype=torch.float8_e4m3fn) for n in (tokens, outer)
    )
    scales = torch.rand(tokens if per_row else 1, 1, device=device)
    weight_scales = torch.rand(1, outer if per_row else 1, device=device)
    if not per_row:
        scales, weight_scales = scales.squeeze(), weight_scales.squeeze()
    return lambda: torch._scaled_mm(
        rows,
        weight.t(),
        scale_a=scales,
        scale_b=weight_scales,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def attention_tflops(shape: Shape, heads: int, hardware: Hardware, attend: Attend) -> float:
    """Return TFLOP/s of `attend` on (batch, tokens, heads, head_dim) at the step's shape."""
    tokens = shape.text_tokens + shape.image_tokens
    dtype = torch.bfloat16 if hardware.is_gpu else torch.float32
    size = (shape.batch, tokens, heads, shape.hidden // heads)
    query, key, value = (
        _random_values(*size, device=hardware.device, dtype=dtype) for _ in range(3)
    )
    operations = 4.0 * shape.batch * tokens**2 * shape.hidden
    return operations / median_ms(lambda: attend(query, key, value), hardware.device) / 1e9


def copy_tb_s(hardware: Hardware) -> float:
    """Return TB/s read and written by a copy within the device's memory."""
    size = COPIED_BYTES if hardware.is_gpu else COPIED_BYTES // 64
    source = torch.randint(0, 127, (size,), dtype=torch.int8, device=hardware.device)
    target = torch.empty_like(source)
    return 2.0 * size / median_ms(lambda: target.copy_(source), hardware.device) / 1e9


def measured_ceilings(
    shape: Shape, heads: int, hardware: Hardware, *, fp8: bool, attend: Attend
) -> Ceilings:
    """Return the ceilings of a step whose GEMMs are fp8 or not and whose attention is `attend`."""
    return Ceilings(
        gemm_tflops=gemm_tflops(shape, hardware, fp8=fp8),
        attention_tflops=attention_tflops(shape, heads, hardware, attend),
        copy_tb_s=copy_tb_s(hardware),
    )
