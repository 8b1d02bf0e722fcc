"""Read files that may come from elsewhere: ordinary files of a sensible size, and strict JSON.

A pipe would block forever and a device never ends. JSON here has no NaN or infinity, no number that
a float or a database cannot hold, and no half of a character.
"""

from __future__ import annotations

import json
import math
import re
import stat
from pathlib import Path
from typing import Any

LARGEST_BYTES = 256 << 20
LARGEST_INTEGER = 2**63 - 1
LARGEST_DIGITS = 25
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def check_ordinary(path: Path) -> None:
    """Raise OSError unless the path is a file that can be opened without waiting for a writer."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is no ordinary file")


def read_bytes(path: Path, most: int = LARGEST_BYTES) -> bytes:
    """Return the content of an ordinary file.

    Raises:
        OSError: it cannot be read, or is no ordinary file.
        ValueError: it has more than `most` bytes.
    """
    check_ordinary(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most} bytes")
    return content


def read_text(path: Path, most: int = LARGEST_BYTES) -> str:
    """Return the text of an ordinary file in UTF-8; raise OSError or ValueError."""
    return read_bytes(path, most).decode()


def parse_json(text: str) -> Any:
    """Return the content of JSON; raise ValueError for anything that strict JSON does not allow."""
    try:
        found = json.loads(
            text, parse_constant=_no_constant, parse_float=_finite, parse_int=_integer
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if SURROGATE.search(text):
        json.dumps(found, ensure_ascii=False).encode()  # raises UnicodeEncodeError, a ValueError
    return found


def read_json(path: Path) -> Any:
    """Return the content of a file with strict JSON; raise OSError or ValueError."""
    return parse_json(read_text(path))


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not valid JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:LARGEST_DIGITS]} is too large")
    return number


def _integer(text: str) -> int:
    if len(text) > LARGEST_DIGITS or abs(int(text)) > LARGEST_INTEGER:
        raise ValueError(f"the number {text[:LARGEST_DIGITS]} is too large")
    return int(text)
