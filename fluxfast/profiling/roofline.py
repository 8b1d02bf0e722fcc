"""The roofline floor of a denoising step, from the operations and bytes of each kernel. No torch.

Every tensor is counted once in and once out of device memory, and a kernel takes the longer of its
compute time and its memory time (Williams et al. 2009, doi:10.1145/1498765.1498785). The sum over
the step is the floor: no implementation of these kernels is faster on that device.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fluxfast.models.architecture import Architecture
from fluxfast.models.spec import ImageRequest, ModelSpec

BF16_BYTES = 2
FP8_BYTES = 1


class Bottleneck(StrEnum):
    """The ceiling that limits a kernel."""

    GEMM = "GEMM"
    ATTENTION = "attention"
    MEMORY = "memory"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a transformer and of one call of it.

    Attributes:
        double_blocks: blocks with separate text and image streams.
        single_blocks: blocks with one joint stream.
        hidden: width of the residual stream.
        mlp: width of the MLP's hidden layer.
        text_tokens: text tokens of one image.
        image_tokens: image tokens of one image; Kontext's input image included.
        batch: images in a call.
    """

    double_blocks: int
    single_blocks: int
    hidden: int
    mlp: int
    text_tokens: int
    image_tokens: int
    batch: int

    @property
    def tokens(self) -> int:
        """All tokens of a call."""
        return self.batch * (self.text_tokens + self.image_tokens)


def shape_of(architecture: Architecture, model: ModelSpec, request: ImageRequest) -> Shape:
    """Return the shape of the transformer's call; Kontext reads its input image as well."""
    sizes: dict[str, Any] = architecture.transformer
    hidden = sizes["num_attention_heads"] * sizes["attention_head_dim"]
    return Shape(
        double_blocks=sizes["num_layers"],
        single_blocks=sizes["num_single_layers"],
        hidden=hidden,
        mlp=4 * hidden,
        text_tokens=request.max_sequence_length,
        image_tokens=request.image_tokens * (2 if model.takes_image else 1),
        batch=request.batch_size,
    )


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The measured throughput of a device in one precision.

    Attributes:
        gemm_tflops: GEMMs in TFLOP/s.
        attention_tflops: attention in TFLOP/s.
        copy_tb_s: bytes read and written by a copy in TB/s.
    """

    gemm_tflops: float
    attention_tflops: float
    copy_tb_s: float


@dataclass(frozen=True, kw_only=True)
class Work:
    """One kernel of a step.

    Attributes:
        name: the kernel's role in a block.
        category: the ceiling that applies to its arithmetic.
        count: how often it runs in a step.
        operations: floating-point operations of one run (a multiply-add counts two).
        bytes: bytes that one run reads and writes.
    """

    name: str
    category: Bottleneck
    count: int
    operations: float
    bytes: float

    def floor_ms(self, ceilings: Ceilings) -> float:
        """Return the least milliseconds of all its runs: the longer of compute and memory time."""
        rates = {
            Bottleneck.GEMM: ceilings.gemm_tflops,
            Bottleneck.ATTENTION: ceilings.attention_tflops,
        }
        rate = rates.get(self.category)
        arithmetic_s = self.operations / (rate * 1e12) if rate else 0.0
        return self.count * max(arithmetic_s, self.bytes / (ceilings.copy_tb_s * 1e12)) * 1e3


def step_work(shape: Shape, *, fp8: bool, fp8_attention: bool) -> list[Work]:
    """Return the kernels of a step in which everything that can be fused is fused.

    Args:
        shape: the sizes of the step.
        fp8: whether GEMMs read fp8 operands.
        fp8_attention: whether attention reads fp8 queries, keys and values.
    """
    gemms = _gemms(shape, fp8, fp8_attention)
    return [*gemms, _attention(shape, fp8_attention), *_passes(shape, fp8)]


def _gemms(shape: Shape, fp8: bool, fp8_heads: bool) -> list[Work]:
    hidden, mlp, single, double = (
        shape.hidden,
        shape.mlp,
        shape.single_blocks,
        shape.double_blocks,
    )
    narrow = FP8_BYTES if fp8 else BF16_BYTES
    heads = FP8_BYTES if fp8_heads else BF16_BYTES
    rows = (
        ("single: qkv + norm + rotary", single, hidden, 3 * hidden, 1, heads),
        ("single: mlp + GELU", single, hidden, mlp, 1, narrow),
        ("single: output", single, hidden + mlp, hidden, 1, BF16_BYTES),
        ("double: qkv + norm + rotary", double, hidden, 3 * hidden, 2, heads),
        ("double: output", double, hidden, hidden, 2, BF16_BYTES),
        ("double: mlp up + GELU", double, hidden, mlp, 2, narrow),
        ("double: mlp down", double, mlp, hidden, 2, BF16_BYTES),
    )
    return [_gemm(*row, read=narrow, tokens=shape.tokens) for row in rows]


def _gemm(
    name: str,
    count: int,
    inner: int,
    outer: int,
    streams: int,
    written: int,
    *,
    read: int,
    tokens: int,
) -> Work:
    """Return a GEMM of [tokens, inner] and [inner, outer].

    Text and image streams have separate weights. `read` and `written` are bytes per value.
    """
    moved = read * (tokens * inner + streams * inner * outer) + written * tokens * outer
    return Work(
        name=name,
        category=Bottleneck.GEMM,
        count=count,
        operations=2.0 * tokens * inner * outer,
        bytes=moved,
    )


def _attention(shape: Shape, fp8: bool) -> Work:
    """Return attention: two GEMMs of tokens × tokens per head.

    Source: Dao et al. 2022, arXiv:2205.14135.
    """
    per_image = shape.text_tokens + shape.image_tokens
    width = 3 * (FP8_BYTES if fp8 else BF16_BYTES) + BF16_BYTES
    return Work(
        name="attention",
        category=Bottleneck.ATTENTION,
        count=shape.double_blocks + shape.single_blocks,
        operations=4.0 * shape.batch * per_image**2 * shape.hidden,
        bytes=width * shape.tokens * shape.hidden,
    )


def _passes(shape: Shape, fp8: bool) -> list[Work]:
    """Return the memory-bound kernels, each with the bytes it reads and writes per token."""
    hidden, double = shape.hidden, shape.double_blocks
    both = shape.single_blocks + double
    cast = FP8_BYTES if fp8 else BF16_BYTES
    passes = [
        ("norm + modulate", both, BF16_BYTES * hidden + cast * hidden),
        (
            "gate + residual + norm + modulate",
            double,
            BF16_BYTES * 3 * hidden + cast * hidden,
        ),
        ("gate + residual", both, BF16_BYTES * 3 * hidden),
    ]
    if fp8:
        passes.insert(2, ("quantize attention", both, (BF16_BYTES + cast) * hidden))
    return [
        Work(
            name=name,
            category=Bottleneck.MEMORY,
            count=count,
            operations=0.0,
            bytes=float(row_bytes * shape.tokens),
        )
        for name, count, row_bytes in passes
    ]


def floor_ms(work: Iterable[Work], ceilings: Ceilings) -> float:
    """Return the floor of a step in milliseconds."""
    return sum(one.floor_ms(ceilings) for one in work)


def by_category(work: Iterable[Work], ceilings: Ceilings) -> dict[Bottleneck, float]:
    """Return the floor of each category in milliseconds."""
    totals = dict.fromkeys(Bottleneck, 0.0)
    for one in work:
        totals[one.category] += one.floor_ms(ceilings)
    return totals
