"""Weights that are moved while a plan is applied: the device never holds all as they were."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fluxfast.api.optimize import _device_for
from fluxfast.errors import FluxFastError
from fluxfast.mini import WEIGHTS
from fluxfast.models.loading import _load_checked
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Artifacts, Build, Optimization, Plan, Proof
from fluxfast.optimizations.precision import int8
from fluxfast.pipeline import apply
from fluxfast.pipeline.rank_worker import transformer_alone
from tests.support.machines import CPU, L20, situation


def two_networks():
    """Return a pipeline of a transformer with two quantizable layers, and of a text encoder."""
    layers = nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 32)])
    transformer = nn.ModuleDict({"transformer_blocks": layers, "proj_out": nn.Linear(16, 16)})
    encoder = nn.ModuleDict({"block": nn.Linear(16, 16), "embed": nn.Embedding(4, 16)})
    networks = {"transformer": transformer, "text_encoder_2": encoder}
    return SimpleNamespace(**networks, components={**networks, "scheduler": object()})


def names_of(pipeline, chosen):
    """Return the names of the chosen parameters."""
    return {
        f"{network}.{name}"
        for network in ("transformer", "text_encoder_2")
        for name, parameter in getattr(pipeline, network).named_parameters()
        if id(parameter) in chosen
    }


def test_weights_are_moved_before_the_first_decision_that_needs_them_there(monkeypatch):
    moved = set()
    monkeypatch.setattr(Build, "device", torch.device("cuda"))
    monkeypatch.setattr(apply, "_set_device", lambda tensor, device: moved.add(id(tensor)))
    pipeline, seen = two_networks(), {}

    def noting(axis):
        def note(build):
            seen[str(axis)] = names_of(pipeline, moved)
            if axis is Axis.MEMORY:
                build.in_host_memory.append(pipeline.text_encoder_2["block"])

        return Optimization(
            name=str(axis),
            axis=axis,
            summary="",
            apply=note,
            proof=lambda evidence: Proof(is_active=True, detail=""),
            on_by_default=lambda hardware: False,
        )

    axes = (Axis.MEMORY, Axis.ENCODER, Axis.QUANTIZATION, Axis.PROJECTIONS, Axis.NORMS)
    plan = Plan(optimizations=tuple(map(noting, axes)), situation=situation(CPU))
    apply.apply_plan(pipeline, plan)
    embedding, block = "text_encoder_2.embed.weight", "text_encoder_2.block.weight"
    at_the_end = names_of(pipeline, moved)
    assert embedding in at_the_end and block not in at_the_end and len(at_the_end) == 7
    assert list(seen.items()) == [
        ("projections", set()),
        ("quantization", set()),
        ("memory", set()),
        ("norms", at_the_end),
        ("encoder", at_the_end),
    ]


def test_a_rank_that_has_the_transformer_only_moves_what_it_has(monkeypatch):
    moved = []
    monkeypatch.setattr(Build, "device", torch.device("cuda"))
    monkeypatch.setattr(apply, "_set_device", lambda tensor, device: moved.append(tensor))
    transformer = two_networks().transformer
    pipeline = transformer_alone(transformer, object(), torch.device("cpu"))
    apply.apply_plan(pipeline, Plan(optimizations=(), situation=situation(CPU)))
    assert [id(one) for one in moved] == [id(one) for one in transformer.parameters()]


def test_a_layer_reaches_the_device_when_the_one_before_is_quantized(monkeypatch):
    pipeline, moved, to = two_networks(), [], nn.Module.to
    layers = list(pipeline.transformer["transformer_blocks"])

    def noted(module, device):
        assert all(hasattr(before.weight, "qdata") for before in moved)
        moved.append(module)
        return to(module, device)

    monkeypatch.setattr(nn.Linear, "to", noted)
    plan = Plan(optimizations=(), situation=situation(CPU))
    int8.apply(Build(pipeline=pipeline, plan=plan, artifacts=Artifacts(folder=None)))
    assert moved == layers and all(hasattr(layer.weight, "qdata") for layer in layers)


def test_a_checkpoint_that_does_not_fit_waits_on_the_host_if_it_will_shrink():
    small, folder = replace(L20, memory_gib=0.001), str(WEIGHTS / "mini-dev")
    pipeline = _load_checked(folder, torch.bfloat16, small, shrinks=True)
    assert pipeline.device.type == "cpu"
    with pytest.raises(FluxFastError, match="do not fit in memory"):
        _load_checked(folder, torch.bfloat16, small, shrinks=False)


@pytest.mark.parametrize(
    ("there", "asked", "gpus", "device"),
    [
        ("cpu", None, 1, "cpu"),
        ("cuda", None, 2, "cuda"),
        ("cuda", "cuda", 2, "cuda"),
        ("cpu", "cuda", 1, "cuda"),
        ("cpu", "cuda", 2, None),
        ("cuda", "cpu", 1, None),
        ("cpu", "gpu", 1, None),
    ],
)
def test_the_device_is_where_a_pipeline_is_or_a_gpu_for_one_on_the_host(there, asked, gpus, device):
    pipeline = SimpleNamespace(device=torch.device(there))
    if device:
        assert _device_for(pipeline, asked, gpus) == device
    else:
        with pytest.raises(FluxFastError, match="cannot be moved while it is optimized"):
            _device_for(pipeline, asked, gpus)
