"""Load a model that the project knows, and plan for it without loading it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fluxfast.hardware import detect
from fluxfast.models import loading
from fluxfast.models.weights import resolve
from fluxfast.optimizations import registry
from fluxfast.optimizations.base import Plan
from fluxfast.optimizations.presets import preset_names
from fluxfast.optimizations.situation import Situation

if TYPE_CHECKING:
    from diffusers import FluxPipeline


def load(name: str, *, weights: str = "auto", device: str = "auto") -> FluxPipeline:
    """Load an unoptimized diffusers pipeline: bfloat16 on a GPU, float32 on a CPU.

    Args:
        name: `schnell`, `dev` or `kontext`, the small model of one of them (`mini-schnell`), a
            Hugging Face hub id, or a folder in diffusers layout.
        weights: `hub`, `mini`, seeded random values of the published shape (`synthetic`,
            `synthetic_outliers`), or `auto`: what the machine has.
        device: `cuda`, `cpu` or `auto`.

    Returns:
        A fresh pipeline on the device.

    Raises:
        FluxFastError: the model is unknown, its weights cannot be read, or they do not fit.
    """
    from fluxfast.pipeline.build import load_dtype

    checked = plan(name, weights=weights, device=device, preset="eager")
    hardware = checked.situation.hardware
    checkpoint = resolve(name, weights, hardware)
    return loading.load(checkpoint, dtype=load_dtype(checked), hardware=hardware)


def plan(
    name: str,
    optimizations: Sequence[str] | None = None,
    *,
    preset: str = "default",
    weights: str = "auto",
    device: str = "auto",
    **request: Any,
) -> Plan:
    """Return the checked plan for a model on this machine, without loading the model.

    Args:
        name: the model, as in `load`.
        optimizations: names of optimizations; None for those of the preset.
        preset: `default`: the default optimizations of this hardware; `lossless`: those of them
            that are identical to eager up to floating-point reordering and rounding; `low_memory`:
            the default ones, with T5 in host memory; `eager`: the unoptimized pipeline.
        weights: the kind of weights, as in `load`.
        device: the device, as in `load`.
        **request: fields of `ImageRequest`, such as `height`, `prompt` or `num_inference_steps`.

    Raises:
        PlanError: the optimizations are incompatible, or not supported here.
        FluxFastError: the model or the preset is unknown, or a value of the request is invalid.
    """
    hardware = detect(device)
    checkpoint = resolve(name, weights, hardware)
    situation = Situation(
        model=checkpoint.model,
        hardware=hardware,
        request=checkpoint.request(**request),
        blocks=checkpoint.blocks,
        heads=checkpoint.heads,
    )
    names = preset_names(preset, situation) if optimizations is None else optimizations
    return registry.plan(names, situation)
