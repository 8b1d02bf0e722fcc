"""The profiles of synthetic weights, and the numbers that describe them.

`normal` has N(0, 0.02²) in every matrix, and no name on the command line any more: the attention of
its T5 is saturated, so that rounding alone changes its output. Results from before 2026-12-01 have
it, and `benchmarks.weights` compares with it.

`trained` and `outliers` have the statistics of trained models, as far as they are published:

- The residual stream of FLUX.1-dev has a mean magnitude of 0.24 (image) and 0.76 (text) after the
  embedders, with single text channels at 37, grows with every block, and reaches 91648 in single
  channels; the output of T5 has a mean magnitude of 0.09 with values from -6.7 to 2.4
  (black-forest-labs/flux issue 472; diffusers pull request 9097 clips two places in float16).
- A few fixed channels are massive in all tokens and depend on the timestep (arXiv:2510.11538 and
  arXiv:2605.13974, both on Flux).
- Weights are Gaussian with long tails; activations have mild outliers, and salient ones in
  specific channels (arXiv:2508.03485, on Flux; arXiv:2411.05007).

T5 and CLIP have the structure of their own initializations in transformers, with exceptions that
`encoders` names. Everything else is a choice: no published statistics of the modulation, biases, QK
norms, MLPs or rank of Flux were found, nor the growth of its stream per block. The numbers are of
the order that these activations imply, and such that rounding to bfloat16 stays below one percent
in a step (`python -m benchmarks.weights`). They do not make the images of a trained model.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Profile(StrEnum):
    """A distribution of synthetic weights; the number changes when its values change."""

    NORMAL = "normal-1"
    TRAINED = "trained-1"
    OUTLIERS = "outliers-1"


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """The numbers of a profile that resembles trained weights.

    Attributes:
        row_spread: σ of the logarithm of the norms of a matrix's rows: its long tails.
        bias: standard deviation of biases, of inputs to a matrix that have a mean square of 1.
        norm_spread: σ of the logarithm of the weights of norms.
        qk_norm: root mean square of the weights of QK norms; attention logits have its square.
        modulation: standard deviation of shift and scale over the channels.
        gate: standard deviation of the gates over the channels.
        conditioned: share of the modulation's mean square that follows timestep, guidance and
            prompt; the rest is constant.
        branch: output of a branch before its gate, relative to the residual stream.
        massive: size of the massive channels of the residual stream relative to the others; they
            are one in 1024.
        massive_scale: modulation 1 + scale of the massive channels.
        hot: factor of the hot rows of matrices whose output is an activation.
    """

    row_spread: float
    bias: float
    norm_spread: float
    qk_norm: float
    modulation: float
    gate: float
    conditioned: float
    branch: float
    massive: float
    massive_scale: float
    hot: float


STATISTICS = {
    Profile.TRAINED: Statistics(
        row_spread=0.2,
        bias=0.2,
        norm_spread=0.2,
        qk_norm=1.2,
        modulation=0.5,
        gate=1.0,
        conditioned=0.1,
        branch=0.35,
        massive=20.0,
        massive_scale=0.2,
        hot=2.0,
    ),
    Profile.OUTLIERS: Statistics(
        row_spread=0.6,
        bias=0.5,
        norm_spread=0.4,
        qk_norm=1.4,
        modulation=0.7,
        gate=1.0,
        conditioned=0.1,
        branch=0.35,
        massive=100.0,
        massive_scale=1.0,
        hot=8.0,
    ),
}
