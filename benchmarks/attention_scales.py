"""Measure the error of fp8 attention with different scales, on the tensors of mini-dev.

    python -m benchmarks.attention_scales                        # on a CPU, under a minute

Query, key and value are rounded to e4m3 and the probabilities as FlashAttention-3 does it (the
exponentials of a row, against its largest); sums are float32. A bare cast and one scale per head
(FlashAttention-3's `descale`) cost the kernel the same; subtracting the mean of the key over the
tokens (SageAttention, arXiv 2410.02367) costs a pass before it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import fmean
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxfast.bench.cases.planned import planned_case, situation_of
from fluxfast.console import out, quiet_libraries
from fluxfast.hardware import detect
from fluxfast.models.architecture import MINI
from fluxfast.models.weights import resolve
from fluxfast.pipeline.build import build
from fluxfast.quality.prompts import generate_images, prompts_for
from fluxfast.tables import plain_table, render

E4M3_MAX = torch.finfo(torch.float8_e4m3fn).max
STEPS, IMAGES = 4, 4


def rounded(values: Tensor, scaled_over: tuple[int, ...] = ()) -> Tensor:
    """Round to e4m3 and back, by a bare cast or with scales shared over these dimensions."""
    if not scaled_over:
        return values.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).float()
    scale = values.abs().amax(dim=scaled_over, keepdim=True) / E4M3_MAX
    return (values / scale).to(torch.float8_e4m3fn).float() * scale


def attend(query: Tensor, key: Tensor, value: Tensor, *, in_fp8: bool) -> Tensor:
    """Return attention of float32 tensors (batch, heads, tokens, dim)."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if not in_fp8:
        exact: Tensor = scores.softmax(-1) @ value
        return exact
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    attended: Tensor = rounded(weights) @ value / weights.sum(-1, keepdim=True)
    return attended


PER_HEAD, PER_TENSOR = (0, 2, 3), (0, 1, 2, 3)
SCHEMES: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]] = {
    "a bare cast": lambda q, k, v: (rounded(q), rounded(k), rounded(v)),
    "a scale for each head": lambda q, k, v: (
        rounded(q, PER_HEAD),
        rounded(k, PER_HEAD),
        rounded(v, PER_HEAD),
    ),
    "a scale for each tensor": lambda q, k, v: (
        rounded(q, PER_TENSOR),
        rounded(k, PER_TENSOR),
        rounded(v, PER_TENSOR),
    ),
    "a bare cast, key without its mean": lambda q, k, v: (
        rounded(q),
        rounded(k - k.mean(dim=2, keepdim=True)),
        rounded(v),
    ),
    "all but the value in fp8": lambda q, k, v: (rounded(q), rounded(k), v),
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    quiet_libraries()
    hardware = detect("cpu")
    checkpoint = resolve("mini-dev", "auto", hardware)
    situation = situation_of(
        checkpoint, hardware, batch_size=IMAGES, num_inference_steps=STEPS, height=256, width=256
    )
    planned = planned_case(("sdpa",), checkpoint, situation)
    errors: dict[str, list[float]] = {name: [] for name in SCHEMES}
    attention = F.scaled_dot_product_attention

    def watched(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        if key.shape[-1] == MINI.transformer["attention_head_dim"]:  # not CLIP's, not the VAE's
            exact = attend(query, key, value, in_fp8=False)
            for name, scheme in SCHEMES.items():
                error = attend(*scheme(query, key, value), in_fp8=True) - exact
                errors[name].append(float(error.norm() / exact.norm()))
        return attention(query, key, value, **options)

    with (
        build(checkpoint, planned.plan) as built,
        patch.object(F, "scaled_dot_product_attention", watched),
    ):
        generate_images(built, prompts_for(checkpoint, IMAGES, 256, 256))
    table = plain_table("", "mean error", "largest", numbers=("mean error", "largest"))
    for name, found in errors.items():
        table.add_row(name, f"{fmean(found):.2%}", f"{max(found):.2%}")
    out(render(table))
    out(f"{len(errors['a bare cast'])} attentions of {IMAGES} images in {STEPS} steps")


if __name__ == "__main__":
    main()
