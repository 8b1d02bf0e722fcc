"""Goldens of image quality: each belongs to a case that still exists."""

import json

import pytest

from fluxfast.bench.cases.planned import planned_from_id
from fluxfast.quality.step_golden import FILE
from tests.support.machines import CPU, H200
from tests.support.pages import REPOSITORY

GOLDENS = REPOSITORY / "correctness_tests" / "goldens"
MACHINES = {"cpu": CPU, "sm_90": H200}


def ids_of(folder):
    """Return the case ids of the latents and of the step errors of a kind of machine."""
    figures = folder / FILE
    of_steps = json.loads(figures.read_text()) if figures.exists() else {}
    return {*of_steps, *(path.stem for path in folder.glob("*.safetensors"))}


@pytest.mark.parametrize("folder", sorted(GOLDENS.iterdir()), ids=lambda folder: folder.name)
def test_the_case_of_every_golden_can_be_planned(folder):
    """A golden of an optimization that is gone, or has another order or name, is never compared."""
    hardware = MACHINES[folder.name.partition("_synthetic")[0]]
    ids = sorted(ids_of(folder))
    assert ids and [planned_from_id(text, hardware).case.id for text in ids] == ids
