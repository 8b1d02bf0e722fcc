"""Refuse weights and images that cannot fit in the memory of a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluxfast.errors import FluxFastError
from fluxfast.hardware import GIB, Hardware
from fluxfast.models.architecture import Architecture
from fluxfast.models.spec import ImageRequest

if TYPE_CHECKING:
    import torch

# Parameters of transformer, T5 encoder, CLIP and VAE together (11.90 + 4.76 + 0.12 + 0.08 billion).
PUBLISHED_PARAMETERS = 16.87e9


def check_weights_fit(parameters: float, dtype: torch.dtype, hardware: Hardware) -> None:
    """Refuse weights that need more memory than the device has.

    Args:
        parameters: the number of weights; each takes the bytes of `dtype`.
        dtype: the dtype that the weights are loaded in.
        hardware: the machine.

    Raises:
        FluxFastError: the weights do not fit.
    """
    needed_gib = parameters * dtype.itemsize / GIB
    if hardware.memory_gib < needed_gib:
        raise FluxFastError(
            "these weights do not fit in memory",
            got=f"{hardware.memory_gib:.0f} GiB on {hardware.name}",
            allowed=f"{needed_gib:.0f} GiB or more for {str(dtype).removeprefix('torch.')}",
            remedy="use --weights mini, or a device with more memory",
        )


def check_images_fit(request: ImageRequest, architecture: Architecture, hardware: Hardware) -> None:
    """Refuse images whose decoding alone needs more memory than the device has.

    The last block of the VAE's decoder reads c₁ channels and writes c₀ channels of every pixel,
    where c₀ and c₁ are the first two `block_out_channels`. In two bytes per number, the decoder
    needs at least batch × height × width × (c₀ + c₁) × 2 bytes, weights and all else not counted.

    Args:
        request: the images.
        architecture: the shapes of the networks.
        hardware: the machine.

    Raises:
        FluxFastError: the images do not fit.
    """
    channels = sum(architecture.vae["block_out_channels"][:2])
    needed_gib = request.batch_size * request.height * request.width * channels * 2 / GIB
    if hardware.memory_gib < needed_gib:
        raise FluxFastError(
            "these images do not fit in memory",
            got=f"{request.batch_size} images of {request.height}x{request.width} need more than "
            f"{needed_gib:.0f} GiB to decode",
            allowed=f"{hardware.memory_gib:.0f} GiB on {hardware.name}",
            remedy="choose a smaller --resolution or --batch_size",
        )
