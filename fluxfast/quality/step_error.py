"""Step error: how far each network of a pipeline is from the reference for the same inputs.

*Lossless* is defined here: against a float32 reference of the same weights, an error of at most
1.25 times that of the eager pipeline in bfloat16, without bias.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fluxfast.quality.metrics import Quality
from fluxfast.quality.trajectory import Outputs

LOSSLESS_RATIO = 1.25  # of the error to that of the eager pipeline, both against float32
LOSSY_RATIO = 1.1  # of the error to that of the lossy optimizations alone, both against eager
LARGEST_BIAS = 0.25  # of the error's mean to its root mean square


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of one output from its reference, of the worst image of the batch.

    Attributes:
        relative: ‖output − reference‖ / ‖reference‖; NaN where one of them is not finite and the
            other is, or is another infinity.
        cosine: cosine similarity.
        bias: |mean error| / root mean square error; 0 for equal outputs.
    """

    relative: float
    cosine: float
    bias: float

    @classmethod
    def between(cls, output: Tensor, reference: Tensor) -> Self:
        """Return the difference of two tensors [N, …] of one shape."""
        a, b = output.double().flatten(1), reference.double().flatten(1)
        alike = (a == b) | (a.isnan() & b.isnan())
        error = torch.where(alike, 0.0, a - b)
        b = torch.where(b.isfinite() | ~alike, b, 0.0)
        a = torch.where(alike, b, a)
        norm = error.norm(dim=1)
        bias = error.mean(dim=1).abs() / (norm / math.sqrt(error.shape[1]))
        cosine = torch.cosine_similarity(a, b, dim=1)
        return cls(
            relative=float((norm / b.norm(dim=1)).max()),
            cosine=float(cosine.min()),
            bias=float(torch.where(norm == 0, 0.0, bias).max()),
        )


Differences = Mapping[str, Difference]  # by the name of an output, as `named_outputs` returns it


def named_outputs(outputs: Outputs) -> dict[str, Tensor]:
    """Return the tensors of all networks: `step I`, `T5`, `CLIP` and `decoder`."""
    tokens, pooled = outputs.prompt
    steps = {f"step {index}": output for index, output in outputs.steps.items()}
    return steps | {"T5": tokens, "CLIP": pooled, "decoder": outputs.decoded}


def differences(outputs: Outputs, reference: Outputs) -> Differences:
    """Return the difference of each output; the reference may have further steps."""
    right = named_outputs(reference)
    return {
        name: Difference.between(output, right[name])
        for name, output in named_outputs(outputs).items()
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
            "step_cosine": tuple(d.cosine for d in steps),
            "step_bias": tuple(d.bias for d in steps),
            "prompt_error": (found["T5"].relative, found["CLIP"].relative),
            "decoder_error": (found["decoder"].relative,),
        }
    )


def ratios(found: Differences, yardstick: Differences) -> dict[str, float]:
    """Return the error of each output relative to that of the yardstick; 1 where both are 0."""
    return {
        name: _ratio(difference.relative, yardstick[name].relative)
        for name, difference in found.items()
    }


def _ratio(error: float, of: float) -> float:
    if error == of:
        return 1.0
    return error / of if of else math.inf


def check_lossless(
    outputs: Outputs, eager: Outputs, precise: Outputs, *, steps_are_lossy: bool = False
) -> list[str]:
    """Return where the outputs are not those of a lossless pipeline.

    Args:
        outputs: the outputs of a pipeline.
        eager: those of the eager pipeline in the same precision.
        precise: those of the eager pipeline in float32, of the same weights.
        steps_are_lossy: leave the transformer's outputs out, and judge text encoders and decoder.
    """
    found, rounding = differences(outputs, precise), differences(eager, precise)
    if steps_are_lossy:
        found = {name: difference for name, difference in found.items() if not is_step(name)}
    problems = []
    for name, ratio in ratios(found, rounding).items():
        if not ratio <= LOSSLESS_RATIO:
            problems.append(
                f"{name}: error {found[name].relative:.2g} against float32, {ratio:.2f} times that "
                f"of the eager pipeline, at most {LOSSLESS_RATIO:g}"
            )
        if not found[name].bias <= max(LARGEST_BIAS, rounding[name].bias):
            problems.append(
                f"{name}: the mean error is {found[name].bias:.2f} of its root mean square, at "
                f"most {LARGEST_BIAS:g}"
            )
    return problems


def check_lossy(found: Differences, of_reference: Differences) -> list[str]:
    """Return the steps whose error is more than that of the reference implementation allows.

    Args:
        found: the differences from the eager pipeline.
        of_reference: likewise, of a pipeline with the lossy optimizations alone.
    """
    steps = {name: difference for name, difference in found.items() if is_step(name)}
    return [
        f"{name}: error {found[name].relative:.3g}, {ratio:.2f} times that of the reference "
        f"implementation, at most {LOSSY_RATIO:g}"
        for name, ratio in ratios(steps, of_reference).items()
        if not ratio <= LOSSY_RATIO
    ]


def joined(qualities: Sequence[Quality]) -> Quality:
    """Return the quality of several batches as one."""
    names = dict.fromkeys(name for quality in qualities for name in quality.values)
    return Quality(
        values={name: tuple(v for q in qualities for v in q.values.get(name, ())) for name in names}
    )
