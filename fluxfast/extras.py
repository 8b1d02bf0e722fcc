"""Libraries that not everyone needs: they come with an extra of the package."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from fluxfast.errors import FluxFastError


def extra(module: str, *, name: str) -> ModuleType:
    """The module, imported. Raises FluxFastError where the extra `name` is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise FluxFastError(
            "a library is not installed",
            got=f"no module {error.name}",
            allowed=f"the extra `{name}` of fluxfast",
            remedy=f"pip install -e '.[{name}]'",
        ) from error
