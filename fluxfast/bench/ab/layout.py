"""The folders of a comparison's results: one for each process of a side, as A1, B1, B2. No torch.

Side A is the other revision, side B this one.
"""

from __future__ import annotations

import re
from pathlib import Path

THEIRS, OURS = "A", "B"
NAME = re.compile(r"[AB][1-9][0-9]*")


def process_folder(results: Path, side: str, number: int) -> Path:
    """Return the folder of the `number`-th process (from 0) of a side."""
    return results / f"{side}{number + 1}"


def side_name(folder: Path) -> str | None:
    """Return the side that a folder of a process is of; None for any other folder."""
    return folder.name[0] if NAME.fullmatch(folder.name) else None


def process_folders(results: Path, side: str = "") -> list[Path]:
    """Return the folders that exist of a side, or of both, in the order of their processes."""
    found = [path for path in results.glob(f"{side}*") if path.is_dir() and side_name(path)]
    return sorted(found, key=lambda path: (path.name[0], int(path.name[1:])))


def is_comparison(results: Path) -> bool:
    """Return whether a folder holds the results of both sides of a comparison."""
    return bool(process_folders(results, THEIRS) and process_folders(results, OURS))
