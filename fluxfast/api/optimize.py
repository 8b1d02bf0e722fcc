"""`fluxfast.optimize()`: apply the optimizations to a pipeline that the caller has loaded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from fluxfast.api.report import Report, report_of
from fluxfast.console import no_progress
from fluxfast.errors import FluxFastError
from fluxfast.hardware import detect
from fluxfast.models.recognition import recognise_pipeline
from fluxfast.models.spec import default_request
from fluxfast.optimizations import registry
from fluxfast.optimizations.base import Axis, Build, Plan, Situation
from fluxfast.optimizations.cache_config import CacheConfig, cache_config_of, read_cache_config
from fluxfast.optimizations.presets import preset_names, why_left_out
from fluxfast.pipeline.build import apply_plan, free_memory
from fluxfast.pipeline.guard import changed_after_optimizing, guard, recorded_weights
from fluxfast.pipeline.preconditions import check_pipeline, described
from fluxfast.pipeline.snapshot import Snapshot

if TYPE_CHECKING:
    from fluxfast.pipeline.guard import Weights

DEFAULT_SIDE = 1024
# Several optimized pipelines share the compiled code of a block, of which PyTorch keeps 8 versions.
RECOMPILE_LIMIT = 64
FREE_MEMORY_SHARE = 0.25  # below this share of free GPU memory, original weights go to the host

Cache = CacheConfig | Mapping[str, Any] | str | Path


def optimize(
    pipeline: Any,
    *,
    preset: str = "default",
    enable: Collection[str] = (),
    disable: Collection[str] = (),
    cache: Cache | None = None,
    gpus: int = 1,
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
            that are identical to eager up to floating-point reordering and rounding; `eager`: none.
        enable: optimizations to add, by name; each takes the place of the preset's choice of its
            axis. `fluxfast.list_optimizations()` lists them.
        disable: optimizations to leave out; the next best default of an axis takes its place.
        cache: settings of DBCache, which they enable: a YAML file of cache-dit, or a mapping.
        gpus: number of GPUs that share an image; 1.
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
    model, why = recognise_pipeline(pipeline)
    check_pipeline(pipeline)
    _check_gpus(gpus)
    situation = Situation(
        model=model,
        hardware=detect(pipeline.device.type),
        request=default_request(model, side=DEFAULT_SIDE, **request),
        cache_config=_cache_config(cache),
        loaded=described(pipeline),
    )
    caches = [o.name for o in registry.choices(Axis.CACHE)] if cache is not None else []
    enable = tuple(dict.fromkeys((*enable, *caches)))
    choice = _Choice(preset=preset, enable=enable, disable=tuple(disable))
    return _optimized(pipeline, situation, choice, why, progress)


def _check_gpus(gpus: int) -> None:
    if gpus != 1:
        raise FluxFastError(
            "an image is generated on one GPU",
            got=f"gpus={gpus}",
            allowed="1",
            remedy="run one process per GPU, each with images of its own",
        )


def _cache_config(cache: Cache | None) -> CacheConfig | None:
    if cache is None or isinstance(cache, CacheConfig):
        return cache
    return cache_config_of(cache) if isinstance(cache, Mapping) else read_cache_config(Path(cache))


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """The caller's choice, and the optimizations that could not be applied to this pipeline."""

    preset: str
    enable: tuple[str, ...]
    disable: tuple[str, ...]
    not_applicable: Mapping[str, str] = field(default_factory=dict)

    def plan(self, situation: Situation) -> Plan:
        names = preset_names(
            self.preset,
            situation,
            enable=self.enable,
            disable=(*self.disable, *self.not_applicable),
        )
        return registry.plan(names, situation)

    def left_out(self, plan: Plan) -> dict[str, str]:
        reasons = dict.fromkeys(self.disable, "disabled by the caller")
        if self.preset != "default":
            return {**reasons, **self.not_applicable}
        return {**why_left_out(plan), **reasons, **self.not_applicable}


def _optimized(
    pipeline: Any,
    situation: Situation,
    choice: _Choice,
    why: str,
    progress: Callable[[str], None],
) -> OptimizedPipeline:
    """Apply the plan of the choice, without the defaults that this pipeline turns out to refuse."""
    plan = choice.plan(situation)
    snapshot = Snapshot(pipeline)
    applied = list[str]()

    def after_each(optimization: Any) -> None:
        applied.append(optimization.name)
        _make_room(snapshot)

    try:
        with _on_device(pipeline):
            build = apply_plan(pipeline, plan, progress=progress, after_each=after_each)
    except BaseException as error:
        snapshot.restore()
        refused = plan.in_order_of_application[len(applied)].name
        if not isinstance(error, FluxFastError) or refused in choice.enable:
            raise
        reasons = {**choice.not_applicable, refused: error.problem}
        return _optimized(
            pipeline, situation, replace(choice, not_applicable=reasons), why, progress
        )
    return OptimizedPipeline(
        pipeline=pipeline, build=build, snapshot=snapshot, why=why, left_out=choice.left_out(plan)
    )


def _make_room(snapshot: Snapshot) -> None:
    """Move original weights to the host while the GPU has little free memory."""
    for original in snapshot.unused():
        free, total = torch.cuda.mem_get_info(original.device)
        if free >= FREE_MEMORY_SHARE * total:
            return
        original.move_to_host()
        torch.cuda.empty_cache()


def _on_device(pipeline: Any) -> Any:
    """Return a context in which the pipeline's GPU is the current one."""
    device = pipeline.device
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class OptimizedPipeline:
    """A pipeline with optimizations applied, called like the pipeline itself.

    Every other attribute is the pipeline's. Leaving its context undoes the optimizations.

    Attributes:
        pipeline: the caller's pipeline, optimized in place until `undo()`.
        plan: the optimizations.
        left_out: default optimizations that are not applied, each with the reason.
    """

    def __init__(
        self,
        *,
        pipeline: Any,
        build: Build,
        snapshot: Snapshot,
        why: str,
        left_out: Mapping[str, str],
    ) -> None:
        """Guard the pipeline, to which the build was applied."""
        own = vars(self)
        own.update(pipeline=pipeline, plan=build.plan, left_out=left_out)
        own.update(_build=build, _snapshot=snapshot, _why=why, _last_call=None)
        pipeline.transformer.__dict__["_optimized_by"] = self
        guard(pipeline, self._before_call)
        own["_weights"] = recorded_weights(pipeline)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the pipeline: the same arguments, the same result.

        Raises:
            FluxFastError: the optimizations were undone, the weights were changed, or an argument
                has no effect on an optimized pipeline.
        """
        self._check_is_active()
        limit = torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT)
        with ExitStack() as stack:
            stack.enter_context(_on_device(self.pipeline))
            if self.plan.compiles:
                stack.enter_context(limit)
            return self.pipeline(*arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the pipeline."""
        return getattr(vars(self)["pipeline"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the pipeline."""
        setattr(self.pipeline, name, value)

    def __enter__(self) -> OptimizedPipeline:
        """Return this object."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Undo the optimizations."""
        self.undo()

    def __repr__(self) -> str:
        """Name the pipeline and the optimizations."""
        names = " + ".join(self.plan.names) or "none"
        return f"OptimizedPipeline({type(self.pipeline).__name__}, optimizations: {names})"

    @property
    def is_active(self) -> bool:
        """Whether the optimizations are applied: True until `undo()`."""
        return "_build" in vars(self)

    def report(self) -> Report:
        """Repeat the last call with its first denoising step profiled, and report each proof.

        Returns:
            Which optimizations are active, what shows it, and what was left out and why. It prints
            as a table.

        Raises:
            FluxFastError: the pipeline was not called yet.
        """
        self._check_is_active()
        if self._last_call is None:
            raise FluxFastError(
                "nothing to report yet: the proofs come from a call",
                got="report() before the first call",
                allowed="report() after a call with the arguments that matter to you",
                remedy="call the optimized pipeline once",
            )
        return report_of(
            self.pipeline, self.plan, self._last_call, why=self._why, left_out=self.left_out
        )

    def undo(self) -> Any:
        """Restore the pipeline, its weights and every global setting, and return the pipeline.

        The pipeline then computes the same values as before, bit for bit. Calling it again does
        nothing.
        """
        if self.is_active:
            own = vars(self)
            own.pop("_build").undo.close()
            own.pop("_snapshot").restore()
            del own["_weights"]
            own["_last_call"] = None
            free_memory()
        return self.pipeline

    def _check_is_active(self) -> None:
        if not self.is_active:
            raise FluxFastError(
                "the optimizations of this pipeline were undone",
                got="a call after undo()",
                allowed="calls before undo(), or of the pipeline itself",
                remedy="call the pipeline, or fluxfast.optimize() again",
            )

    def _before_call(self, arguments: Mapping[str, Any]) -> None:
        """Check that a call sees the weights and arguments that it should, before it begins."""
        weights: Weights = self._weights
        change = weights.change(self.pipeline)
        if change:
            raise changed_after_optimizing(change)
        _check_arguments(arguments, self.plan)
        for react in self._build.before_call:
            react(arguments)
        vars(self)["_last_call"] = {n: v for n, v in arguments.items() if n != "self"}


def _check_arguments(arguments: Mapping[str, Any], plan: Plan) -> None:
    """Refuse arguments that optimized attention would not see."""
    attention = arguments.get("joint_attention_kwargs")
    if attention:
        raise FluxFastError(
            "joint_attention_kwargs have no effect on an optimized pipeline",
            got=", ".join(attention),
            allowed="none: LoRAs are part of the weights",
            remedy="set a LoRA's strength with set_adapters() before optimize()",
        )
