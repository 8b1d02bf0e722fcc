"""An optimized pipeline draws what the eager one draws, within the budget of its optimizations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.errors import FluxFastError
from fluxfast.pipeline.build import BuiltPipeline
from fluxfast.profiling.evidence import gather_evidence, proofs
from fluxfast.pytest_plugin.plugin import Suite
from fluxfast.quality.asks import Ask, Drawing
from fluxfast.quality.budget import Budgets, violations
from fluxfast.quality.gates import alone_as_in_a_batch, as_recorded, drawn_again
from fluxfast.quality.golden import golden_path, write_golden
from fluxfast.quality.metrics import Quality, faults
from fluxfast.quality.sheet import write_sheet

MATRIX, BATCH_SIZE = "alone", 2  # of this module's cases, unless the command line says otherwise
GOLDENS = Path(__file__).parent / "goldens"


def passes(planned: PlannedCase, wrong: Sequence[str]) -> None:
    if wrong:
        pytest.fail(f"{planned.case.id}: {'; '.join(wrong)}", pytrace=False)


def test_pictures_show_something(planned: PlannedCase, drawn: Drawing) -> None:
    passes(planned, faults(drawn))


def test_pictures_are_within_budget(
    planned: PlannedCase,
    suite: Suite,
    quality: Quality,
    drawn: Drawing,
    reference: Drawing,
    budgets: Budgets | None,
    record_property: Callable[[str, object], None],
) -> None:
    for name, value in quality.figures.items():
        record_property(name, value)
    if budgets is None:
        pytest.skip("measured for a budget, not judged")
    broken = violations(quality, budgets.of(planned.case.optimizations, planned.case.model))
    if broken:
        sheet = suite.results_folder / f"{planned.case.id}.sheet.png"
        write_sheet(sheet, {planned.label: drawn}, reference)
        passes(planned, [*broken, f"look at {sheet}"])


def test_pictures_are_the_golden_ones(
    planned: PlannedCase, drawn: Drawing, hardware_name: str, budgets: Budgets | None
) -> None:
    path = golden_path(GOLDENS, hardware_name, planned.case.id)
    if budgets is None:
        write_golden(path, drawn.latents)
        pytest.skip("recorded, not judged")
    try:
        passes(planned, as_recorded(path, drawn, budgets.golden(planned.case.optimizations)))
    except FluxFastError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def test_what_is_drawn_again_is_the_same(
    planned: PlannedCase, drawn: Drawing, built: BuiltPipeline, asks: list[Ask]
) -> None:
    passes(planned, drawn_again(built, asks, drawn))


def test_what_was_asked_for_is_in_force(planned: PlannedCase, built: BuiltPipeline) -> None:
    """Or else what was compared is not what it is called; a cache has the hits that it claims."""
    seen = proofs(gather_evidence(built))
    passes(
        planned, [f"{name}: {proof.detail}" for name, proof in seen.items() if not proof.is_active]
    )


def test_an_image_of_a_batch_is_the_image_alone(
    planned: PlannedCase,
    drawn: Drawing,
    built: BuiltPipeline,
    asks: list[Ask],
    budgets: Budgets | None,
) -> None:
    if budgets is None:
        pytest.skip("judged by the budget that is being measured")
    if planned.plan.compiles:
        pytest.skip("compiled for its batch, whose budget is against pictures drawn one at a time")
    bounds = budgets.of(planned.case.optimizations, planned.case.model)
    passes(planned, alone_as_in_a_batch(built, asks, drawn, bounds))
