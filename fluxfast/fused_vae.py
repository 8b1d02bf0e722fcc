"""The VAE with all between its convolutions left to one-pass kernels.

Its blocks keep their weights, names and call. Importing this imports Triton and diffusers.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from fluxfast.errors import FluxFastError
from fluxfast.kernels.images import bias_residual, group_norm_silu, upsample


class GroupNormSiLU(nn.GroupNorm):
    """The norm and the SiLU after it."""

    def forward(self, x: Tensor, x_bias: Tensor | None = None) -> Tensor:
        out: Tensor = group_norm_silu(x, x_bias, self.weight, self.bias, self.num_groups, self.eps)
        return out


class FusedResnet(ResnetBlock2D):  # type: ignore[misc]
    """Norm, SiLU and convolution twice, and the input added; the biases where they cost nothing."""

    last_bias: Tensor

    def forward(self, input_tensor: Tensor, temb: None = None) -> Tensor:
        hidden = _convolved(self.conv1, self.norm1(input_tensor))
        hidden = _convolved(self.conv2, self.norm2(hidden, self.conv1.bias))
        shortcut = self.conv_shortcut
        residual = input_tensor if shortcut is None else _convolved(shortcut, input_tensor)
        out: Tensor = bias_residual(hidden, self.last_bias, residual)
        return out


class FusedUpsample(Upsample2D):  # type: ignore[misc]
    """Nearest neighbours, and a convolution."""

    def forward(self, hidden_states: Tensor, output_size: None = None) -> Tensor:
        hidden = _convolved(self.conv, upsample(hidden_states))
        out: Tensor = bias_residual(hidden, self.conv.bias, None)
        return out


def _convolved(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Without its bias."""
    out: Tensor = convolution._conv_forward(x, convolution.weight, None)
    return out


def fuse_vae(vae: Any) -> None:
    """Give the VAE fused blocks and last norms, and convolutions that read channels last.

    Raises FluxFastError for a VAE of other blocks.
    """
    vae.to(memory_format=torch.channels_last)
    for block in vae.modules():
        if isinstance(block, ResnetBlock2D):
            _fuse(block)
        elif isinstance(block, Upsample2D):
            block.__class__ = FusedUpsample
    for half in (vae.encoder, vae.decoder):
        half.conv_norm_out.__class__ = GroupNormSiLU
        half.conv_act = nn.Identity()


def _fuse(block: Any) -> None:
    if not (
        isinstance(block.nonlinearity, nn.SiLU)
        and block.upsample is block.downsample is block.time_emb_proj is None
        and block.output_scale_factor == 1.0
    ):
        raise FluxFastError(
            "fused_vae cannot fuse this VAE's residual blocks",
            got=repr(block)[:200],
            allowed="SiLU, one size, no time embedding, no scale: the blocks of Flux's VAE",
            remedy="leave fused_vae out",
        )
    block.norm1.__class__ = block.norm2.__class__ = GroupNormSiLU
    last = block.conv2.bias.detach().float()
    if block.conv_shortcut is not None:
        last = last + block.conv_shortcut.bias.detach().float()
    block.register_buffer("last_bias", last, persistent=False)
    block.__class__ = FusedResnet
