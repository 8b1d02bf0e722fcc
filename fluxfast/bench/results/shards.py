"""Which part of a run's cases a folder of results holds, and which parts are missing. No torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fluxfast.errors import BaselineError
from fluxfast.files import write_atomically
from fluxfast.files.reading import read_text

WHOLE = "1/1"
FILE = "shards.txt"
LARGEST_BYTES = 100_000
EMPTY = " empty"  # after a part that has no cases
LINE = re.compile(rf"[1-9]\d{{0,3}}/[1-9]\d{{0,3}}({EMPTY})?", re.ASCII)


def note_shard(folder: Path, shard: str, *, is_empty: bool = False) -> None:
    """Note in a folder of results that a run measures the part `I/N` of its cases into it.

    Args:
        folder: the folder of results.
        shard: the part.
        is_empty: whether the part has no cases, so that the folder will have no results of it.
    """
    if shard == WHOLE:
        (folder / FILE).unlink(missing_ok=True)
        return
    others = {line for line in _lines_in(folder) if _part(line) != shard}
    _write(folder, {*others, shard + (EMPTY if is_empty else "")})


def merge_notes(folders: Iterable[Path], output: Path) -> None:
    """Note in a merged folder the parts of all its sources."""
    if lines := {line for folder in folders for line in _lines_in(folder)}:
        _write(output, lines)


def _write(folder: Path, lines: set[str]) -> None:
    write_atomically(folder / FILE, "".join(f"{line}\n" for line in sorted(lines)))


def shards_in(folder: Path) -> list[str]:
    """Return the parts `I/N` whose cases were measured into a folder; none for a whole run.

    Raises:
        BaselineError: the note cannot be read, or names something else.
    """
    return sorted(set(map(_part, _lines_in(folder))))


def has_no_cases(folder: Path) -> bool:
    """Return whether all parts that were measured into a folder are empty.

    Raises:
        BaselineError: as `shards_in`.
    """
    lines = _lines_in(folder)
    return bool(lines) and all(line.endswith(EMPTY) for line in lines)


def _part(line: str) -> str:
    return line.removesuffix(EMPTY)


def _lines_in(folder: Path) -> list[str]:
    path = folder / FILE
    try:
        text = read_text(path, LARGEST_BYTES) if path.exists() else ""
    except (OSError, ValueError) as error:
        raise _wrong(path, str(error)) from error
    lines = text.splitlines()
    if wrong := [line for line in lines if not LINE.fullmatch(line)]:
        raise _wrong(path, repr(wrong[0][:80]))
    return lines


def _wrong(path: Path, got: str) -> BaselineError:
    return BaselineError(
        "the note of a folder's shards cannot be read",
        got=f"{path}: {got}",
        allowed="a part I/N on each line, as pytest perf_tests --shard writes it",
        remedy="remove the file, and check that no shard is missing",
    )


def missing_shards(folders: Iterable[Path]) -> list[str]:
    """Return each part that is in fewer folders than another part of as many, with the numbers.

    A run that repeats its measurements has several folders of each part.
    """
    count = Counter(shard for folder in folders for shard in shards_in(folder))
    missing = []
    for parts in sorted({int(shard.partition("/")[2]) for shard in count}):
        of_run = {shard: count[shard] for i in range(parts) if (shard := f"{i + 1}/{parts}")}
        most = max(of_run.values())
        missing += [
            shard if most == 1 else f"{shard} (in {found} folders, another part in {most})"
            for shard, found in of_run.items()
            if found < most
        ]
    return missing
