"""The image-quality gates: each function returns the problems that it finds, none if it passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fluxfast.pipeline.build import BuiltPipeline
from fluxfast.quality.budget import violations
from fluxfast.quality.figures import QUALITY_METRICS
from fluxfast.quality.golden import golden_error
from fluxfast.quality.metrics import compare_images
from fluxfast.quality.prompts import GeneratedImages, Prompt, generate_images

REPEAT_TOLERANCE = 1e-5  # relative error of latents: the same kernels on the same numbers


def check_repeatability(
    again: GeneratedImages, generated: GeneratedImages, prompts: Sequence[Prompt]
) -> list[str]:
    """Compare the first images, generated again: a difference is state that leaked between calls.

    Args:
        again: the first images of `generated`, generated again.
        generated: the images of the prompts.
        prompts: the prompts.
    """
    count = len(again)
    quality = compare_images(again, generated.only(slice(count)), prompts[:count])
    error = quality.figure("latent_relative_error")
    if error <= REPEAT_TOLERANCE:
        return []
    return [
        "generated again, the images differ: "
        f"relative error of the latents {error:.2g}, at most {REPEAT_TOLERANCE:g}"
    ]


def check_batch_independence(
    built: BuiltPipeline,
    prompts: Sequence[Prompt],
    generated: GeneratedImages,
    bounds: Mapping[str, float],
) -> list[str]:
    """Generate the second prompt alone; it must be the second image of the batch."""
    alone = generate_images(built, prompts[1:2])
    if len(alone) != 1:
        return [f"one image was requested and {len(alone)} were generated"]
    quality = compare_images(alone, generated.only(slice(1, 2)), prompts[1:2])
    # Bounds of a mean do not apply: this one image may be the worst of those that were averaged.
    of_each = {name: bound for name, bound in bounds.items() if not QUALITY_METRICS[name].of}
    return [f"alone against in a batch: {broken}" for broken in violations(quality, of_each)]


def check_golden(path: Path, generated: GeneratedImages, bound: float) -> list[str]:
    """Compare the latents with the golden; `bound` is the largest relative error allowed.

    Raises:
        FluxFastError: there is no readable golden, or it is of another request.
    """
    error = golden_error(path, generated.latents)
    if error <= bound:
        return []
    return [f"relative error of the latents to the golden {error:.2g}, at most {bound:g}"]
