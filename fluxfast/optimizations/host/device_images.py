"""Images are copied to and from the device as bytes, and converted there.

The copies are a quarter of the size, and the host only resizes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fluxfast.hardware import Hardware
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Evidence, Optimization, Proof

if TYPE_CHECKING:
    from torch import Tensor


class DevicePostprocess:
    """The postprocessing of diffusers' image processor, with PIL images converted on the device."""

    def __init__(self, processor: Any) -> None:
        self.processor, self.otherwise = processor, processor.postprocess

    def __call__(self, image: Tensor, output_type: str = "pil", **options: Any) -> Any:
        """Return the images (batch, 3, height, width) in the requested type."""
        if output_type != "pil":
            return self.otherwise(image, output_type=output_type, **options)
        import torch

        unit = self.processor._denormalize_conditionally(image, options.get("do_denormalize"))
        values = unit.float().mul(255).round().to(torch.uint8)
        return self.processor.numpy_to_pil(values.permute(0, 2, 3, 1).contiguous().cpu().numpy())


class DevicePreprocess:
    """The preprocessing of diffusers' image processor, for RGB images that are only resized.

    It returns the same values, on the pipeline's device. The copy does not wait for kernels that
    are still running, as a copy from pageable memory would.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline, self.processor = pipeline, pipeline.image_processor
        self.otherwise = self.processor.preprocess

    def __call__(
        self, image: Any, height: int | None = None, width: int | None = None, **options: Any
    ) -> Tensor:
        """Return the images as (batch, 3, height, width), normalized to [−1, 1]."""
        import numpy as np
        import torch

        images = image if isinstance(image, list) else [image]
        if options or not all(getattr(image, "mode", None) == "RGB" for image in images):
            out: Tensor = self.otherwise(image, height, width, **options)
            return out
        height, width = self.processor.get_default_height_width(images[0], height, width)
        resized = [self.processor.resize(image, height, width) for image in images]
        values = torch.from_numpy(np.stack([np.array(image) for image in resized]))
        device = self.pipeline._execution_device
        if device.type == "cuda":
            values = values.pin_memory()
        pixels = values.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
        # Divide by a tensor: on a GPU, PyTorch multiplies by the reciprocal of a Python number.
        unit = pixels / torch.full((), 255.0, device=device)
        normalized: Tensor = self.processor.normalize(unit)
        return normalized


def to_pil(images: Any) -> list[Any]:
    """Return PIL images of an array of bytes (batch, height, width, 3)."""
    from PIL import Image

    return [Image.fromarray(image) for image in images]


def apply(build: Build) -> None:
    """Replace the conversions of the pipeline's image processor."""
    processor = build.pipeline.image_processor
    processor.postprocess = DevicePostprocess(processor)
    processor.numpy_to_pil = to_pil
    if build.plan.situation.model.takes_image:
        processor.preprocess = DevicePreprocess(build.pipeline)


def proof(evidence: Evidence) -> Proof:
    """Return a proof: active if the image processor has these conversions."""
    processor = evidence.pipeline.image_processor
    is_ours = isinstance(processor.postprocess, DevicePostprocess) and (
        isinstance(processor.preprocess, DevicePreprocess)
        or not evidence.plan.situation.model.takes_image
    )
    where = "device" if is_ours else "host"
    return Proof(is_active=is_ours, detail=f"bytes are computed on the {where}")


def why_unsupported(hardware: Hardware) -> str | None:
    """Return why images cannot be converted on a device of this hardware, or None."""
    return None if hardware.is_gpu else "requires a GPU: on a CPU, images are on the host already"


OPTIMIZATION = Optimization(
    name="device_images",
    axis=Axis.IMAGES,
    summary="images copied to and from the device as bytes",
    apply=apply,
    proof=proof,
    why_unsupported=why_unsupported,
    on_by_default=lambda hardware: True,
)
