"""Check the settings of a cache against the number of steps and blocks of a model."""

from __future__ import annotations

from fluxfast.optimizations.cache_config import CacheConfig

MIN_POLICY_STEPS = 8  # cache-dit's predefined masks are for this many steps or more
DEFAULT_FIRST_BLOCKS, DEFAULT_WARMUP_STEPS = 8, 8  # of cache-dit's DBCacheConfig


def why_not_with_steps(config: CacheConfig, steps: int) -> str | None:
    """Return why the cache does not work with this number of steps, or None."""
    mask = config.steps_mask
    if isinstance(mask, str) and steps < MIN_POLICY_STEPS:
        return f"its steps mask {mask!r} requires {MIN_POLICY_STEPS} steps or more, not {steps}"
    meant_for = len(mask) if isinstance(mask, tuple) else config.num_inference_steps
    if meant_for not in (None, steps):
        return (
            f"the cache is configured for {meant_for} steps, the request has {steps}; "
            "make them equal"
        )
    warm_up = config.dbcache.get("max_warmup_steps", DEFAULT_WARMUP_STEPS)
    if mask is None and steps <= max(warm_up, 1):
        return (
            f"its warm-up computes all of {steps} steps; set max_warmup_steps, {warm_up} now, "
            "to less than the number of steps"
        )
    return None


def why_not_with_blocks(config: CacheConfig, blocks: int) -> str | None:
    """Return why the cache does not work with this number of transformer blocks, or None.

    If first and last blocks overlap, cache-dit runs those in common twice. If they meet, it
    computes every block of a cached step.
    """
    first = config.dbcache.get("Fn_compute_blocks", DEFAULT_FIRST_BLOCKS)
    last = config.dbcache.get("Bn_compute_blocks", 0)
    if first + last < blocks:
        return None
    return (
        f"no block is left to the cache: Fn_compute_blocks {first} and Bn_compute_blocks {last} "
        f"of {blocks} blocks; lower them in the cache configuration"
    )


def steps_mask(config: CacheConfig, steps: int) -> list[int] | None:
    """Return 1 for each computed step and 0 for each cached one; None if the residuals decide."""
    import cache_dit

    if isinstance(config.steps_mask, str):
        return list(cache_dit.steps_mask(total_steps=steps, mask_policy=config.steps_mask))
    return list(config.steps_mask) if config.steps_mask else None
