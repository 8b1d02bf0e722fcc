"""The settings of DBCache in cache-dit's YAML, under `cache_config:` or flat as in flux-fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fluxfast.errors import FluxFastError

# Names of older cache-dit releases, which flux-fast's file still uses.
RENAMED = {"warmup_steps": "max_warmup_steps", "taylorseer_kwargs": "taylorseer_order"}
DBCACHE_OPTIONS = {
    "Fn_compute_blocks": int,
    "Bn_compute_blocks": int,
    "residual_diff_threshold": float,
    "max_accumulated_residual_diff_threshold": float,
    "max_warmup_steps": int,
    "warmup_interval": int,
    "max_cached_steps": int,
    "max_continuous_cached_steps": int,
    "steps_computation_policy": str,
}
TAYLORSEER_OPTIONS = {
    "enable_taylorseer": bool,
    "enable_encoder_taylorseer": bool,
    "taylorseer_cache_type": str,
    "taylorseer_order": int,
}
OTHER_OPTIONS = {
    "cache_type": str,
    "num_inference_steps": int,
    "steps_computation_mask": (str, list),
}
MASK_POLICIES = ("slow", "medium", "fast", "ultra")


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """The settings of a cache.

    Attributes:
        dbcache: keyword arguments of cache-dit's `DBCacheConfig`.
        taylorseer: keyword arguments of its `TaylorSeerCalibratorConfig`; None for no calibrator.
        steps_mask: 1 for each computed step and 0 for each cached one, or the name of a policy of
            cache-dit, which gives such a mask for any number of steps; None decides by residuals.
        num_inference_steps: number of steps that the file is for; None for any.
    """

    dbcache: Mapping[str, Any]
    taylorseer: Mapping[str, Any] | None = None
    steps_mask: tuple[int, ...] | str | None = None
    num_inference_steps: int | None = None

    @property
    def is_static(self) -> bool:
        """Whether the mask alone decides which steps are cached, whatever the data."""
        return (
            self.steps_mask is not None and self.dbcache.get("steps_computation_policy") == "static"
        )


# Fixed steps, so that a measurement does not depend on how the residuals of one prompt fall.
DEFAULT_CACHE_CONFIG = CacheConfig(
    dbcache={"Fn_compute_blocks": 1, "Bn_compute_blocks": 0, "steps_computation_policy": "static"},
    steps_mask="fast",
)


def read_cache_config(path: Path) -> CacheConfig:
    """Return the settings of a YAML file.

    Raises:
        FluxFastError: the file cannot be read, or a key or a value is not allowed.
    """
    try:
        loaded = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _refuse("the cache configuration cannot be read", f"{path}: {error}") from error
    if not isinstance(loaded, dict):
        raise _refuse("the cache configuration holds no settings", f"{path}: {loaded!r}")
    flat = loaded.get("cache_config", loaded)
    if not isinstance(flat, dict):
        raise _refuse("cache_config holds no settings", f"{path}: {flat!r}")
    return cache_config_of(flat)


def cache_config_of(settings: Mapping[str, Any]) -> CacheConfig:
    """Return the settings of a flat mapping with current or older names of cache-dit.

    Raises:
        FluxFastError: a key or a value is not allowed.
    """
    options = {RENAMED.get(name, name): value for name, value in settings.items()}
    if isinstance(options.get("taylorseer_order"), dict):
        options["taylorseer_order"] = options["taylorseer_order"].get("n_derivatives", 1)
    allowed = DBCACHE_OPTIONS | TAYLORSEER_OPTIONS | OTHER_OPTIONS
    for name, value in options.items():
        _check(name, value, allowed)
    if options.get("cache_type", "DBCache") != "DBCache":
        raise _refuse("unsupported cache_type", options["cache_type"], "DBCache")
    return CacheConfig(
        dbcache={n: v for n, v in options.items() if n in DBCACHE_OPTIONS},
        taylorseer=_taylorseer(options),
        steps_mask=_steps_mask(options.get("steps_computation_mask")),
        num_inference_steps=options.get("num_inference_steps"),
    )


def _check(name: str, value: Any, allowed: Mapping[str, Any]) -> None:
    if name not in allowed:
        raise _refuse("unknown setting of the cache", name, ", ".join(allowed))
    kinds = allowed[name]
    fits = isinstance(value, (int, float) if kinds is float else kinds)
    if not fits or (kinds in (int, float) and isinstance(value, bool)):
        raise _refuse(f"{name} has a wrong value", repr(value), str(kinds))


def _taylorseer(options: Mapping[str, Any]) -> dict[str, Any] | None:
    if not options.get("enable_taylorseer"):
        return None
    return {
        "enable_encoder_calibrator": options.get("enable_encoder_taylorseer", False),
        "calibrator_cache_type": options.get("taylorseer_cache_type", "residual"),
        "taylorseer_order": options.get("taylorseer_order", 1),
    }


def _steps_mask(mask: Any) -> tuple[int, ...] | str | None:
    if mask is None or (isinstance(mask, str) and mask in MASK_POLICIES):
        return mask
    if isinstance(mask, list) and mask and all(step in (0, 1) for step in mask):
        return tuple(mask)
    raise _refuse(
        "steps_computation_mask is neither a mask nor a policy",
        mask,
        f"a list of 0 and 1, or one of {', '.join(MASK_POLICIES)}",
    )


def _refuse(
    problem: str, got: object, allowed: str = "cache-dit's YAML, nested or flat"
) -> FluxFastError:
    return FluxFastError(
        problem,
        got=got,
        allowed=allowed,
        remedy="see docs/reference/files.md for an example, or drop --cache_dit_config",
    )
