"""Describe the two sides of a comparison in its results folder: `DIR/sides/`. No torch.

`pytest perf_tests --against REF` and `--against-env PYTHON` compare side A, the reference, with
side B, this checkout and its interpreter. The results of the processes are in `DIR/A1`, `DIR/B1`
and so on. Next to them are

- `sides/A.json` and `sides/B.json`: revision, interpreter, packages and limits, each a
  `ComparedSide`
- `sides/A.doctor.json` and `sides/B.doctor.json`: what `fluxfast doctor --json` prints there

`read_sides(DIR)` returns both, or None for a run without a comparison. `ComparedSides.change` is
one line for titles and tables, as `diffusers 0.42.0 → 0.42.1`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from fluxfast.bench.results.checks import (
    check_mapping_of_texts,
    check_positive,
    check_texts,
    why_unreadable,
)
from fluxfast.bench.results.machine import version_changes
from fluxfast.bench.results.origin import COMMIT_CHARACTERS
from fluxfast.bench.results.store import read_json
from fluxfast.errors import BaselineError
from fluxfast.files import write_atomically

FOLDER = "sides"
LIMITS = ("rounds", "seconds")  # options of the command that limit the images of a case
# Distributions that no process imports, and this one, whose revision is named.
UNTIMED = {"fluxfast", "pip", "setuptools", "wheel"}


@dataclass(frozen=True, kw_only=True)
class ComparedSide:
    """One side of a comparison.

    Attributes:
        name: `A`, the reference, or `B`, this checkout and interpreter.
        revision: the revision as the user named it; None for this checkout.
        commit: the full hash; None where it is unknown.
        dirty: whether sources differ from the commit; None where that is unknown.
        interpreter: the path of the Python interpreter.
        versions: of Python, of the driver's CUDA or HIP, and of each package of the stack.
        packages: the version of every installed distribution by normalized name.
        limits: `rounds` and `seconds` of a case, where the command stated them.
    """

    name: str
    revision: str | None
    commit: str | None
    dirty: bool | None
    interpreter: str
    versions: Mapping[str, str]
    packages: Mapping[str, str]
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def code(self) -> str:
        """The revision as people name it: `v1.2 (0123456789ab)`, or the commit alone."""
        commit = (self.commit or "unknown commit")[:COMMIT_CHARACTERS]
        commit += " with changes" if self.dirty else ""
        return f"{self.revision} ({commit})" if self.revision else commit

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: Path) -> Self:
        """Return the side that JSON describes; raise BaselineError for a missing or wrong value."""
        try:
            data = {"limits": {}} | dict(data)  # sides of older versions have none
            found = cls(**{field.name: data[field.name] for field in fields(cls)})
            _check(found)
            return found
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BaselineError(
                "this file does not describe a side of a comparison",
                got=f"{where}: {why_unreadable(error)}",
                allowed="a file written by pytest perf_tests --against or --against-env",
                remedy="measure again, or delete the folder",
            ) from error


def _check(side: ComparedSide) -> None:
    """Raise unless the values are texts and mappings of texts."""
    check_texts(name=side.name, interpreter=side.interpreter)
    check_texts(**{k: v for k in ("revision", "commit") if (v := getattr(side, k)) is not None})
    if side.dirty not in (True, False, None):
        raise ValueError(f"dirty is {side.dirty!r}")
    for versions in (side.versions, side.packages):
        check_mapping_of_texts(versions)
    check_positive(**side.limits)
    if unknown := side.limits.keys() - set(LIMITS):
        raise ValueError(f"limits has {sorted(unknown)}")


@dataclass(frozen=True, kw_only=True)
class ComparedSides:
    """Both sides of a comparison.

    Attributes:
        a: the reference.
        b: this checkout and interpreter.
    """

    a: ComparedSide
    b: ComparedSide

    @property
    def across_environments(self) -> bool:
        """Return whether the sides run in different environments."""
        return self.a.interpreter != self.b.interpreter

    @property
    def across_revisions(self) -> bool:
        """Return whether the sides run different code."""
        return (self.a.revision, self.a.commit) != (self.b.revision, self.b.commit)

    @property
    def stack_change(self) -> str:
        """The packages of the stack that differ: `torch 2.11.0 → 2.12.0`; empty if none does."""
        return version_changes(self.a.versions, self.b.versions)

    @property
    def other_changes(self) -> int:
        """The number of further packages that differ, which no optimization names."""
        before, now = self.a.packages, self.b.packages
        named = self.a.versions.keys() | self.b.versions.keys()
        names = (before.keys() | now.keys()) - named - UNTIMED
        return sum(before.get(name) != now.get(name) for name in names)

    @property
    def environment_change(self) -> str:
        """The difference of the environments, on one line."""
        stack = self.stack_change or "no package of the stack differs"
        plural = "" if self.other_changes == 1 else "s"
        others = f", and {self.other_changes} other package{plural}" if self.other_changes else ""
        return stack + others

    @property
    def change(self) -> str:
        """The difference of the sides, on one line: the environment, the revision, or both."""
        parts = [self.environment_change] if self.across_environments else []
        if self.across_revisions or not parts:
            parts.append(f"{self.a.code} → {self.b.code}")
        return "; ".join(parts)


def doctor_path(results: Path, name: str) -> Path:
    """Return where a side's `fluxfast doctor --json` is kept."""
    return results / FOLDER / f"{name}.doctor.json"


def write_sides(results: Path, sides: ComparedSides) -> None:
    """Write both sides into a folder of results."""
    for side in (sides.a, sides.b):
        text = json.dumps(asdict(side), indent=1)
        write_atomically(results / FOLDER / f"{side.name}.json", f"{text}\n")


def read_sides(results: Path) -> ComparedSides | None:
    """Return the sides of a comparison; None for a folder without one.

    Raises:
        BaselineError: a file is corrupt or incomplete.
    """
    paths = [results / FOLDER / f"{name}.json" for name in "AB"]
    if not any(path.exists() for path in paths):
        return None
    a, b = (ComparedSide.from_json(read_json(path), path) for path in paths)
    return ComparedSides(a=a, b=b)
