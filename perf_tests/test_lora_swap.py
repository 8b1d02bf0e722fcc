"""Swapping a LoRA on an optimized pipeline is fast, and neither compiles nor records anything.

`pytest perf_tests` leaves this file out, see `collect_ignore`; `pytest
perf_tests/test_lora_swap.py` runs it. `pytest perf_tests/test_*.py` adds the times to the results
of the cases, so that a baseline has them and `test_verdict` judges them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch

from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.bench.measurement.lora_swap import SwappableCase, limit_s, swappable_case
from fluxfast.errors import FluxFastError
from fluxfast.pytest_plugin.session import Suite

MATRIX = "default"  # this module's cases, unless an option chooses others
ADDS_FIGURES = True  # to the results of test_latency
RANKS = (16, 128)
JUDGED_RANK = 128  # the most work
ROUNDS, WARM_UP_ROUNDS = 7, 2
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def swappable(planned: PlannedCase, suite: Suite) -> Iterator[SwappableCase]:
    """The optimized pipeline of a case after its first image, with a LoRA of each rank."""
    if suite.options.compares:
        named = suite.options.comparing
        pytest.fail(f"{named} compares images, not swaps: leave it out", pytrace=False)
    suite.report(planned, "building")
    with ExitStack() as stack:
        try:
            swappable = stack.enter_context(swappable_case(planned, RANKS))
        except FluxFastError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        suite.report(planned, "first image")
        swappable.built.generate("latent")
        yield swappable


@pytest.mark.parametrize("rank", RANKS, ids=lambda rank: f"rank{rank}")
def test_lora_swap(
    planned: PlannedCase,
    rank: int,
    swappable: SwappableCase,
    suite: Suite,
    benchmark: Any,
    show: Callable[..., None],
) -> None:
    """Time swaps from no LoRA to this one; the image then has the LoRA, and later returns."""
    generate = swappable.built.generate
    before, prepared = generate("latent"), swappable.compiled_and_recorded
    suite.report(planned, f"swapping a LoRA of rank {rank}")
    benchmark.group = f"LoRA swap, {planned.case.model} {planned.case.weights}"
    benchmark.extra_info.update(case=planned.case.id, rank=rank)
    benchmark.pedantic(
        swappable.set_lora,
        args=(rank,),
        setup=lambda: swappable.set_lora(None),
        rounds=suite.options.rounds or ROUNDS,
        warmup_rounds=WARM_UP_ROUNDS,
    )
    during = generate("latent")
    swappable.set_lora(None)
    assert torch.equal(generate("latent"), before), "the image does not return"
    assert not torch.equal(during, before), "the LoRA has no effect"
    assert swappable.compiled_and_recorded == prepared, "compiled or recorded again"
    if benchmark.disabled:
        return
    if rank == JUDGED_RANK:
        suite.add_figures(planned, lora_swaps_s=tuple(benchmark.stats.stats.data))
    stats, limit = benchmark.stats.stats, None if suite.is_recording else limit_s(planned)
    show(planned, rank, stats, limit)
    if limit is not None and stats.median > limit:
        pytest.fail(
            f"{planned.case.id}: a LoRA of rank {rank} is swapped in {stats.median:.3f} s "
            f"(median of {stats.rounds}), at most {limit:g} s",
            pytrace=False,
        )
