"""Fixtures of the performance tests: paired references, and the tree of another revision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxfast.bench.ab import revision
from fluxfast.bench.measurement.paired import PairedReferences, paired_references
from fluxfast.files import required_checkout
from fluxfast.pytest_plugin.session import Suite


@pytest.fixture(scope="session")
def references() -> Iterator[PairedReferences]:
    """The eager pipelines and the fixed work that CPU images are timed with."""
    with paired_references() as references:
        yield references


@pytest.fixture(scope="session")
def other_tree(suite: Suite) -> Iterator[Path]:
    """The tree of the revision that --against names."""
    checkout = required_checkout("pytest perf_tests --against")
    ref, folder = suite.options.against or "", suite.folder / "against"
    with revision.worktree(ref, checkout, folder) as tree:
        yield tree
