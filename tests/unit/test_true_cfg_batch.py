"""Both passes of true CFG in one call: the same results, whatever the calls turn out to be."""

import pytest
import torch

import fluxfast
from benchmarks.variants import VARIANTS, generate, loaded
from fluxfast.models.spec import DEV, default_request
from fluxfast.optimizations.guidance._both_passes import MAX_IMAGE_TOKENS, BothPasses
from fluxfast.optimizations.registry import default_names
from fluxfast.optimizations.situation import LoadedPipeline, Situation
from tests.support.machines import CPU, H200

TEXT = VARIANTS[0]
TRUE_CFG = {"true_cfg_scale": 3.0, "num_inference_steps": 4}
CLOSE = dict(rtol=0, atol=1e-4)


class Calls:
    """Calls a toy transformer through BothPasses, and compares each result with its own."""

    def __init__(self):
        self.passes, self.batches = BothPasses(), []
        self.ids = {"txt_ids": torch.zeros(3, 3), "img_ids": torch.zeros(2, 3)}

    def transformer(self, **keywords):
        self.batches.append(len(keywords["hidden_states"]))
        return (self.result(**keywords),)

    def result(self, hidden_states, timestep, encoder_hidden_states, guidance=None, **others):
        text = encoder_hidden_states.sum((1, 2)) + others["pooled_projections"].sum(1)
        scale = text * timestep + (0 if guidance is None else guidance)
        return hidden_states * scale.view(-1, 1, 1)

    @torch.no_grad()
    def __call__(self, latents, text, time=1.0, **changes):
        keywords = {
            "hidden_states": latents,
            "timestep": torch.full((len(latents),), time),
            "guidance": text["guidance"],
            "pooled_projections": text["pooled"],
            "encoder_hidden_states": text["embeds"],
            **self.ids,
            "joint_attention_kwargs": {},
            "return_dict": False,
            **changes,
        }
        (found,) = self.passes(self.transformer, keywords)
        keywords.pop("return_dict")
        torch.testing.assert_close(found, self.result(**keywords))

    def step(self, *texts, time=1.0, images=1):
        latents = torch.randn(images, 2, 4)
        for text in texts:
            self(latents, text, time)


def text(images=1, tokens=3, guidance=3.5):
    return {
        "embeds": torch.randn(images, tokens, 5),
        "pooled": torch.randn(images, 6),
        "guidance": torch.full((images,), guidance),
    }


def test_the_second_pass_comes_with_the_first_from_the_second_step_on():
    calls = Calls()
    for images in (1, 2):  # two pipeline calls, the second of two prompts
        prompt, negative = text(images), text(images)
        for time in (1.0, 0.7, 0.2):
            calls.step(prompt, negative, time=time, images=images)
    assert calls.batches == [1, 1, 2, 2, 2, 2, 4, 4]
    assert (calls.passes.answered, calls.passes.missed) == (4, 0)


def test_a_call_that_was_not_expected_is_computed():
    calls, prompt, negative = Calls(), text(), text()
    for _ in range(2):
        calls.step(prompt, negative)
    calls.step(prompt, text())  # another negative prompt, as a callback may set
    calls.step(prompt)  # no second pass any more
    calls.step(prompt)
    assert calls.batches == [1, 1, 2, 2, 1, 2, 1] and calls.passes.missed == 2


def test_arguments_that_were_written_in_place_are_not_those_expected():
    calls, prompt, negative = Calls(), text(), text()
    for _ in range(2):
        calls.step(prompt, negative)
    latents = torch.randn(1, 2, 4)
    calls(latents, prompt)
    negative["embeds"].mul_(2.0)  # written in place
    calls(latents, negative)
    latents = torch.randn(1, 2, 4)
    calls(latents, prompt)
    latents.mul_(2.0)
    calls(latents, negative)
    assert (calls.passes.answered, calls.passes.missed) == (1, 2)


def test_another_time_gives_no_result_of_the_time_before():
    calls, prompt, negative = Calls(), text(), text()
    calls.step(prompt, negative)
    latents = torch.randn(1, 2, 4)
    calls(latents, prompt, 1.0)
    with pytest.raises(AssertionError, match="nan"):
        calls(latents, negative, 0.5)


@pytest.mark.parametrize(
    ("negative", "changes"),
    [
        (text(tokens=2), {}),
        (text(), {"controlnet_block_samples": [torch.zeros(1)]}),
        (text(), {"joint_attention_kwargs": {"ip_adapter_image_embeds": torch.zeros(1)}}),
        (text(), {"hidden_states": torch.zeros(1, MAX_IMAGE_TOKENS + 1, 4)}),
    ],
    ids=["another length of text", "ControlNet", "IP-Adapter", "large image"],
)
def test_calls_that_do_not_go_into_one_batch_are_computed_apart(negative, changes):
    calls, prompt = Calls(), text()
    for _ in range(3):
        latents = torch.randn(1, 2, 4)
        for one in (prompt, negative):
            calls(latents, one, **changes)
    assert calls.batches == [1] * 6 and calls.passes.answered == 0


@pytest.mark.parametrize(
    "variant",
    [TEXT, pytest.param(VARIANTS[10], marks=pytest.mark.slow)],
    ids=lambda variant: variant.name,
)
def test_a_pipeline_generates_the_same_images(variant):
    pipeline = loaded(variant)
    calls = (
        dict(negative_prompt="a small blue square", **TRUE_CFG),
        dict(guidance_scale=1.5),
        dict(num_images_per_prompt=2, guidance_scale=2.0, negative_prompt="a disc", **TRUE_CFG),
    )
    before = [generate(pipeline, variant, **call) for call in calls]
    answered = list[int]()
    with fluxfast.optimize(
        pipeline, enable=["true_cfg_batch"], disable=["regional", "inductor_flags"]
    ) as fast:
        for call, expected in zip(calls, before, strict=True):
            torch.testing.assert_close(generate(fast, variant, **call), expected, **CLOSE)
            answered.append(fast.transformer.both_passes.answered)
        report = fast.report()
    assert answered == [3, 3, 6]
    assert report.is_as_requested and "0 in vain" in str(report)
    assert not hasattr(pipeline.transformer, "both_passes")


@pytest.mark.parametrize(
    ("pipeline_class", "hardware", "is_default"),
    [
        ("FluxPipeline", H200, True),
        ("FluxPipeline", CPU, False),
        ("FluxFillPipeline", H200, False),
        ("FluxControlNetPipeline", H200, False),
        (None, H200, False),  # the cases of the suites, whose ids do not change
    ],
)
def test_it_is_a_default_where_calls_can_have_two_passes(pipeline_class, hardware, is_default):
    loaded_pipeline = pipeline_class and LoadedPipeline(
        pipeline_class=pipeline_class, dtype="bfloat16"
    )
    situation = Situation(
        model=DEV,
        hardware=hardware,
        request=default_request(DEV, side=512),
        loaded=loaded_pipeline,
    )
    assert ("true_cfg_batch" in default_names(situation)) is is_default
