"""What the tests leave for the tables that are printed at the end."""

from __future__ import annotations

from typing import Any

import pytest

MEASURED = pytest.StashKey[dict[str, dict[str, Any]]]()
NOT_MEASURED = pytest.StashKey[dict[str, str]]()
