"""A LoRA changes an optimized pipeline's images as it does the eager one's, and leaves no trace."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.bench.measurement.lora_swap import swappable_case
from fluxfast.errors import FluxFastError
from fluxfast.pytest_plugin.session import Suite
from fluxfast.quality.budget import violations
from fluxfast.quality.clip import Clip
from fluxfast.quality.figures import summarized
from fluxfast.quality.metrics import Quality, compare_images
from fluxfast.quality.prompts import GeneratedImages, Prompt, generate_images

MATRIX, BATCH_SIZE = "default", 2  # this module's cases, unless an option chooses others
TAKES_OWN_CASES = True  # with --cases
KEEPS_COMPILED_CODE = True  # nothing is timed
SHORTEST_MODEL_ON_A_CPU = True
RANK = 16
COUNT = 4  # images at most
LEAST_RATIO = 3  # of the LoRA's effect to the error of the optimizations
pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class Swapped:
    """Images of the optimized pipeline before, with and after a LoRA."""

    before: GeneratedImages
    during: GeneratedImages
    after: GeneratedImages


@pytest.fixture(scope="session")
def few(prompts: list[Prompt]) -> list[Prompt]:
    return prompts[:COUNT]


@pytest.fixture(scope="session")
def eager_with_lora() -> dict[Any, GeneratedImages]:
    """The eager pipeline's images with the LoRA by workload, shared by all cases of a session."""
    return {}


@pytest.fixture(scope="session")
def wanted(
    planned: PlannedCase,
    eager_case: PlannedCase,
    suite: Suite,
    few: list[Prompt],
    eager_with_lora: dict[Any, GeneratedImages],
) -> GeneratedImages:
    """The eager pipeline's images with the LoRA, generated one at a time."""
    if planned.case.workload not in eager_with_lora:
        suite.report(planned, "generating with a LoRA on the eager pipeline")
        with swappable_case(eager_case, [RANK]) as swappable:
            swappable.set_lora(RANK)
            eager_with_lora[planned.case.workload] = generate_images(swappable.built, few)
    return eager_with_lora[planned.case.workload]


@pytest.fixture(scope="session")
def swapped(
    planned: PlannedCase, suite: Suite, wanted: GeneratedImages, few: list[Prompt]
) -> Swapped:
    """The optimized pipeline's images, after `wanted`: building a pipeline resets the compiler."""
    suite.report(planned, "generating before, with and after a LoRA")
    images = []
    try:
        with swappable_case(planned, [RANK]) as swappable:
            images.append(generate_images(swappable.built, few))
            for rank in (RANK, None):
                swappable.set_lora(rank)
                images.append(generate_images(swappable.built, few))
    except FluxFastError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    before, during, after = images
    return Swapped(before=before, during=during, after=after)


@pytest.fixture(scope="session")
def lora_quality(
    planned: PlannedCase,
    swapped: Swapped,
    wanted: GeneratedImages,
    few: list[Prompt],
    clip: Clip | None,
    show: Callable[[str, Quality], None],
) -> Quality:
    """The quality of the images with the LoRA against the eager pipeline's with the LoRA."""
    measured = compare_images(swapped.during, wanted, few, clip)
    show(f"{planned.label}, with a LoRA", measured)
    return measured


def test_images_with_a_lora_are_within_budget(
    planned: PlannedCase,
    lora_quality: Quality,
    bounds: dict[str, float] | None,
    record_property: Callable[[str, object], None],
) -> None:
    for name, value in lora_quality.figures.items():
        record_property(name, value)
    if bounds is None:
        pytest.skip("measured for a new budget, not judged")
    if broken := violations(lora_quality, bounds):
        pytest.fail(f"{planned.case.id}, with a LoRA: {'; '.join(broken)}", pytrace=False)


def test_the_effect_of_a_lora_is_larger_than_the_error(
    planned: PlannedCase,
    lora_quality: Quality,
    reference: GeneratedImages,
    wanted: GeneratedImages,
    few: list[Prompt],
    show: Callable[[str, Quality], None],
) -> None:
    """Otherwise the budget would pass a LoRA that is not applied."""
    changed = compare_images(wanted, reference.only(slice(len(few))), few)
    show("eager, with a LoRA against none", changed)
    # The median: of the images of lossy optimizations, single ones are unstable.
    effect, error = (
        summarized(statistics.median, quality.values["latent_relative_error"])
        for quality in (changed, lora_quality)
    )
    if not effect >= LEAST_RATIO * error:
        pytest.fail(
            f"{planned.case.id}: a LoRA changes the latents by {effect:.2g} of their norm, and "
            f"they differ from eager by {error:.2g}; at least {LEAST_RATIO} times as much expected",
            pytrace=False,
        )


def test_without_the_lora_the_images_are_those_before(swapped: Swapped) -> None:
    assert not torch.equal(swapped.during.latents, swapped.before.latents)
    assert torch.equal(swapped.after.latents, swapped.before.latents)
    assert torch.equal(swapped.after.images, swapped.before.images)
