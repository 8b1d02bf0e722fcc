"""An optimized pipeline computes the eager pipeline's steps and images, within its budget.

The step error comes first: its references are built before the case's pipeline, because building
one resets the compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.errors import FluxFastError
from fluxfast.optimizations.base import Evidence
from fluxfast.pipeline.build import BuiltPipeline
from fluxfast.profiling.evidence import proofs
from fluxfast.pytest_plugin.session import Suite
from fluxfast.quality.budget import Budgets, unmeasured, violations
from fluxfast.quality.figures import IMAGE_METRICS, STEP_METRICS
from fluxfast.quality.gates import check_batch_independence, check_golden, check_repeatability
from fluxfast.quality.golden import golden_path, write_golden
from fluxfast.quality.metrics import Quality, image_defects
from fluxfast.quality.prompts import GeneratedImages, Prompt
from fluxfast.quality.sheet import write_sheet
from fluxfast.quality.step_error import joined
from fluxfast.quality.step_golden import check_step_golden, has_step_goldens, write_step_golden
from fluxfast.quality.step_reference import MeasuredSteps, check_definition

MATRIX, BATCH_SIZE = "alone", 2  # this module's cases, unless an option chooses others
SYNTHETIC_MATRIX = "tiers"  # at full size; mini weights judge each optimization alone
TAKES_OWN_CASES = True  # with --cases
KEEPS_COMPILED_CODE = True  # nothing is timed
# More than the 8 recompilations that torch.compile allows: a compiled step must serve them all.
MOST_STEPS_ON_A_CPU = 10
OF_GOLDENS = "goldens are kept of the project's cases on one GPU alone"
GOLDENS = Path(__file__).parent / "goldens"
pytestmark = pytest.mark.slow


def has_goldens(planned: PlannedCase) -> bool:
    """Return whether goldens are kept of the case.

    On several GPUs GEMMs of other shapes round in another order, whose errors differ by more than
    goldens allow. The definition and the budgets judge them.
    """
    return not planned.case.is_own and planned.case.gpus == 1


def fail_if(problems: Sequence[str], planned: PlannedCase) -> None:
    """Fail the test with the case's id and the problems, if there are any."""
    if problems:
        pytest.fail(f"{planned.case.id}: {'; '.join(problems)}", pytrace=False)


def test_step_error_is_that_of_the_definition(
    planned: PlannedCase, steps: list[MeasuredSteps]
) -> None:
    """Lossless means an error like that of the eager pipeline, see quality/step_error.py."""
    if not steps:
        pytest.skip("not fed with the steps of the eager pipeline")
    fail_if(check_definition(steps), planned)


def test_step_error_is_within_budget(
    planned: PlannedCase,
    steps: list[MeasuredSteps],
    bounds: dict[str, float] | None,
    record_property: Callable[[str, object], None],
) -> None:
    if not steps:
        pytest.skip("not fed with the steps of the eager pipeline")
    quality = joined([one.quality for one in steps])
    for name, value in quality.figures.items():
        record_property(name, value)
    if bounds is None:
        pytest.skip("measured for a new budget, not judged")
    broken = violations(quality, bounds)
    fail_if([*broken, *unmeasured(quality, planned.quality, STEP_METRICS)], planned)


def test_step_error_matches_the_golden(
    planned: PlannedCase, steps: list[MeasuredSteps], hardware_name: str, suite: Suite
) -> None:
    if not steps or not has_goldens(planned):
        pytest.skip(f"{OF_GOLDENS}, fed with eager steps")
    folder, quality = GOLDENS / hardware_name, joined([one.quality for one in steps])
    try:
        if suite.is_recording:
            write_step_golden(folder, planned.case.id, quality)
            pytest.skip("recorded, not judged")
        if not has_step_goldens(folder):
            pytest.skip(f"no step errors have been recorded on {hardware_name}: use --record")
        fail_if(check_step_golden(folder, planned.case.id, quality), planned)
    except FluxFastError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def test_images_have_no_defects(planned: PlannedCase, generated: GeneratedImages) -> None:
    fail_if(image_defects(generated), planned)


def test_quality_is_within_budget(
    planned: PlannedCase,
    suite: Suite,
    quality: Quality,
    generated: GeneratedImages,
    reference: GeneratedImages,
    bounds: dict[str, float] | None,
    record_property: Callable[[str, object], None],
) -> None:
    for name, value in quality.figures.items():
        record_property(name, value)
    if bounds is None:
        pytest.skip("measured for a new budget, not judged")
    fail_if(unmeasured(quality, planned.quality, IMAGE_METRICS), planned)
    broken = violations(quality, bounds)
    if broken:
        sheet = suite.results_folder / f"{planned.case.file_stem}.sheet.png"
        write_sheet(sheet, {planned.label: generated}, reference)
        fail_if([*broken, f"look at {sheet}"], planned)


def test_latents_match_the_golden(
    planned: PlannedCase, generated: GeneratedImages, hardware_name: str, budgets: Budgets | None
) -> None:
    if not has_goldens(planned):
        pytest.skip(OF_GOLDENS)
    path = golden_path(GOLDENS, hardware_name, planned.case.id)
    try:
        if budgets is None:
            write_golden(path, generated.latents)
            pytest.skip("recorded, not judged")
        bound = budgets.golden(planned.case.optimizations)
        fail_if(check_golden(path, generated, bound), planned)
    except FluxFastError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def test_generation_is_repeatable(
    planned: PlannedCase,
    generated: GeneratedImages,
    repeated: tuple[GeneratedImages, Evidence],
    prompts: list[Prompt],
) -> None:
    images, _ = repeated
    fail_if(check_repeatability(images, generated, prompts), planned)


def test_optimizations_are_active(
    planned: PlannedCase, steps: list[MeasuredSteps], evidence: Evidence
) -> None:
    """Otherwise the comparison is of other optimizations; a cache also has the hits it claims."""
    found = proofs(evidence)
    inactive = [f"{name}: {proof.detail}" for name, proof in found.items() if not proof.is_active]
    fail_if(inactive, planned)


def test_batch_matches_single_images(
    planned: PlannedCase,
    generated: GeneratedImages,
    built: BuiltPipeline,
    prompts: list[Prompt],
    bounds: dict[str, float] | None,
) -> None:
    if bounds is None:
        pytest.skip("judged by the budget that is being measured")
    if planned.plan.compiles:
        pytest.skip("compiled for its batch; its budget already compares with single images")
    fail_if(check_batch_independence(built, prompts, generated, bounds), planned)
