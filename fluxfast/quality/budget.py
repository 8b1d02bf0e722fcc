"""Image-quality budgets: how far an optimization may move images from the eager pipeline's."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxfast.errors import FluxFastError
from fluxfast.files.strict_yaml import read_yaml
from fluxfast.models.spec import MODELS
from fluxfast.optimizations.registry import optimizations as registered
from fluxfast.quality.figures import QUALITY_METRICS
from fluxfast.quality.metrics import Quality

LOSSLESS = "lossless"  # the budget of optimizations without an own one, and of the eager pipeline
ANY_MODEL = "any"
GOLDEN = "golden"


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """The budgets of one hardware.

    Attributes:
        hardware: a GPU's architecture, or `cpu`.
        bounds: by optimization, then model, then metric.
        goldens: by optimization, the largest relative error of latents to their golden.
    """

    hardware: str
    bounds: Mapping[str, Mapping[str, Mapping[str, float]]]
    goldens: Mapping[str, float]

    def of(self, optimizations: Sequence[str], model: str) -> dict[str, float]:
        """Return a case's bounds: for each metric, the loosest of its optimizations.

        Raises:
            FluxFastError: a lossy optimization has no budget on this hardware. That of lossless
                ones would fail it whatever it computes.
        """
        if missing := [name for name in optimizations if self._lacks(name)]:
            raise FluxFastError(
                "a lossy optimization has no image-quality budget on this hardware",
                got=f"{', '.join(missing)} on {self.hardware}",
                allowed=", ".join(self.bounds),
                remedy="measure with `pytest correctness_tests --record`, then add its budget",
            )
        found = dict(self._of_one(LOSSLESS, model))
        for name in map(budget_key, optimizations):
            for metric, bound in self._of_one(name, model).items():
                loosest = min if QUALITY_METRICS[metric].at_least else max
                found[metric] = loosest(bound, found.get(metric, bound))
        return found

    def golden(self, optimizations: Sequence[str]) -> float:
        """Return a case's bound on its golden: the loosest of its optimizations."""
        return max(self.goldens.get(k, 0.0) for k in (LOSSLESS, *map(budget_key, optimizations)))

    def _lacks(self, name: str) -> bool:
        known = registered().get(name)
        return bool(known and known.is_lossy) and budget_key(name) not in self.bounds

    def _of_one(self, name: str, model: str) -> Mapping[str, float]:
        entry = self.bounds[name if name in self.bounds else LOSSLESS]
        return {**entry.get(ANY_MODEL, {}), **entry.get(model, {})}


def budget_key(name: str) -> str:
    """Return the key of an optimization's bounds: `Optimization.budget`, or else its name."""
    known = registered().get(name)
    return (known and known.budget) or name


def violations(quality: Quality, bounds: Mapping[str, float]) -> list[str]:
    """Return a line for each bound that is broken, with both numbers."""
    broken = []
    for name, bound in bounds.items():
        metric = QUALITY_METRICS[name]
        if quality.has(name) and not metric.is_within(quality.figure(name), bound):
            sign = "at least" if metric.at_least else "at most"
            broken.append(f"{name} {quality.figure(name):.4g} {metric.unit}, {sign} {bound:g}")
    return broken


def unmeasured(quality: Quality, stated: Iterable[str], metrics: Collection[str]) -> list[str]:
    """Return a line for each of these metrics that a case of one's own bounds in vain.

    Args:
        quality: what was measured.
        stated: the metrics that the case states bounds of.
        metrics: those that were to be measured.
    """
    return [
        f"{name} has a bound in the file of cases, and was not measured"
        for name in stated
        if name in metrics and not quality.has(name)
    ]


def read_budgets(path: Path, hardware: str) -> Budgets:
    """Read the budgets of a hardware: a GPU's architecture, or `cpu` for any CPU.

    Raises:
        FluxFastError: an unknown metric or model, or no budgets were measured on this hardware.
    """
    data = read_yaml(path, "file of budgets")
    if not isinstance(data, dict) or not all(isinstance(entry, dict) for entry in data.values()):
        raise _unreadable(path, hardware, "no mapping of optimizations for each hardware")
    if hardware not in data:
        raise FluxFastError(
            "no image-quality budgets have been measured on this hardware",
            got=hardware,
            allowed=", ".join(map(str, data)),
            remedy=f"measure with `pytest correctness_tests --record`, then add them to {path}",
        )
    entries = {name: _entry(name, entry, path) for name, entry in data[hardware].items()}
    if LOSSLESS not in entries:
        raise _unreadable(path, LOSSLESS, "missing")
    return Budgets(
        hardware=hardware,
        bounds={name: models for name, (models, _) in entries.items()},
        goldens={name: golden for name, (_, golden) in entries.items() if golden is not None},
    )


def _entry(name: str, entry: Any, path: Path) -> tuple[dict[str, dict[str, float]], float | None]:
    """Return the bounds by model, and the bound on goldens or None."""
    if not isinstance(entry, dict):
        raise _unreadable(path, name, "no mapping")
    models = {model: values for model, values in entry.items() if model not in ("from", GOLDEN)}
    if no_mapping := [model for model, values in models.items() if not isinstance(values, dict)]:
        raise _unreadable(path, name, f"{no_mapping[0]} without figures")
    unknown = {metric for values in models.values() for metric in values} - set(QUALITY_METRICS)
    unknown |= set(models) - {ANY_MODEL, *MODELS}
    if unknown or "from" not in entry:
        raise _unreadable(path, name, ", ".join(sorted(map(str, unknown))) or "no `from`")
    numbers = [*(v for values in models.values() for v in values.values()), entry.get(GOLDEN, 0)]
    if wrong := [number for number in numbers if not _is_bound(number)]:
        raise _unreadable(path, name, f"{wrong[0]!r}, which is no finite number from 0 on"[:200])
    bounds = {model: {m: float(v) for m, v in values.items()} for model, values in models.items()}
    return bounds, float(entry[GOLDEN]) if GOLDEN in entry else None


def _is_bound(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= sys.float_info.max


def _unreadable(path: Path, name: object, got: str) -> FluxFastError:
    return FluxFastError(
        f"the budget of {name} cannot be read",
        got=f"{path}: {got}",
        allowed=f"{', '.join(QUALITY_METRICS)} by model ({ANY_MODEL}, {', '.join(MODELS)}), "
        f"{GOLDEN}, and `from`: where the numbers come from",
        remedy="correct the file",
    )
