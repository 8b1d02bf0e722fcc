"""pytest-benchmark as the timer of a case's first rounds, and its settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fluxfast.bench.results.result import CaseResult
from fluxfast.errors import FluxFastError
from fluxfast.files import check_writable

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


# Options of pytest-benchmark whose users expect its own output.
SHOWING = ("benchmark_compare", "benchmark_save", "benchmark_autosave", "benchmark_histogram")


def configure(config: pytest.Config, folder: Path) -> None:
    """Keep pytest-benchmark's files in a folder of ours, unless the user named one.

    Its output, which `--benchmark-quiet` omits, appears with options that ask for it.
    """
    if config.getoption("benchmark_storage", None) == DEFAULT_STORAGE:
        config.option.benchmark_storage = f"file://{folder}"
    if any(config.getoption(name, None) for name in SHOWING):
        config.option.benchmark_quiet = False


def why_unusable(config: pytest.Config) -> str | None:
    """Return which option of pytest-benchmark would mislead or fail at the end, or None."""
    for name in ("--benchmark-only", "--benchmark-skip"):
        if config.getoption(name, False):
            return f"{name} would skip cases or their verdicts, and pass: leave it out"
    if config.getoption("--benchmark-compare-fail", None):
        return (
            "--benchmark-compare-fail judges times without their noise: leave it out, and let "
            "the verdicts judge"
        )
    path = config.getoption("--benchmark-json", None)
    try:
        if path:
            check_writable(path)
    except FluxFastError as error:
        return f"--benchmark-json: {error}"
    return None
