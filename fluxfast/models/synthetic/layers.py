"""Fill the layers of a network in a profile's statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fluxfast.models.synthetic.profiles import Statistics
from fluxfast.models.synthetic.values import Values, store

Normal = Callable[[str, Sequence[int]], Tensor]  # name and shape → values from N(0, 1)
HOT_SHARE = 1 / 256  # of the rows of a matrix whose output is an activation


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Fills layers by name.

    Attributes:
        values: the source of random values.
        statistics: the numbers of the profile.
    """

    values: Values
    statistics: Statistics

    def matrix(
        self,
        name: str,
        weight: Tensor,
        std: float | Tensor,
        rows: Tensor | None = None,
        normal: Normal | None = None,
    ) -> None:
        """Fill a weight [rows, …] from N(0, `std`²) with rows of different norms.

        Args:
            name: the name of the tensor.
            weight: the tensor.
            std: standard deviation; a tensor holds that of each column.
            rows: a factor for each row.
            normal: the values before these factors; by default independent ones.
        """
        factors = self.values.lognormal(f"{name} rows", len(weight), self.statistics.row_spread)
        factors = factors if rows is None else factors * rows
        matrix = (normal or self.values.normal)(name, weight.shape) * std
        store(weight, matrix.mul_(factors.view(-1, *[1] * (weight.ndim - 1))))

    def linear(
        self,
        name: str,
        layer: nn.Linear | nn.Conv2d,
        *,
        gain: float | Tensor = 1.0,
        bias: float | None = None,
        rows: Tensor | None = None,
        normal: Normal | None = None,
    ) -> None:
        """Fill a linear or convolution layer.

        Args:
            name: the name of the layer.
            layer: the layer.
            gain: root mean square of the output for inputs with a mean square of 1; a tensor
                holds the gain of each column.
            bias: standard deviation of the bias; None for the profile's, relative to the gain.
            rows: a factor for each row of weight and bias.
            normal: the weights before these factors; by default independent ones.
        """
        fan_in = layer.weight[0].numel()
        self.matrix(f"{name}.weight", layer.weight, gain * fan_in**-0.5, rows, normal)
        if layer.bias is None:
            return
        if bias is None:
            assert isinstance(gain, float)
            bias = self.statistics.bias * gain
        values = self.values.normal(f"{name}.bias", layer.bias.shape) * bias
        store(layer.bias, values if rows is None else values * rows)

    def hot_rows(self, name: str, size: int) -> Tensor:
        """Return a factor for each of `size` rows: 1, and more for a few."""
        factors = self.values.normal(name, (size,)).fill_(1.0)
        factors[self.values.indices(name, size, max(1, round(size * HOT_SHARE)))] = (
            self.statistics.hot
        )
        return factors

    def norm(self, name: str, weight: Tensor, rms: float = 1.0) -> None:
        """Fill the weight of a norm with positive factors of this root mean square."""
        factors = self.values.lognormal(name, len(weight), self.statistics.norm_spread)
        store(weight, factors * rms)
