"""A Flux transformer with the statistics of a trained one, see `profiles`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fluxfast.models.synthetic.layers import Layers
from fluxfast.models.synthetic.values import rescale, store

# Root mean squares of the residual streams after the embedders, and of T5's output (`profiles`).
IMAGE_STREAM, TEXT_STREAM, TEXT_EMBEDDING = 0.3, 1.0, 0.17
LEAST_TEXT_GROWTH = 1.1  # of the text stream over all double blocks
# Root mean squares after the activations SiLU and GELU of inputs from N(0, 1), and after attention.
# The last is set larger than it is (0.6), so that attention writes less than GELU: it averages over
# tokens, and what it writes is common to most of them.
SILU, GELU, ATTENTION = 0.6, 0.65, 0.9
MASSIVE_SHARE = 1 / 1024  # of the channels of the residual stream
# An embedding of a timestep t that is a smooth function of t, as trained models learn it. Weights
# of equal size at all frequencies would turn the rounding of t to bfloat16 (±2 of 1000) into noise.
SMOOTH_OVER = {"timestep_embedder": 200.0, "guidance_embedder": 1000.0}
LARGEST_PERIOD = 10_000.0  # of the sinusoidal embedding
# Features of the residual stream are spread over several channels, with random signs. A layer that
# reads a feature averages the rounding errors of its channels, so that the rank of the stream
# is low and errors stay small, as in trained models. OWN is the share of a weight's mean square
# that belongs to one channel alone.
CHANNELS_OF_A_FEATURE, OWN = 16, 0.02

SINGLE = ("shift", "scale", "gate")  # in the order of the outputs of a modulation
DOUBLE = SINGLE * 2


def fill_transformer(transformer: Any, layers: Layers) -> None:
    """Fill every parameter of a FluxTransformer2DModel.

    Args:
        transformer: the transformer; its width is a multiple of 16.
        layers: fills layers in the profile's statistics.
    """
    filler = _Filler(transformer, layers)
    filler.embedders()
    filler.single_blocks(filler.double_blocks())
    filler.output()


class _Filler:
    """Fills a transformer; a `stream` is the root mean square of a residual stream."""

    def __init__(self, transformer: Any, layers: Layers) -> None:
        self.transformer, self.layers, self.values = transformer, layers, layers.values
        self.statistics, self.width = layers.statistics, int(transformer.inner_dim)

    @cached_property
    def massive(self) -> Tensor:
        """The indices of the massive channels, which are the same in every block."""
        count = max(1, round(self.width * MASSIVE_SHARE))
        return self.values.indices("massive channels", self.width, count)

    @cached_property
    def massive_size(self) -> float:
        """Their size relative to the others: at each width, the same share of the mean square."""
        share = len(self.massive) / self.width
        return float(self.statistics.massive * (MASSIVE_SHARE / share) ** 0.5)

    @cached_property
    def signs(self) -> Tensor:
        """The sign of each channel in its feature [width]."""
        return self.values.normal("signs", (self.width,)).sign()

    def embedders(self) -> None:
        for name, module in self.transformer.time_text_embed.named_children():
            if hasattr(module, "linear_1"):
                self._embedder(name, module)
        self._write("x_embedder", self.transformer.x_embedder, IMAGE_STREAM)
        context = self.transformer.context_embedder
        self._write("context_embedder", context, TEXT_STREAM, TEXT_EMBEDDING)

    def double_blocks(self) -> float:
        """Fill the double blocks; both streams grow to the same size, which is returned."""
        blocks = self.transformer.transformer_blocks
        additions = max(1, 2 * len(blocks))
        grown = IMAGE_STREAM * self._growth(self.statistics.branch) ** additions
        end = max(grown, TEXT_STREAM * LEAST_TEXT_GROWTH)
        for start, is_text in ((IMAGE_STREAM, False), (TEXT_STREAM, True)):
            growth = (end / start) ** (1 / additions)
            for index, block in enumerate(blocks):
                path, stream = f"transformer_blocks.{index}", start * growth ** (2 * index)
                self._half_block(path, block, is_text, stream, growth)
        return end

    def single_blocks(self, stream: float) -> None:
        """Fill the single blocks, which begin with a residual stream of this size."""
        for index, block in enumerate(self.transformer.single_transformer_blocks):
            path = f"single_transformer_blocks.{index}"
            self._modulation(f"{path}.norm.linear", block.norm.linear, SINGLE)
            self._projections(f"{path}.attn", block.attn, ("to_q", "to_k", "to_v"))
            self._activated(f"{path}.proj_mlp", block.proj_mlp)
            output = stream * self.statistics.branch / self.statistics.gate
            self._write(f"{path}.proj_out", block.proj_out, output, self._joined(block.proj_out))
            stream *= self._growth(self.statistics.branch)

    def output(self) -> None:
        norm, layer = self.transformer.norm_out.linear, self.transformer.proj_out
        self._modulation("norm_out.linear", norm, ("scale", "shift"))
        self.layers.linear("proj_out", layer, normal=self._reading)

    @staticmethod
    def _growth(branch: float) -> float:
        """Return the growth of a stream to which an independent branch is added."""
        return float((1 + branch**2) ** 0.5)

    def _joined(self, layer: nn.Linear) -> Tensor:
        """Return the size of each input of a layer that reads attention and activation.

        Each half of the output comes from one of them, whatever their numbers of columns are.
        """
        share = self.width / layer.in_features
        read = torch.full((layer.in_features,), GELU, device=layer.weight.device)
        read[self.width :] *= (2 * (1 - share)) ** 0.5
        read[: self.width] = ATTENTION * (2 * share) ** 0.5
        return read

    def _half_block(
        self, path: str, block: Any, is_text: bool, stream: float, growth: float
    ) -> None:
        """Fill what a double block does to the image or to the text."""
        output = stream * (growth**2 - 1) ** 0.5 / self.statistics.gate
        suffix = "_context" if is_text else ""
        norm, feed = getattr(block, f"norm1{suffix}"), getattr(block, f"ff{suffix}")
        self._modulation(f"{path}.norm1{suffix}.linear", norm.linear, DOUBLE)
        names = ("add_q_proj", "add_k_proj", "add_v_proj") if is_text else ("to_q", "to_k", "to_v")
        self._projections(f"{path}.attn", block.attn, names, "added_" if is_text else "")
        name = "to_add_out" if is_text else "to_out.0"
        self._write(f"{path}.attn.{name}", block.attn.get_submodule(name), output, ATTENTION)
        self._activated(f"{path}.ff{suffix}.net.0.proj", feed.net[0].proj)
        self._write(f"{path}.ff{suffix}.net.2", feed.net[2], output * growth, GELU)

    def _embedder(self, name: str, embedder: Any) -> None:
        """Fill an embedder of timestep, guidance or pooled text; all are added."""
        first, gain = embedder.linear_1, torch.ones((), device=embedder.linear_1.weight.device)
        if name in SMOOTH_OVER:
            half = first.in_features // 2
            steps = torch.arange(half, device=first.weight.device) / half
            damping = 1 / (1 + (SMOOTH_OVER[name] * LARGEST_PERIOD**-steps).square())
            gain = 2 * torch.cat([damping, damping])
        path = f"time_text_embed.{name}"
        self.layers.linear(f"{path}.linear_1", first, gain=gain, bias=self.statistics.bias)
        self.layers.linear(f"{path}.linear_2", embedder.linear_2, gain=3**-0.5 / SILU)

    def _modulation(self, name: str, layer: nn.Linear, kinds: Sequence[str]) -> None:
        """Fill a layer whose output holds the `kinds` of values one after another, per channel."""
        statistics, conditioned = self.statistics, self.statistics.conditioned
        for part, kind in enumerate(kinds):
            rows = slice(part * self.width, (part + 1) * self.width)
            weight, bias = layer.weight[rows], layer.bias[rows]
            size = statistics.gate if kind == "gate" else statistics.modulation
            normal = self.values.normal if kind == "shift" else self._of_features
            std = size * conditioned**0.5 / SILU * layer.in_features**-0.5
            self.layers.matrix(f"{name}.weight {part}", weight, std, normal=normal)
            constant = size * (1 - conditioned) ** 0.5
            store(bias, normal(f"{name}.bias {part}", bias.shape) * constant)
            if kind == "scale":
                rescale(weight, self.massive, statistics.massive_scale)
                damped = bias.new_tensor(statistics.massive_scale - 1).bfloat16()
                bias[self.massive] = damped.to(bias.dtype)

    def _projections(
        self, path: str, attention: Any, names: Sequence[str], added: str = ""
    ) -> None:
        """Fill the projections to queries, keys and values, and the norms of the first two."""
        for name in names:
            self.layers.linear(f"{path}.{name}", getattr(attention, name), normal=self._reading)
        for kind in "qk":
            norm = getattr(attention, f"norm_{added}{kind}")
            name = f"{path}.norm_{added}{kind}.weight"
            self.layers.norm(name, norm.weight, self.statistics.qk_norm)

    def _activated(self, name: str, layer: nn.Linear) -> None:
        """Fill a layer whose output goes through GELU."""
        rows = self.layers.hot_rows(name, layer.out_features)
        self.layers.linear(name, layer, rows=rows, normal=self._reading)

    def _write(
        self, name: str, layer: nn.Linear, output: float, read: float | Tensor = 1.0
    ) -> None:
        """Fill a layer that writes to the residual stream.

        The massive channels are mostly constant: they come from the bias.

        Args:
            name: the name of the layer.
            layer: the layer.
            output: root mean square of the output.
            read: root mean square of the input; a tensor holds that of each column.
        """
        bias = self.statistics.bias * output
        rows = torch.ones(self.width, device=layer.weight.device)
        rows[self.massive] = self.massive_size
        self.layers.linear(
            name, layer, gain=output / read, bias=bias, rows=rows, normal=self._writing
        )
        rescale(layer.bias, self.massive, 1 / self.statistics.bias)

    def _of_features(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return values [width, …] that the channels of a feature mostly share."""
        features, *others = self.width // CHANNELS_OF_A_FEATURE, *shape[1:]
        shared = self.values.normal(name, (features, *others))
        shared = shared.repeat(CHANNELS_OF_A_FEATURE, *[1] * len(others))
        own = self.values.normal(f"{name} own", shape)
        values: Tensor = shared * (1 - OWN) ** 0.5 + own * OWN**0.5
        return values

    def _writing(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return weights [width, inputs] that write features."""
        return self._of_features(name, shape) * self.signs[:, None]

    def _reading(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return weights [outputs, width] that read features: their sum over a feature's channels.

        What is independent in each channel, such as rounding, has a sixteenth of the energy.
        """
        features = self.width // CHANNELS_OF_A_FEATURE
        shared = self.values.normal(name, (shape[0], features)).repeat(1, CHANNELS_OF_A_FEATURE)
        own = self.values.normal(f"{name} own", shape)
        factor = ((1 - OWN) / CHANNELS_OF_A_FEATURE) ** 0.5
        values: Tensor = shared * factor * self.signs + own * OWN**0.5
        return values
