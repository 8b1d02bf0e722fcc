"""Turn an image request into the arguments of a diffusers pipeline call."""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fluxfast.errors import FluxFastError
from fluxfast.mini.world import Scene
from fluxfast.models.spec import ImageRequest

if TYPE_CHECKING:
    from PIL.Image import Image

# What Pillow raises for a damaged file, its decompression bomb error apart.
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)


def call_arguments(request: ImageRequest, takes_image: bool) -> dict[str, Any]:
    """Return the keyword arguments of a Flux pipeline call.

    The noise comes from a CPU generator, so that a seed gives the same noise on any device.

    Args:
        request: the images to generate.
        takes_image: whether the pipeline is Kontext's, which takes an input image.
    """
    arguments: dict[str, Any] = dict(
        prompt=request.prompt,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        max_sequence_length=request.max_sequence_length,
        height=request.height,
        width=request.width,
        num_images_per_prompt=request.batch_size,
        generator=torch.Generator().manual_seed(request.seed),
    )
    if takes_image:
        # Without the last two, Kontext chooses a size of its own.
        arguments |= dict(
            image=_kontext_image(request),
            _auto_resize=False,
            max_area=request.height * request.width,
        )
    return arguments


def _kontext_image(request: ImageRequest) -> Image:
    if request.image_path is None and request.scene is not None:
        return scene_image(request.scene, request.width, request.height)
    return input_image(request.image_path, request.width, request.height)


@lru_cache(maxsize=1)
def input_image(path: Path | None, width: int, height: int) -> Image:
    """Return the image of a file, scaled and cropped to fill `width` × `height` pixels.

    Args:
        path: the file; None for the test card, a colour gradient with a disc.
        width: pixels.
        height: pixels.

    Raises:
        FluxFastError: the file cannot be read as an image.
    """
    from PIL import Image as images
    from PIL import ImageOps

    if path is None:
        return _test_card(width, height)
    try:
        with images.open(path) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except (*DAMAGED, images.DecompressionBombError) as error:
        raise FluxFastError(
            "the input image cannot be read",
            got=f"{path}: {error}",
            allowed="an undamaged image file that Pillow opens, of at most "
            f"{2 * (images.MAX_IMAGE_PIXELS or 0) // 1_000_000} megapixels",
            remedy="check the path given with --image, or save a smaller copy of the image as PNG",
        ) from error
    return ImageOps.fit(upright, (width, height))


def _test_card(width: int, height: int) -> Image:
    from PIL import Image as images
    from PIL import ImageDraw, ImageOps

    gradient = images.linear_gradient("L").resize((width, height))
    across = images.linear_gradient("L").rotate(90).resize((width, height))
    card = images.merge("RGB", (gradient, across, ImageOps.invert(gradient)))
    box = (width // 4, height // 4, width * 3 // 4, height * 3 // 4)
    ImageDraw.Draw(card).ellipse(box, "gold")
    return card


@lru_cache(maxsize=1)
def scene_image(scene: Scene, width: int, height: int) -> Image:
    """Return the scene rendered as a square and cropped to `width` × `height` pixels."""
    from PIL import Image as images
    from PIL import ImageOps

    from fluxfast.mini.render import render_scenes

    pixels = render_scenes([scene], max(height, width))[0].permute(1, 2, 0)
    return ImageOps.fit(images.fromarray((pixels * 255).round().byte().numpy()), (width, height))
