"""`fluxfast.optimize()`: apply the optimizations to a pipeline that the caller has loaded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fluxfast.api.optimized import OptimizedPipeline
from fluxfast.console import no_progress
from fluxfast.errors import FluxFastError, RankError
from fluxfast.hardware import Hardware, detect
from fluxfast.models.lora.fold import fold
from fluxfast.models.recognition import recognise_pipeline
from fluxfast.models.spec import ModelSpec, default_request
from fluxfast.optimizations import registry
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Plan
from fluxfast.optimizations.cache_config import CacheConfig, cache_config_from
from fluxfast.optimizations.presets import preset_names, why_left_out
from fluxfast.optimizations.situation import Situation
from fluxfast.optimizations.unquantized import check_quantizes, unquantized_layers
from fluxfast.pipeline.applied import on_device
from fluxfast.pipeline.live_weights import LiveWeights, recorded_layers
from fluxfast.pipeline.preconditions import check_pipeline, described
from fluxfast.pipeline.ranks import apply_on_every_rank
from fluxfast.pipeline.snapshot import Snapshot

DEFAULT_SIDE = 1024
FREE_MEMORY_SHARE = 0.25  # below this share of free GPU memory, original weights go to the host

Cache = CacheConfig | Mapping[str, Any] | str | Path


def optimize(
    pipeline: Any,
    *,
    preset: str = "default",
    enable: Collection[str] = (),
    disable: Collection[str] = (),
    unquantized: Sequence[str] = (),
    cache: Cache | None = None,
    gpus: int = 1,
    device: str | None = None,
    progress: Callable[[str], None] = no_progress,
    **request: Any,
) -> OptimizedPipeline:
    """Optimize a Flux pipeline in place, and return an object that is called like it.

    LoRAs that are loaded become part of the weights, at the strength that is set. What a default
    optimization cannot handle in this pipeline is left out, and `report()` gives the reason; what
    is enabled by name and not supported is an error.

    The weights that an optimization replaces are kept for `undo()`: on the GPU while a quarter of
    its memory stays free, else on the host.

    Args:
        pipeline: a diffusers pipeline with a FluxTransformer2DModel, wholly on one device.
        preset: `default`: the default optimizations of this hardware; `lossless`: those of them
            that are identical to eager up to floating-point reordering and rounding; `eager`: none;
            `low_memory`: the default ones, with T5 in host memory.
        enable: optimizations to add, by name; each takes the place of the preset's choice of its
            axis. `fluxfast.list_optimizations()` lists them.
        disable: optimizations to leave out; the next best default of an axis takes its place.
        unquantized: names of the transformer's block layers that stay in its dtype while the others
            are quantized, or patterns of `fnmatch` such as `*.ff.net.2`. Layers that read the input
            of a block stay together.
        cache: settings of DBCache, which they enable: `quality`, `balanced` or `fast`, a YAML file
            of cache-dit, or a mapping.
        gpus: number of GPUs that share an image. Under torchrun, every rank calls this function,
            and then the pipeline. Without it, processes for the other GPUs are started here, and
            this one calls the pipeline. On a CPU, processes share the image.
        device: where the pipeline will run; by default where it is. `cuda` moves a pipeline that
            is in host memory, each layer that is quantized after it was, so that the GPU needs no
            room for all weights as they are.
        progress: called with the name of each stage.
        **request: fields of `ImageRequest` that calls will have, such as `height`: `export_aoti`
            exports that shape, and a cache is checked for that `num_inference_steps`.

    Returns:
        The optimized pipeline. It is a context manager that undoes the optimizations at its end.

    Raises:
        PlanError: the optimizations that are enabled are incompatible, or not supported here.
        FluxFastError: the pipeline is not a Flux pipeline, or cannot be optimized as it is; it is
            left as it was.
    """
    if type(pipeline) is OptimizedPipeline:
        pipeline = pipeline.pipeline
    model, why = recognise_pipeline(pipeline)
    check_pipeline(pipeline)
    caches = [o.name for o in registry.choices(Axis.CACHE)] if cache is not None else []
    choice = _Choice(
        model=model,
        taken_for=f"{model.name} ({why})",
        preset=preset,
        enable=tuple(dict.fromkeys((*enable, *caches))),
        disable=tuple(disable),
        unquantized=unquantized_layers(unquantized, _block_counts(pipeline)),
        cache_config=cache_config_from(cache) if cache is not None else None,
        request=request,
        hardware=detect(_device_for(pipeline, device, gpus), gpus),
    )
    return _optimized(pipeline, choice, progress)


def _device_for(pipeline: Any, device: str | None, gpus: int) -> str:
    """Return the kind of device that the pipeline will run on."""
    there: str = pipeline.device.type
    if device in (None, there):
        return there
    if (there, device) != ("cpu", "cuda") or gpus > 1:
        raise FluxFastError(
            "this pipeline cannot be moved while it is optimized",
            got=f"a pipeline on {there}, device={device!r}, gpus={gpus}",
            allowed="device='cuda' for a pipeline in host memory and one GPU",
            remedy=f"call pipeline.to({device!r}) first, and leave device out",
        )
    return "cuda"


def _block_counts(pipeline: Any) -> tuple[int, int]:
    transformer = pipeline.transformer
    return len(transformer.transformer_blocks), len(transformer.single_transformer_blocks)


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """The caller's choice, and the optimizations that could not be applied to this pipeline."""

    model: ModelSpec
    taken_for: str
    preset: str
    enable: tuple[str, ...]
    disable: tuple[str, ...]
    unquantized: frozenset[str]
    cache_config: CacheConfig | None
    request: Mapping[str, Any]
    hardware: Hardware
    not_applicable: Mapping[str, str] = field(default_factory=dict)

    def plan(self, pipeline: Any) -> Plan:
        situation = Situation(
            model=self.model,
            hardware=self.hardware,
            request=default_request(self.model, side=DEFAULT_SIDE, **self.request),
            cache_config=self.cache_config,
            loaded=described(pipeline),
            blocks=sum(_block_counts(pipeline)),
            heads=pipeline.transformer.config.num_attention_heads,
            unquantized=self.unquantized,
        )
        excluded = (*self.disable, *self.not_applicable)
        names = preset_names(self.preset, situation, enable=self.enable, disable=excluded)
        check_quantizes([names], self.unquantized)
        return registry.plan(names, situation)

    def left_out(self, plan: Plan) -> dict[str, str]:
        reasons = dict.fromkeys(self.disable, "disabled by the caller")
        if self.preset not in ("default", "low_memory"):
            return {**reasons, **self.not_applicable}
        return {**why_left_out(plan), **reasons, **self.not_applicable}


def _optimized(
    pipeline: Any, choice: _Choice, progress: Callable[[str], None]
) -> OptimizedPipeline:
    """Apply the plan of the choice, without the defaults that this pipeline turns out to refuse."""
    snapshot, undo = Snapshot(pipeline), ExitStack()
    undo.callback(snapshot.restore)
    waiting = list[str]()  # for their turn, in the order of application

    def after_each(optimization: Any) -> None:
        waiting.remove(optimization.name)
        _make_room(snapshot)

    try:
        with on_device(pipeline), _random_state_kept(pipeline):
            loras = fold(pipeline.transformer)
            originals = recorded_layers(pipeline.transformer, snapshot)
            plan = choice.plan(pipeline)
            waiting += [o.name for o in plan.in_order_of_application]
            build = apply_on_every_rank(
                pipeline, plan, progress=progress, after_each=after_each, undo=undo
            )
    except BaseException as error:
        undo.close()
        if not isinstance(error, FluxFastError) or isinstance(error, RankError):
            raise
        if not waiting or waiting[0] in choice.enable:
            raise
        reasons = {**choice.not_applicable, waiting[0]: error.problem}
        return _optimized(pipeline, replace(choice, not_applicable=reasons), progress)
    return OptimizedPipeline(
        build=build,
        snapshot=snapshot,
        live=LiveWeights(build, originals),
        loras=loras,
        left_out=choice.left_out(plan),
        taken_for=choice.taken_for,
    )


def _random_state_kept(pipeline: Any) -> Any:
    """Return a context that restores the random generators, which new layers advance."""
    is_gpu = pipeline.device.type == "cuda"
    return torch.random.fork_rng(devices=[pipeline.device] if is_gpu else [])


def _make_room(snapshot: Snapshot) -> None:
    """Move original weights to the host while the GPU has little free memory."""
    for original in snapshot.unused():
        free, total = torch.cuda.mem_get_info(original.device)
        if free >= FREE_MEMORY_SHARE * total:
            return
        original.move_to_host()
        torch.cuda.empty_cache()
