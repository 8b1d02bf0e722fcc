"""The VAE with one-pass kernels for all operations between its convolutions.

The blocks keep their weights and names. They call the convolutions without their modules, so hooks
on a convolution are not called. Importing this module imports Triton and diffusers.
"""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import UpDecoderBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from fluxfast.errors import FluxFastError
from fluxfast.kernels.compile_ahead import CompiledAhead
from fluxfast.kernels.vae import bias_residual, group_norm_silu, upsample
from fluxfast.models.spec import ImageRequest
from fluxfast.optimizations.memory._memory_format import channels_last_proof, to_channels_last


class GroupNormSiLU(nn.GroupNorm):
    """GroupNorm and the SiLU after it."""

    def forward(self, x: Tensor, x_bias: Tensor | None = None) -> Tensor:
        out: Tensor = group_norm_silu(x, x_bias, self.weight, self.bias, self.num_groups, self.eps)
        return out


class FusedResnet(ResnetBlock2D):  # type: ignore[misc]
    """Twice norm, SiLU and convolution, plus the input; biases are added in the passes."""

    def forward(self, input_tensor: Tensor, temb: None = None) -> Tensor:
        hidden = _convolved(self.conv1, self.norm1(input_tensor))
        # On a line of its own: else the first convolution's output lives until the second is done.
        hidden = self.norm2(hidden, self.conv1.bias)
        hidden = _convolved(self.conv2, hidden)
        residual, bias, shortcut = input_tensor, self.conv2.bias, self.conv_shortcut
        if shortcut is not None:
            residual = _convolved(shortcut, input_tensor)
            bias = bias.float() + shortcut.bias.float()
        out: Tensor = bias_residual(hidden, bias, residual)
        return out


class FusedUpsample(Upsample2D):  # type: ignore[misc]
    """Nearest-neighbour upsampling and a convolution."""

    def forward(self, hidden_states: Tensor, output_size: None = None) -> Tensor:
        hidden = _convolved(self.conv, upsample(hidden_states))
        out: Tensor = bias_residual(hidden, self.conv.bias, None)
        return out


class FusedDecoder(Decoder):  # type: ignore[misc]
    """The decoder without its blocks, which would keep their input (512 MiB at 1024×1024)."""

    def forward(self, sample: Tensor, latent_embeds: None = None) -> Tensor:
        hidden = self.mid_block(self.conv_in(sample))
        for block in self.up_blocks:
            for step in (*block.resnets, *(block.upsamplers or ())):
                hidden = step(hidden)
        out: Tensor = self.conv_out(self.conv_norm_out(hidden))
        return out


def _convolved(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Return the convolution without its bias."""
    out: Tensor = convolution._conv_forward(x, convolution.weight, None)
    return out


def fuse_vae(vae: Any) -> None:
    """Fuse the VAE's blocks and last norms, and convert its convolutions to channels_last.

    Raises:
        FluxFastError: the VAE has other blocks; it is left unchanged.
    """
    if not isinstance(vae, AutoencoderKL):
        raise _not_fusible(vae)
    halves = (vae.encoder, vae.decoder)
    resnets = [block for block in vae.modules() if isinstance(block, ResnetBlock2D)]
    upsamplers = [block for block in vae.modules() if isinstance(block, Upsample2D)]
    other = [block for block in resnets if not _is_fusible_resnet(block)]
    other += [block for block in upsamplers if not _is_fusible_upsampler(block)]
    other += [half.conv_act for half in halves if not isinstance(half.conv_act, nn.SiLU)]
    other += [vae.decoder] if type(vae.decoder) is not Decoder else []
    other += [block for block in vae.decoder.up_blocks if type(block) is not UpDecoderBlock2D]
    if other:
        raise _not_fusible(other[0])
    to_channels_last(vae)
    for block in resnets:
        block.__class__ = FusedResnet
        block.norm1.__class__ = block.norm2.__class__ = GroupNormSiLU
    for block in upsamplers:
        block.__class__ = FusedUpsample
    vae.decoder.__class__ = FusedDecoder
    for half in halves:
        half.conv_norm_out.__class__ = GroupNormSiLU
        half.conv_act = nn.Identity()
        half.forward = CompiledAhead(half.forward)


def decode_nothing(pipeline: Any, request: ImageRequest) -> None:
    """Decode zeros in the shape of the latents of the request's images."""
    decoder, scale = pipeline.vae.decoder, pipeline.vae_scale_factor
    weight = decoder.conv_in.weight
    height, width = request.height // scale, request.width // scale
    decoder(weight.new_zeros((request.batch_size, weight.shape[1], height, width)))


def _not_fusible(found: object) -> FluxFastError:
    return FluxFastError(
        "fused_vae cannot fuse this VAE",
        got=repr(found)[:200],
        allowed="the blocks of Flux's VAE (AutoencoderKL): SiLU, one size, no time embedding, "
        "no scale, no dropout; nearest neighbours before a convolution",
        remedy="disable fused_vae",
    )


def _is_fusible_resnet(block: Any) -> bool:
    convolutions = [block.conv1, block.conv2, *filter(None, [block.conv_shortcut])]
    return (
        isinstance(block.nonlinearity, nn.SiLU)
        and block.upsample is block.downsample is block.time_emb_proj is None
        and block.output_scale_factor == 1.0
        and block.dropout.p == 0.0
        and all(convolution.bias is not None for convolution in convolutions)
    )


def _is_fusible_upsampler(block: Any) -> bool:
    return (
        block.interpolate
        and block.norm is None
        and isinstance(getattr(block, "conv", None), nn.Conv2d)
        and block.conv.bias is not None
    )


def is_fused(vae: Any) -> bool:
    """Return whether every block of the VAE is fused."""
    kinds = {type(module) for module in vae.modules()}
    ends = {type(half.conv_norm_out) for half in (vae.encoder, vae.decoder)}
    return (
        FusedResnet in kinds
        and not kinds & {ResnetBlock2D, Upsample2D, Decoder}
        and ends == {GroupNormSiLU}
        and channels_last_proof(vae).is_active
    )
