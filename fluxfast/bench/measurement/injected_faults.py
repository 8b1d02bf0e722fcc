"""Inject slowdowns of a known size into a built pipeline. Imports torch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from fluxfast.hardware import Hardware
from fluxfast.optimizations.base import Plan
from fluxfast.pipeline.observe import Observer, Region

# Side of a square GEMM of 58 GFLOP. It takes some 85 µs on an H200, so a few make up 1% of a step.
SIDE = 3072
WARM_S = 0.3  # GEMMs run this long before one is timed, until the power limit has set the clock


@dataclass(kw_only=True)
class Delay(Observer):
    """Makes each denoising step longer, on the device's stream or on the host before the step.

    On a GPU a delay on the device consists of GEMMs: after an idle period the clock would be
    boosted, which would undo part of the delay.

    Attributes:
        ms: the delay of a step in milliseconds.
        on_device: delay the device's stream instead of the host.
        hardware: the machine that generates.
    """

    ms: float
    on_device: bool
    hardware: Hardware

    def __post_init__(self) -> None:
        """Find out how many GEMMs take as long as the delay."""
        self.gemms = 0
        if self.on_device and self.hardware.is_gpu:
            self.square = torch.randn(SIDE, SIDE, device=self.hardware.device).bfloat16()
            self.gemms = max(1, round(self.ms / _gemm_ms(self.square)))

    def enter(self, region: Region) -> None:
        """Delay the beginning of a denoising step."""
        if region is not Region.DENOISING_STEP:
            return
        for _ in range(self.gemms):
            self.square @ self.square
        if not self.gemms:
            _busy_wait(self.ms, with_tensors=self.on_device)

    def exit(self, region: Region) -> None:
        """Do nothing: the delay is at the beginning."""


def _gemm_ms(square: torch.Tensor, count: int = 500) -> float:
    """Return the time of one GEMM in milliseconds, of many without a pause between them."""
    until = time.perf_counter() + WARM_S
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    elapsed_ms = 0.0
    while time.perf_counter() < until:
        begin.record()
        for _ in range(count):
            square @ square
        end.record()
        end.synchronize()
        elapsed_ms = begin.elapsed_time(end)
    return elapsed_ms / count


def _busy_wait(ms: float, with_tensors: bool) -> None:
    until = time.perf_counter() + ms / 1e3
    square = torch.ones(32, 32)
    while time.perf_counter() < until:
        if with_tensors:
            square @ square


class _Twice(nn.Module):
    """Runs a block twice; every other attribute is the block's own."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        self.block(*arguments, **keywords)
        return self.block(*arguments, **keywords)


@contextmanager
def block_twice(pipeline: Any) -> Iterator[None]:
    """Run the first block twice and drop its first result: correct, active, and slower."""
    blocks = pipeline.transformer.transformer_blocks
    first = blocks[0]
    blocks[0] = _Twice(first)
    _forget_graphs(pipeline)
    try:
        yield
    finally:
        blocks[0] = first
        _forget_graphs(pipeline)


def _forget_graphs(pipeline: Any) -> None:
    """Drop recorded CUDA graphs: they would replay the step as it was before the change."""
    if replayed := getattr(pipeline.transformer, "replayed", None):
        replayed.forget()


def without_applying(plan: Plan, name: str) -> Plan:
    """Return the plan with the optimization of that name silently not applied."""
    changed = tuple(
        replace(o, apply=lambda build: None) if o.name == name else o for o in plan.optimizations
    )
    return replace(plan, optimizations=changed)
