"""Read a file of cases of one's own: keys, and the type and range of each value. No torch.

`own.py` plans the cases for a machine. Every key that is not known is an error, so that nothing is
dropped in silence.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unicodedata import category

from fluxfast.bench.cases.planned import RESOLUTION, parse_resolution
from fluxfast.errors import FluxFastError
from fluxfast.files.strict_yaml import read_yaml
from fluxfast.models.lora.source import LoraSource
from fluxfast.optimizations.presets import PRESETS
from fluxfast.quality.figures import QUALITY_METRICS

CHECKPOINT = "a folder in diffusers layout, a hub id owner/name, or mini-schnell, mini-dev, …"
# Larger values are slips of the keyboard.
LARGEST_COUNT, LARGEST_SIDE, LARGEST = 10_000, 99_999, 1e6
GUIDE = "docs/guides/gate-your-own-model.md"


@dataclass(frozen=True, kw_only=True)
class OwnCase:
    """One entry of a file of cases; its values are well-formed, but not planned for a machine yet.

    Attributes:
        where: the place of the entry, for errors.
        folder: the folder of the file, where relative paths start.
        checkpoint: a folder, a hub id or the name of a mini model, as the file has it.
        prompts: a case for each; (None,) for the checkpoint's own.
        resolutions: height and width in pixels, a case for each; (None, None) for the
            checkpoint's own.
        batch_size: images of the prompt at a time; None for 1.
        num_inference_steps: denoising steps; None for the model's own.
        guidance_scale: guidance; None for the model's own.
        lora: the LoRA as the file has it, or None.
        optimizations: names of optimizations; None for the preset or the matrix of the run.
        preset: one of PRESETS; None for the optimizations or the matrix of the run.
        unquantized: names or patterns of layers that a quantization leaves as they are.
        cache: settings of DBCache, as `cache_config_from` takes them; None for its own.
        tolerances: by metric, the relative change for the worse that must be detected.
        quality: by figure of image quality, the bound in place of the budget's.
    """

    where: str
    folder: Path
    checkpoint: str
    prompts: tuple[str | None, ...] = (None,)
    resolutions: tuple[tuple[int | None, int | None], ...] = ((None, None),)
    batch_size: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    lora: LoraSource | None = None
    optimizations: tuple[str, ...] | None = None
    preset: str | None = None
    unquantized: tuple[str, ...] = ()
    cache: Mapping[str, Any] | str | None = None
    tolerances: Mapping[str, float] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)

    @property
    def takes_matrix(self) -> bool:
        """Return whether the entry states no optimizations: the matrix of the run applies."""
        return self.optimizations is None and self.preset is None


def read_own_cases(path: Path, metrics: Collection[str]) -> list[OwnCase]:
    """Return the entries of a file of cases.

    Args:
        path: the YAML file.
        metrics: the names that a tolerance may have.

    Raises:
        FluxFastError: the file cannot be read, a key is unknown or given twice, or a value is
            wrong.
    """
    loaded = read_yaml(path, "file of cases")
    _check_mapping(loaded, ("cases",), ("cases",), f"the file of cases {path}")
    entries = _list(loaded["cases"], f"`cases` of {path}", "a list with one case or more")
    return [
        _own_case(entry, f"case {number} of {path}", path.parent, metrics)
        for number, entry in enumerate(entries, start=1)
    ]


def _own_case(entry: Any, where: str, folder: Path, metrics: Collection[str]) -> OwnCase:
    _check_mapping(entry, READERS, ("checkpoint",), where)
    if "optimizations" in entry and "preset" in entry:
        raise _wrong(
            f"{where} has both optimizations and a preset", entry["preset"], "one of them, or none"
        )
    values: dict[str, Any] = {}
    for key, value in entry.items():
        name, read = READERS[key]
        values[name] = read(value, f"{key} of {where}")
    _check_names(values.get("tolerances", {}), metrics, f"tolerances of {where}")
    return OwnCase(where=where, folder=folder, **values)


def _text(value: Any, what: str, allowed: str = "a text that is not empty") -> str:
    if not isinstance(value, str) or not value.strip() or not _is_clean(value):
        raise _wrong(f"{what} is wrong", value, allowed)
    return value


def _is_clean(text: str) -> bool:
    """Return whether a text has no control character, and no half of a surrogate pair."""
    return not any(category(c) in ("Cc", "Cs") and c not in "\n\t" for c in text)


def _checkpoint(value: Any, what: str) -> str:
    return _text(value, what, CHECKPOINT)


def _prompts(value: Any, what: str) -> tuple[str, ...]:
    """Return one prompt or several."""
    found = value if isinstance(value, list) else [value]
    return tuple(_text(one, what) for one in _list(found, what, "a text, or a list of texts"))


def _resolutions(value: Any, what: str) -> tuple[tuple[int, int], ...]:
    """Return height and width of one resolution or several; an integer is the side of a square."""
    allowed = "HEIGHTxWIDTH in pixels, as 768x1024, or a list of these"
    found = value if isinstance(value, list) else [value]
    return tuple(_resolution(one, what, allowed) for one in _list(found, what, allowed))


def _resolution(value: Any, what: str, allowed: str) -> tuple[int, int]:
    if _is_integer(value):
        side = _count(value, what, LARGEST_SIDE)
        return side, side
    if not isinstance(value, str) or not RESOLUTION.fullmatch(value):
        raise _wrong(f"{what} is wrong", value, allowed)
    return parse_resolution(value)


def _count(value: Any, what: str, largest: int = LARGEST_COUNT) -> int:
    if not _is_integer(value) or not 1 <= value <= largest:
        raise _wrong(f"{what} is wrong", value, f"an integer from 1 to {largest}")
    return int(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any, what: str) -> float:
    is_number = isinstance(value, float) or _is_integer(value)
    if not is_number or not -LARGEST <= value <= LARGEST:  # NaN is in no range
        raise _wrong(f"{what} is wrong", value, f"a number from {-LARGEST:g} to {LARGEST:g}")
    return float(value)


def _lora(value: Any, what: str) -> LoraSource:
    _check_mapping(value, ("path", "scale"), ("path",), what)
    path = _text(value["path"], f"path of {what}", "the path of a file with a LoRA")
    return LoraSource(location=path, scale=_number(value.get("scale", 1.0), f"scale of {what}"))


def _names(value: Any, what: str) -> tuple[str, ...]:
    """Return names of optimizations; an empty list is diffusers as it is."""
    allowed = "a list of names of optimizations; `fluxfast doctor` lists them"
    if not isinstance(value, list):
        raise _wrong(f"{what} is wrong", value, allowed)
    return tuple(_text(name, what, allowed) for name in value)


def _patterns(value: Any, what: str) -> tuple[str, ...]:
    """Return patterns of names of layers, one or several."""
    allowed = "a pattern of names of layers, as '*.ff.net.2', or a list of these"
    found = value if isinstance(value, list) else [value]
    return tuple(_text(one, what, allowed) for one in _list(found, what, allowed))


def _cache(value: Any, what: str) -> Mapping[str, Any] | str:
    """Return a mapping of settings, or the name of a preset or of a file."""
    if isinstance(value, dict) and value:
        return value
    allowed = "settings of the cache, the name of a preset of it, or the path of a YAML file"
    return _text(value, what, allowed)


def _preset(value: Any, what: str) -> str:
    if not isinstance(value, str) or value not in PRESETS:
        raise _wrong(f"{what} is wrong", value, ", ".join(PRESETS))
    return value


def _tolerances(value: Any, what: str) -> dict[str, float]:
    if not isinstance(value, dict) or not value:
        raise _wrong(f"{what} is wrong", value, "a figure and its tolerance, as step_ms: 0.05")
    for name, tolerance in value.items():
        if not isinstance(tolerance, float) or not 0 < tolerance < 1:
            raise _wrong(
                f"{what}: {_shown(name)} is wrong", tolerance, "a fraction between 0 and 1, as 0.05"
            )
    return dict(value)


def _quality(value: Any, what: str) -> dict[str, float]:
    """Return bounds of figures of image quality."""
    if not isinstance(value, dict) or not value:
        raise _wrong(f"{what} is wrong", value, "a figure and its bound, as psnr_db: 30")
    _check_names(value, QUALITY_METRICS, what)
    return {name: _number(bound, f"{name} in {what}") for name, bound in value.items()}


# The keys of a case: the field of OwnCase, and the function that checks and converts the value.
READERS: dict[str, tuple[str, Callable[[Any, str], Any]]] = {
    "checkpoint": ("checkpoint", _checkpoint),
    "prompt": ("prompts", _prompts),
    "resolution": ("resolutions", _resolutions),
    "batch_size": ("batch_size", _count),
    "num_inference_steps": ("num_inference_steps", _count),
    "guidance_scale": ("guidance_scale", _number),
    "lora": ("lora", _lora),
    "optimizations": ("optimizations", _names),
    "preset": ("preset", _preset),
    "unquantized": ("unquantized", _patterns),
    "cache": ("cache", _cache),
    "tolerances": ("tolerances", _tolerances),
    "quality": ("quality", _quality),
}


def _check_mapping(
    value: Any, allowed: Collection[str], required: Collection[str], what: str
) -> None:
    """Check that a value is a mapping with the required keys and no others than the allowed."""
    if not isinstance(value, dict):
        raise _wrong(f"{what} is no mapping", value, f"a mapping of {', '.join(allowed)}")
    _check_names(value, allowed, what)
    if missing := [key for key in required if key not in value]:
        given = ", ".join(value) or "nothing"
        raise _wrong(f"{what} lacks {', '.join(missing)}", given, ", ".join(allowed))


def _check_names(names: Collection[Any], allowed: Collection[str], what: str) -> None:
    if unknown := [name for name in names if name not in allowed]:
        got = ", ".join(map(_shown, unknown))
        raise _wrong(f"unknown key in {what}", got, ", ".join(allowed))


def _list(value: Any, what: str, allowed: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise _wrong(f"{what} is wrong", value, allowed)
    return value


def _shown(value: Any) -> str:
    """Return a value for an error: short and printable, however large or nested it is."""
    if isinstance(value, str) and len(value) < 80 and value.isprintable():
        return value
    try:
        return reprlib.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return f"a {type(value).__name__}"


def _wrong(problem: str, got: Any, allowed: str) -> FluxFastError:
    return FluxFastError(
        problem, got=_shown(got), allowed=allowed, remedy=f"correct the file: {GUIDE} explains it"
    )
