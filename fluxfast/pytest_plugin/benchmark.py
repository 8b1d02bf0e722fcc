"""pytest-benchmark as the timer of a case's first rounds, and its settings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
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


def disable(config: pytest.Config) -> None:
    """Let pytest-benchmark record nothing in a run with workers, and not warn of it.

    It disables itself there, because tests that share a machine cannot be compared. The workers of
    this suite share neither GPU nor CPU cores, and the samplers time every image themselves.
    """
    config.option.benchmark_disable, config.option.benchmark_enable = True, False


def recording_option(config: pytest.Config) -> str | None:
    """Return the first given option of pytest-benchmark that needs its records, or None."""
    given = (name for name in ("benchmark_json", *SHOWING) if config.getoption(name, None))
    return next((f"--{name.replace('_', '-')}" for name in given), None)


# Options of pytest-benchmark that its `pedantic` mode ignores.
IGNORED = (
    "--benchmark-min-rounds",
    "--benchmark-min-time",
    "--benchmark-max-time",
    "--benchmark-warmup",
    "--benchmark-warmup-iterations",
    "--benchmark-calibration-precision",
)


def why_unusable(config: pytest.Config) -> str | None:
    """Return which option of pytest-benchmark misleads, has no effect or fails late, or None."""
    return _why_misleading(config) or _why_ignored(config) or _why_not_written(config)


def _why_misleading(config: pytest.Config) -> str | None:
    for name in ("--benchmark-only", "--benchmark-skip"):
        if config.getoption(name, False):
            return f"{name} would skip cases or their verdicts, and pass: leave it out"
    if config.getoption("--benchmark-compare-fail", None):
        return (
            "--benchmark-compare-fail judges times without their noise: leave it out, and let "
            "the verdicts judge"
        )
    return None


def _why_ignored(config: pytest.Config) -> str | None:
    words = [
        *map(str, config.invocation_params.args),
        *os.environ.get("PYTEST_ADDOPTS", "").split(),
    ]
    given = {word.partition("=")[0] for word in words}
    if ignored := next((option for option in IGNORED if option in given), None):
        return (
            f"{ignored} has no effect: the suite warms each case up and samples it until its "
            "noise is known; limit it with --rounds or --seconds"
        )
    return None


def _why_not_written(config: pytest.Config) -> str | None:
    """Return which file could not be written at the end of the session, or None."""
    if config.getoption("--benchmark-histogram", None) and not find_spec("pygal"):
        return "--benchmark-histogram needs pygal: pip install 'pytest-benchmark[histogram]'"
    try:
        if path := config.getoption("--benchmark-json", None):
            check_writable(path)
    except FluxFastError as error:
        return f"--benchmark-json: {error}"
    return None
