"""Pipelines and checkpoints are taken for a model by their structure."""

import diffusers
import pytest
import torch

from fluxfast.errors import CheckpointError
from fluxfast.models.architecture import MINI, SCHEDULER_SHIFTED, SCHEDULER_UNSHIFTED
from fluxfast.models.recognition import PIPELINES, recognise, recognise_pipeline
from fluxfast.models.spec import DEDISTILLED, DEV, KONTEXT, SCHNELL


def test_every_flux_pipeline_of_diffusers_is_known():
    exported = {name for name in dir(diffusers) if name.startswith("Flux") and "Pipeline" in name}
    with_transformer = {
        name
        for name in exported
        if "FluxTransformer2DModel" in str(getattr(diffusers, name).__init__.__annotations__)
    }
    assert set(PIPELINES) == with_transformer and len(with_transformer) > 10


@pytest.mark.parametrize(
    ("pipeline_class", "guidance_embeds", "use_dynamic_shifting", "model"),
    [
        ("FluxPipeline", True, True, DEV),
        ("FluxPipeline", True, False, DEV),
        ("FluxPipeline", False, False, SCHNELL),
        ("FluxPipeline", False, True, DEDISTILLED),
        ("FluxKontextPipeline", True, True, KONTEXT),
    ],
)
def test_structure_decides(pipeline_class, guidance_embeds, use_dynamic_shifting, model):
    found, why = recognise(
        pipeline_class, guidance_embeds=guidance_embeds, use_dynamic_shifting=use_dynamic_shifting
    )
    assert found == model and pipeline_class in why


def pipeline(name, *, guidance_embeds, schedule):
    """Return a pipeline of that class with the transformer's and the schedule's structure alone."""
    with torch.device("meta"):
        transformer = diffusers.FluxTransformer2DModel(
            guidance_embeds=guidance_embeds, **MINI.transformer
        )
    parts = dict(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**schedule),
    )
    absent = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    if "ControlNet" in name:
        with torch.device("meta"):
            parts["controlnet"] = diffusers.FluxControlNetModel(**MINI.transformer)
    return getattr(diffusers, name)(**parts, **dict.fromkeys(absent))


@pytest.mark.parametrize("name", PIPELINES)
def test_a_loaded_pipeline_of_every_class_is_recognised(name):
    dev, why = recognise_pipeline(pipeline(name, guidance_embeds=True, schedule=SCHEDULER_SHIFTED))
    assert dev.pipeline_class == name and dev.guidance_embeds and not dev.is_few_step
    assert dev.takes_image == ("Kontext" in name) and name in why
    few_step, _ = recognise_pipeline(
        pipeline(name, guidance_embeds=False, schedule=SCHEDULER_UNSHIFTED)
    )
    assert few_step.is_few_step and few_step.pipeline_class == name


def test_a_subclass_is_taken_for_its_parent():
    loaded = pipeline("FluxPipeline", guidance_embeds=True, schedule=SCHEDULER_SHIFTED)
    loaded.__class__ = type("OwnPipeline", (diffusers.FluxPipeline,), {})
    assert recognise_pipeline(loaded)[0] == DEV


def test_another_pipeline_and_a_wrapped_transformer_are_refused():
    with pytest.raises(CheckpointError, match="object with a transformer NoneType"):
        recognise_pipeline(object())
    with pytest.raises(CheckpointError, match="FluxKontextInpaintPipeline"):
        recognise("FluxPriorReduxPipeline", guidance_embeds=True, use_dynamic_shifting=True)
    loaded = pipeline("FluxPipeline", guidance_embeds=True, schedule=SCHEDULER_SHIFTED)
    loaded.transformer = torch.compile(loaded.transformer)
    with pytest.raises(CheckpointError, match="OptimizedModule"):
        recognise_pipeline(loaded)
