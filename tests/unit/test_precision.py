"""Quantization of zeros, and which fp8 scale is the default of a GPU."""

from types import SimpleNamespace
from unittest.mock import patch

import pytest

from fluxfast.hardware import Platform
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Artifacts, Build, Plan
from fluxfast.optimizations.registry import default_choice, default_names
from tests.support.machines import B200, CPU, L20, machine, situation

RTX_5090 = machine(Platform.CUDA, "NVIDIA GeForce RTX 5090", "sm_120", memory_gib=31.4)


def quantized_layer(apply):
    """Return a layer whose third row is zero, quantized by an optimization's `apply`."""
    import torch
    from torch import nn
    from torchao.quantization import quant_api

    torch.manual_seed(0)
    layer = nn.Linear(64, 32, bias=False, dtype=torch.bfloat16)
    layer.weight.data[2] = 0
    transformer = nn.ModuleDict({"transformer_blocks": nn.ModuleList([layer])})
    with patch.object(quant_api, "_check_hardware_support", lambda granularity: None):
        pipeline = SimpleNamespace(transformer=transformer)
        plan = Plan(optimizations=(), situation=situation(CPU))
        apply(Build(pipeline=pipeline, plan=plan, artifacts=Artifacts(folder=None)))
    return layer


@pytest.mark.parametrize("name", ["fp8_per_row", "fp8_per_tensor", "int8"])
def test_rows_of_zeros_stay_zero(name):
    import torch

    from fluxfast.optimizations.registry import optimization_named

    layer = quantized_layer(optimization_named(name).apply)
    rows = torch.randn(16, 64, dtype=torch.bfloat16)
    rows[5] = 0
    with torch.no_grad():
        product, nothing = layer(rows), layer(torch.zeros_like(rows))
    assert product.isfinite().all() and product.any()
    assert not product[5].any() and not product[:, 2].any() and not nothing.any()


def test_an_int8_gemm_in_float64_gives_every_integer(monkeypatch):
    import torch

    from fluxfast.optimizations.precision._int8_gemm import float64_gemms

    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    left, right = torch.full((17, 4096), -128), torch.full((4096, 8), -128)
    left[3], left[5, ::2], right[7] = 127, 1, -127

    def is_in_float64():
        with torch.profiler.profile() as profiled:
            product = torch._int_mm(left.to(torch.int8), right.to(torch.int8))
        assert product.dtype is torch.int32 and torch.equal(product.long(), left @ right)
        return "aten::mm" in {event.key for event in profiled.key_averages()}

    first, second = float64_gemms(), float64_gemms()
    first.__enter__()
    second.__enter__()
    assert is_in_float64()
    first.__exit__(None, None, None)
    assert is_in_float64()  # for the second
    second.__exit__(None, None, None)
    assert not is_in_float64()
    with float64_gemms():
        assert is_in_float64()


@pytest.mark.parametrize("granularity", ["PerRow", "PerTensor"])
def test_other_rows_are_those_of_torchao(granularity):
    import torch
    from torchao import quantization

    from fluxfast.optimizations.precision import _torchao

    def bounded(build):
        _torchao.quantize_blocks_fp8(build, getattr(quantization, granularity)())

    def unbounded(build):
        with patch.object(_torchao, "LEAST_AMAX", None):
            bounded(build)

    rows = torch.randn(16, 64, dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(quantized_layer(bounded)(rows), quantized_layer(unbounded)(rows))


def test_rtx_50_has_one_scale_per_tensor_until_rows_are_seen_to_run():
    assert "fp8_per_tensor" in default_names(situation(RTX_5090))
    assert default_choice(Axis.QUANTIZATION, B200) == "fp8_per_row"
    assert default_choice(Axis.QUANTIZATION, L20) == "fp8_per_row"
