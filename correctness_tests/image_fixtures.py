"""Fixtures of the correctness tests: images of a case, eager reference, quality."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stash_keys import MEASURED, NOT_MEASURED
from step_fixtures import write_quality

from fluxfast.bench.cases.planned import PlannedCase, reference_of
from fluxfast.errors import FluxFastError
from fluxfast.mini import WEIGHTS
from fluxfast.models.weights import WeightsKind
from fluxfast.optimizations.base import Evidence
from fluxfast.pipeline.build import BuiltPipeline, build
from fluxfast.profiling.evidence import gather_evidence
from fluxfast.pytest_plugin.session import Suite
from fluxfast.quality.budget import Budgets, read_budgets
from fluxfast.quality.clip import OPENAI, Clip, mini_clip, openai_clip
from fluxfast.quality.figures import IMAGE_METRICS, STEP_METRICS
from fluxfast.quality.lpips import why_no_lpips
from fluxfast.quality.metrics import Quality, compare_images
from fluxfast.quality.prompts import (
    GeneratedImages,
    Prompt,
    generate_images,
    own_prompts,
    prompts_for,
)
from fluxfast.quality.sheet import write_sheet

FOLDER = Path(__file__).parent
PROMPTS_ON_CPU, PROMPTS_ON_GPU = 2, 16
SHEET_COLUMNS = 4


@pytest.fixture(scope="session")
def hardware_name(planned: PlannedCase, suite: Suite) -> str:
    """Return the key of budgets and goldens: `cpu`, or a GPU's architecture.

    The architecture decides which kernels run. An H100 and an H200 generated latents equal to the
    last bit in 40 of 40 cases. Synthetic weights have budgets and goldens of their own.
    """
    name = suite.hardware.architecture if suite.hardware.is_gpu else "cpu"
    kind = planned.checkpoint.kind
    return f"{name}_{kind.value}" if kind.profile else name


@pytest.fixture(scope="session")
def budgets(suite: Suite, hardware_name: str) -> Budgets | None:
    """Return the budgets of this hardware, or None with --record, which measures for new ones."""
    if suite.is_recording:
        return None
    try:
        return read_budgets(FOLDER / "budgets.yaml", hardware_name)
    except FluxFastError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


@pytest.fixture(scope="session")
def clips() -> dict[WeightsKind, Clip | None]:
    """Return the CLIP models that were loaded, by kind of weights."""
    return {}


@pytest.fixture(scope="session")
def clip(planned: PlannedCase, suite: Suite, clips: dict[WeightsKind, Clip | None]) -> Clip | None:
    """Return mini-clip for mini weights, else OpenAI's CLIP, or None where it is not cached."""
    kind = planned.checkpoint.kind
    if kind not in clips:
        is_mini = kind is WeightsKind.MINI
        clips[kind] = mini_clip(WEIGHTS / "mini-clip") if is_mini else openai_clip()
    if clips[kind] is None:
        reasons = suite.config.stash.setdefault(NOT_MEASURED, {})
        reasons[f"CLIP on {kind} weights"] = f"{OPENAI} is not cached"
    return clips[kind]


@pytest.fixture(scope="session")
def has_lpips(suite: Suite) -> bool:
    """Return whether LPIPS can be measured here; if not, note why."""
    if reason := why_no_lpips():
        suite.config.stash.setdefault(NOT_MEASURED, {})["LPIPS"] = reason
    return not reason


@pytest.fixture(scope="session")
def prompts(planned: PlannedCase, suite: Suite) -> list[Prompt]:
    """Return the prompts that every pipeline of the case's model generates."""
    count = PROMPTS_ON_GPU if suite.hardware.is_gpu else PROMPTS_ON_CPU
    request = planned.plan.situation.request
    if planned.case.is_own:
        return own_prompts(request, planned.checkpoint.model.takes_image, count)
    return prompts_for(planned.checkpoint, count, request.height, request.width)


@pytest.fixture(scope="session")
def references() -> dict[Any, GeneratedImages]:
    """Return the eager pipeline's images by workload, shared by all cases of a session."""
    return {}


@pytest.fixture(scope="session")
def eager_case(planned: PlannedCase) -> PlannedCase:
    """Return the eager case of the same model, for images one at a time: on one GPU, always."""
    return reference_of(planned)


@pytest.fixture(scope="session")
def reference(
    planned: PlannedCase,
    eager_case: PlannedCase,
    suite: Suite,
    prompts: list[Prompt],
    references: dict[Any, GeneratedImages],
) -> GeneratedImages:
    """Return the eager pipeline's images, generated one at a time: a batch must match them."""
    if planned.case.workload not in references:
        suite.report(planned, "generating with the eager pipeline")
        with build(eager_case.checkpoint, eager_case.plan) as pipeline:
            references[planned.case.workload] = generate_images(pipeline, prompts)
    return references[planned.case.workload]


@pytest.fixture(scope="session")
def sheets(suite: Suite) -> Iterator[dict[str, tuple[GeneratedImages, dict[str, GeneratedImages]]]]:
    """Yield eager images and those of each case by workload; at the end, write a sheet for each."""
    by_name: dict[str, tuple[GeneratedImages, dict[str, GeneratedImages]]] = {}
    yield by_name
    for name, (eager, cases) in by_name.items():
        write_sheet(suite.results_folder / f"{name}.sheet.png", cases, eager)


@pytest.fixture(scope="session")
def generated(
    planned: PlannedCase,
    suite: Suite,
    reference: GeneratedImages,
    built: BuiltPipeline,
    prompts: list[Prompt],
    sheets: dict[str, tuple[GeneratedImages, dict[str, GeneratedImages]]],
) -> GeneratedImages:
    """Return the images that the case's pipeline generates in batches."""
    suite.report(planned, "generating")
    images = generate_images(built, prompts)
    columns = slice(SHEET_COLUMNS)
    workload = planned.case.id.rpartition("-")[0]
    _, cases = sheets.setdefault(workload, (reference.only(columns), {}))
    cases[planned.label] = images.only(columns)
    return images


@pytest.fixture(scope="session")
def bounds(planned: PlannedCase, budgets: Budgets | None) -> dict[str, float] | None:
    """Return the bounds of the case's images; those that a case of one's own states come first."""
    if budgets is None:
        return None
    try:
        found = budgets.of(planned.case.optimizations, planned.case.model)
    except FluxFastError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    return found | dict(planned.quality)


@pytest.fixture(scope="session")
def repeated(
    suite: Suite, planned: PlannedCase, built: BuiltPipeline, prompts: list[Prompt]
) -> tuple[GeneratedImages, Evidence]:
    """Return the first batch generated again, and the evidence of its first, profiled step."""
    suite.report(planned, "generating again")
    batch, images = prompts[: built.request.batch_size], list[GeneratedImages]()
    found = gather_evidence(built, lambda: images.append(generate_images(built, batch)))
    return images[0], found


@pytest.fixture(scope="session")
def show(planned: PlannedCase, suite: Suite) -> Callable[[str, Quality], None]:
    """Return a function that adds a row with this label to the final tables."""

    def add(label: str, quality: Quality) -> None:
        rows = suite.config.stash.setdefault(MEASURED, {})
        shown = {name: quality.formatted(name) for name in IMAGE_METRICS if quality.has(name)}
        forced = {
            name: list(quality.values[name]) for name in STEP_METRICS if name in quality.values
        }
        key = f"{planned.case.id} {label} {'images' if shown else 'steps'}"
        rows[key] = dict(model=planned.case.model, label=label, forced=forced, shown=shown)

    return add


@pytest.fixture(scope="session")
def quality(
    planned: PlannedCase,
    suite: Suite,
    generated: GeneratedImages,
    reference: GeneratedImages,
    prompts: list[Prompt],
    clip: Clip | None,
    has_lpips: bool,
    show: Callable[[str, Quality], None],
) -> Quality:
    """Return the quality of the case's images against the eager ones, and store its figures."""
    measured = compare_images(generated, reference, prompts, clip, with_lpips=has_lpips)
    show(planned.label, measured)
    write_quality(suite, planned, measured)
    return measured
