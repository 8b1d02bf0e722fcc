"""The Triton kernels against float32, on shapes of Flux and on odd ones."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from benchmarks.epilogues import Random, figures, gelu_ways, heads_ways, single_block_ways
from fluxfast.errors import FluxFastError
from fluxfast.hardware import detect
from tests.support.interpreter import DEVICE, first_of, random, relative_error

from fluxfast.kernels import (  # isort: skip
    activation,
    gemm_gelu,
    vae,
    residual,
    gemm_qkv_rope,
    rope,
    gemm_single_block,
    tiles,
)

EPS = 1e-6
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-3, "fp8": 3e-2}
# batch, text tokens, image tokens, channels: a single program's row, odd widths, a batch, no text.
SHAPES = [(1, 3, 5, 256), (2, 1, 2, 300), (3, 0, 7, 48), (1, 2, 1, 3072)]
SHAPES += [(1, 1, 2, 3), (2, 0, 1, 2)]  # as narrow as a row in two blocks can be
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
shapes = pytest.mark.parametrize("shape", first_of(*SHAPES), ids=str)


def streams(shape, dtype):
    batch, text, image, channels = shape
    # Views of a wider tensor: rows are not packed in memory.
    wide = random(batch, text + image + 2, channels + 16, dtype=dtype)
    return wide[:, :text, :channels] if text else None, wide[:, text : text + image, :channels]


def join(text, image):
    return (image if text is None else torch.cat([text, image], dim=1)).float()


def vectors(shape, count, dtype):
    """Modulation vectors as they come: chunks of the output of one GEMM."""
    return random(shape[0], count * shape[3], dtype=dtype, seed=7).chunk(count, dim=1)


def modulated(x, shift, scale):
    normed = F.layer_norm(x, x.shape[-1:], eps=EPS)
    return normed * (1 + scale[:, None].float()) + shift[:, None].float()


def dequantized(values, scales):
    assert values.dtype is torch.float8_e4m3fn and scales.dtype is torch.float32
    assert scales.shape == (*values.shape[:-1], 1) and scales.is_contiguous()
    return values.float() * scales


@dtypes
@shapes
def test_norm_and_modulation(shape, dtype):
    (text, image), (shift, scale) = streams(shape, dtype), vectors(shape, 2, dtype)
    expected = modulated(join(text, image), shift, scale)
    out = residual.norm_modulate(text, image, shift, scale, EPS)
    assert out.dtype is dtype and out.is_contiguous()
    assert relative_error(out, expected) < TOLERANCE[dtype]
    *rows, inner_scales = residual.norm_modulate_fp8(text, image, shift, scale, EPS, None)
    assert not inner_scales.numel()
    rows = dequantized(*rows)
    assert relative_error(rows, expected) < TOLERANCE["fp8"]


@dtypes
@shapes
def test_gate_and_residual(shape, dtype):
    text, image = streams(shape, dtype)
    before = join(text, image)
    update = random(*before.shape, dtype=dtype, seed=3)
    gate, shift, scale = vectors(shape, 3, dtype)
    expected = before + gate[:, None].float() * update.float()
    out = residual.gate_residual(text, image, update, gate)
    assert relative_error(out, expected) < TOLERANCE[dtype]
    summed, rows = residual.gate_residual_norm(before.to(dtype), update, gate, shift, scale, EPS)
    assert torch.equal(summed, out)
    # Like PyTorch's, its norm reads what was stored.
    normed = modulated(out.float(), shift, scale)
    assert relative_error(rows, normed) < TOLERANCE[dtype]
    summed, *quantized, _ = residual.gate_residual_norm_fp8(
        before.to(dtype), update, gate, shift, scale, EPS, None
    )
    assert torch.equal(summed, out)
    assert relative_error(dequantized(*quantized), normed) < TOLERANCE["fp8"]


@dtypes
@shapes
def test_gate_and_residual_of_a_gemm_without_its_scales(shape, dtype):
    text, image = streams(shape, dtype)
    before = join(text, image)
    update = random(*before.shape, dtype=dtype, seed=3)
    of_rows = random(*before.shape[:2], 1, dtype=torch.float32, seed=4)
    of_columns = random(1, shape[3], dtype=torch.float32, seed=5)
    bias, (gate,) = random(shape[3], dtype=dtype, seed=6), vectors(shape, 1, dtype)
    scaled = update.float() * of_rows * of_columns + bias.float()
    out = residual.gate_residual_scaled(text, image, update, of_rows, of_columns, bias, gate)
    assert relative_error(out, before + gate[:, None].float() * scaled) < TOLERANCE[dtype]


@dtypes
@pytest.mark.parametrize(
    "widths",
    first_of((48, 100), (256, 1024), (3072, 12288), (None, 300), (256, None)),
    ids=str,
)
def test_gelu_and_concatenation(widths, dtype):
    attended, mlp = (
        random(2, 3, width + 8, dtype=dtype, seed=seed, scale=3.0)[..., :width] if width else None
        for seed, width in enumerate(widths)
    )
    parts = [attended.float()] if attended is not None else []
    parts += [F.gelu(mlp.float(), approximate="tanh")] if mlp is not None else []
    expected = torch.cat(parts, dim=-1)
    if mlp is None:
        quantized = activation.quantize_rows(attended)
    else:
        out = activation.joined(attended, mlp)
        assert out.dtype is dtype and relative_error(out, expected) < TOLERANCE[dtype]
        quantized = activation.joined_fp8(attended, mlp)
    assert relative_error(dequantized(*quantized), expected) < TOLERANCE["fp8"]


def fp8_rows(*shape, seed, scale=1.0):
    """In fp8, the scale of each row, and what they are then."""
    rows = random(1, *shape, dtype=torch.float32, seed=seed, scale=scale)
    values, scales = activation.quantize_rows(rows)
    return values[0], scales[0], dequantized(values, scales)[0]


@dtypes
def test_gelu_within_a_gemm(dtype):
    rows, bias = random(2, 5, 48, dtype=dtype), random(32, dtype=dtype, seed=2)
    weight = random(32, 48, dtype=dtype, seed=1, scale=48**-0.5)
    product = rows.float() @ weight.float().t() + bias.float()
    out = gemm_gelu.gelu_product(rows, weight, bias)
    assert out.dtype is dtype and out.shape == (2, 5, 32)
    # cuBLASLt's tanh is not exact.
    tolerance = 1e-3 if DEVICE == "cuda" and dtype is torch.float32 else TOLERANCE[dtype]
    assert relative_error(out, F.gelu(product, approximate="tanh")) < tolerance


def few_programs(monkeypatch, module, tile):
    """Of an interpreter: each has several tiles, in groups of two."""
    monkeypatch.setattr(module, "best_tile", lambda *given: tile)
    if DEVICE == "cpu":
        monkeypatch.setattr(tiles, "GROUPS", {1: 2, 2: 2, 4: 2})
        monkeypatch.setattr(module, "multiprocessors", lambda tensor: 4)


both_tiles = pytest.mark.parametrize("tile", [tiles.LARGE, tiles.SMALL], ids=["large", "small"])
# tokens, inner, columns, attended: past a tile's ends, within it, several tiles of each.
PRODUCTS = [(130, 80, 272, 48), (5, 48, 32, 16), (300, 272, 528, None)]


@pytest.mark.parametrize("shape", first_of(*PRODUCTS), ids=str)
@both_tiles
def test_gelu_within_a_gemm_of_fp8(shape, tile, monkeypatch):
    few_programs(monkeypatch, gemm_gelu, tile)
    tokens, inner, columns, width = shape
    bias = random(columns, seed=2)
    values, row_scales, rows = fp8_rows(2 * tokens, inner, seed=3)
    weight, weight_scales, exact = fp8_rows(columns, inner, seed=4, scale=inner**-0.5)
    activated = F.gelu(rows @ exact.t() + bias.float(), approximate="tanh").unflatten(0, (2, -1))
    # Of a token, some 15 times as much as is needed.
    inner_scales = 15 / 448 * activated.abs().amax(2, keepdim=True)
    given = (values.view(2, tokens, -1), row_scales.view(2, tokens, 1), inner_scales)
    given += (weight, weight_scales, bias)
    out = gemm_gelu.gelu_product_fp8(*given)
    assert relative_error(dequantized(out, inner_scales), activated) < TOLERANCE["fp8"]
    if width:
        attended = random(2, tokens, width, seed=5)
        attended[:, 1] *= 1e3  # a token whose scale is that of its attention
        joined, scales = gemm_gelu.gelu_product_join_fp8(attended, *given)
        expected = torch.cat([attended.float(), activated], dim=2)
        assert relative_error(dequantized(joined, scales), expected) < TOLERANCE["fp8"]
        rest = torch.arange(tokens, device=DEVICE) != 1
        found = dequantized(joined, scales)[:, rest, width:]
        assert relative_error(found, activated[:, rest]) < TOLERANCE["fp8"]


def test_few_rows_get_small_tiles():
    """Text of 512 tokens, an image of 1024×1024 and both, on the multiprocessors of Hopper."""
    for columns in (9216, 12288):  # query, key and value; an MLP
        small, *large = (tiles.best_tile(rows, columns, 132) for rows in (512, 4096, 4608))
        assert small == tiles.SMALL and large == [tiles.LARGE] * 2


@shapes
def test_no_gemm_exceeds_its_amax_bound(shape):
    """Check the scale, known before the GEMM, for a row that is parallel to a row of the weight."""
    text, image = streams(shape, torch.float32)
    shift, scale = vectors(shape, 2, torch.float32)
    longest, largest_bias = 3.0, 0.5
    amax_bound = torch.tensor([longest, largest_bias], device=DEVICE)
    values, scales, inner = residual.norm_modulate_fp8(text, image, shift, scale, EPS, amax_bound)
    rows = dequantized(values, scales)
    lengths = rows.norm(dim=2, keepdim=True)
    products = (rows * longest * rows / lengths).sum(dim=2, keepdim=True) + largest_bias
    assert (products <= 448 * inner * (1 + 1e-6)).all()
    assert (448 * inner <= 1.15 * products).all()  # nor is it wasted
    before = join(text, image)
    gated = residual.gate_residual_norm_fp8(
        before, before, 0 * shift, shift, scale, EPS, amax_bound
    )
    torch.testing.assert_close(gated[3], inner)


def test_a_gemm_of_two_parts_equals_that_of_the_joined_rows():
    left, right, bias = random(2, 5, 24), random(2, 5, 40, seed=1), random(16, seed=2)
    weight = random(16, 64, seed=3)
    joined = torch.cat([left, right], dim=2)
    out = gemm_gelu.product_of_two(left, right, weight, bias)
    expected = F.linear(joined.float(), weight.float(), bias.float())
    assert relative_error(out, expected) < 2 * TOLERANCE[torch.bfloat16]


def test_gelu_at_the_ends_of_its_range():
    x = torch.tensor([[[-3e38, -88.0, -10.0, -1e-30, 0.0, 1e-30, 10.0, 88.0, 3e38]]], device=DEVICE)
    expected = F.gelu(x, approximate="tanh")
    assert torch.allclose(activation.joined(None, x), expected, rtol=1e-5, atol=1e-30)


def test_rows_are_scaled_as_torchao_scales_them():
    from torchao.quantization.quant_primitives import _choose_scale_float8, _quantize_affine_float8

    rows = random(1, 9, 320, dtype=torch.float32)
    values, scales = activation.quantize_rows(rows)
    expected = _choose_scale_float8(rows, block_size=[1, 1, 320])
    assert torch.allclose(scales, expected, rtol=1e-6)
    same = values.float() == _quantize_affine_float8(rows, expected, values.dtype).float()
    assert same.float().mean() > 0.999  # a tie may fall the other way


def test_a_row_of_zeros_stays_zero_and_a_nan_is_seen():
    rows = torch.zeros(1, 2, 64, device=DEVICE)
    rows[0, 1, 5] = torch.nan
    values, scales = activation.quantize_rows(rows)
    assert (dequantized(values, scales)[0, 0] == 0).all()
    assert dequantized(values, scales)[0, 1].isnan().any()


def rotated(x, weight, cosines, sines):
    """RMS norm and rotary embedding as diffusers computes them, in float32."""
    x = F.rms_norm(x, x.shape[-1:], weight.float(), EPS)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    rotated_pairs = torch.stack([-odd, even], dim=-1).flatten(-2)
    return x * cosines[None, :, None] + rotated_pairs * sines[None, :, None]


@dtypes
@pytest.mark.parametrize(
    "sizes",
    first_of((1, 3, 5, 2, 128), (2, 0, 3, 3, 24), (2, 4, 1, 5, 10), (1, 1, 1, 24, 128)),
    ids=str,
)
@pytest.mark.parametrize("is_fp8", [False, True], ids=["", "fp8"])
def test_rms_norm_and_rope(sizes, dtype, is_fp8):
    batch, text_tokens, image_tokens, heads, dim = sizes
    tokens = text_tokens + image_tokens
    qkv = random(batch, tokens, 3 * heads * dim + 8, dtype=dtype)[..., : 3 * heads * dim]
    text, image = qkv[:, :text_tokens] if text_tokens else None, qkv[:, text_tokens:]
    weights = 1 + random(2, 2, dim, dtype=dtype, seed=2, scale=0.1)
    cosines, sines = (random(tokens, dim, dtype=torch.float32, seed=seed) for seed in (3, 4))
    query, key, value = qkv.float().unflatten(-1, (3, heads, dim)).unbind(2)
    expected = []
    for part, x in enumerate((query, key)):
        streams = [
            rotated(x[:, at], weights[stream, part], cosines[at], sines[at])
            for stream, at in enumerate((slice(text_tokens), slice(text_tokens, None)))
        ]
        expected.append(torch.cat(streams, dim=1))
    call = (text, image, weights, cosines, sines, heads, EPS)
    out = rope.qkv_rotary(*call, with_value=True, is_fp8=is_fp8)
    assert out.dtype is (torch.float8_e4m3fn if is_fp8 else dtype)
    tolerance = TOLERANCE["fp8" if is_fp8 else dtype]
    for found, wanted in zip(out, [*expected, value], strict=True):
        assert found.shape == (batch, tokens, heads, dim) and found.is_contiguous()
        assert relative_error(found, wanted) < tolerance
    without = rope.qkv_rotary(*call, with_value=False, is_fp8=is_fp8)
    assert torch.equal(without.float(), out[:2].float())


def layer_of(inner, columns, *, fp8, seed):
    """Weight, bias, its scales (none of bfloat16), and what its weight is in float32."""
    bias = random(columns, seed=seed)
    if not fp8:
        weight = random(columns, inner, seed=seed, scale=inner**-0.5)
        return weight, bias, [], weight.float()
    weight, scales, exact = fp8_rows(columns, inner, seed=seed, scale=inner**-0.5)
    return weight, bias, [scales.t()], exact


# batch, text tokens, image tokens, inner, heads, head_dim: as many heads in a tile as there can be,
# an odd number of them, no text, several tiles of each.
QKV = [(2, 3, 5, 48, 2, 16), (1, 70, 65, 80, 3, 32), (2, 0, 130, 64, 4, 128)]


@pytest.mark.parametrize("sizes", first_of(*QKV), ids=str)
@both_tiles
@pytest.mark.parametrize("fp8_rows_given", [False, True], ids=["bf16", "fp8"])
@pytest.mark.parametrize("is_fp8", [False, True], ids=["", "fp8_heads"])
def test_norm_and_rope_within_a_gemm(sizes, tile, fp8_rows_given, is_fp8, monkeypatch):
    few_programs(monkeypatch, gemm_qkv_rope, tile)
    batch, *counts, inner, heads, dim = sizes
    tokens = sum(counts)
    angles = random(tokens, dim // 2, dtype=torch.float32, seed=9, scale=3.0)
    cosines, sines = angles.cos(), angles.sin()
    given, expected, start = [], [], 0
    for seed, count in enumerate(counts):
        if not count:
            given.append([])
            continue
        weight, bias, scales, exact = layer_of(
            inner, 3 * heads * dim, fp8=fp8_rows_given, seed=seed
        )
        rows = exact_rows = random(batch, count, inner, seed=seed + 2)
        if fp8_rows_given:
            rows, row_scales = activation.quantize_rows(rows)
            exact_rows, scales = dequantized(rows, row_scales), [row_scales, *scales]
        norms = 1 + random(2, dim, seed=seed + 4, scale=0.1)
        given.append([rows, weight, bias, norms, *scales])
        product = exact_rows.float() @ exact.t() + bias.float()
        parts = product.unflatten(-1, (3, heads, dim)).unbind(2)
        at = slice(start, start + count)
        wide = [a[at].repeat_interleave(2, dim=1) for a in (cosines, sines)]
        rotated_pairs = [rotated(x, w, *wide) for x, w in zip(parts, norms, strict=False)]
        expected.append(torch.stack([*rotated_pairs, parts[2]]))
        start += count
    out = gemm_qkv_rope.qkv_product(*given, cosines, sines, heads, EPS, is_fp8)
    assert out.dtype is (torch.float8_e4m3fn if is_fp8 else torch.bfloat16)
    assert out.shape == (3, batch, tokens, heads, dim) and out.is_contiguous()
    tolerance = TOLERANCE["fp8" if is_fp8 else torch.bfloat16]
    for found, wanted in zip(out, torch.cat(expected, dim=2), strict=True):
        assert relative_error(found, wanted) < tolerance


# batch, tokens, inner, heads, head_dim, columns: past a tile's ends, several tiles of each.
@pytest.mark.parametrize(
    "sizes", first_of((2, 5, 48, 3, 16, 40), (2, 130, 80, 2, 32, 272)), ids=str
)
@both_tiles
def test_both_gemms_of_a_single_block_in_one_launch(sizes, tile, monkeypatch):
    few_programs(monkeypatch, gemm_single_block, tile)
    batch, tokens, inner, heads, dim, columns = sizes
    rows = random(batch, tokens, inner, seed=1)
    weight, bias, _, _ = layer_of(inner, 3 * heads * dim, fp8=False, seed=2)
    mlp_weight, mlp_bias, _, _ = layer_of(inner, columns, fp8=False, seed=3)
    angles = random(tokens, dim // 2, dtype=torch.float32, seed=4, scale=3.0)
    stream = [rows, weight, bias, 1 + random(2, dim, seed=5, scale=0.1)]
    rope_arguments = (angles.cos(), angles.sin(), heads, EPS)
    of_mlp = (mlp_weight, mlp_bias)
    out, joined = gemm_single_block.qkv_product_and_gelu(*stream, *of_mlp, *rope_arguments)
    assert torch.equal(out, gemm_qkv_rope.qkv_product([], stream, *rope_arguments, False))
    assert joined.shape == (batch, tokens, heads * dim + columns)
    product = rows.float() @ mlp_weight.float().t() + mlp_bias.float()
    found = joined[..., heads * dim :]
    expected = F.gelu(product, approximate="tanh")
    assert relative_error(found, expected) < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize(
    "made",
    [
        partial(gelu_ways, 3, 32, 64),
        partial(heads_ways, 0, 3, 2, 16),
        partial(heads_ways, 2, 3, 2, 16),
    ],
    ids=["gelu", "joined heads", "heads"],
)
def test_the_benchmark_of_epilogues_compares_ways_to_the_same(made):
    ways = made(Random(DEVICE), fp8=False)
    for a_pass in (name for name in ways if "a pass" in name):
        epilogue = {"chain, a pass": "chain, the epilogue"}.get(a_pass, "in the epilogue")
        for found, expected in zip(ways[epilogue](), ways[a_pass](), strict=True):
            assert relative_error(found, expected) < 0.01
    assert made(Random(DEVICE), fp8=True).keys() == ways.keys()
    costs = figures(made, detect(DEVICE))
    assert all(len(of) == 2 and all(c["us"] > 0 for c in of) for of in costs.values())


@pytest.mark.usefixtures("fake_kernels")
def test_the_benchmark_of_one_launch_compares_it_to_the_same():
    ways = single_block_ways(3, 2, 16, 64, Random(DEVICE), fp8=False)
    assert relative_error(ways["chain, one launch"](), ways["chain, two launches"]()) < 0.01
    costs = figures(partial(single_block_ways, 3, 2, 16, 64), detect(DEVICE))
    assert costs.keys() == {f"bf16, {name}" for name in ways}


def test_rope_tables_of_another_shape_are_refused():
    stream = [random(1, 2, 32), random(48, 32), random(48), random(2, 8)]
    for shape in ((2, 8), (3, 4)):
        angles = random(*shape, dtype=torch.float32)
        with pytest.raises(FluxFastError, match="one entry for each pair of channels"):
            gemm_qkv_rope.qkv_product([], stream, angles, angles, 2, EPS, False)


def test_fp8_heads_saturate():
    qkv = torch.full((1, 1, 3 * 16), 1e4, device=DEVICE)
    ones = torch.ones(1, 16, device=DEVICE)
    weights = torch.ones(2, 2, 16, device=DEVICE)
    out = rope.qkv_rotary(None, qkv, weights, ones, ones, 1, EPS, with_value=True, is_fp8=True)
    assert (out[2].float() == 448).all()
    rows, weight = torch.full((1, 1, 16), 100.0, device=DEVICE), torch.full((48, 16), 10.0)
    stream = [rows, weight.to(DEVICE), torch.zeros(48, device=DEVICE), weights[0]]
    half = torch.ones(1, 8, device=DEVICE)
    if DEVICE == "cpu":  # whose interpreter takes float32
        assert (
            gemm_qkv_rope.qkv_product([], stream, half, half, 1, EPS, True)[2].float() == 448
        ).all()


# batch, channels, height, width, groups: of the mini VAE, an odd one, one group of one, of Flux.
@dtypes
@pytest.mark.parametrize(
    "sizes",
    first_of((2, 32, 4, 6, 8), (1, 60, 5, 3, 4), (1, 3, 1, 2, 3), (2, 256, 9, 16, 32)),
    ids=str,
)
@pytest.mark.parametrize("with_bias", [False, True], ids=["", "biased"])
def test_group_norm_and_silu(sizes, dtype, with_bias, monkeypatch):
    monkeypatch.setattr(vae, "PARTS", 3)  # few enough that a program sums several tiles
    monkeypatch.setattr(vae, "PARTS_AT_ONCE", 2)
    monkeypatch.setattr(vae, "TILE", 2 * 256)
    *shape, groups = sizes
    channels = shape[1]
    # Far from zero, as activations can be, and each channel elsewhere.
    x = random(*shape, dtype=torch.float32) + 30 * random(channels, 1, 1, dtype=torch.float32)
    x, (weight, bias, x_bias) = x.to(dtype), random(3, channels, dtype=dtype, seed=5)
    x_bias = x_bias if with_bias else None
    biased = x.float() + (x_bias.float()[:, None, None] if with_bias else 0)
    normed = F.group_norm(biased, groups, weight.float(), bias.float(), EPS)
    out = vae.group_norm_silu(x, x_bias, weight, bias, groups, EPS)
    assert out.dtype is dtype and out.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(out, F.silu(normed)) < TOLERANCE[dtype]


def test_group_norm_of_what_hardly_varies():
    weight, bias = random(2, 8, dtype=torch.float32, seed=5)
    x = torch.full((2, 8, 3, 4), 0.1, device=DEVICE)
    x[1] += 1e-3 * random(8, 3, 4, dtype=torch.float32)
    out = vae.group_norm_silu(x, None, weight, bias, 2, EPS)
    assert relative_error(out, F.silu(F.group_norm(x, 2, weight, bias, EPS))) < 1e-4


@dtypes
@pytest.mark.parametrize("shape", first_of((2, 32, 4, 6), (1, 60, 5, 3), (1, 3, 1, 2)), ids=str)
def test_bias_and_residual_and_twice_the_size(shape, dtype):
    x, residual = random(2, *shape, dtype=dtype)
    bias = random(shape[1], dtype=torch.float32, seed=2)
    out = vae.bias_residual(x, bias, residual)
    assert out.dtype is dtype and out.is_contiguous(memory_format=torch.channels_last)
    biased = x.float() + bias[:, None, None]
    assert relative_error(out, biased + residual.float()) < TOLERANCE[dtype]
    assert relative_error(vae.bias_residual(x, bias, None), biased) < TOLERANCE[dtype]
    larger = vae.upsample(x)
    assert larger.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(larger, F.interpolate(x.float(), scale_factor=2.0).to(dtype))


def test_an_empty_batch_is_an_empty_result():
    nothing, vector = random(0, 4, 32), random(0, 32)
    assert residual.norm_modulate(None, nothing, vector, vector, EPS).shape == (0, 4, 32)
    assert activation.joined_fp8(None, nothing)[1].shape == (0, 4, 1)
    image, of_channels = random(0, 4, 3, 2), random(4)
    normed = vae.group_norm_silu(image, None, of_channels, of_channels, 2, EPS)
    assert vae.bias_residual(normed, of_channels, image).shape == (0, 4, 3, 2)
    assert vae.upsample(image).shape == (0, 4, 6, 4)


def samples():
    tokens, text, vector = random(1, 2, 32), random(1, 1, 32), random(1, 32)
    joined = random(1, 3, 32)
    image, of_channels = random(2, 8, 3, 2), random(8)
    # In float32: PyTorch has no arithmetic in fp8 to check them with.
    rows, scales = random(1, 2, 32, dtype=torch.float32), random(1, 64, 1, dtype=torch.float32)
    weight = random(64, 32, dtype=torch.float32)
    in_fp8 = (rows, scales[:, :2], scales[:, :2].abs(), weight, scales[0], random(64))
    fp8_stream = [rows, weight[:48], random(48), random(2, 8), scales[:, :2], scales[0, :48].t()]
    angles = (random(4, 4, dtype=torch.float32),) * 2
    angles_of_two = (random(2, 4, dtype=torch.float32),) * 2
    rotary_call = (None, random(1, 2, 48), random(2, 2, 8), random(2, 8), random(2, 8), 2, EPS)
    return {
        residual.norm_modulate: (text, tokens, vector, vector, EPS),
        residual.norm_modulate_fp8: (
            text,
            tokens,
            vector,
            vector,
            EPS,
            random(2, dtype=torch.float32),
        ),
        residual.gate_residual: (text, tokens, joined, vector),
        residual.gate_residual_scaled: (
            text,
            tokens,
            joined,
            random(1, 3, 1, dtype=torch.float32),
            random(1, 32, dtype=torch.float32),
            random(32),
            vector,
        ),
        residual.gate_residual_norm: (tokens, tokens, vector, vector, vector, EPS),
        residual.gate_residual_norm_fp8: (tokens, tokens, vector, vector, vector, EPS, None),
        activation.joined: (tokens, tokens),
        activation.joined_fp8: (tokens, tokens),
        activation.quantize_rows: (tokens,),
        gemm_gelu.gelu_product: (tokens, random(64, 32), random(64)),
        gemm_gelu.gelu_product_fp8: in_fp8,
        gemm_gelu.gelu_product_join_fp8: (tokens, *in_fp8),
        gemm_gelu.product_of_two: (tokens, tokens, random(16, 64), random(16)),
        rope.qkv_rotary: (*rotary_call, False, True),
        gemm_qkv_rope.qkv_product: (fp8_stream, fp8_stream, *angles, 2, EPS, True),
        gemm_single_block.qkv_product_and_gelu: (
            *fp8_stream[:4],
            weight,
            random(64),
            *angles_of_two,
            2,
            EPS,
        ),
        vae.group_norm_silu: (image, of_channels, of_channels, of_channels, 2, EPS),
        vae.bias_residual: (image, of_channels, image),
        vae.upsample: (image,),
    }


@pytest.mark.parametrize("operator", list(samples()), ids=lambda operator: operator._name)
def test_each_operator_matches_its_fake(operator):
    checks = ["test_schema", "test_faketensor", "test_aot_dispatch_dynamic"]
    if operator is gemm_single_block.qkv_product_and_gelu:
        checks.pop()  # compares two runs, also in the part that is left for attention
    torch.library.opcheck(operator, samples()[operator], test_utils=checks)


def printed_by(module, *words):
    """Return the JSON that a module prints in a process whose Triton compiles its kernels."""
    # Triton reads the variable when it is imported, so no process is forked from another.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.subprocess
@pytest.mark.compile
def test_kernels_are_compiled_ahead_by_threads_and_launched_once():
    kernels = ["fluxfast_channel_sums", "fluxfast_group_factors", "fluxfast_group_norm_silu"]
    found = printed_by("tests.support.compile_ahead")
    assert found["launched ahead"] == [] and found["launched"] == kernels
    assert found["launched by a thread"] == kernels
    assert found["loaded ahead"] == found["loaded"]
    assert sorted(name for name, _ in found["loaded"]) == kernels
    assert "MainThread" not in [thread for _, thread in found["loaded"]]
    assert "no_such_name" in found["error"]
    assert sorted(name for name, _ in found["loaded after the error"]) == kernels


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.compile
@pytest.mark.parametrize(
    ("model", "fusions"),
    [
        ("kontext", "rotary_epilogue gelu_epilogue"),
        pytest.param("schnell", "fused_rotary fused_gelu", marks=pytest.mark.further),
    ],
    ids=["epilogues", "passes"],
)
def test_a_stand_in_asks_for_the_kernels_of_its_pipeline(model, fusions):
    names = f"fused_norms modulation_table fused_vae {fusions}".split()
    found = printed_by("tests.support.stand_in_kernels", model, *names)
    assert found["asked"] > 15
    assert found["missing"] == [] and found["unused"] == []
    assert found["left"] == 0  # 1.5 GB of an H200's memory, during every image


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.compile
@pytest.mark.parametrize(
    "words", [[], pytest.param(["--every"], marks=pytest.mark.further)], ids=["some", "every"]
)
def test_every_kernel_compiles_for_a_hopper_gpu(words):
    rows = printed_by("tests.support.compile_kernels", *words)
    products = {
        "fluxfast_gelu_product",
        "fluxfast_qkv_product",
        "fluxfast_qkv_product_and_gelu",
    }
    assert {row["kernel"] for row in rows} == {
        "fluxfast_residual_norm",
        "fluxfast_gelu_join",
        *products,
        "fluxfast_qkv_rotary",
        "fluxfast_channel_sums",
        "fluxfast_group_factors",
        "fluxfast_group_norm_silu",
        "fluxfast_bias_residual",
        "fluxfast_upsample",
        "fluxfast_sm_clock",
    }
    for row in rows:
        assert row["cubin_bytes"] > 0, row
        # A group has too few values for wide loads; this GEMM reads through descriptors only.
        others = ("fluxfast_group_factors", "fluxfast_gelu_product", "fluxfast_sm_clock")
        assert row["wide_loads"] or row["kernel"] in others, row
        assert row["on_tensor_cores"] is (row["kernel"] in products), row
        assert row["shared_bytes"] <= 227 * 1024, row
        assert row["converts_to_fp8"] or not row["is_fp8"], row
