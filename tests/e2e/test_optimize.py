"""`fluxfast.optimize()` on every Flux pipeline of diffusers: the same images, a report, an undo."""

import copy
import inspect
import pickle

import pytest
import torch
from diffusers import AutoencoderTiny, AutoPipelineForImage2Image, FluxImg2ImgPipeline, FluxPipeline
from diffusers.models.transformers import transformer_flux
from torch import nn

import fluxfast
from benchmarks.variants import PROMPT, VARIANTS, Variant, generate, loaded
from fluxfast.models.lora.synthetic import synthetic_lora

TEXT = VARIANTS[0]
EAGER = ("regional", "inductor_flags")  # what compiles takes seconds, and is tested apart
CLOSE = dict(rtol=0, atol=1e-4)  # latents are about 1; float32 sums in another order differ by 1e-6


@pytest.fixture(scope="module")
def pipeline():
    """Return one text-to-image pipeline, which every test leaves as it found it."""
    return loaded(TEXT)


@pytest.fixture(scope="module")
def plain(pipeline):
    return generate(pipeline, TEXT)


def optimized(pipeline, **choice):
    return fluxfast.optimize(pipeline, disable=EAGER, **choice)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_generates_the_same_and_is_restored(variant):
    pipeline = loaded(variant)
    before = generate(pipeline, variant)
    assert before.isfinite().all()
    with optimized(pipeline, enable=["sdpa"]) as fast:
        after = generate(fast, variant)
        report = fast.report()
    torch.testing.assert_close(after, before, **CLOSE)
    assert report.is_as_requested, str(report)
    assert set(report.proofs) == {"fused_projections", "sdpa", "channels_last"}
    assert variant.name in report.taken_for
    assert torch.equal(generate(pipeline, variant), before)


def test_undo_restores_classes_attributes_and_tensors(pipeline, plain):
    state = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    processors = {n: type(p) for n, p in pipeline.transformer.attn_processors.items()}
    fast = optimized(pipeline, enable=["int8", "sdpa"])
    assert "transformer_blocks.0.attn.to_q.weight" not in pipeline.transformer.state_dict()
    assert not torch.allclose(generate(fast, TEXT), plain, **CLOSE)  # int8 rounds
    pipeline.transformer.config.in_channels = 8  # as diffusers does when it loads a control LoRA
    assert fast.undo() is pipeline and fast.undo() is pipeline
    assert pipeline.guidance_scale == 3.5  # as the last call set it
    assert type(pipeline) is FluxPipeline and "to" not in vars(pipeline.transformer)
    assert pipeline.transformer.config.in_channels == 64
    assert list(pipeline.transformer.state_dict()) == list(state)
    assert all(torch.equal(v, state[n]) for n, v in pipeline.transformer.state_dict().items())
    assert {n: type(p) for n, p in pipeline.transformer.attn_processors.items()} == processors
    assert torch.equal(generate(pipeline, TEXT), plain)
    with pytest.raises(fluxfast.FluxFastError, match="were undone"):
        fast(PROMPT)


@pytest.mark.compile
@pytest.mark.slow
def test_two_optimized_pipelines_do_not_affect_each_other(pipeline, plain):
    from torch._dynamo.utils import counters

    other = loaded(Variant(name="FluxPipeline", base="mini-schnell"))
    with fluxfast.optimize(pipeline) as one, fluxfast.optimize(other) as two:
        first, second = generate(one, TEXT), generate(two, TEXT)
        torch.testing.assert_close(first, plain, **CLOSE)
        graphs = counters["stats"]["unique_graphs"]
        two.undo()
        assert torch.equal(generate(one, TEXT), first)
        assert counters["stats"]["unique_graphs"] == graphs  # nothing is compiled again
        assert one.report().is_as_requested
        assert "compiled_with" in vars(pipeline.transformer.transformer_blocks[0])
    assert torch.equal(generate(other, TEXT), generate(other, TEXT))
    assert not torch.equal(second, first)


def test_callbacks_lists_sizes_and_negative_prompts_work_as_before(pipeline):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append(step)
        return tensors

    calls = (
        dict(true_cfg_scale=2.0, negative_prompt="a small blue square"),
        dict(prompt=[PROMPT, "two small blue stars"], height=32, width=96),
        dict(num_images_per_prompt=2, callback_on_step_end=callback),
        dict(sigmas=[1.0, 0.5, 0.25], guidance_scale=1.0),
    )
    before = [generate(pipeline, TEXT, **call) for call in calls]
    with optimized(pipeline, enable=["sdpa"]) as fast:
        for call, expected in zip(calls, before, strict=True):
            torch.testing.assert_close(generate(fast, TEXT, **call), expected, **CLOSE)
    assert seen == [0, 1, 0, 1]


def test_a_pipeline_without_text_encoders_takes_embeddings(pipeline, plain):
    embedded, pooled, _ = pipeline.encode_prompt(PROMPT, None, max_sequence_length=32)
    bare = loaded(TEXT, text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None)
    given = dict(prompt=None, prompt_embeds=embedded, pooled_prompt_embeds=pooled)
    with optimized(bare) as fast:
        torch.testing.assert_close(generate(fast, TEXT, **given), plain, **CLOSE)


def test_an_optimized_pipeline_saves_the_pipeline_that_it_was(pipeline, tmp_path):
    state = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    lora = synthetic_lora(pipeline.transformer, 4)
    with optimized(pipeline, enable=["int8", "sdpa"]) as fast:
        fast.set_lora(lora)
        before = generate(fast, TEXT)
        fast.save_pretrained(tmp_path)
        assert torch.equal(generate(fast, TEXT), before)
        fast.set_lora(None)
    saved = FluxPipeline.from_pretrained(tmp_path)
    written = saved.transformer.state_dict()
    assert list(written) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in written.items())
    assert saved.text_encoder_2 is not None and saved.scheduler is not None


CHANGES = {
    "pipeline.load_lora_weights()": lambda p: p.load_lora_weights("nowhere"),
    "pipeline.fuse_lora()": lambda p: p.fuse_lora(),
    "pipeline.save_pretrained()": lambda p: p.pipeline.save_pretrained("nowhere"),
    "pipeline.to": lambda p: p.to(torch.float16),
    "FluxTransformer2DModel.to": lambda p: p.transformer.to("meta"),
    "FluxTransformer2DModel.cuda": lambda p: p.transformer.cuda(),
    "AutoencoderKL.half()": lambda p: p.vae.half(),
    "FluxTransformer2DModel.load_state_dict()": lambda p: p.transformer.load_state_dict({}),
    "FluxTransformer2DModel.set_attn_processor()": lambda p: p.transformer.set_attn_processor(1),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_method_that_changes_weights_raises(what, pipeline):
    with optimized(pipeline) as fast:
        with pytest.raises(fluxfast.FluxFastError, match="cannot be changed") as error:
            CHANGES[what](fast)
        assert str(error.value.got).startswith(what)
        assert fast.to("cpu") is fast and fast.to(torch.float32) is fast


def write(transformer):
    transformer.x_embedder.weight.data_ptr()
    with torch.no_grad():
        transformer.single_transformer_blocks[0].proj_out.weight.mul_(1.0)


def assign(transformer):
    layer = transformer.transformer_blocks[0].ff.net[2]
    layer.weight = nn.Parameter(layer.weight.clone())


def assign_data(transformer):
    norm = transformer.transformer_blocks[0].attn.norm_q
    norm.weight.data = norm.weight.data.clone()


def replace(transformer):
    transformer.x_embedder = nn.Linear(64, 256)


@pytest.mark.parametrize("change", [write, assign, assign_data, replace])
def test_a_changed_weight_raises_at_the_next_call_and_undo_takes_it_back(change, pipeline, plain):
    with optimized(pipeline) as fast:
        generate(fast, TEXT)
        change(fast.transformer)
        with pytest.raises(fluxfast.FluxFastError, match="cannot be changed"):
            generate(fast, TEXT)
    assert torch.equal(generate(pipeline, TEXT), plain)


def test_another_component_raises_and_other_attributes_are_the_pipelines(pipeline):
    with optimized(pipeline) as fast:
        fast.note = "mine"
        assert pipeline.note == "mine" and fast.vae is pipeline.vae
        encoder, fast.text_encoder_2 = fast.text_encoder_2, None  # its work may be done
        assert fast._weights.change(pipeline) is None
        vae, fast.vae = fast.vae, AutoencoderTiny(latent_channels=16)
        with pytest.raises(fluxfast.FluxFastError, match="cannot be changed"):
            generate(fast, TEXT)
        scheduler, fast.scheduler = fast.scheduler, copy.deepcopy(fast.scheduler)
    assert pipeline.vae is vae and pipeline.scheduler is not scheduler
    assert pipeline.text_encoder_2 is None and pipeline.note == "mine"
    pipeline.text_encoder_2 = encoder


def test_attention_arguments_without_effect_are_refused(pipeline):
    with optimized(pipeline) as fast:
        generate(fast, TEXT, joint_attention_kwargs={"scale": 1.0})
        with pytest.raises(fluxfast.FluxFastError, match="joint_attention_kwargs"):
            generate(fast, TEXT, joint_attention_kwargs={"scale": 0.5})


def test_images_that_do_not_fit_in_memory_are_refused_before_a_step(pipeline):
    with optimized(pipeline) as fast:
        for call in (dict(height=2**20, width=2**20), dict(num_images_per_prompt=10**9)):
            with pytest.raises(fluxfast.FluxFastError, match="do not fit in memory"):
                generate(fast, TEXT, output_type="pt", **call)


def test_an_optimized_pipeline_passes_for_its_pipeline(pipeline):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with optimized(pipeline) as fast:
        assert torch.equal(torch.get_rng_state(), state)
        assert isinstance(fast, FluxPipeline) and fast.to("cpu") is fast
        assert "prompt" in inspect.signature(fast).parameters
        assert "prompt" in inspect.signature(fast.__call__).parameters
        images = AutoPipelineForImage2Image.from_pipe(fast)
        assert images.transformer is pipeline.transformer
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(fluxfast.FluxFastError, match="copied or pickled"):
                duplicate(fast)


class OwnProcessor(transformer_flux.FluxAttnProcessor):
    """An attention processor of somebody else's."""


def test_what_has_hold_of_the_transformer_is_refused_by_name(pipeline):
    cases = {
        "OwnProcessor": lambda p: p.transformer.set_attn_processor(OwnProcessor()),
        "quantized": lambda p: vars(p.transformer).update(hf_quantizer=object()),
        "compiled": lambda p: p.transformer.compile(),
        "without values": lambda p: p.vae.to("meta"),
        "offloaded or cached": lambda p: vars(p.vae).update(_hf_hook=object()),
    }
    for named, spoil in cases.items():
        own = loaded(TEXT)
        spoil(own)
        with pytest.raises(fluxfast.FluxFastError, match="cannot be optimized as it is") as error:
            fluxfast.optimize(own)
        assert named in str(error.value.got)
    with optimized(pipeline) as fast:
        for taken in (fast, FluxImg2ImgPipeline.from_pipe(fast)):
            with pytest.raises(fluxfast.FluxFastError) as error:
                fluxfast.optimize(taken)
            assert "optimized already" in str(error.value.got)
    with pytest.raises(fluxfast.FluxFastError, match="FluxTransformer2DModel"):
        fluxfast.optimize(object())


@pytest.mark.parametrize(
    ("choice", "problem"),
    [
        ({"enable": ["cuda_graph"]}, "cuda_graph: requires an NVIDIA GPU"),
        ({"enable": ["bf16"]}, "the pipeline was loaded in float32"),
        ({"enable": ["sdpa"], "disable": ["sdpa"]}, "exclude each other"),
        ({"preset": "fastest"}, "unknown preset"),
        ({"disable": ["fp8"]}, "unknown optimization"),
        ({"gpus": 5}, "heads do not divide by 5 GPUs"),
        ({"cache": {"Fn_compute_blocks": "all"}}, "Fn_compute_blocks"),
        ({"height": 100}, "not a whole number of latent tokens"),
    ],
)
def test_a_choice_that_is_not_possible_leaves_the_pipeline_alone(choice, problem, pipeline):
    with pytest.raises(fluxfast.FluxFastError, match=problem):
        fluxfast.optimize(pipeline, **choice)
    assert type(pipeline) is FluxPipeline


@pytest.mark.parametrize("preset", ["default", "low_memory"])
def test_each_default_that_is_left_out_has_its_reason(preset, pipeline):
    with fluxfast.optimize(pipeline, preset=preset, disable=["regional"]) as fast:
        assert fast.left_out["regional"] == "disabled by the caller"
        assert "requires one of" in fast.left_out["inductor_flags"]


def test_a_default_that_turns_out_not_to_fit_is_left_out_with_its_reason(pipeline, monkeypatch):
    from fluxfast.optimizations.registry import optimizations

    def refuse(build):
        build.pipeline.transformer.halfway = True
        raise fluxfast.FluxFastError("no such VAE", got="", allowed="", remedy="")

    monkeypatch.setitem(vars(optimizations()["channels_last"]), "apply", refuse)
    with optimized(pipeline) as fast:
        assert fast.left_out["channels_last"] == "no such VAE"
        assert fast.left_out["regional"] == "disabled by the caller"
        assert fast.plan.names == ("fused_projections",)
        assert not hasattr(fast.transformer, "halfway")
    with pytest.raises(fluxfast.FluxFastError, match="no such VAE"):
        optimized(pipeline, enable=["channels_last"])
    assert not hasattr(pipeline.transformer, "halfway")


def test_a_report_needs_a_call_and_does_not_touch_its_generator(pipeline):
    with optimized(pipeline) as fast:
        with pytest.raises(fluxfast.FluxFastError, match="nothing to report"):
            fast.report()
        generator = torch.Generator().manual_seed(3)
        fast(PROMPT, num_inference_steps=1, height=32, width=32, generator=generator)
        state = generator.get_state()
        shown = str(fast.report())
        assert torch.equal(generator.get_state(), state)
    assert "fused_projections  active" in shown and "left out" in shown
    assert shown.startswith("taken for dev (FluxPipeline")
