"""Refuse weights and images that cannot fit in the memory of a device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fluxfast.errors import FluxFastError
from fluxfast.hardware import GIB, Hardware
from fluxfast.models.architecture import Architecture
from fluxfast.models.configuration import first_line
from fluxfast.models.spec import ImageRequest

if TYPE_CHECKING:
    import torch

# Parameters of transformer, T5 encoder, CLIP and VAE together (11.90 + 4.76 + 0.12 + 0.08 billion).
PUBLISHED_PARAMETERS = 16.87e9


# What a GPU holds beside weights while they are loaded: its context, a stand-in's weights, a layer.
ROOM_GIB = 4
LARGER_DEVICE = "use --weights mini, or a device with more memory"
QUANTIZE = "quantize them, or use a larger GPU"


def _needed_gib(parameters: float, dtype: torch.dtype) -> float:
    return parameters * dtype.itemsize / GIB


def weights_fit(parameters: float, dtype: torch.dtype, hardware: Hardware) -> bool:
    """Return whether weights can be loaded onto the device, with room for what loading needs."""
    return _needed_gib(parameters, dtype) + ROOM_GIB <= hardware.memory_gib


def check_weights_fit(
    parameters: float,
    dtype: torch.dtype,
    hardware: Hardware,
    remedy: str = LARGER_DEVICE,
) -> None:
    """Refuse weights that need more memory than the device has.

    Args:
        parameters: the number of weights; each takes the bytes of `dtype`.
        dtype: the dtype that the weights are loaded in.
        hardware: the machine.
        remedy: what to do about it.

    Raises:
        FluxFastError: the weights do not fit.
    """
    needed_gib = _needed_gib(parameters, dtype)
    if hardware.memory_gib < needed_gib:
        raise FluxFastError(
            "these weights do not fit in memory",
            got=f"{hardware.memory_gib:.0f} GiB on {hardware.name}",
            allowed=f"{needed_gib:.0f} GiB or more for {str(dtype).removeprefix('torch.')}",
            remedy=remedy,
        )


def check_images_fit(request: ImageRequest, architecture: Architecture, hardware: Hardware) -> None:
    """Refuse images whose decoding alone needs more memory than the device has.

    Args:
        request: the images.
        architecture: the shapes of the networks.
        hardware: the machine.

    Raises:
        FluxFastError: the images do not fit.
    """
    pixels = request.height * request.width
    channels = architecture.vae["block_out_channels"]
    _check_decoding_fits(request.batch_size, pixels, channels, hardware)


def check_call_fits(pipeline: Any, call: Mapping[str, Any], hardware: Hardware) -> None:
    """Refuse a pipeline call whose images do not fit in memory when they are decoded.

    Args:
        pipeline: a Flux.1 pipeline.
        call: the arguments of the call by name, defaults included.
        hardware: the machine.

    Raises:
        FluxFastError: the images do not fit.
    """
    vae = pipeline.vae
    if vae is None or call["output_type"] == "latent" or getattr(vae, "use_tiling", False):
        return
    side = pipeline.default_sample_size * pipeline.vae_scale_factor
    pixels = call.get("max_area") or (call["height"] or side) * (call["width"] or side)
    given = call.get("prompt_embeds") if call["prompt"] is None else call["prompt"]
    prompts = 1 if given is None or isinstance(given, str) else len(given)
    images = 1 if getattr(vae, "use_slicing", False) else prompts * call["num_images_per_prompt"]
    _check_decoding_fits(images, pixels, vae.config.block_out_channels, hardware)


def _check_decoding_fits(
    images: int, pixels: int, channels: tuple[int, ...], hardware: Hardware
) -> None:
    """Refuse images that are too large or too many to decode at once.

    The last block of the VAE's decoder reads c₁ channels and writes c₀ channels of every pixel,
    where c₀ and c₁ are the first two of `block_out_channels`. In two bytes per number, the decoder
    needs at least images × pixels × (c₀ + c₁) × 2 bytes, weights and all else not counted.
    """
    needed_gib = images * pixels * sum(channels[:2]) * 2 / GIB
    if hardware.memory_gib < needed_gib:
        raise FluxFastError(
            "these images do not fit in memory",
            got=f"{images} images of {pixels / 1e6:.1f} megapixels need more than "
            f"{needed_gib:.0f} GiB to decode",
            allowed=f"{hardware.memory_gib:.0f} GiB on {hardware.name}",
            remedy="choose a smaller size, or fewer images in a call",
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed, on the host or on a GPU."""
    import torch

    is_of_host = isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
    return is_of_host or isinstance(error, torch.OutOfMemoryError)


@contextmanager
def out_of_memory_as_error(what: str, hardware: Hardware, remedy: str) -> Iterator[None]:
    """Turn an allocation that fails into an error that a user can act on.

    Args:
        what: the work within this context.
        hardware: the machine.
        remedy: what to make smaller.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise FluxFastError(
            "out of memory",
            got=f"{what} on {hardware.name}: {first_line(error)}",
            allowed=f"what fits into {hardware.memory_gib:.0f} GiB, less what other processes use",
            remedy=remedy,
        ) from error
