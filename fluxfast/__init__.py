"""FluxFast: fast Flux.1 image generation, and the test suite that detects when it becomes slower.

Importing this package is cheap: a public name imports its module, PyTorch included, on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fluxfast.api.load import load, plan
    from fluxfast.api.optimize import optimize
    from fluxfast.api.optimized import OptimizedPipeline
    from fluxfast.api.report import Report
    from fluxfast.errors import FluxFastError
    from fluxfast.optimizations.base import Optimization, Plan
    from fluxfast.optimizations.registry import list_optimizations

__version__ = "0.2.0"

__all__ = [
    "FluxFastError",
    "Optimization",
    "OptimizedPipeline",
    "Plan",
    "Report",
    "__version__",
    "list_optimizations",
    "load",
    "optimize",
    "plan",
]

_MODULES = {
    "FluxFastError": "fluxfast.errors",
    "Optimization": "fluxfast.optimizations.base",
    "OptimizedPipeline": "fluxfast.api.optimized",
    "Plan": "fluxfast.optimizations.base",
    "Report": "fluxfast.api.report",
    "list_optimizations": "fluxfast.optimizations.registry",
    "load": "fluxfast.api.load",
    "optimize": "fluxfast.api.optimize",
    "plan": "fluxfast.api.load",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
