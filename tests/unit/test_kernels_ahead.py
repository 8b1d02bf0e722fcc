"""Kernels that compile while weights are loaded: for which plans, and what happens to errors."""

from dataclasses import replace

import pytest
import torch

from fluxfast.bench.cases.planned import situation_of
from fluxfast.errors import FluxFastError
from fluxfast.models.weights import resolve
from fluxfast.optimizations.base import Plan
from fluxfast.optimizations.presets import preset_names
from fluxfast.optimizations.registry import plan
from fluxfast.pipeline import kernels_ahead
from fluxfast.pipeline.build import build
from tests.support.machines import CPU, H200

MINI = resolve("mini-dev", "mini", H200)


def planned(hardware=H200, preset="default", checkpoint=MINI, **choice):
    situation = situation_of(checkpoint, hardware)
    return plan(preset_names(preset, situation, **choice), situation)


@pytest.mark.parametrize("preset", ["default", "lossless", "low_memory"])
def test_kernels_of_the_presets_are_asked_for_ahead(preset):
    assert kernels_ahead._asks_for_kernels(MINI, planned(preset=preset))


@pytest.mark.parametrize(
    ("choice", "checkpoint"),
    [
        (dict(hardware=CPU), MINI),
        (dict(preset="eager"), MINI),
        (dict(disable=["cuda_graph"]), MINI),  # nothing would wait for them
        ({}, replace(MINI, own_heads=4)),
    ],
    ids=["CPU", "no kernels", "no graph", "another width"],
)
def test_other_plans_load_their_weights_at_once(choice, checkpoint, monkeypatch):
    monkeypatch.setattr(kernels_ahead, "_generate", pytest.fail)
    dtype = torch.bfloat16
    assert kernels_ahead.begin_to_compile(checkpoint, planned(**choice), dtype) is None


def test_an_error_of_the_stand_in_is_raised_and_leaves_nothing_locked(monkeypatch):
    from fluxfast.kernels.compile_ahead import compile_kernels_of

    def fail(*_):
        raise FluxFastError("no stand-in", got="x", allowed="y", remedy="z")

    monkeypatch.setattr(kernels_ahead, "_generate", fail)
    with pytest.raises(FluxFastError, match="no stand-in"):
        kernels_ahead.begin_to_compile(MINI, planned(), torch.bfloat16)
    called = []
    compile_kernels_of(lambda: called.append(True))
    assert called == [True]


def test_a_failed_load_waits_for_the_threads(monkeypatch):
    """Otherwise they would compile into the caches of the next case."""
    begun = []

    def begin(*_):
        begun.append(kernels_ahead.Future())
        return begun[0]

    def fail(*_, **__):
        begun[0].set_result(None)  # what waits on it goes on
        raise FluxFastError("no weights", got="x", allowed="y", remedy="z")

    waited = []
    monkeypatch.setattr("fluxfast.pipeline.build.begin_to_compile", begin)
    monkeypatch.setattr("fluxfast.pipeline.build.load", fail)
    monkeypatch.setattr("fluxfast.pipeline.build.wait", waited.append)
    situation = situation_of(MINI, CPU)
    with pytest.raises(FluxFastError, match="no weights"):
        build(MINI, Plan(optimizations=(), situation=situation))
    assert waited == [begun]
