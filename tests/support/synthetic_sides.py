"""Synthetic descriptions of the sides of a comparison."""

from typing import Any

from fluxfast.bench.results.sides import ComparedSide, ComparedSides


def two_environments(before: str, now: str, **changes: Any) -> ComparedSides:
    """Return the sides of a comparison of two versions of torch, with the same code."""
    a, b = (
        ComparedSide(
            name=name,
            revision=None,
            commit="0123456789ab",
            dirty=False,
            interpreter=f"/{name}/bin/python",
            versions={"torch": torch},
            packages={},
            **changes,
        )
        for name, torch in (("A", before), ("B", now))
    )
    return ComparedSides(a=a, b=b)
