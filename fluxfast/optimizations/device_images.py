"""The image becomes bytes on the device: a fraction of the copy, and no arithmetic on the host."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fluxfast.hardware import Hardware
from fluxfast.optimization import Axis, Build, Evidence, Optimization, Proof


class DevicePostprocess:
    """The postprocessing of diffusers' image processor, for PIL images on the image's device."""

    def __init__(self, processor: Any) -> None:
        self.processor, self.otherwise = processor, processor.postprocess

    def __call__(self, image: Tensor, output_type: str = "pil", **options: Any) -> Any:
        if output_type != "pil":
            return self.otherwise(image, output_type=output_type, **options)
        unit = self.processor._denormalize_conditionally(image, options.get("do_denormalize"))
        values = unit.float().mul(255).round().to(torch.uint8)
        return self.processor.numpy_to_pil(values.permute(0, 2, 3, 1).contiguous().cpu().numpy())


def to_pil(images: Any) -> list[Any]:
    """PIL images of an array of bytes (batch, height, width, 3)."""
    from PIL import Image

    return [Image.fromarray(image) for image in images]


def apply(build: Build) -> None:
    processor = build.pipeline.image_processor
    processor.postprocess = DevicePostprocess(processor)
    processor.numpy_to_pil = to_pil


def proof(evidence: Evidence) -> Proof:
    is_ours = isinstance(evidence.pipeline.image_processor.postprocess, DevicePostprocess)
    return Proof(in_force=is_ours, seen=f"bytes are made on the {'device' if is_ours else 'host'}")


def unsupported(hardware: Hardware) -> str | None:
    return None if hardware.is_gpu else "an image on a CPU is on the host already"


OPTIMIZATION = Optimization(
    name="device_images",
    axis=Axis.IMAGES,
    summary="the image becomes bytes on the device",
    apply=apply,
    proof=proof,
    unsupported=unsupported,
    on_by_default=lambda hardware: True,
)
