"""The functions that `import fluxfast` exports: load a model, plan for it, load it optimized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fluxfast.errors import FluxFastError
from fluxfast.hardware import detect
from fluxfast.models import weights as model_weights
from fluxfast.optimizations import registry
from fluxfast.optimizations.base import Axis, Plan, Situation

if TYPE_CHECKING:
    from diffusers import FluxPipeline

    from fluxfast.pipeline.build import BuiltPipeline

PRESETS = ("default", "lossless", "eager")


def load(name: str, *, weights: str = "auto", device: str = "auto") -> FluxPipeline:
    """Load an unoptimized diffusers pipeline: bfloat16 on a GPU, float32 on a CPU.

    Args:
        name: `schnell`, `dev` or `kontext`, the small model of one of them (`mini-schnell`), a
            Hugging Face hub id, or a folder in diffusers layout.
        weights: `hub`, `synthetic` (seeded random values of the published shape), `mini`, or
            `auto`: what the machine has.
        device: `cuda`, `cpu` or `auto`.

    Returns:
        A fresh pipeline on the device.

    Raises:
        FluxFastError: the model is unknown, its weights cannot be read, or they do not fit.
    """
    from fluxfast.pipeline.build import load_dtype

    checked = plan(name, weights=weights, device=device, preset="eager")
    hardware = checked.situation.hardware
    checkpoint = model_weights.resolve(name, weights, hardware)
    return model_weights.load(checkpoint, dtype=load_dtype(checked), hardware=hardware)


def load_optimized(
    name: str,
    optimizations: Sequence[str] | None = None,
    *,
    preset: str = "default",
    weights: str = "auto",
    device: str = "auto",
    **request: Any,
) -> BuiltPipeline:
    """Load a model and apply a plan to it; the arguments are those of `plan`.

    Returns:
        A context manager: `generate()` returns the images of the request, `pipeline` is the
        diffusers pipeline, and leaving the context restores every global setting.

    Raises:
        PlanError: the optimizations are incompatible, or not supported here.
        FluxFastError: the model is unknown, or its weights cannot be read.
    """
    from fluxfast.pipeline.build import build

    checked = plan(name, optimizations, preset=preset, weights=weights, device=device, **request)
    checkpoint = model_weights.resolve(name, weights, checked.situation.hardware)
    return build(checkpoint, checked)


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
            that are identical to eager up to floating-point reordering and rounding; `eager`: the
            unoptimized pipeline.
        weights: the kind of weights, as in `load`.
        device: the device, as in `load`.
        **request: fields of `ImageRequest`, such as `height`, `prompt` or `num_inference_steps`.

    Raises:
        PlanError: the optimizations are incompatible, or not supported here.
        FluxFastError: the model or the preset is unknown, or a value of the request is invalid.
    """
    hardware = detect(device)
    checkpoint = model_weights.resolve(name, weights, hardware)
    situation = Situation(
        model=checkpoint.model, hardware=hardware, request=checkpoint.request(**request)
    )
    names = _preset_names(preset, situation) if optimizations is None else optimizations
    return registry.plan(names, situation)


def _preset_names(preset: str, situation: Situation) -> tuple[str, ...]:
    hardware = situation.hardware
    if preset == "default":
        return registry.default_names(situation)
    if preset == "eager":
        return registry.eager_names(hardware)
    if preset == "lossless":
        choices = {a: registry.default_choice(a, hardware, lossless=True) for a in Axis}
        lossy = [a for a in Axis if choices[a] != registry.default_choice(a, hardware)]
        return registry.default_names(situation, {axis: choices[axis] for axis in lossy})
    raise FluxFastError(
        "unknown preset",
        got=preset,
        allowed=", ".join(PRESETS),
        remedy="leave preset out for the default optimizations",
    )
