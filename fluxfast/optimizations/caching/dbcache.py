"""DBCache of cache-dit: steps whose first blocks change little reuse the rest of an earlier step.

It changes the image, so it is active only on request.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from fluxfast.errors import PlanError
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Evidence, Optimization, Proof
from fluxfast.optimizations.cache_config import DEFAULT_CACHE_CONFIG, CacheConfig
from fluxfast.optimizations.caching._limits import why_not_with_blocks, why_not_with_steps
from fluxfast.optimizations.facts import Package
from fluxfast.optimizations.situation import Situation


def why_unsupported_request(situation: Situation) -> str | None:
    """Return why the cache does not go with the model, its blocks or the steps, or None."""
    config, steps = _config(situation), situation.request.num_inference_steps
    if situation.model.is_few_step:
        name = situation.model.name
        return f"{name} has {steps} inference steps and no steps to reuse; use dev or kontext"
    if situation.loaded and "ControlNet" in situation.loaded.pipeline_class:
        return "a ControlNet adds its residuals between blocks that the cache calls as one"
    if situation.blocks is not None and (reason := why_not_with_blocks(config, situation.blocks)):
        return reason
    return why_not_with_steps(config, steps)


def _config(situation: Situation) -> CacheConfig:
    return situation.cache_config or DEFAULT_CACHE_CONFIG


def apply(build: Build) -> None:
    """Replace the blocks by cache-dit's, and select a cache before each call of the transformer."""
    from fluxfast.optimizations.caching._decision import decide_with
    from fluxfast.optimizations.caching._runs import CachedRuns

    config, transformer = _config(build.situation), build.pipeline.transformer
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    if reason := why_not_with_blocks(config, len(blocks)):
        raise PlanError(
            f"dbcache: {reason}",
            got=f"{len(blocks)} blocks",
            allowed="Fn_compute_blocks + Bn_compute_blocks less than the number of blocks",
            remedy="lower them in the cache configuration",
        )
    own_forward = transformer.__dict__.get("forward")
    build.undo.callback(_restore, transformer, own_forward)
    cached = _enable(transformer, blocks, config, build.situation.request.num_inference_steps)
    decide_with(cached, build.team)
    runs = CachedRuns(build.pipeline, config, cached)
    build.undo.callback(transformer.register_forward_pre_hook(runs, with_kwargs=True).remove)
    # Not a submodule: it holds all blocks, which are submodules of the transformer already.
    transformer.__dict__.update(cached_blocks=cached, cached_runs=runs)


def _enable(transformer: Any, blocks: list[Any], config: CacheConfig, steps: int) -> Any:
    """Enable cache-dit for all blocks as one list, and return the object that replaces them."""
    import cache_dit
    from cache_dit.caching import FakeDiffusionPipeline
    from torch import nn

    from fluxfast.optimizations.caching._limits import steps_mask
    from fluxfast.optimizations.caching._runs import cache_settings

    adapter = cache_dit.BlockAdapter(
        # The class of a real one would be changed, for every pipeline of the process.
        pipe=FakeDiffusionPipeline(transformer),
        transformer=transformer,
        blocks=nn.ModuleList(blocks),
        blocks_name="transformer_blocks",
        dummy_blocks_names=["single_transformer_blocks"],
        forward_pattern=cache_dit.ForwardPattern.Pattern_1,
    )
    with _recorded_blocks() as recorded:
        cache_dit.enable_cache(adapter, **cache_settings(config, steps, steps_mask(config, steps)))
    (cached,) = recorded
    return cached


@contextmanager
def _recorded_blocks() -> Iterator[list[Any]]:
    """Record the object that replaces the blocks, which cache-dit does not return."""
    from cache_dit.caching.cache_adapters import cache_adapter

    create, recorded = cache_adapter.UnifiedBlocks, list[Any]()

    def keep(*arguments: Any, **keywords: Any) -> Any:
        recorded.append(create(*arguments, **keywords))
        return recorded[-1]

    with patch.object(cache_adapter, "UnifiedBlocks", keep):
        yield recorded


def _restore(transformer: Any, own_forward: Any) -> None:
    """Take cache-dit off the transformer, and restore what stood in its place."""
    import cache_dit

    cache_dit.disable_cache(transformer)
    for name in ("cached_blocks", "cached_runs", "forward"):
        transformer.__dict__.pop(name, None)
    if own_forward is not None:
        transformer.forward = own_forward


def proof(evidence: Evidence) -> Proof:
    """Return a proof: active if steps came from the cache, as many as a fixed mask plans."""
    runs = getattr(evidence.pipeline.transformer, "cached_runs", None)
    if runs is None:
        return Proof(is_active=False, detail="the transformer has no cache")
    cached = evidence.cached_steps
    detail = f"{cached} of {runs.steps} steps from the cache"
    if runs.mask and _config(evidence.plan.situation).is_static:
        planned = runs.mask.count(0)
        return Proof(is_active=cached == planned, detail=f"{detail}, {planned} planned")
    return Proof(is_active=cached > 0, detail=detail)


def cached_steps(pipeline: Any) -> int:
    """Return how many steps of the last image cache-dit answered from its cache."""
    cached: int = pipeline.transformer.cached_runs.cached_steps()
    return cached


OPTIMIZATION = Optimization(
    name="dbcache",
    axis=Axis.CACHE,
    summary="DBCache of cache-dit: reuse what changes little between steps",
    apply=apply,
    proof=proof,
    cached_steps=cached_steps,
    why_unsupported_request=why_unsupported_request,
    packages=(Package(name="cache-dit", install='pip install "cache-dit>=1.5"'),),
    conflicts={"export_aoti": "an exported graph cannot decide from step to step what to compute"},
    is_lossy=True,
    on_by_default=lambda hardware: False,
)
