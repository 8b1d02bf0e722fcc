"""Results of a long measurement, written after each part; a later run resumes it."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fluxfast.files import write_atomically


class Record:
    """The measured parts, by name, in one JSON file.

    A part that fails is recorded with its error, and runs again when a later run resumes the file;
    a measured part does not. No part begins after `budget_s` seconds.
    """

    def __init__(self, path: Path, budget_s: float) -> None:
        self.path, self.budget_s, self.started = path, budget_s, time.monotonic()
        self.parts: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.failed: list[str] = []
        self.left_out: list[str] = []

    def part(self, name: str, measure: Callable[[], Any]) -> None:
        """Run `measure`, which returns a JSON object, and record its result or its error."""
        if "error" not in self.parts.get(name, {"error": None}):
            return
        elapsed_s = time.monotonic() - self.started
        if elapsed_s > self.budget_s:
            self.left_out.append(name)
            return
        try:
            self.parts[name] = measure()
        except Exception as error:
            self.parts[name] = {"error": repr(error), "traceback": traceback.format_exc()}
            self.failed.append(name)
        took_s = time.monotonic() - self.started - elapsed_s
        self.parts[name] |= {"took_s": round(took_s, 2)}
        write_atomically(self.path, json.dumps(self.parts, indent=1))
        sys.stderr.write(f"{elapsed_s + took_s:6.1f} s  {name}: {_brief(self.parts[name])}\n")

    def close(self) -> int:
        """Print failed and missing parts; return 0 if every part was measured, else 1."""
        for name in self.failed:
            sys.stderr.write(f"failed: {name}: {self.parts[name]['error'][:300]}\n")
        if self.left_out:
            sys.stderr.write(f"out of time, run again for: {', '.join(self.left_out)}\n")
        sys.stderr.write(f"results in {self.path}\n")
        return 1 if self.failed or self.left_out else 0


def _brief(part: dict[str, Any]) -> str:
    plain = {k: v for k, v in part.items() if not isinstance(v, dict | list) and k != "traceback"}
    return ", ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in plain.items()
    )[:220]
