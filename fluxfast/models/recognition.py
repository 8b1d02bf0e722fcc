"""Recognise the Flux.1 model of a checkpoint or pipeline by its structure, never by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fluxfast.errors import CheckpointError
from fluxfast.models.spec import DEDISTILLED, DEV, KONTEXT, KONTEXT_PIPELINES, SCHNELL, ModelSpec

TRANSFORMER = "FluxTransformer2DModel"
# Every pipeline of diffusers 0.42 that denoises with a FluxTransformer2DModel.
PIPELINES = (
    "FluxPipeline",
    *KONTEXT_PIPELINES,
    "FluxImg2ImgPipeline",
    "FluxInpaintPipeline",
    "FluxFillPipeline",
    "FluxControlPipeline",
    "FluxControlImg2ImgPipeline",
    "FluxControlInpaintPipeline",
    "FluxControlNetPipeline",
    "FluxControlNetImg2ImgPipeline",
    "FluxControlNetInpaintPipeline",
)


def recognise(
    pipeline_class: str, *, guidance_embeds: bool, use_dynamic_shifting: bool
) -> tuple[ModelSpec, str]:
    """Return the model that has this structure, and why the structure is that model's.

    Args:
        pipeline_class: the name of the diffusers pipeline, one of PIPELINES.
        guidance_embeds: whether the transformer takes the guidance scale as an input.
        use_dynamic_shifting: whether the schedule shifts with the resolution, which models of many
            steps do and schnell does not.

    Raises:
        CheckpointError: the pipeline is not one of PIPELINES.
    """
    if pipeline_class not in PIPELINES:
        raise CheckpointError(
            "this is not a Flux.1 pipeline",
            got=pipeline_class,
            allowed=", ".join(PIPELINES),
            remedy="use a pipeline of diffusers that contains a FluxTransformer2DModel",
        )
    if guidance_embeds:
        model, why = DEV, "its transformer has a guidance input"
    elif use_dynamic_shifting:
        model = DEDISTILLED
        why = "no guidance input, but a schedule of many steps (use_dynamic_shifting)"
    else:
        model, why = SCHNELL, "no guidance input, and a schedule of few steps"
    if pipeline_class in KONTEXT_PIPELINES and guidance_embeds:
        model = KONTEXT
    if pipeline_class != model.pipeline_class:
        model = replace(model, pipeline_class=pipeline_class)
    return model, f"{pipeline_class}; {why}"


def recognise_pipeline(pipeline: Any) -> tuple[ModelSpec, str]:
    """Return the model of a loaded diffusers pipeline, and why the pipeline was taken for it.

    A subclass of a pipeline of diffusers counts as that pipeline.

    Args:
        pipeline: a diffusers pipeline.

    Raises:
        CheckpointError: the pipeline has no FluxTransformer2DModel, or is none of PIPELINES.
    """
    transformer: Any = getattr(pipeline, "transformer", None)
    if TRANSFORMER not in _class_names(transformer):
        raise CheckpointError(
            "this pipeline does not contain a FluxTransformer2DModel",
            got=f"{type(pipeline).__name__} with a transformer {type(transformer).__name__}",
            allowed=f"a pipeline of diffusers whose `transformer` is a {TRANSFORMER}",
            remedy="pass a Flux.1 pipeline as from_pretrained returns it, not yet compiled",
        )
    names = _class_names(pipeline)
    known = (name for name in names if name in PIPELINES)
    return recognise(
        next(known, names[0]),
        guidance_embeds=_is_set(transformer.config, "guidance_embeds"),
        use_dynamic_shifting=_is_set(
            getattr(pipeline.scheduler, "config", {}), "use_dynamic_shifting"
        ),
    )


def _class_names(value: object) -> list[str]:
    return [ancestor.__name__ for ancestor in type(value).__mro__]


def _is_set(config: Mapping[str, Any], key: str) -> bool:
    return bool(config.get(key, False))
