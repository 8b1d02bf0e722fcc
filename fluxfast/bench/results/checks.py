"""Check what is read from the files of results and baselines. No torch.

A check raises an error that names the value, while the name of the file is known. What passes may
be judged, shown, sorted and stored without further checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fluxfast.errors import CONTROL, BaselineError
from fluxfast.hardware import Hardware, Platform

SCHEMA = 2
LONGEST_TEXT = 10_000
# Figures beyond these would become infinite when they are added up or divided.
SMALLEST, LARGEST = 1e-100, 1e100


def check_positive(**figures: Any) -> None:
    """Raise ValueError unless each figure is a finite number above 0, or a tuple of them."""
    for name, figure in figures.items():
        for number in figure if isinstance(figure, tuple) else (figure,):
            if type(number) not in (int, float) or not SMALLEST <= number <= LARGEST:
                raise ValueError(f"{name} is {number!r}, which is no finite number above 0")


def check_readings(**figures: Any) -> None:
    """Raise ValueError unless each reading of a GPU is None or a finite number from 0 on."""
    for name, reading in figures.items():
        is_number = type(reading) in (int, float) and 0 <= reading <= LARGEST
        if not (reading is None or is_number):
            raise ValueError(f"{name} is {reading!r}, which is no finite number from 0 on")


def check_texts(**texts: Any) -> None:
    """Raise ValueError unless each is a text of a sensible length, or a tuple of them."""
    for name, found in texts.items():
        for text in found if isinstance(found, tuple) else (found,):
            if not isinstance(text, str) or len(text) > LONGEST_TEXT or CONTROL.search(text):
                raise ValueError(f"{name} is {str(text)[:80]!r}, which is no text")


def check_mapping_of_texts(found: Any) -> None:
    """Raise ValueError unless it is a mapping of texts to texts."""
    if not isinstance(found, Mapping):
        raise ValueError(f"{str(found)[:80]!r} is no mapping")
    for name, text in found.items():
        check_texts(name=name, value=text)


def check_environment(environment: Mapping[str, Any]) -> None:
    """Raise unless the data describes a machine."""
    data = environment["hardware"]
    packages = dict(data["packages"])
    Hardware(**{**data, "platform": Platform(data["platform"]), "packages": packages})
    check_positive(memory_gib=data["memory_gib"])
    check_texts(name=data["name"], architecture=data["architecture"])
    check_mapping_of_texts(packages)
    check_texts(python=environment.get("python", ""))
    facts = {} if environment.get("gpu") is None else environment["gpu"]
    if not isinstance(facts, dict):
        raise ValueError("gpu of the environment is no mapping")
    for name, fact in facts.items():
        if isinstance(fact, str):
            check_texts(**{name: fact})
        else:
            check_readings(**{name: fact})


def check_provenance(origin: Mapping[str, Any]) -> None:
    """Raise ValueError unless the values of `provenance.provenance` that are there are possible."""
    for name in ("commit", "command", "why_commit_unknown"):
        if origin.get(name) is not None:
            check_texts(**{name: origin[name]})
    if origin.get("dirty") not in (True, False, None):
        raise ValueError(f"dirty is {origin['dirty']!r}")
    if not isinstance(origin.get("process"), int | str | None):
        raise ValueError(f"process is {origin['process']!r}")
    if date := origin.get("date"):
        check_date(date)


def check_date(text: Any) -> None:
    """Raise ValueError unless the text is a date in ISO 8601 with a time zone."""
    check_texts(date=text)
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"the date {text} has no time zone")


def why_unreadable(error: Exception) -> str:
    """Return the reason why JSON could not be read: the missing key, or what is wrong."""
    if isinstance(error, KeyError):
        return f"the key {error.args[0]!r} is missing"
    return str(error)


def check_schema(data: Any, where: str) -> None:
    """Raise BaselineError unless `data`, from the file `where`, has the schema of this version."""
    found = data.get("schema") if isinstance(data, dict) else None
    if found == SCHEMA:
        return
    problem = "this file is no result or baseline of fluxfast"
    if isinstance(found, int):
        age = "newer" if found > SCHEMA else "older"
        problem = f"this file is {age} than this version of fluxfast can read"
    raise BaselineError(
        problem,
        got=f"{where}: schema {found!r}",
        allowed=f"schema {SCHEMA}",
        remedy="record it again, or use the fluxfast that wrote it",
    )
