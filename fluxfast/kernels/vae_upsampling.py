"""Nearest-neighbour upsampling and a 3 × 3 convolution, as four 2 × 2 convolutions before it.

Each pixel of the small image becomes four of the large one, and the nine neighbours of each of
these have only four values. So the nine weights of a convolution after the upsampling add up to
four, other ones for each of the four pixels: 16 products for a pixel of the small image instead of
36. All four are one convolution with four times the channels; a pass then puts its channels where
their pixels belong, and adds the bias.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fluxfast.kernels.vae import channels_last, tile_sizes


@triton.jit
def fluxfast_interleave(
    x, bias, out, pixels, height, width, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Write each of four groups of channels, plus bias, to its pixel of the large image.

    `pixels` (of all images), `height` and `width` are those of the small image. `x` has one line
    and one column more: group (down, right) of a pixel is `down` lines below and `right` columns
    beside it.
    """
    pixel = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, CHANNELS)
    exists = column < channels
    there = (pixel < pixels)[:, None] & exists[None, :]
    added = tl.load(bias + column, mask=exists, other=0.0).to(tl.float32)
    line = pixel // width  # of all images
    first = (line + line // height) * (width + 1) + pixel % width
    target = 4 * width * line + 2 * (pixel % width)
    for down in tl.static_range(2):
        for right in tl.static_range(2):
            source = (first + down * (width + 1) + right) * 4 + 2 * down + right
            values = tl.load(x + source[:, None] * channels + column[None, :], mask=there)
            total = values.to(tl.float32) + added[None, :]
            to = target + 2 * width * down + right
            places = out + to[:, None] * channels + column[None, :]
            tl.store(places, total.to(out.dtype.element_ty), mask=there)


def upsampled_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the convolution, with padding 1, of `x` at twice height and width; channels_last.

    Args:
        x: (batch, inputs, height, width).
        weight: (channels, inputs, 3, 3).
        bias: (channels,).
    """
    four = torch.nn.functional.conv2d(channels_last(x), four_weights(weight), padding=1)
    out: Tensor = interleave(four, bias)
    return out


def four_weights(weight: Tensor) -> Tensor:
    """Return the weights of the four convolutions (4 · channels, inputs, 2, 2), channels_last.

    They are sums of the 3 × 3 weights in float32, rounded once to the dtype of the weight. Of the
    two lines of large pixels that a small pixel becomes, the upper one reads the top weights from
    the line before, and the sum of the other two from its own; the lower one in mirror image.
    """
    channels, inputs, _, _ = weight.shape
    top, middle, bottom = weight.float().unbind(2)
    lines = torch.stack((top, middle + bottom, top + middle, bottom), 2)
    left, centre, right = lines.unbind(3)
    taps = torch.stack((left, centre + right, left + centre, right), 3)
    apart = taps.view(channels, inputs, 2, 2, 2, 2)  # down, its line, right, its column
    four = apart.permute(2, 4, 0, 1, 3, 5).reshape(4 * channels, inputs, 2, 2)
    return channels_last(four.to(weight.dtype))


@torch.library.custom_op(
    "fluxfast::interleave", mutates_args=(), schema="(Tensor x, Tensor bias) -> Tensor"
)
def interleave(x: Tensor, bias: Tensor) -> Tensor:
    """Return an image (batch, channels, 2 · height, 2 · width) from four groups of its channels.

    Args:
        x: (batch, 4 · channels, height + 1, width + 1).
        bias: (channels,), added to each pixel.
    """
    x = channels_last(x)
    out: Tensor = _interleaved(x, bias)
    batch, channels, height, width = out.shape
    height, width, tile = height // 2, width // 2, tile_sizes(channels)
    pixels = batch * height * width
    if out.numel():
        fluxfast_interleave[(triton.cdiv(pixels, tile["ROWS"]),)](
            x, bias, out, pixels, height, width, channels, **tile
        )
    return out


@interleave.register_fake
def _interleaved(x: Tensor, bias: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    shape = (batch, channels // 4, 2 * height - 2, 2 * width - 2)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
