"""The schema of the cache settings: what each one may be, and which do not go together.

cache-dit checks little itself: it ignores a key that it does not know, takes an unknown policy for
`dynamic`, and raises an assertion within the first step for other values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fluxfast.errors import FluxFastError

MASK_POLICIES = ("slow", "medium", "fast", "ultra")
MAX_TAYLORSEER_ORDER = 8  # cache-dit recommends 1 or 2
DMD_FIT = 4  # computed steps at equal distances, from which DMD fits its exponentials
MAX_DMD_HISTORY = 28  # cache-dit recommends 5 or 6
MAX_COUNT = 1000  # of steps, as many as a Flux schedule has, and of blocks
MAX_THRESHOLD = 1000.0  # from 1.0 on, every step counts as similar
TAYLORSEER_STEP = 3  # the step, counted from 0, from which TaylorSeer has a derivative


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The allowed values of a setting.

    Attributes:
        fits: whether a value is allowed.
        allowed: the allowed values, for people.
    """

    fits: Callable[[Any], bool]
    allowed: str


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(minimum: int, maximum: int = MAX_COUNT) -> Setting:
    return Setting(
        fits=lambda value: _is_integer(value) and minimum <= value <= maximum,
        allowed=f"an integer from {minimum} to {maximum}",
    )


def _one_of(*values: str) -> Setting:
    return Setting(
        fits=lambda value: isinstance(value, str) and value in values, allowed=" or ".join(values)
    )


def _is_positive(value: Any) -> bool:
    return (_is_integer(value) or isinstance(value, float)) and 0 < value <= MAX_THRESHOLD


def _is_mask(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_integer(step) and step in (0, 1) for step in value)
    return isinstance(value, str) and value in MASK_POLICIES


POSITIVE = Setting(fits=_is_positive, allowed=f"a number greater than 0, at most {MAX_THRESHOLD:g}")
LIMIT = Setting(
    fits=lambda value: _is_integer(value) and (value == -1 or 1 <= value <= MAX_COUNT),
    allowed=f"an integer from 1 to {MAX_COUNT}, or -1 for no limit",
)
SWITCH = Setting(fits=lambda value: isinstance(value, bool), allowed="true or false")

# By these, the residuals of a step decide whether it is cached.
RESIDUAL_SETTINGS = {
    "residual_diff_threshold": POSITIVE,
    "max_accumulated_residual_diff_threshold": POSITIVE,
    "max_warmup_steps": _integer(0),
    "warmup_interval": _integer(1),
    "max_cached_steps": LIMIT,
    "max_continuous_cached_steps": LIMIT,
}
DBCACHE_SETTINGS = RESIDUAL_SETTINGS | {
    "Fn_compute_blocks": _integer(1),
    "Bn_compute_blocks": _integer(0),
    "steps_computation_policy": _one_of("dynamic", "static"),
}
# A calibrator extrapolates what is reused; a cache has one of them at most.
CALIBRATORS: Mapping[str, Mapping[str, Setting]] = {
    "taylorseer": {
        "enable_taylorseer": SWITCH,
        "enable_encoder_taylorseer": SWITCH,
        "taylorseer_cache_type": _one_of("residual", "hidden_states"),
        "taylorseer_order": _integer(1, MAX_TAYLORSEER_ORDER),
    },
    "dmd": {
        "enable_dmd": SWITCH,
        "enable_encoder_dmd": SWITCH,
        "dmd_history": _integer(DMD_FIT, MAX_DMD_HISTORY),
        "dmd_rank": _integer(0, MAX_DMD_HISTORY),
        "dmd_ridge": POSITIVE,
        "dmd_svd_precision": _one_of("low", "medium", "high"),
    },
    "foca": {"enable_foca": SWITCH, "enable_encoder_foca": SWITCH},
}
OTHER_SETTINGS = {
    "cache_type": _one_of("DBCache"),
    "num_inference_steps": _integer(1),
    "steps_computation_mask": Setting(
        fits=_is_mask, allowed=f"a list of 0 and 1, or one of {', '.join(MASK_POLICIES)}"
    ),
    "calibrator_cache_type": _one_of("residual", "hidden_states"),
}
SETTINGS: Mapping[str, Setting] = {
    **DBCACHE_SETTINGS,
    **{name: setting for own in CALIBRATORS.values() for name, setting in own.items()},
    **OTHER_SETTINGS,
}


def check_setting(name: str, value: Any) -> None:
    """Refuse a setting that is unknown, or whose value is not allowed."""
    if name not in SETTINGS:
        raise refused("unknown setting of the cache", shown(name), ", ".join(SETTINGS))
    if not SETTINGS[name].fits(value):
        raise refused(f"{name} has a wrong value", shown(value), SETTINGS[name].allowed)


def check_together(settings: Mapping[str, Any]) -> None:
    """Refuse settings that contradict each other, and settings without effect."""
    mask = settings.get("steps_computation_mask")
    is_static = settings.get("steps_computation_policy") == "static"
    calibrator = _check_calibrators(settings)
    if is_static and mask is None:
        raise refused("the static policy requires steps_computation_mask", "no mask")
    if is_static:
        _check_idle(RESIDUAL_SETTINGS, settings, "with the static policy the mask alone decides")
    if isinstance(mask, list):
        _check_length(mask, settings.get("num_inference_steps"))
        reason = why_mask_unusable(mask, is_static=is_static, calibrator=calibrator)
        if reason:
            raise refused(reason, mask, "1 for the first step and 0 for some of the others")


def calibrator_of(settings: Mapping[str, Any]) -> str | None:
    """Return the name of the calibrator that is enabled, or None."""
    return next((name for name in CALIBRATORS if settings.get(f"enable_{name}")), None)


def _check_calibrators(settings: Mapping[str, Any]) -> str | None:
    """Refuse two calibrators, and settings of one that is not enabled; return the enabled one."""
    enabled = [f"enable_{name}" for name in CALIBRATORS if settings.get(f"enable_{name}")]
    if len(enabled) > 1:
        raise refused("a cache has one calibrator", " and ".join(enabled), "one of them")
    for name, own in CALIBRATORS.items():
        if f"enable_{name}" not in enabled:
            _check_idle(own, settings, f"enable_{name} is not true")
    calibrator = calibrator_of(settings)
    if calibrator not in ("dmd", "foca"):
        _check_idle(["calibrator_cache_type"], settings, "enable_dmd or enable_foca is not true")
    return calibrator


def _check_length(mask: Sequence[int], steps: int | None) -> None:
    if steps not in (None, len(mask)):
        lengths = f"{len(mask)} steps in the mask, num_inference_steps: {steps}"
        raise refused("steps_computation_mask has another length", lengths, "equal numbers")


def why_mask_unusable(
    mask: Sequence[int], *, is_static: bool, calibrator: str | None = None
) -> str | None:
    """Return why cache-dit cannot work with a mask of steps, or None."""
    if is_static and mask[0] == 0:
        return "the mask does not compute the first step, which has nothing to reuse"
    if 0 not in mask[1:]:
        return "the mask computes every step"
    if is_static and calibrator and not _calibrates(calibrator, mask):
        return CALIBRATES_NOTHING[calibrator]
    return None


CALIBRATES_NOTHING = {
    "taylorseer": "TaylorSeer has no effect: no step is cached after step 4 or a later computed "
    "one",
    "dmd": f"DMD has no effect: no step is cached after {DMD_FIT} computed steps at equal "
    "distances, below which it is TaylorSeer",
    "foca": "FoCa has no effect: no step is cached after the second computed one",
}


def _calibrates(calibrator: str, mask: Sequence[int]) -> bool:
    """Return whether the calibrator extrapolates a step that the mask takes from the cache."""
    before = [
        [earlier for earlier in range(step) if mask[earlier]]
        for step, computed in enumerate(mask)
        if not computed
    ]
    if calibrator == "taylorseer":
        return any(computed and computed[-1] >= TAYLORSEER_STEP for computed in before)
    if calibrator == "dmd":
        return any(_equally_spaced(computed[-DMD_FIT:]) for computed in before)
    return any(len(computed) > 1 for computed in before)


def _equally_spaced(steps: Sequence[int]) -> bool:
    """Return whether there are steps enough for a fit, at equal distances."""
    distances = {later - earlier for earlier, later in pairwise(steps)}
    return len(steps) == DMD_FIT and len(distances) == 1


def _check_idle(names: Iterable[str], settings: Mapping[str, Any], why: str) -> None:
    """Refuse settings among `names` that are given, switched on, and have no effect."""
    given = [n for n in names if n in settings and settings[n] is not False and settings[n] != -1]
    if given:
        raise refused(f"settings without effect: {why}", ", ".join(given), "none of them")


def shown(value: object) -> str:
    """Return the beginning of a value's text; Python refuses to write huge integers."""
    try:
        return repr(value)[:200]
    except ValueError:
        return "an integer of thousands of digits"


def refused(
    problem: str,
    got: object,
    allowed: str = "cache-dit's YAML, nested or flat",
    remedy: str = "see docs/reference/files.md for an example, or drop --cache_dit_config",
) -> FluxFastError:
    """Return the error for an invalid cache configuration."""
    return FluxFastError(problem, got=got, allowed=allowed, remedy=remedy)
