"""Blocks with kernels in them draw what diffusers' blocks draw, alone, compiled and cached."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import FluxTransformer2DModel

from tests.support.interpreter import DEVICE, relative_error

from fluxfast.optimizations.fusion import _block_kernels as block_kernels  # isort: skip
from fluxfast.optimizations.fusion import _blocks as fused_blocks  # isort: skip
from fluxfast.bench.cases.planned import situation_of
from fluxfast.bench.measurement.injected_faults import block_twice
from fluxfast.hardware import detect
from fluxfast.models.architecture import MINI
from fluxfast.models.loading import load
from fluxfast.models.weights import resolve
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Artifacts, Build, Plan
from fluxfast.optimizations.cache_config import DEFAULT_CACHE_CONFIG
from fluxfast.optimizations.registry import optimizations
from fluxfast.optimizations.unquantized import unquantized_layers
from fluxfast.pipeline.build import build
from fluxfast.profiling.evidence import gather_evidence, proofs
from tests.support.pipelines import load_one_block_of_each_kind

HERE = detect(DEVICE)
FUSIONS = ("fused_norms", "fused_rotary", "fused_gelu")
ALL = (*FUSIONS, "modulation_table")
EPILOGUES = ("fused_norms", "rotary_epilogue", "gelu_epilogue", "modulation_table")
# On a GPU the dot of float32 tiles is TF32's: the epilogues require bfloat16 there.
EPILOGUES_IN_FLOAT32 = pytest.param(
    EPILOGUES,
    id="epilogues",
    marks=pytest.mark.skipif(HERE.is_gpu, reason="the epilogues' GEMM computes bfloat16 or fp8"),
)
both = pytest.mark.parametrize("fusions", [pytest.param(ALL, id="passes"), EPILOGUES_IN_FLOAT32])
# The interpreter takes milliseconds for each row.
TINY = dict(height=32, width=16, num_inference_steps=2)
TEXT_TOKENS, IMAGE_TOKENS = 2, 5
SECOND_STEP_CACHED = replace(DEFAULT_CACHE_CONFIG, steps_mask=(1, 0, 1))


@pytest.fixture(scope="module", autouse=True)
def one_block_of_each_kind():
    with pytest.MonkeyPatch.context() as patch:
        load_one_block_of_each_kind(patch)
        yield


def planned(names, model="dev", **changes):
    """A plan that was not checked: on a CPU these are refused."""
    checkpoint = resolve(model, "mini", HERE)
    situation = situation_of(checkpoint, HERE, **{**TINY, **changes})
    request = replace(situation.request, max_sequence_length=TEXT_TOKENS)
    situation = replace(situation, request=request, cache_config=SECOND_STEP_CACHED)
    chosen = [o for o in optimizations().values() if o.name in ("fused_projections", *names)]
    return checkpoint, Plan(optimizations=tuple(chosen), situation=situation)


def draw(names, model="dev", **changes):
    with build(*planned(names, model, **changes)) as pipeline:
        return pipeline.generate(output_type="pt")


@pytest.fixture(scope="module")
def eager():
    return draw(("sdpa",))


@pytest.mark.parametrize(
    "names", [*(pytest.param((name,), id=name) for name in FUSIONS), EPILOGUES_IN_FLOAT32]
)
def test_the_image_is_the_eager_one(names, eager):
    with build(*planned(("sdpa", *names))) as pipeline:
        image = pipeline.generate(output_type="pt")
        seen = proofs(gather_evidence(pipeline))
    assert (image - eager).abs().max() < 1e-3
    assert all(seen[name].is_active for name in names)


@both
def test_kontext_and_a_batch(fusions):
    changes = dict(model="kontext", batch_size=2, num_inference_steps=1)
    difference = draw(("sdpa", *fusions), **changes) - draw(("sdpa",), **changes)
    assert difference.abs().max() < 1e-3


@pytest.mark.compile
@both
def test_compiled_blocks_are_fused_and_prove_it(eager, fusions):
    with build(*planned(("sdpa", *fusions, "regional"))) as pipeline:
        image = pipeline.generate(output_type="pt")
        evidence = gather_evidence(pipeline)
    assert all(proof.is_active for proof in proofs(evidence).values())
    assert (image - eager).abs().max() < 1e-3


@pytest.mark.parametrize("names", [FUSIONS, ("rotary_epilogue",)], ids="+".join)
def test_a_kernel_that_does_not_run_is_seen(monkeypatch, names):
    monkeypatch.setattr(fused_blocks, "use_kernels", lambda build, **chosen: None)
    monkeypatch.setattr(fused_blocks, "halve_rope_tables", lambda transformer: None)
    with build(*planned(("sdpa", *names), num_inference_steps=1)) as pipeline:
        seen = proofs(gather_evidence(pipeline))
    assert not any(seen[name].is_active for name in names)


@pytest.fixture(scope="module")
def cached():
    return draw(("sdpa", "dbcache"), num_inference_steps=3)


@both
def test_a_cache_goes_on_top(fusions, cached):
    with build(*planned(("sdpa", *fusions, "dbcache"), num_inference_steps=3)) as pipeline:
        fused = pipeline.generate(output_type="pt")
        assert pipeline.pipeline.transformer.cached_runs.cached_steps() == 1
    assert (fused - cached).abs().max() < 1e-3


def bf16_build(names, attention="sdpa", unquantized=()):
    """A bfloat16 pipeline with torchao's fp8 weights, which its own check refuses on a CPU."""
    from torchao.float8.inference import Float8MMConfig
    from torchao.quantization import PerRow
    from torchao.quantization.quantize_.common import KernelPreference
    from torchao.quantization.quantize_.workflows import (
        Float8Tensor,
        QuantizeTensorToFloat8Kwargs,
    )

    from fluxfast.optimizations.precision._torchao import is_quantizable

    checkpoint, plan = planned((attention, *names))
    left_out = unquantized_layers(unquantized, (1, 1))
    pipeline = load(checkpoint, dtype=torch.bfloat16, hardware=HERE)
    working = Build(pipeline=pipeline, plan=plan, artifacts=Artifacts(folder=None))
    activations = QuantizeTensorToFloat8Kwargs(
        granularity=PerRow(),
        mm_config=Float8MMConfig(use_fast_accum=True),
        kernel_preference=KernelPreference.TORCH,
    )
    for optimization in plan.optimizations:
        if optimization.axis is not Axis.QUANTIZATION:
            optimization.apply(working)
            continue
        for name, layer in pipeline.transformer.named_modules():
            if is_quantizable(layer, name) and name not in left_out:
                weight = Float8Tensor.from_hp(
                    layer.weight,
                    granularity=PerRow(),
                    mm_config=activations.mm_config,
                    kernel_preference=activations.kernel_preference,
                    act_quant_kwargs=activations,
                )
                layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    return pipeline


def first_step(pipeline, batch=1):
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE, torch.bfloat16)

    pipeline.scheduler.set_timesteps(2, device=DEVICE, mu=0.5)
    with torch.no_grad():
        return pipeline.transformer(
            hidden_states=random(batch, IMAGE_TOKENS, 64),
            encoder_hidden_states=random(
                batch, TEXT_TOKENS, MINI.transformer["joint_attention_dim"]
            ),
            pooled_projections=random(batch, MINI.transformer["pooled_projection_dim"]),
            timestep=pipeline.scheduler.timesteps[:1].expand(batch).to(torch.bfloat16) / 1000,
            guidance=torch.full((batch,), 3.5, device=DEVICE),
            img_ids=random(IMAGE_TOKENS, 3).abs(),
            txt_ids=torch.zeros(TEXT_TOKENS, 3, device=DEVICE),
            return_dict=False,
        )[0]


@pytest.mark.parametrize(
    # Of a single block qkv, mlp and output; of a double block four for each stream. With epilogues
    # qkv and the MLP's first GEMM are the kernels'.
    ("fusions", "products"),
    [(ALL, 3 + 2 * 4), (EPILOGUES, 1 + 2 * 2)],
    ids=["passes", "epilogues"],
)
def test_fp8_gemms_take_the_rows_as_they_leave_a_kernel(monkeypatch, fusions, products):
    many = partial(first_step, batch=4)  # the error of a single step varies by a quarter
    exact, by_torchao = many(bf16_build(())), many(bf16_build(("fp8_per_row",)))
    calls = []
    scaled_mm = torch._scaled_mm

    def counted(*arguments, **options):
        calls.append(arguments)
        return scaled_mm(*arguments, **options)

    fused = bf16_build(("fp8_per_row", *fusions))
    monkeypatch.setattr(torch, "_scaled_mm", counted)
    out = first_step(fused)
    assert len(calls) == products
    assert relative_error(many(fused), exact) < 1.2 * relative_error(by_torchao, exact) < 0.2
    monkeypatch.undo()
    fused.transformer.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
    assert torch.equal(first_step(fused), out)


MLP_LAYERS = ("*.ff.net.0.proj", "*.ff_context.net.2", "*.proj_out")
OTHERS = ("*.attn.to_q", "*.attn.to_add_out")  # with to_q what reads a block's input: proj_mlp, too


@pytest.mark.parametrize(
    ("fusions", "unquantized", "in_fp8"),
    [(EPILOGUES, MLP_LAYERS, 11 - 3), (EPILOGUES, OTHERS, 11 - 5), (ALL, OTHERS, 11 - 5)],
    ids=["epilogues, MLP", "epilogues, others", "passes, others"],
)
def test_layers_in_bf16_stand_next_to_layers_in_fp8(fusions, unquantized, in_fp8):
    """The error is at most that of torchao's layers, of which the same ones are in bfloat16."""
    many = partial(first_step, batch=4)
    quantized = partial(bf16_build, unquantized=unquantized)
    exact, by_torchao = many(bf16_build(())), many(quantized(("fp8_per_row",)))
    fused = quantized(("fp8_per_row", *fusions))
    takers = [layer for layer in fused.transformer.modules() if hasattr(layer, "fp8_weight")]
    assert len(takers) == in_fp8
    assert relative_error(many(fused), exact) < 1.2 * relative_error(by_torchao, exact) < 0.2
    out = first_step(fused)
    torch.compiler.reset()
    fused.transformer.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
    assert torch.equal(first_step(fused), out)


def test_an_amax_bound_is_the_longest_weight_row_and_the_largest_bias():
    transformer = bf16_build(("fp8_per_row", *EPILOGUES)).transformer
    double, single = transformer.transformer_blocks[0], transformer.single_transformer_blocks[0]
    for layer in (single.proj_mlp, double.ff.net[0].proj, double.ff_context.net[0].proj):
        weight = layer.weight.dequantize().float()
        expected = torch.stack([weight.norm(dim=1).max(), layer.bias.float().abs().max()])
        torch.testing.assert_close(layer.fp8_amax_bound, expected, rtol=0.01, atol=0)


@pytest.mark.usefixtures("fake_kernels")
@pytest.mark.parametrize("fusions", [("fused_rotary",), ("rotary_epilogue",)], ids="".join)
def test_heads_leave_the_kernel_in_the_fp8_that_attention_takes(fusions):
    exact = first_step(bf16_build(()))
    cast_later = first_step(bf16_build((), attention="fa3_fp8"))
    cast_within = first_step(bf16_build(fusions, attention="fa3_fp8"))
    error = relative_error(cast_within, exact)
    assert 0.5 * relative_error(cast_later, exact) < error < 1.2 * relative_error(cast_later, exact)


@pytest.mark.usefixtures("fake_kernels")
def test_heads_and_gelu_of_a_single_block_leave_one_launch(monkeypatch):
    """Where nothing is in fp8 and attention can write beside GELU: the same step, to rounding."""
    exact = first_step(bf16_build(()))
    apart = first_step(bf16_build(EPILOGUES))
    pipeline = bf16_build(EPILOGUES, attention="fa3")
    calls = []
    launch = block_kernels.qkv_product_and_gelu
    monkeypatch.setattr(
        block_kernels,
        "qkv_product_and_gelu",
        lambda *given: calls.append(1) or launch(*given),
    )
    joint = first_step(pipeline)
    assert len(calls) == 1
    assert relative_error(joint, exact) < 1.2 * relative_error(apart, exact)
    pipeline.transformer.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
    assert torch.equal(first_step(pipeline), joint)


def test_a_timestep_that_is_not_of_the_schedule_gives_no_image():
    checkpoint, plan = planned(("bf16", "sdpa", "fused_norms", "modulation_table"))
    with build(checkpoint, plan) as built:
        pipeline = built.pipeline
        assert first_step(pipeline).isfinite().all()
        pipeline.scheduler.set_timesteps(2, device=DEVICE, mu=0.5)
        pipeline.scheduler.timesteps = pipeline.scheduler.timesteps * 0.9
        hook = next(iter(pipeline.transformer._forward_pre_hooks.values()))
        embeds = torch.randn(1, MINI.transformer["pooled_projection_dim"]).bfloat16().to(DEVICE)
        one = torch.ones(1, device=DEVICE)
        hook(None, (), dict(timestep=one, pooled_projections=embeds, guidance=one))
        assert hook.current[1].isnan().all()


def test_the_table_holds_what_each_norm_makes_of_its_own_weights():
    """Also of weights that were changed since: they are the rows of the stacked ones."""
    with build(*planned(("sdpa", "fused_norms", "modulation_table"))) as built:
        transformer = built.pipeline.transformer
        (table,) = transformer._forward_pre_hooks.values()
        double = transformer.transformer_blocks[-1]
        single = transformer.single_transformer_blocks[-1]
        inputs = torch.randn(3, double.norm1.linear.in_features, device=DEVICE)
        with torch.no_grad():
            single.norm.linear.weight.mul_(2)
            double.norm1.linear.bias.add_(1)
            made = torch.cat([layer(inputs) for layer in table.layers], dim=1)
            of_each = torch.split(made, [count for _, _, count in table.vectors], dim=1)
            found = {(v[0], v[1]): of for v, of in zip(table.vectors, of_each, strict=True)}
            for block, name, norm in (
                (double, "vectors", double.norm1),
                (double, "text_vectors", double.norm1_context),
                (single, "vectors", single.norm),
            ):
                torch.testing.assert_close(found[block, name], norm.linear(inputs))


def test_what_fused_blocks_do_not_take_is_refused():
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(guidance_embeds=True, **MINI.transformer)
    block = transformer.single_transformer_blocks[0]
    block.__class__ = fused_blocks.FusedSingleBlock
    with pytest.raises(ValueError, match="ip_adapter_masks"):
        block(*(torch.zeros(1, 1, 256),) * 3, None, {"ip_adapter_masks": []})


def test_one_block_run_twice_draws_the_same_image():
    """The self-test's fault, in a pipeline whose blocks are given their modulation."""
    plan = planned(("sdpa", "fused_norms", "modulation_table"), num_inference_steps=1)
    with build(*plan) as pipeline:
        expected = pipeline.generate(output_type="pt")
        with block_twice(pipeline.pipeline):
            assert torch.equal(pipeline.generate(output_type="pt"), expected)
            assert proofs(gather_evidence(pipeline))["modulation_table"].is_active
        assert torch.equal(pipeline.generate(output_type="pt"), expected)
