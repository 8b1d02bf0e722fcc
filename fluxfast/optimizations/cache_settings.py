"""The schema of the cache settings: what each one may be, and which do not go together.

cache-dit checks little itself: it ignores a key that it does not know, takes an unknown policy for
`dynamic`, and raises an assertion within the first step for other values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fluxfast.errors import FluxFastError

MASK_POLICIES = ("slow", "medium", "fast", "ultra")
MAX_TAYLORSEER_ORDER = 8  # cache-dit recommends 1 or 2
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
TAYLORSEER_SETTINGS = {
    "enable_taylorseer": SWITCH,
    "enable_encoder_taylorseer": SWITCH,
    "taylorseer_cache_type": _one_of("residual", "hidden_states"),
    "taylorseer_order": _integer(1, MAX_TAYLORSEER_ORDER),
}
OTHER_SETTINGS = {
    "cache_type": _one_of("DBCache"),
    "num_inference_steps": _integer(1),
    "steps_computation_mask": Setting(
        fits=_is_mask, allowed=f"a list of 0 and 1, or one of {', '.join(MASK_POLICIES)}"
    ),
}
SETTINGS: Mapping[str, Setting] = DBCACHE_SETTINGS | TAYLORSEER_SETTINGS | OTHER_SETTINGS


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
    uses_taylorseer = settings.get("enable_taylorseer", False)
    if is_static and mask is None:
        raise refused("the static policy requires steps_computation_mask", "no mask")
    if is_static:
        _check_idle(RESIDUAL_SETTINGS, settings, "with the static policy the mask alone decides")
    if not uses_taylorseer:
        _check_idle(TAYLORSEER_SETTINGS, settings, "enable_taylorseer is not true")
    if isinstance(mask, list):
        _check_length(mask, settings.get("num_inference_steps"))
        reason = why_mask_unusable(mask, is_static=is_static, uses_taylorseer=uses_taylorseer)
        if reason:
            raise refused(reason, mask, "1 for the first step and 0 for some of the others")


def _check_length(mask: Sequence[int], steps: int | None) -> None:
    if steps not in (None, len(mask)):
        lengths = f"{len(mask)} steps in the mask, num_inference_steps: {steps}"
        raise refused("steps_computation_mask has another length", lengths, "equal numbers")


def why_mask_unusable(mask: Sequence[int], *, is_static: bool, uses_taylorseer: bool) -> str | None:
    """Return why cache-dit cannot work with a mask of steps, or None."""
    if is_static and mask[0] == 0:
        return "the mask does not compute the first step, which has nothing to reuse"
    if 0 not in mask[1:]:
        return "the mask computes every step"
    derived = [step for step, computed in enumerate(mask) if computed and step >= TAYLORSEER_STEP]
    if is_static and uses_taylorseer and (not derived or 0 not in mask[derived[0] :]):
        return "TaylorSeer has no effect: no step is cached after step 4 or a later computed one"
    return None


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
