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
    """What stands behind `perf-ok:` on a line of its own; not in a comment of the template."""
    said = re.sub(r"<!--.*?(-->|\Z)", "", body, flags=re.DOTALL)
    found = re.search(rf"^[ \t]*{ACCEPTING_LABEL}:[ \t]*(\S.*)$", said, re.MULTILINE)
    return found[1].strip() if found else None
