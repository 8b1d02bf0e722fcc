"""Import optional libraries, which an extra of the package installs."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from fluxfast.errors import FluxFastError


def extra(module: str, *, name: str) -> ModuleType:
    """Import and return an optional module.

    Args:
        module: the module's dotted name.
        name: the extra that installs it.

    Raises:
        FluxFastError: the extra is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise FluxFastError(
            "a library is not installed",
            got=f"no module {error.name}",
            allowed=f"the extra `{name}` of fluxfast",
            remedy=f"pip install -e '.[{name}]'",
        ) from error
