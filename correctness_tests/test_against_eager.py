"""An optimized pipeline draws what the eager one draws, within the budget of its optimizations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torchmetrics.image import PeakSignalNoiseRatio

from fluxfast.bench.planned import PlannedCase, planned_case
from fluxfast.pipeline import build
from fluxfast.pytest_plugin import Suite

BUDGETS = Path(__file__).parent / "budgets.yaml"


def psnr_db(image: torch.Tensor, reference: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of images in [0, 1]; infinite where they are the same."""
    return float(PeakSignalNoiseRatio(data_range=1.0)(image.float(), reference.float()))


@pytest.fixture(scope="session", autouse=True)
def budgets_db(suite: Suite) -> Mapping[str, float]:
    """The budget of each optimization on this platform, before anything is built."""
    if suite.hardware.is_gpu:
        pytest.skip("no budgets have been measured on a GPU yet: budgets.yaml has those of a CPU")
    budgets: Mapping[str, float] = yaml.safe_load(BUDGETS.read_text())["cpu"]
    absent = {name for case in suite.selected for name in case.case.optimizations} - set(budgets)
    if absent:
        pytest.fail(f"no budget in {BUDGETS} for {', '.join(absent)}: measure, then add one")
    return budgets


@pytest.fixture(scope="session")
def references() -> dict[Any, torch.Tensor]:
    return {}


@pytest.fixture
def reference(planned: PlannedCase, references: dict[Any, torch.Tensor]) -> torch.Tensor:
    """The eager pipeline's image, drawn once for each workload."""
    workload = planned.case.workload
    if workload not in references:
        eager = planned_case((), planned.checkpoint, planned.plan.situation)
        with build(eager.checkpoint, eager.plan) as pipeline:
            references[workload] = pipeline.draw(output_type="pt").cpu()
    return references[workload]


def test_the_image_is_the_eager_one(
    planned: PlannedCase,
    budgets_db: Mapping[str, float],
    built: Any,
    reference: torch.Tensor,
    record_property: Callable[[str, object], None],
) -> None:
    image = built.draw(output_type="pt").cpu()
    again = built.draw(output_type="pt").cpu()
    assert image.isfinite().all(), "NaN in the image"
    assert image.float().std() > 0.02, "a flat image"
    assert psnr_db(again, image) > 60, "the second call drew another image"
    budget_db = min((budgets_db[name] for name in planned.case.optimizations), default=100)
    measured_db = psnr_db(image, reference)
    record_property("psnr_db", measured_db)
    assert measured_db >= budget_db, (
        f"{planned.case.id}: PSNR {measured_db:.1f} dB, budget {budget_db} dB"
    )
