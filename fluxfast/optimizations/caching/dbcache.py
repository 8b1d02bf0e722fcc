"""DBCache of cache-dit: steps whose first blocks change little reuse the rest of an earlier step.

It changes the image, so it is active only on request.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from fluxfast.errors import PlanError
from fluxfast.optimizations.base import (
    Axis,
    Build,
    Evidence,
    Optimization,
    Package,
    Proof,
    Situation,
)
from fluxfast.optimizations.cache_config import DEFAULT_CACHE_CONFIG, CacheConfig

MIN_POLICY_STEPS = 8  # cache-dit's predefined masks are for this many steps or more


def why_unsupported_request(situation: Situation) -> str | None:
    """Return why the cache and the number of steps do not go together, or None."""
    config, steps = _config(situation), situation.request.num_inference_steps
    if situation.model.is_few_step:
        name = situation.model.name
        return f"{name} has {steps} inference steps and no steps to reuse; use dev or kontext"
    if isinstance(config.steps_mask, str) and steps < MIN_POLICY_STEPS:
        return (
            f"its steps mask {config.steps_mask!r} requires {MIN_POLICY_STEPS} steps or more, "
            f"not {steps}"
        )
    for meant_for in (
        len(config.steps_mask) if isinstance(config.steps_mask, tuple) else None,
        config.num_inference_steps,
    ):
        if meant_for is not None and meant_for != steps:
            return (
                f"the cache is configured for {meant_for} steps, the request has {steps}; "
                "make them equal"
            )
    return None


def _config(situation: Situation) -> CacheConfig:
    return situation.cache_config or DEFAULT_CACHE_CONFIG


def steps_mask(situation: Situation) -> list[int] | None:
    """Return 1 for each computed step and 0 for each cached one; None if the residuals decide."""
    import cache_dit

    mask, steps = _config(situation).steps_mask, situation.request.num_inference_steps
    if isinstance(mask, str):
        return list(cache_dit.steps_mask(total_steps=steps, mask_policy=mask))
    return list(mask) if mask else None


def apply(build: Build) -> None:
    """Enable the cache, and disable it when the pipeline is closed."""
    import cache_dit

    config, pipeline = _config(build.situation), build.pipeline
    _check_blocks(config, pipeline.transformer)
    # cache-dit patches the class of the pipeline; this class is discarded with the pipeline.
    pipeline_class = type(pipeline)
    pipeline.__class__ = type(pipeline_class.__name__, (pipeline_class,), {})
    calibrator: Any = (
        cache_dit.TaylorSeerCalibratorConfig(**config.taylorseer) if config.taylorseer else None
    )
    with _recorded_blocks() as recorded:
        cache_dit.enable_cache(
            pipeline,
            cache_config=cache_dit.DBCacheConfig(
                **config.dbcache,
                num_inference_steps=build.situation.request.num_inference_steps,
                steps_computation_mask=steps_mask(build.situation),
            ),
            calibrator_config=calibrator,
        )
    build.undo.callback(cache_dit.disable_cache, pipeline)
    # Not a submodule: it holds all blocks, which are submodules of the transformer already.
    (pipeline.transformer.__dict__["cached_blocks"],) = recorded


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


def _check_blocks(config: CacheConfig, transformer: Any) -> None:
    blocks = len(transformer.transformer_blocks) + len(transformer.single_transformer_blocks)
    first = config.dbcache.get("Fn_compute_blocks", 8)
    if first >= blocks:
        raise PlanError(
            "DBCache would compute every block of every step",
            got=f"Fn_compute_blocks: {first}, and {blocks} blocks",
            allowed=f"1 to {blocks - 1}",
            remedy="lower Fn_compute_blocks in the cache configuration",
        )


def proof(evidence: Evidence) -> Proof:
    """Return a proof: active if steps came from the cache, as many as a fixed mask plans."""
    situation = evidence.plan.situation
    mask, cached = steps_mask(situation), evidence.cached_steps
    detail = f"{cached} of {situation.request.num_inference_steps} steps from the cache"
    if mask and _config(situation).is_static:
        return Proof(is_active=cached == mask.count(0), detail=f"{detail}, {mask.count(0)} planned")
    return Proof(is_active=cached > 0, detail=detail)


def cached_steps(pipeline: Any) -> int:
    """Return how many steps of the last image cache-dit answered from its cache."""
    import cache_dit

    return len(cache_dit.summary(pipeline, logging=False)[0].cached_steps)


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
