"""Check the numbers of result files, while the name of the file is known. No torch."""

from __future__ import annotations

import sys
from typing import Any


def check_positive(**figures: Any) -> None:
    """Raise ValueError unless each figure is a finite number above 0, or a tuple of them."""
    for name, figure in figures.items():
        for number in figure if isinstance(figure, tuple) else (figure,):
            if type(number) not in (int, float) or not 0 < number <= sys.float_info.max:
                raise ValueError(f"{name} is {number!r}, which is no finite number above 0")


def check_readings(**figures: Any) -> None:
    """Raise ValueError unless each reading of a GPU is None or a finite number from 0 on."""
    for name, reading in figures.items():
        is_number = type(reading) in (int, float) and 0 <= reading <= sys.float_info.max
        if not (reading is None or is_number):
            raise ValueError(f"{name} is {reading!r}, which is no finite number from 0 on")
