"""Turn an image request into the arguments of a diffusers pipeline call."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fluxfast.mini.world import Scene
from fluxfast.models.image_file import read_image
from fluxfast.models.spec import ImageRequest

if TYPE_CHECKING:
    from PIL.Image import Image

ROUNDED_CUT = 0.005  # a cut of less than half a percent is shown as none


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


def input_image(path: Path | None, width: int, height: int) -> Image:
    """Return the image of a file, scaled and cropped to fill `width` × `height` pixels.

    Args:
        path: the file; None for the test card, a colour gradient with a disc.
        width: pixels.
        height: pixels.

    Raises:
        FluxFastError: the file cannot be read as an image.
    """
    return (
        _test_card(width, height)
        if path is None
        else _fitted(path, _modified(path), width, height)[0]
    )


def input_image_changes(path: Path, width: int, height: int) -> tuple[str, ...]:
    """Return what `input_image` changes in the image of a file, one line for each change.

    Raises:
        FluxFastError: the file cannot be read as an image.
    """
    return _fitted(path, _modified(path), width, height)[1]


def _modified(path: Path) -> int | None:
    """Return when a file was changed last; a changed file is read again."""
    return path.stat().st_mtime_ns if path.is_file() else None


@lru_cache(maxsize=1)
def _fitted(
    path: Path, modified: int | None, width: int, height: int
) -> tuple[Image, tuple[str, ...]]:
    from PIL import ImageOps

    read = read_image(path)
    old_width, old_height = read.image.size
    scale = max(width / old_width, height / old_height)
    cut_x, cut_y = (1 - width / (old_width * scale), 1 - height / (old_height * scale))
    changes = list(read.changes)
    if (old_width, old_height) != (width, height):
        changes.append(f"scaled from {old_width} × {old_height} to fill {width} × {height} pixels")
    if cut_x > ROUNDED_CUT:
        changes.append(f"{cut_x:.0%} of the width is cropped, half on the left and on the right")
    if cut_y > ROUNDED_CUT:
        changes.append(f"{cut_y:.0%} of the height is cropped, half at the top and at the bottom")
    return ImageOps.fit(read.image, (width, height)), tuple(changes)


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
