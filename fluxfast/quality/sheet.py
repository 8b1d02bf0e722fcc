"""Pictures side by side for people: eager, optimized, and the difference amplified."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from fluxfast.files import write_bytes_atomically
from fluxfast.quality.asks import Drawing

AMPLIFIED = 8
LABEL_HEIGHT = 18


def sheet(rows: Mapping[str, Drawing], reference: Drawing) -> Tensor:
    """[3, H, W]: a row of images for `reference`, then for each drawing its images and eight times
    their difference from the reference around grey."""
    lines = [_row(reference.images)]
    for drawing in rows.values():
        difference = 0.5 + AMPLIFIED * (drawing.images - reference.images) / 2
        lines += [_row(drawing.images), _row(difference)]
    return torch.cat(lines, dim=1).nan_to_num(0).clamp(0, 1)


def _row(images: Tensor) -> Tensor:
    return torch.cat(list(images), dim=2)


def write_sheet(path: Path, rows: Mapping[str, Drawing], reference: Drawing) -> None:
    """The sheet as a PNG, each row named at its left upper corner."""
    from PIL import Image, ImageDraw

    pixels = (sheet(rows, reference) * 255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels)
    names = ["eager"]
    for name in rows:
        names += [name, f"difference × {AMPLIFIED}"]
    height, pen = reference.images.shape[2], ImageDraw.Draw(image)
    for number, name in enumerate(names):
        top = number * height
        pen.rectangle((0, top, 8 * len(name), top + LABEL_HEIGHT), fill="white")
        pen.text((3, top + 3), name, fill="black")
    encoded = BytesIO()
    image.save(encoded, "PNG")
    write_bytes_atomically(path, encoded.getvalue())
