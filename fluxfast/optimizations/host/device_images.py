"""Pictures go to the device and come from it as bytes: a quarter of the copy, and no arithmetic but
resizing on the host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fluxfast.hardware import Hardware
from fluxfast.optimizations.base import Axis, Build, Evidence, Optimization, Proof

if TYPE_CHECKING:
    from torch import Tensor


class DevicePostprocess:
    """The postprocessing of diffusers' image processor, for PIL images on the image's device."""

    def __init__(self, processor: Any) -> None:
        self.processor, self.otherwise = processor, processor.postprocess

    def __call__(self, image: Tensor, output_type: str = "pil", **options: Any) -> Any:
        if output_type != "pil":
            return self.otherwise(image, output_type=output_type, **options)
        import torch

        unit = self.processor._denormalize_conditionally(image, options.get("do_denormalize"))
        values = unit.float().mul(255).round().to(torch.uint8)
        return self.processor.numpy_to_pil(values.permute(0, 2, 3, 1).contiguous().cpu().numpy())


class DevicePreprocess:
    """The preprocessing of diffusers' image processor, for RGB pictures that only change in size.

    The values are the same, on the pipeline's device. The copy does not wait for what that is busy
    with, as a copy of pageable memory would.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline, self.processor = pipeline, pipeline.image_processor
        self.otherwise = self.processor.preprocess

    def __call__(
        self, image: Any, height: int | None = None, width: int | None = None, **options: Any
    ) -> Tensor:
        import numpy as np
        import torch

        images = image if isinstance(image, list) else [image]
        if options or not all(getattr(picture, "mode", None) == "RGB" for picture in images):
            out: Tensor = self.otherwise(image, height, width, **options)
            return out
        height, width = self.processor.get_default_height_width(images[0], height, width)
        resized = [self.processor.resize(picture, height, width) for picture in images]
        values = torch.from_numpy(np.stack([np.array(picture) for picture in resized]))
        device = self.pipeline._execution_device
        if device.type == "cuda":
            values = values.pin_memory()
        pixels = values.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
        # By a tensor: on a GPU PyTorch multiplies with the reciprocal of a number.
        unit = pixels / torch.full((), 255.0, device=device)
        normalized: Tensor = self.processor.normalize(unit)
        return normalized


def to_pil(images: Any) -> list[Any]:
    """PIL images of an array of bytes (batch, height, width, 3)."""
    from PIL import Image

    return [Image.fromarray(image) for image in images]


def apply(build: Build) -> None:
    processor = build.pipeline.image_processor
    processor.postprocess = DevicePostprocess(processor)
    processor.numpy_to_pil = to_pil
    if build.plan.situation.model.takes_image:
        processor.preprocess = DevicePreprocess(build.pipeline)


def proof(evidence: Evidence) -> Proof:
    processor = evidence.pipeline.image_processor
    is_ours = isinstance(processor.postprocess, DevicePostprocess) and (
        isinstance(processor.preprocess, DevicePreprocess)
        or not evidence.plan.situation.model.takes_image
    )
    return Proof(
        is_active=is_ours, detail=f"bytes are made on the {'device' if is_ours else 'host'}"
    )


def why_unsupported(hardware: Hardware) -> str | None:
    return None if hardware.is_gpu else "an image on a CPU is on the host already"


OPTIMIZATION = Optimization(
    name="device_images",
    axis=Axis.IMAGES,
    summary="pictures are bytes on the way to the device and from it",
    apply=apply,
    proof=proof,
    why_unsupported=why_unsupported,
    on_by_default=lambda hardware: True,
)
