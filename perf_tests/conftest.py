"""What CPU cases are timed beside: the eager pipeline, and fixed work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxfast.bench.ab.against import worktree
from fluxfast.bench.baselines.baseline import REPOSITORY
from fluxfast.bench.cases.planned import PlannedCase, planned_case
from fluxfast.bench.measurement.canary import FixedWork
from fluxfast.pipeline.build import BuiltPipeline, build
from fluxfast.pytest_plugin.session import Suite


@pytest.fixture(scope="session")
def eager_pipelines() -> Iterator[tuple[dict[Any, BuiltPipeline], ExitStack]]:
    with ExitStack() as stack:
        yield {}, stack


@pytest.fixture(scope="session", autouse=True)
def one_thread(suite: Suite) -> Iterator[None]:
    """On a CPU. Several threads wait for the slowest: with a neighbour on one of two cores an image
    took 50 times as long, on one thread twice.
    """
    threads = torch.get_num_threads()
    if not suite.hardware.is_gpu:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def fixed_work() -> FixedWork:
    """What CPU images are timed beside, and no change of the code can reach."""
    return FixedWork()


@pytest.fixture
def eager(planned: PlannedCase, suite: Suite, eager_pipelines: Any) -> BuiltPipeline | None:
    """The unoptimized pipeline of this workload, built once; None on a GPU, whose clock holds."""
    situation = planned.plan.situation
    if situation.hardware.is_gpu:
        return None
    pipelines, stack = eager_pipelines
    workload = planned.case.workload
    if workload not in pipelines:
        suite.say(planned, "building the eager pipeline that it is timed beside")
        reference = planned_case((), planned.checkpoint, situation)
        pipelines[workload] = stack.enter_context(build(reference.checkpoint, reference.plan))
        pipelines[workload].draw()
    return pipelines[workload]


@pytest.fixture(scope="session")
def other_tree(suite: Suite) -> Iterator[Path]:
    """The revision that --against names, in a worktree of its own."""
    folder = suite.config.rootpath / ".fluxfast" / "against"
    with worktree(suite.option("against"), REPOSITORY, folder) as tree:
        yield tree
