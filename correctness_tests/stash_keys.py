"""Keys of the figures that the tests store for the tables at the end."""

from __future__ import annotations

from typing import Any

import pytest

MEASURED = pytest.StashKey[dict[str, dict[str, Any]]]()
NOT_MEASURED = pytest.StashKey[dict[str, str]]()
