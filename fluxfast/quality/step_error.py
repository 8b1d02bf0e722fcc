"""Step error: how far each network of a pipeline is from the reference for the same inputs.

*Lossless* is defined here: against a float32 reference of the same weights, an error of at most
1.25 times that of the eager pipeline in bfloat16, without bias.

The error of a network is a mean: of the images of a batch, and for the transformer of the compared
steps. The error of a single step is no figure to hold to 10%, because rounding alone moves it: fp8
with the same spacing of its numbers at ten other phases, on mini weights on a CPU, moved the worst
of two images in one step by up to 45% in 99 of 100 pairs, the mean of four steps and two images by
12%, and that of eight images by 6%. A bias is one that all batches share: the error of a single
flat image is an offset.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Self

import torch
from torch import Tensor

from fluxfast.quality.metrics import Quality
from fluxfast.quality.trajectory import Outputs

LOSSLESS_RATIO = 1.25  # of the error to that of the eager pipeline, both against float32
LOSSY_RATIO = 1.1  # of the error to that of the lossy optimizations alone, both against eager
LOSSY_RATIO_OF_A_BATCH = 1.25
LARGEST_BIAS = 0.25  # of the error's mean to its root mean square
TRANSFORMER = "transformer"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of one output from its reference, of the worst image of the batch.

    Attributes:
        relative: ‖output − reference‖ / ‖reference‖; NaN where one of them is not finite and the
            other is, or is another infinity.
        mean: likewise, the mean of all images.
        cosine: cosine similarity.
        bias: mean error / root mean square error, of all images; 0 for equal outputs.
    """

    relative: float
    mean: float
    cosine: float
    bias: float

    @classmethod
    def between(cls, output: Tensor, reference: Tensor) -> Self:
        """Return the difference of two tensors [N, …] of one shape."""
        a, b = output.double().flatten(1), reference.double().flatten(1)
        if not (a.isfinite().all() and b.isfinite().all()):
            a, b = _comparable(a, b)
        error, norm = a - b, torch.linalg.vector_norm
        lengths, sizes = norm(error, dim=1), norm(b, dim=1)
        rms = float(lengths.square().sum() / error.numel()) ** 0.5
        relative = lengths / sizes
        # vecdot and vector_norm copy nothing; copies of an image in float64 cost more than sums.
        products = (norm(a, dim=1) * sizes).clamp_min(torch.finfo(a.dtype).tiny)
        cosine = torch.linalg.vecdot(a, b, dim=1) / products
        return cls(
            relative=float(relative.max()),
            mean=float(relative.mean()),
            cosine=float(cosine.min()),
            bias=float(error.mean()) / rms if rms else 0.0,
        )


def _comparable(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Replace values that are not finite: 0 in both where they are equal or both NaN, else NaN."""
    alike = (a == b) | (a.isnan() & b.isnan())
    finite = a.isfinite() & b.isfinite()
    a, b = (torch.where(finite, x, torch.where(alike, 0.0, torch.nan)) for x in (a, b))
    return a, b


Differences = Mapping[str, Difference]  # by the name of an output, as `named_outputs` returns it


def named_outputs(outputs: Outputs) -> dict[str, Tensor]:
    """Return the tensors of all networks: `step I`, `T5`, `CLIP` and `decoder`."""
    tokens, pooled = outputs.prompt
    steps = {f"step {index}": output for index, output in outputs.steps.items()}
    return steps | {"T5": tokens, "CLIP": pooled, "decoder": outputs.decoded}


def differences(outputs: Outputs, reference: Outputs) -> Differences:
    """Return the difference of each output that both have: one of them may have further steps."""
    found, right = named_outputs(outputs), named_outputs(reference)
    return {
        name: Difference.between(output, right[name])
        for name, output in found.items()
        if name in right
    }


def is_step(name: str) -> bool:
    """Return whether an output is one of the transformer's."""
    return name.startswith("step ")


def step_quality(found: Differences) -> Quality:
    """Return the figures of the differences: their worst values are shown and bounded."""
    steps = [difference for name, difference in found.items() if is_step(name)]
    return Quality(
        values={
            "step_error": tuple(d.relative for d in steps),
            "step_error_mean": tuple(d.mean for d in steps),
            "step_cosine": tuple(d.cosine for d in steps),
            "step_bias": tuple(abs(d.bias) for d in steps),
            "prompt_error": (found["T5"].relative, found["CLIP"].relative),
            "decoder_error": (found["decoder"].relative,),
        }
    )


def transformer_error(found: Differences) -> float:
    """Return the mean error of the transformer's outputs."""
    return fmean(difference.mean for name, difference in found.items() if is_step(name))


def network_errors(found: Differences) -> dict[str, float]:
    """Return the mean error of each network by its name."""
    others = {name: difference.mean for name, difference in found.items() if not is_step(name)}
    return {TRANSFORMER: transformer_error(found), **others}


def ratio(error: float, yardstick: float) -> float:
    """Return an error relative to another; 1 where both are 0."""
    if error == yardstick:
        return 1.0
    return error / yardstick if yardstick else math.inf


def lossless_ratios(found: Differences, rounding: Differences) -> dict[str, float]:
    """Return each network's error relative to that of the eager pipeline.

    Args:
        found: the differences of a pipeline from float32.
        rounding: those of the eager pipeline.
    """
    of_eager = network_errors(rounding)
    return {name: ratio(error, of_eager[name]) for name, error in network_errors(found).items()}


def check_lossless(
    batches: Sequence[tuple[Differences, Differences]], *, steps_are_lossy: bool = False
) -> list[str]:
    """Return where the outputs are not those of a lossless pipeline.

    Args:
        batches: of each batch the differences from float32, and those of the eager pipeline.
        steps_are_lossy: leave the transformer's outputs out, and judge text encoders and decoder.
    """
    problems = []
    for found, rounding in batches:
        for name, times in lossless_ratios(found, rounding).items():
            if not times <= LOSSLESS_RATIO and not (steps_are_lossy and name == TRANSFORMER):
                problems.append(
                    f"{name}: error {network_errors(found)[name]:.2g} against float32, {times:.2f} "
                    f"times that of the eager pipeline, at most {LOSSLESS_RATIO:g}"
                )
    shared = [name for name in batches[0][0] if all(name in found for found, _ in batches)]
    for name in shared:
        if steps_are_lossy and is_step(name):
            continue
        sides = zip(*batches, strict=True)
        bias, of_eager = (abs(fmean(one[name].bias for one in side)) for side in sides)
        if not bias <= max(LARGEST_BIAS, of_eager):
            problems.append(
                f"{name}: the mean error is {bias:.2f} of its root mean square, at most "
                f"{LARGEST_BIAS:g}"
            )
    return problems


def check_lossy(batches: Sequence[tuple[Differences, Differences]]) -> list[str]:
    """Return whether the step error is more than the reference implementation allows.

    Args:
        batches: of each batch the differences from the eager pipeline, and those of a pipeline with
            the lossy optimizations alone.
    """
    errors = [(transformer_error(found), transformer_error(alone)) for found, alone in batches]
    overall = (fmean(error for error, _ in errors), fmean(alone for _, alone in errors))
    bounds = [(overall, LOSSY_RATIO), *((one, LOSSY_RATIO_OF_A_BATCH) for one in errors)]
    titles = [f"mean of {len(batches)} batches", *(f"batch {i}" for i in range(len(batches)))]
    return [
        f"{TRANSFORMER}, {title}: error {error:.3g}, {ratio(error, alone):.2f} times that of the "
        f"reference implementation, at most {bound:g}"
        for title, ((error, alone), bound) in zip(titles, bounds, strict=True)
        if not ratio(error, alone) <= bound
    ]


def joined(qualities: Sequence[Quality]) -> Quality:
    """Return the quality of several batches as one."""
    names = dict.fromkeys(name for quality in qualities for name in quality.values)
    return Quality(
        values={name: tuple(v for q in qualities for v in q.values.get(name, ())) for name in names}
    )
