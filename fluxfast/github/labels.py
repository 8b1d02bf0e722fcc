"""What people say of a pull request: its labels, and the line of its description that accepts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

GATING_LABEL = "perf"
ACCEPTING_LABEL = "perf-ok"
ISSUE_LABEL = "perf-regression"


def labels_of(pull: Mapping[str, Any]) -> list[str]:
    return [label["name"] for label in pull["labels"]]


def accepting_reason(body: str) -> str | None:
    found = re.search(rf"^\s*{ACCEPTING_LABEL}:\s*(\S.*?)\s*$", body, re.MULTILINE)
    return found[1] if found else None
