"""Attention behind custom operators: the operators themselves, and the processor around them."""

import sys
import types

import pytest
import torch
from diffusers import FluxTransformer2DModel

from fluxfast.errors import FluxFastError
from fluxfast.models.architecture import MINI
from fluxfast.optimizations.attention import _flash_attention_3 as flash_attention_3
from fluxfast.optimizations.attention import aiter_fp8, cudnn, fa3, fa3_fp8, sdpa
from fluxfast.optimizations.attention._processor import OperatorAttnProcessor
from fluxfast.optimizations.registry import optimization_named
from tests.support.attention import fa3_fwd, float32_attention


def heads(batch=2, tokens=24, count=2, dim=128, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, tokens, count, dim, generator=generator).to(dtype) for _ in range(3)]


def test_the_sdpa_operator_is_sound_and_right():
    sdpa.sdpa()
    torch.library.opcheck(torch.ops.fluxfast.sdpa.default, tuple(heads()))
    assert torch.allclose(sdpa.sdpa()(*heads()), float32_attention(*heads()), atol=1e-6)


@pytest.mark.parametrize("name", ["sdpa", "cudnn", "fa3", "fa3_fp8", "aiter_fp8"])
def test_the_fake_of_an_operator_has_its_shape_and_dtype(name):
    dtype = torch.float8_e4m3fn if name == "fa3_fp8" else torch.bfloat16
    query = torch.empty(3, 7, 2, 128, dtype=dtype, device="meta")
    optimization_named(name).attention()
    out = getattr(torch.ops.fluxfast, name)(query, query, query)
    assert out.shape == query.shape and out.is_contiguous() and out.dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("attend", "tolerance"),
    [(fa3.fa3, 0.01), (fa3_fp8.fa3_fp8, 0.1), (aiter_fp8.aiter_fp8, 0.01)],
    ids=["fa3", "fa3_fp8", "aiter_fp8"],
)
def test_the_way_to_a_kernel_keeps_layout_and_type(attend, tolerance, fake_kernels):
    inputs = heads(dtype=torch.bfloat16)
    out, expected = attend()(*inputs), float32_attention(*inputs)
    assert out.dtype is torch.bfloat16 and out.is_contiguous()
    assert (out - expected).norm() / expected.norm() < tolerance


def test_attention_writes_beside_what_is_there(fake_kernels):
    inputs = heads(dtype=torch.bfloat16)
    rows = torch.full((2, 24, 2 * 128 + 8), 7.0, dtype=torch.bfloat16)
    attend_into = fa3.fa3_into()
    torch.library.opcheck(torch.ops.fluxfast.fa3_into.default, (*inputs, rows.clone()))
    attend_into(*inputs, rows)
    assert torch.equal(rows[..., :256], fa3.fa3()(*inputs).flatten(2, 3))
    assert (rows[..., 256:] == 7).all()


def test_attention_writes_beside_by_a_build_of_hopper_too(monkeypatch):
    monkeypatch.setattr(flash_attention_3, "_module", lambda: "flash_attn_interface")
    monkeypatch.setitem(sys.modules, "flash_attn_interface", types.ModuleType("of_hopper"))
    inputs = heads(dtype=torch.bfloat16)
    rows = torch.zeros(2, 24, 2 * 128, dtype=torch.bfloat16)
    with pytest.raises(FluxFastError, match=r"without torch\.ops\.flash_attn_3\.fwd"):
        flash_attention_3.flash_attention_3_into(*inputs, rows)
    monkeypatch.setattr(torch.ops, "flash_attn_3", types.SimpleNamespace(fwd=fa3_fwd))
    flash_attention_3.flash_attention_3_into(*inputs, rows)
    assert torch.equal(rows, float32_attention(*inputs).to(torch.bfloat16).flatten(2, 3))


def test_cudnn_attention_refuses_a_cpu_rather_than_falling_back():
    with pytest.raises(RuntimeError):
        cudnn.cudnn()(*heads(dtype=torch.bfloat16))


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    return FluxTransformer2DModel(guidance_embeds=True, **MINI.transformer).eval()


def call(transformer, batch):
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    with torch.no_grad():
        return transformer(
            hidden_states=random(batch, 20, 64),
            encoder_hidden_states=random(batch, 6, MINI.transformer["joint_attention_dim"]),
            pooled_projections=random(batch, MINI.transformer["pooled_projection_dim"]),
            timestep=torch.full((batch,), 0.5),
            guidance=torch.full((batch,), 3.5),
            img_ids=random(20, 3).abs(),
            txt_ids=torch.zeros(6, 3),
            return_dict=False,
        )[0]


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_processor_does_what_diffusers_does(transformer, fused, batch):
    if fused:
        transformer.fuse_qkv_projections()
    default = dict(transformer.attn_processors)
    expected = call(transformer, batch)
    transformer.set_attn_processor(OperatorAttnProcessor(sdpa.sdpa()))
    try:
        assert torch.allclose(call(transformer, batch), expected, atol=1e-5)
    finally:
        transformer.set_attn_processor(default)
        if fused:
            transformer.unfuse_qkv_projections()


def test_an_attention_mask_is_refused(transformer):
    attention = transformer.transformer_blocks[0].attn
    with pytest.raises(ValueError, match="no attention mask"):
        OperatorAttnProcessor(sdpa.sdpa())(
            attention, torch.zeros(1, 4, 256), attention_mask=torch.ones(1)
        )
