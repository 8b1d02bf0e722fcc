"""The settings of DBCache: cache-dit's YAML, under `cache_config:` or flat as in flux-fast.

They are checked against `cache_settings` before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxfast.files.strict_yaml import read_yaml
from fluxfast.optimizations.cache_settings import (
    DBCACHE_SETTINGS,
    calibrator_of,
    check_setting,
    check_together,
    refused,
    shown,
)

# Names of older cache-dit releases, which flux-fast's file still uses.
RENAMED = {"warmup_steps": "max_warmup_steps", "taylorseer_kwargs": "taylorseer_order"}


@dataclass(frozen=True, kw_only=True)
class Calibrator:
    """A way to extrapolate a cached step from computed ones, in place of reusing the last.

    Attributes:
        name: `taylorseer`, `dmd` or `foca`.
        settings: keyword arguments of cache-dit's configuration of it.
    """

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """The settings of a cache.

    Attributes:
        dbcache: keyword arguments of cache-dit's `DBCacheConfig`.
        calibrator: how cached steps extrapolate; None to reuse the last computed step.
        steps_mask: 1 for each computed step and 0 for each cached one, or the name of a policy of
            cache-dit, which gives such a mask for any number of steps; None decides by residuals.
        num_inference_steps: number of steps that the file is for; None for any.
    """

    dbcache: Mapping[str, Any]
    calibrator: Calibrator | None = None
    steps_mask: tuple[int, ...] | str | None = None
    num_inference_steps: int | None = None

    @property
    def is_static(self) -> bool:
        """Return whether the mask alone decides which steps are cached, whatever the data."""
        return (
            self.steps_mask is not None and self.dbcache.get("steps_computation_policy") == "static"
        )


# Fixed steps, so that a measurement does not depend on how the residuals of one prompt fall.
DEFAULT_CACHE_CONFIG = CacheConfig(
    dbcache={"Fn_compute_blocks": 1, "Bn_compute_blocks": 0, "steps_computation_policy": "static"},
    steps_mask="fast",
)


def cache_config_from(given: CacheConfig | Mapping[str, Any] | str | Path) -> CacheConfig:
    """Return settings, those of a preset by its name, of a mapping, or of a YAML file by its path.

    Raises:
        FluxFastError: there is no such preset, the file cannot be read, or a key or a value is not
            allowed.
    """
    if isinstance(given, CacheConfig):
        return given
    if isinstance(given, Mapping):
        return cache_config_of(given)
    path, name = Path(given), str(given)
    if name in CACHE_PRESETS:
        return CACHE_PRESETS[name]
    if path.name == name and not path.suffix and not path.exists():
        allowed = f"{', '.join(CACHE_PRESETS)}, or a YAML file"
        raise refused("no such preset of the cache", shown(name), allowed)
    return read_cache_config(path)


def cache_preset(name: str) -> CacheConfig:
    """Return the settings of a preset.

    Raises:
        FluxFastError: there is no such preset.
    """
    if name not in CACHE_PRESETS:
        raise refused(
            "no such preset of the cache",
            shown(name),
            ", ".join(CACHE_PRESETS),
            "list the cases with `fluxfast matrix --matrix cache`",
        )
    return CACHE_PRESETS[name]


def read_cache_config(path: Path) -> CacheConfig:
    """Return the settings of a YAML file.

    Raises:
        FluxFastError: the file cannot be read, or a key or a value is not allowed.
    """
    loaded = read_yaml(path, "cache configuration")
    if not isinstance(loaded, dict) or not loaded:
        raise refused("the cache configuration holds no settings", f"{path}: {shown(loaded)}")
    settings = _section(loaded)
    if not isinstance(settings, dict) or not settings:
        raise refused("cache_config holds no settings", f"{path}: {shown(settings)}")
    return cache_config_of(settings)


def _section(loaded: Mapping[Any, Any]) -> Any:
    """Return the value of `cache_config:`, or all of a flat file."""
    if "cache_config" not in loaded:
        return loaded
    others = [key if isinstance(key, str) else shown(key) for key in loaded]
    others.remove("cache_config")
    if others:
        raise refused(
            f"unsupported sections beside cache_config: {', '.join(others)}",
            ", ".join(others),
            "cache_config",
            "remove them; --quant and --attention choose quantization and attention",
        )
    return loaded["cache_config"]


def cache_config_of(settings: Mapping[str, Any]) -> CacheConfig:
    """Return the settings of a flat mapping with current or older names of cache-dit.

    Raises:
        FluxFastError: a key, a value or a combination of them is not allowed.
    """
    options = _with_current_names(settings)
    for name, value in options.items():
        check_setting(name, value)
    check_together(options)
    mask = options.get("steps_computation_mask")
    return CacheConfig(
        dbcache={name: value for name, value in options.items() if name in DBCACHE_SETTINGS},
        calibrator=_calibrator(options),
        steps_mask=tuple(mask) if isinstance(mask, list) else mask,
        num_inference_steps=options.get("num_inference_steps"),
    )


def _with_current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    for older, name in RENAMED.items():
        if older in settings and name in settings:
            raise refused("a setting is given twice", f"{older} and {name}", name)
    options = {RENAMED.get(name, name): value for name, value in settings.items()}
    if "taylorseer_kwargs" in settings:
        given = settings["taylorseer_kwargs"]
        if not isinstance(given, dict) or set(given) != {"n_derivatives"}:
            raise refused("taylorseer_kwargs has a wrong value", shown(given), "n_derivatives: 1")
        options["taylorseer_order"] = given["n_derivatives"]
    return options


def _calibrator(options: Mapping[str, Any]) -> Calibrator | None:
    name = calibrator_of(options)
    if name is None:
        return None
    cache_type = options.get("taylorseer_cache_type", options.get("calibrator_cache_type"))
    # cache-dit calibrates the text, too, where DMD is enabled and nothing else is asked for.
    calibrates_text = options.get(f"enable_encoder_{name}", name == "dmd")
    own = {key: value for key, value in options.items() if key.startswith(f"{name}_")}
    own.pop("taylorseer_cache_type", None)
    return Calibrator(
        name=name,
        settings={
            "enable_encoder_calibrator": calibrates_text,
            "calibrator_cache_type": cache_type or "residual",
            **own,
        },
    )


def steps_from_cache(cached: int, steps: int) -> str:
    """Return how many steps of an image came from the cache, for people."""
    counted = f"{cached} of {steps} steps came from the cache"
    if cached:
        return counted
    return f"{counted}: no step was near enough to the one before (residual_diff_threshold)"


def _extrapolated(mask: str, order: int) -> CacheConfig:
    """Return TaylorSeer's settings with a mask of computed steps."""
    fixed = {"Fn_compute_blocks": 1, "steps_computation_policy": "static"}
    taylorseer = {"enable_taylorseer": True, "taylorseer_order": order}
    return cache_config_of({**fixed, "steps_computation_mask": mask, **taylorseer})


# On the front of computed steps, lost scenes and PSNR that `python -m benchmarks.cache_front`
# measured on mini-dev with 256 captions (docs/notebook, 2026-12-01, calibrators of the cache).
CACHE_PRESETS: Mapping[str, CacheConfig] = {
    "quality": _extrapolated("medium", order=2),
    "balanced": _extrapolated("fast", order=1),
    "fast": _extrapolated("ultra", order=1),
}
