"""The report of `fluxfast generate` and `fluxfast bench` about the images that they wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fluxfast.console import Console
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.cache_config import steps_from_cache
from fluxfast.pipeline.build import BuiltPipeline
from fluxfast.profiling.evidence import cached_steps
from fluxfast.quality.blank import check_not_blank

if TYPE_CHECKING:
    from PIL.Image import Image


def finish(images: Sequence[Image], built: BuiltPipeline, console: Console) -> None:
    """Print how many steps came from a cache, and refuse blank images.

    Raises:
        FluxFastError: every pixel of an image has the same color.
    """
    if built.plan.on(Axis.CACHE):
        console.print(steps_from_cache(cached_steps(built), built.request.num_inference_steps))
    check_not_blank(images)
