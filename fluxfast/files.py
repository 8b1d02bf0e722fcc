"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fluxfast.errors import FluxFastError


def write_atomically(path: Path, text: str) -> None:
    """Text in UTF-8, as `write_bytes_atomically`."""
    write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Whole or not at all: written beside its place, then moved over it. A link stays one; what
    is no file, as /dev/stdout, is written to.

    Raises FluxFastError if the disk is full or the folder cannot be written; what was there stays.
    """
    temporary, path = None, path.resolve()
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # a temporary file is its owner's alone
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise FluxFastError(
            "cannot write this file",
            got=f"{path}: {error.strerror or error}",
            allowed="a folder with room that can be written",
            remedy="free some space or name another folder; nothing was half-written",
        ) from error
