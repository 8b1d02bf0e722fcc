"""Paired references: on a CPU, eager images and fixed work timed next to each image. Imports torch.

Other processes share a CPU and change its speed, so the suite judges the ratio of an image's time
to the time of a reference that ran just before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from fluxfast.bench.cases.planned import PlannedCase, planned_case
from fluxfast.bench.measurement.canary import FixedWork
from fluxfast.console import no_progress, without_loading_bars
from fluxfast.hardware import Hardware
from fluxfast.pipeline.build import BuiltPipeline, build


@dataclass(frozen=True, kw_only=True)
class PairedReference:
    """The reference of one workload.

    Attributes:
        eager: the unoptimized pipeline.
        fixed_work: work that no change of Flux or diffusers reaches.
    """

    eager: BuiltPipeline
    fixed_work: FixedWork


@dataclass(kw_only=True)
class PairedReferences:
    """The references of a process; each workload's eager pipeline is built once.

    Attributes:
        progress: called with each stage, for people who wait.
        stack: closes the eager pipelines.
    """

    progress: Callable[[str], None] = no_progress
    stack: ExitStack
    _eager: dict[tuple[Any, ...], BuiltPipeline] = field(default_factory=dict)

    @cached_property
    def fixed_work(self) -> FixedWork:
        """The fixed work, the same for all workloads."""
        return FixedWork()

    def of(self, planned: PlannedCase) -> PairedReference | None:
        """Return the reference of a case; None on a GPU, where times are compared directly.

        Call it before the case's pipeline is built: building the eager one resets the compiler.
        """
        situation = planned.plan.situation
        if situation.hardware.is_gpu:
            return None
        workload = planned.case.workload
        if workload not in self._eager:
            self.progress("building the eager pipeline for paired timing")
            reference = planned_case((), planned.checkpoint, situation)
            with without_loading_bars():
                eager = self.stack.enter_context(build(reference.checkpoint, reference.plan))
            eager.generate()
            self._eager[workload] = eager
        return PairedReference(eager=self._eager[workload], fixed_work=self.fixed_work)


@contextmanager
def paired_references() -> Iterator[PairedReferences]:
    """Yield the references of this process and close them at the end."""
    with ExitStack() as stack:
        yield PairedReferences(stack=stack)


@contextmanager
def one_thread_on_a_cpu(hardware: Hardware) -> Iterator[None]:
    """Run PyTorch on one thread within this context, unless the hardware is a GPU.

    Several threads wait for the slowest one: with another process on one of two cores an image took
    50 times as long on two threads, and twice as long on one.
    """
    threads = torch.get_num_threads()
    if not hardware.is_gpu:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
