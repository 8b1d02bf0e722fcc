"""FluxFast: fast Flux.1 image generation, and the test suite that detects when it becomes slower.

Importing this package is cheap: a public name imports its module, PyTorch included, on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fluxfast.errors import FluxFastError
    from fluxfast.optimizations.base import Optimization, Plan
    from fluxfast.optimizations.registry import list_optimizations
    from fluxfast.pipeline.build import BuiltPipeline, build
    from fluxfast.pipeline.public import load, load_optimized, plan

__version__ = "0.2.0"

__all__ = [
    "BuiltPipeline",
    "FluxFastError",
    "Optimization",
    "Plan",
    "__version__",
    "build",
    "list_optimizations",
    "load",
    "load_optimized",
    "plan",
]

_MODULES = {
    "BuiltPipeline": "fluxfast.pipeline.build",
    "FluxFastError": "fluxfast.errors",
    "Optimization": "fluxfast.optimizations.base",
    "Plan": "fluxfast.optimizations.base",
    "build": "fluxfast.pipeline.build",
    "list_optimizations": "fluxfast.optimizations.registry",
    "load": "fluxfast.pipeline.public",
    "load_optimized": "fluxfast.pipeline.public",
    "plan": "fluxfast.pipeline.public",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
