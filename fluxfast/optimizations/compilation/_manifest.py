"""The manifest of exported packages: what they were exported for, and what differs now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from fluxfast.errors import ArtifactError
from fluxfast.files import reading, write_atomically
from fluxfast.optimizations.situation import Situation

SCHEMA = 2
FILE = "manifest.json"
# The folders of this package whose code ends up in a package, or calls it.
COMPILED_SOURCES = ("kernels", "models", "optimizations", "pipeline")
# Packages that decide the compiled code besides the model: other versions are refused.
COMPILING_STACK = (
    "torch",
    "triton",
    "diffusers",
    "torchao",
    "fa3-fwd",
    "flash-attn-3",
    "amd-aiter",
)


def described(situation: Situation, names: tuple[str, ...]) -> dict[str, Any]:
    """Return everything that a package depends on besides its own files, as JSON values."""
    request, hardware = situation.request, situation.hardware
    return {
        "schema": SCHEMA,
        "model": situation.model.name,
        "optimizations": list(names),
        "unquantized": sorted(situation.unquantized),
        "height": request.height,
        "width": request.width,
        "batch_size": request.batch_size,
        "max_sequence_length": request.max_sequence_length,
        "gpu": f"{hardware.name} ({hardware.architecture})",
        "fluxfast": {"version": import_module("fluxfast").__version__, "sources": sources_digest()},
        "stack": {n: v for n, v in hardware.packages.items() if n in COMPILING_STACK},
    }


@cache
def sources_digest() -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 hash of the sources that matter."""
    package, digest = Path(__file__).parents[2], hashlib.sha256()
    for folder in COMPILED_SOURCES:
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def folder_name(description: Mapping[str, Any]) -> str:
    """Return the folder's name: the user's choices. The manifest also records the machine."""
    shape = (
        f"{description['height']}x{description['width']}-b{description['batch_size']}"
        f"-t{description['max_sequence_length']}"
    )
    name = f"{description['model']}-{shape}-{'+'.join(description['optimizations'])}"
    if unquantized := description["unquantized"]:
        digest = hashlib.sha256("\n".join(unquantized).encode()).hexdigest()
        name += f"-unquantized_{digest[:6]}"
    return name


def write(folder: Path, description: Mapping[str, Any], packages: Mapping[str, Any]) -> None:
    """Write the manifest of the packages in `folder`."""
    manifest = {**description, "packages": packages}
    manifest["checksum"] = _checksum(manifest)
    write_atomically(folder / FILE, json.dumps(manifest, indent=1) + "\n")


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def read(folder: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of the packages in `folder`.

    Raises:
        ArtifactError: there is no manifest, it was edited, or it differs; the error lists every
            difference.
    """
    path = folder / FILE
    try:
        found = reading.read_json(path)
        if found.pop("checksum") != _checksum(found):
            raise ValueError("its checksum is of another content")
        packages: dict[str, Any] = found.pop("packages")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            "there is no usable exported package",
            got=f"{path}: {type(error).__name__}: {error}",
            allowed="a folder written by --compile_export_mode export_aoti for "
            f"{folder_name(description)}",
            remedy="run once with --compile_export_mode export_aoti, without --use-cached-model",
        ) from error
    differences = _differences(found, description)
    if differences:
        raise ArtifactError(
            "the exported package does not fit this run",
            got="; ".join(differences),
            allowed="no difference",
            remedy="run once without --use-cached-model to export again",
        )
    return packages


def state(folder: Path) -> tuple[int, int] | None:
    """Return what changes whenever a manifest is written in `folder`; None without a manifest."""
    try:
        status = (folder / FILE).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def fits(folder: Path, description: Mapping[str, Any]) -> bool:
    """Return whether the packages in `folder` were exported for this description."""
    try:
        read(folder, description)
    except ArtifactError:
        return False
    return True


def _differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], within: str = ""
) -> list[str]:
    differences = []
    for name in sorted(found.keys() | wanted.keys()):
        was, now = found.get(name), wanted.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            differences += _differences(was, now, f"{within}{name} ")
        elif was != now:
            differences.append(f"{within}{name}: exported with {was}, here {now}")
    return differences
