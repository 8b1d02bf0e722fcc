"""Measure one case: warm-up, canaries, sampling, proofs and counters.

Importing this package does not import torch; using one of its names does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fluxfast.bench.measurement.measure import Measurement, measure_case

__all__ = ["Measurement", "measure_case"]


def __getattr__(name: str) -> Any:
    """Import torch only when something is measured."""
    if name in __all__:
        return getattr(import_module(f"{__name__}.measure"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
