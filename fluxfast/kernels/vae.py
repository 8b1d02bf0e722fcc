"""The operations between a VAE's convolutions, on channels_last images.

These are GroupNorm with SiLU, bias and residual, and nearest-neighbour upsampling.

A group is spread over the whole image, so its statistics take a pass of their own: sums of each
channel over parts of the image, one small kernel that turns them into a factor and a shift per
channel, and a pass that applies factor and shift. A convolution's bias goes into the shift, which
saves the pass in which PyTorch adds it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = tl.constexpr(1.4426950408889634)

TILE = 4096  # values of a program at a time: 32 per thread, with two sums of each in registers
WARPS = 4
# Programs that sum an image together: four on each multiprocessor of a Hopper GPU.
PARTS = 528
PARTS_AT_ONCE = 128


@triton.jit
def tile_of(x, pixel, pixels, column, channels):
    """Return the pointers to the values of these pixels, and the mask of those that exist."""
    places = x + pixel.to(tl.int64)[:, None] * channels + column[None, :]
    return places, (pixel < pixels)[:, None] & (column < channels)[None, :]


@triton.jit
def fluxfast_channel_sums(
    x, sums, pixels, channels, tiles, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Sum each channel and its squares over a part of an image, after subtracting a pivot.

    The pivot is the image's first pixel: squares of values far from zero would lose the variance.
    """
    part = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    x += image * pixels * channels
    column = tl.arange(0, CHANNELS)
    pivot = tl.load(x + column, mask=column < channels, other=0.0).to(tl.float32)
    total = tl.zeros([ROWS, CHANNELS], tl.float32)
    squares = tl.zeros([ROWS, CHANNELS], tl.float32)
    for tile in range(tiles):
        pixel = (part * tiles + tile) * ROWS + tl.arange(0, ROWS)
        places, there = tile_of(x, pixel, pixels, column, channels)
        values = tl.load(places, mask=there, other=0.0).to(tl.float32)
        away = tl.where(there, values - pivot[None, :], 0.0)
        total += away
        squares += away * away
    target = sums + (image * tl.num_programs(0) + part) * 2 * channels + column
    tl.store(target, tl.sum(total, 0), mask=column < channels)
    tl.store(target + channels, tl.sum(squares, 0), mask=column < channels)


@triton.jit
def fluxfast_group_factors(
    x,
    x_bias,
    sums,
    weight,
    bias,
    factors,
    pixels,
    channels,
    per_group,
    parts,
    eps,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Compute factor and shift of each channel of one group of one image."""
    group = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    within = tl.arange(0, GROUP)
    there = within < per_group
    column = group * per_group + within
    total = tl.zeros([GROUP], tl.float32)
    squares = tl.zeros([GROUP], tl.float32)
    for first in range(0, parts, PARTS):
        part = first + tl.arange(0, PARTS)
        places = sums + (image * parts + part)[:, None] * 2 * channels + column[None, :]
        loaded = (part < parts)[:, None] & there[None, :]
        total += tl.sum(tl.load(places, mask=loaded, other=0.0), 0)
        squares += tl.sum(tl.load(places + channels, mask=loaded, other=0.0), 0)
    pivot = tl.load(x + image * pixels * channels + column, mask=there, other=0.0).to(tl.float32)
    added = tl.zeros([GROUP], tl.float32)
    if x_bias is not None:
        added = tl.load(x_bias + column, mask=there, other=0.0).to(tl.float32)
    mean_of = pivot + added + total / pixels
    mean = tl.sum(tl.where(there, mean_of, 0.0), 0) / per_group
    apart = tl.where(there, mean_of - mean, 0.0)
    within_channels = squares - total * total / pixels
    variance = tl.sum(within_channels / pixels + apart * apart, 0) / per_group
    factor = tl.load(weight + column, mask=there, other=0.0).to(tl.float32)
    factor = factor * tl.rsqrt(tl.maximum(variance, 0.0) + eps)
    shift = tl.load(bias + column, mask=there, other=0.0).to(tl.float32)
    target = factors + image * 2 * channels + column
    tl.store(target, factor, mask=there)
    tl.store(target + channels, shift + (added - mean) * factor, mask=there)


@triton.jit
def fluxfast_group_norm_silu(
    x, factors, out, pixels, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Write silu(x · factor + shift)."""
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, CHANNELS)
    of_image = factors + image * 2 * channels + column
    factor = tl.load(of_image, mask=column < channels, other=0.0)
    shift = tl.load(of_image + channels, mask=column < channels, other=0.0)
    offset = image * pixels * channels
    places, there = tile_of(x + offset, pixel, pixels, column, channels)
    y = tl.load(places, mask=there, other=0.0).to(tl.float32) * factor[None, :] + shift[None, :]
    y = tl.fdiv(y, 1.0 + tl.exp2(-LOG2_E * y))
    targets, _ = tile_of(out + offset, pixel, pixels, column, channels)
    tl.store(targets, y.to(out.dtype.element_ty), mask=there)


@triton.jit
def fluxfast_bias_residual(
    x,
    bias,
    residual,
    out,
    pixels,
    channels,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Write x + bias + residual; the pixels of all images count as one row."""
    pixel = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, CHANNELS)
    added = tl.load(bias + column, mask=column < channels, other=0.0).to(tl.float32)
    places, there = tile_of(x, pixel, pixels, column, channels)
    total = tl.load(places, mask=there, other=0.0).to(tl.float32) + added[None, :]
    if residual is not None:
        others, _ = tile_of(residual, pixel, pixels, column, channels)
        total += tl.load(others, mask=there, other=0.0).to(tl.float32)
    targets, _ = tile_of(out, pixel, pixels, column, channels)
    tl.store(targets, total.to(out.dtype.element_ty), mask=there)


@triton.jit
def fluxfast_upsample(x, out, pixels, width, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Write each pixel twice in each direction.

    `pixels` (of all images) and `width` are those of the input.
    """
    pixel = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, CHANNELS)
    places, there = tile_of(x, pixel, pixels, column, channels)
    values = tl.load(places, mask=there, other=0.0)
    # A row of `width` becomes two of 2 · `width`.
    target = 4 * width * (pixel // width) + 2 * (pixel % width)
    for down in tl.static_range(2):
        for right in tl.static_range(2):
            to = target + 2 * width * down + right
            targets, _ = tile_of(out, to, 4 * pixels, column, channels)
            tl.store(targets, values, mask=there)


def channels_last(images: Tensor) -> Tensor:
    """Return images (batch, channels, height, width) in the channels_last memory format."""
    return images.contiguous(memory_format=torch.channels_last)


def _tile(channels: int) -> dict[str, int]:
    """Return the constants of a kernel whose tiles are `TILE` values of whole pixels."""
    block = triton.next_power_of_2(channels)
    return {"ROWS": max(1, TILE // block), "CHANNELS": block, "num_warps": WARPS}


@torch.library.custom_op(
    "fluxfast::group_norm_silu",
    mutates_args=(),
    schema=(
        "(Tensor x, Tensor? x_bias, Tensor weight, Tensor bias, int groups, float eps) -> Tensor"
    ),
)
def group_norm_silu(
    x: Tensor, x_bias: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float
) -> Tensor:
    """Return silu(group_norm(x + x_bias)) in the input's dtype, channels_last.

    Args:
        x: (batch, channels, height, width).
        x_bias: (channels,), the bias of the convolution before the norm; None for none.
        weight: (channels,).
        bias: (channels,).
        groups: number of groups.
        eps: added to the variance.
    """
    x = channels_last(x)
    out = torch.empty_like(x)
    batch, channels, height, width = x.shape
    pixels, tile = height * width, _tile(channels)
    if not out.numel():
        return out
    tiles = triton.cdiv(pixels, tile["ROWS"])
    in_a_part = triton.cdiv(tiles, PARTS)
    parts = triton.cdiv(tiles, in_a_part)
    sums, factors = (
        x.new_empty(shape, dtype=torch.float32)
        for shape in ((batch, parts, 2, channels), (batch, 2, channels))
    )
    fluxfast_channel_sums[(parts, batch)](x, sums, pixels, channels, in_a_part, **tile)
    fluxfast_group_factors[(groups, batch)](
        x=x,
        x_bias=x_bias,
        sums=sums,
        weight=weight,
        bias=bias,
        factors=factors,
        pixels=pixels,
        channels=channels,
        per_group=channels // groups,
        parts=parts,
        eps=eps,
        GROUP=triton.next_power_of_2(channels // groups),
        PARTS=PARTS_AT_ONCE,
        num_warps=WARPS,
    )
    fluxfast_group_norm_silu[(tiles, batch)](x, factors, out, pixels, channels, **tile)
    return out


@group_norm_silu.register_fake
def _(
    x: Tensor, x_bias: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float
) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@torch.library.custom_op(
    "fluxfast::bias_residual",
    mutates_args=(),
    schema="(Tensor x, Tensor bias, Tensor? residual) -> Tensor",
)
def bias_residual(x: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    """Return x + bias + residual in the input's dtype, channels_last.

    Args:
        x: (batch, channels, height, width).
        bias: (channels,).
        residual: the shape of `x`; None for none.
    """
    x = channels_last(x)
    out = torch.empty_like(x)
    batch, channels, height, width = x.shape
    pixels, tile = batch * height * width, _tile(channels)
    if out.numel():
        fluxfast_bias_residual[(triton.cdiv(pixels, tile["ROWS"]),)](
            x=x,
            bias=bias,
            residual=channels_last(residual) if residual is not None else None,
            out=out,
            pixels=pixels,
            channels=channels,
            **tile,
        )
    return out


@bias_residual.register_fake
def _(x: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@torch.library.custom_op("fluxfast::upsample", mutates_args=(), schema="(Tensor x) -> Tensor")
def upsample(x: Tensor) -> Tensor:
    """Return `x` (batch, channels, height, width) at twice height and width, channels_last."""
    x = channels_last(x)
    out: Tensor = _upsampled(x)
    batch, channels, height, width = x.shape
    pixels, tile = batch * height * width, _tile(channels)
    if out.numel():
        fluxfast_upsample[(triton.cdiv(pixels, tile["ROWS"]),)](
            x, out, pixels, width, channels, **tile
        )
    return out


@upsample.register_fake
def _upsampled(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    shape = (batch, channels, 2 * height, 2 * width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
