"""What the LoRA cases of the two suites are built from."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fluxfast.bench.cases.planned import planned_case, situation_of
from fluxfast.bench.measurement.lora_swap import LIMIT_S, SwappableCase, limit_s
from fluxfast.models.lora.synthetic import STRENGTH, synthetic_lora
from fluxfast.models.weights import resolve
from fluxfast.optimizations.registry import default_names
from tests.support.machines import CPU, H200, L20, MI300X


def test_a_synthetic_lora_changes_every_linear_layer_by_the_same_share():
    torch.manual_seed(0)
    blocks = nn.ModuleList([nn.Linear(256, 512), nn.LayerNorm(8), nn.Linear(64, 384)])
    transformer = nn.ModuleDict({"transformer_blocks": blocks})
    with torch.no_grad():
        transformer.transformer_blocks[2].weight *= 50
    state = synthetic_lora(transformer, 16)
    assert all(map(torch.equal, state.values(), synthetic_lora(transformer, 16).values()))
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    linear = {n: m for n, m in transformer.named_modules() if isinstance(m, nn.Linear)}
    assert {name.removeprefix("transformer.").rpartition(".lora_")[0] for name in state} == {
        *linear
    }
    for name, layer in linear.items():
        down, up = (state[f"transformer.{name}.lora_{x}.weight"].float() for x in "AB")
        assert down.shape[0] == 16
        assert ((up @ down).norm() / layer.weight.norm()).item() == pytest.approx(STRENGTH, rel=0.1)


@pytest.mark.parametrize(
    ("hardware", "weights", "limit"),
    [
        (H200, "synthetic", LIMIT_S),
        (H200, "mini", None),
        (L20, "synthetic", None),
        (MI300X, "synthetic", None),
        (CPU, "mini", None),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_time_of_a_swap_is_judged_where_a_limit_was_measured(hardware, weights, limit):
    checkpoint = resolve("dev", weights, hardware)
    situation = situation_of(checkpoint, hardware)
    assert limit_s(planned_case(default_names(situation), checkpoint, situation)) == limit


def test_a_graph_that_is_recorded_again_is_noticed():
    graphs = {"layout": SimpleNamespace(graph=object())}
    transformer = SimpleNamespace(replayed=SimpleNamespace(graphs=graphs))
    built = SimpleNamespace(pipeline=SimpleNamespace(transformer=transformer))
    swappable = SwappableCase(built=built, loras={})
    before = swappable.compiled_and_recorded
    assert swappable.compiled_and_recorded == before
    graphs["layout"] = SimpleNamespace(graph=object())
    assert swappable.compiled_and_recorded != before
