"""Read a YAML file in which nothing is dropped in silence. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fluxfast.errors import FluxFastError
from fluxfast.files.reading import read_text

LARGEST_BYTES = 1_000_000
MOST_VALUES = 1_000_000
# What PyYAML raises for a value that does not fit its tag, besides errors of its own.
MALFORMED = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but a key that is given twice is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return the next mapping; PyYAML itself would keep the last of two equal keys."""
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in dict.fromkeys(keys):
            if keys.count(key) > 1:
                problem = f"the key {key!r} is given twice"
                raise yaml.composer.ComposerError(problem=problem, problem_mark=node.start_mark)
        return node


def read_yaml(path: Path, what: str) -> Any:
    """Return the content of a YAML file.

    Args:
        path: the file.
        what: what the file is, for errors, as `file of cases`.

    Raises:
        FluxFastError: the file cannot be read, is no YAML, gives a key twice, or repeats values by
            aliases until there are too many.
    """
    try:
        loaded = yaml.load(read_text(path, LARGEST_BYTES), Loader=_Loader)
        _check_count(loaded)
    except (OSError, yaml.YAMLError, *MALFORMED) as error:
        raise FluxFastError(
            f"this {what} cannot be read",
            got=f"{path}: {' '.join(str(error).split()) or type(error).__name__}",
            allowed=f"YAML in UTF-8, at most {LARGEST_BYTES} bytes, with each key once",
            remedy="check the path, and correct the line that is named",
        ) from error
    return loaded


def _check_count(loaded: Any) -> None:
    """Raise ValueError if aliases make a small file a huge document, or one without an end."""
    stack, count = [loaded], 0
    while stack:
        value = stack.pop()
        count += 1
        if count > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values, with those of its aliases")
        if isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, list | tuple | set):
            stack.extend(value)
