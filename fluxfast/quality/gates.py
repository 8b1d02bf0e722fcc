"""The gates that pictures have to pass: each says what is wrong, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fluxfast.pipeline.build import BuiltPipeline
from fluxfast.quality.asks import Ask, Drawing, draw
from fluxfast.quality.budget import violations
from fluxfast.quality.golden import golden_error
from fluxfast.quality.metrics import QUALITY_METRICS, compare

AGAIN = 1e-5  # relative error of latents: the same kernels on the same numbers


def drawn_again(built: BuiltPipeline, asks: Sequence[Ask], drawn: Drawing) -> list[str]:
    """The first batch has to come out as it did: nothing of an image is left for the next."""
    size = built.request.batch_size
    again = compare(draw(built, asks[:size]), drawn.only(slice(size)), asks[:size])
    error = again.figure("latent_relative_error")
    if error <= AGAIN:
        return []
    return [f"drawn again it is another: relative error of the latents {error:.2g}, {AGAIN:g}"]


def alone_as_in_a_batch(
    built: BuiltPipeline, asks: Sequence[Ask], drawn: Drawing, bounds: Mapping[str, float]
) -> list[str]:
    """The second image of a batch has to be what its prompt and seed give by themselves."""
    alone = draw(built, asks[1:2])
    if len(alone) != 1:
        return [f"asked for one image it drew {len(alone)}"]
    apart = compare(alone, drawn.only(slice(1, 2)), asks[1:2])
    # Of one picture there is no mean: it may be the worst that there is.
    of_each = {name: bound for name, bound in bounds.items() if not QUALITY_METRICS[name].of}
    return [f"alone against in a batch: {broken}" for broken in violations(apart, of_each)]


def as_recorded(path: Path, drawn: Drawing, bound: float) -> list[str]:
    """Raises FluxFastError where there is no golden that can be read."""
    error = golden_error(path, drawn.latents)
    if error <= bound:
        return []
    return [f"relative error of the latents to the golden {error:.2g}, at most {bound:g}"]
