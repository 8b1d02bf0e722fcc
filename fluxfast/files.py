"""Write a file whole or not at all, and find the project's checkout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fluxfast.errors import FluxFastError


def write_atomically(path: Path, text: str) -> None:
    """Write `text` in UTF-8, as `write_bytes_atomically` does."""
    write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write `content` whole or not at all; a symbolic link keeps pointing to the file.

    A path that exists and is no file, such as /dev/stdout, is written to directly.

    Raises:
        FluxFastError: the disk is full or the folder is not writable; the old file stays.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path, *errors: type[Exception]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; move the file that was written over `path`.

    The temporary name keeps the ending, because some writers choose the format by it. On an error
    the temporary file is removed and the old file stays.

    Args:
        path: the final path; its folder is created.
        *errors: exceptions of the writer that mean the file cannot be written, besides OSError.

    Raises:
        FluxFastError: the file cannot be written.
    """
    ending = "".join(path.suffixes[-2:])
    temporary = path.with_name(f".{path.name.removesuffix(ending)}.{os.getpid()}.part{ending}")
    refused: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except refused as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise FluxFastError(
            "cannot write this file",
            got=f"{path}: {reason or error}",
            allowed="a folder with room that can be written, and an ending that fits the content",
            remedy="free some space or name another file; nothing was half-written",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
