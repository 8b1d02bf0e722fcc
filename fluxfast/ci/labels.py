"""The labels of pull requests and issues, and the line that accepts a slowdown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fluxfast.bench.verdicts.outcome import ACCEPTING_LABEL

GATING_LABEL = "perf"
ISSUE_LABEL = "perf-regression"
UPGRADE_LABEL = "perf-upgrade"


def labels_of(pull: Mapping[str, Any]) -> list[str]:
    """Return the names of a pull request's labels."""
    return [label["name"] for label in pull["labels"]]


def accepting_reason(body: str) -> str | None:
    """Return the text after `perf-ok:` on a line of its own, outside comments of the template."""
    written = re.sub(r"<!--.*?(-->|\Z)", "", body, flags=re.DOTALL)
    found = re.search(rf"^[ \t]*{ACCEPTING_LABEL}:[ \t]*(\S.*)$", written, re.MULTILINE)
    return found[1].strip() if found else None
