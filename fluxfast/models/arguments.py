"""From a request to the arguments of a diffusers pipeline."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fluxfast.errors import FluxFastError
from fluxfast.models.spec import ImageRequest

if TYPE_CHECKING:
    from PIL.Image import Image


def call_arguments(request: ImageRequest, takes_image: bool) -> dict[str, Any]:
    """Keyword arguments of a Flux pipeline; the seed is a CPU one, the same on any device."""
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
        # Without these Kontext picks a size of its own.
        arguments |= dict(
            image=input_image(request.image_path, request.width, request.height),
            _auto_resize=False,
            max_area=request.height * request.width,
        )
    return arguments


@lru_cache(maxsize=1)
def input_image(path: Path | None, width: int, height: int) -> Image:
    """The picture cropped to fill the size, or a test card: a colour gradient with a disc."""
    from PIL import Image as images
    from PIL import ImageDraw, ImageOps

    if path is None:
        gradient = images.linear_gradient("L").resize((width, height))
        across = images.linear_gradient("L").rotate(90).resize((width, height))
        card = images.merge("RGB", (gradient, across, ImageOps.invert(gradient)))
        box = (width // 4, height // 4, width * 3 // 4, height * 3 // 4)
        ImageDraw.Draw(card).ellipse(box, "gold")
        return card
    try:
        with images.open(path) as picture:
            upright = ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, ValueError) as error:
        raise FluxFastError(
            "the input image cannot be read",
            got=f"{path}: {error}",
            allowed="an image file that Pillow opens",
            remedy="check the path given with --image",
        ) from error
    return ImageOps.fit(upright, (width, height))
