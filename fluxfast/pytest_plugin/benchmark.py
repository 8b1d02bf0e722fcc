"""pytest-benchmark as the timer of a case's first rounds, and its settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fluxfast.bench.results.result import CaseResult

if TYPE_CHECKING:
    from fluxfast.bench.measurement.sampler import Sampler

DEFAULT_STORAGE = "file://./.benchmarks"


@dataclass(frozen=True, kw_only=True)
class BenchmarkRounds:
    """Runs the rounds of a sampler through the `benchmark` fixture.

    Attributes:
        benchmark: the fixture.
    """

    benchmark: Any

    def run(self, sampler: Sampler, count: int) -> None:
        """Sample `count` images."""
        self.benchmark.pedantic(
            sampler.generate, setup=sampler.prepare, teardown=sampler.finish, rounds=count
        )
        if self.benchmark.disabled:  # it generated one image and ran no teardown
            sampler.finish()

    def add(self, e2e_s: float) -> None:
        """Add one more image to pytest-benchmark's statistics."""
        if not self.benchmark.disabled:
            self.benchmark.stats.stats.update(e2e_s)

    def annotate(self, result: CaseResult) -> None:
        """Store the result in the benchmark's JSON."""
        self.benchmark.group = f"{result.case.model} {result.case.weights}"
        self.benchmark.extra_info.update(result.to_json() | {"compile_s": result.compile_s})


def configure(config: pytest.Config, folder: Path) -> None:
    """Keep pytest-benchmark's files in a folder of ours, unless the user named one."""
    if config.getoption("benchmark_storage", None) == DEFAULT_STORAGE:
        config.option.benchmark_storage = f"file://{folder}"


def why_unusable(config: pytest.Config) -> str | None:
    """Return which option of pytest-benchmark would skip cases and pass, or None."""
    for name in ("--benchmark-only", "--benchmark-skip"):
        if config.getoption(name, False):
            return f"{name} would skip cases or their verdicts, and pass: leave it out"
    return None
