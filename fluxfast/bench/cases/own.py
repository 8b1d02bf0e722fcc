"""Plan the cases of a file of one's own: the same cases as those of a matrix. No torch.

A case of one's own differs from the others in its workload alone: checkpoint, LoRA, prompt and
guidance. The field `weights` of the case identifies these by the checkpoint's name and a digest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import product
from os.path import normpath
from pathlib import Path
from typing import Any

from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.matrix import Excluded, Names, excluded, matrix
from fluxfast.bench.cases.own_file import CHECKPOINT, OwnCase, read_own_cases
from fluxfast.bench.cases.planned import PlannedCase, planned_case, situation_of
from fluxfast.errors import CheckpointError, FluxFastError
from fluxfast.hardware import Hardware
from fluxfast.models.lora.source import LoraSource
from fluxfast.models.spec import MODELS
from fluxfast.models.weights import Checkpoint, WeightsKind, resolve
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.cache_config import CACHE_PRESETS, CacheConfig, cache_config_from
from fluxfast.optimizations.presets import preset_names
from fluxfast.optimizations.registry import check_decided, choices
from fluxfast.optimizations.situation import Situation
from fluxfast.optimizations.unquantized import check_quantizes, unquantized_layers

NAME_LENGTH, DIGEST_LENGTH = 16, 6  # ids are names of files, which have at most 255 bytes
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+", re.ASCII)
MINI = "mini-"
DIGEST = 4  # the place of the digest in the parts of a label


def planned_own_cases(
    path: Path, kind: str | None, hardware: Hardware, metrics: Collection[str]
) -> tuple[list[PlannedCase], dict[str, list[Excluded]]]:
    """Plan the cases of a file; every entry is checked before anything is loaded.

    Args:
        path: the file of cases.
        kind: the name of the matrix, for entries that state no optimizations.
        hardware: the machine.
        metrics: the names that a tolerance may have.

    Returns:
        The cases, and by model the optimizations that the matrix excludes.

    Raises:
        FluxFastError: an entry is wrong, is not supported on this machine, or is there twice.
    """
    found: list[PlannedCase] = []
    places: dict[str, str] = {}
    left_out: dict[str, list[Excluded]] = {}
    for entry in read_own_cases(path, metrics):
        with _located(entry.where):
            for checkpoint, situation in _workloads(entry, hardware):
                combinations = _combinations(entry, kind, situation)
                check_quantizes(combinations, situation.unquantized)
                if situation.cache_config:
                    problem = "the cache has settings, and no optimization is one"
                    check_decided(combinations, Axis.CACHE, problem, option="cache")
                if entry.takes_matrix:
                    left_out[situation.model.name] = excluded(combinations, situation)
                found += [_planned(entry, n, checkpoint, situation) for n in combinations]
        for planned in found[len(places) :]:
            _check_new(planned.case, entry, places)
    return _titled(found) if found else [], left_out


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Name the entry in the errors of this context."""
    try:
        yield
    except FluxFastError as error:
        raise type(error)(
            f"{where}: {error.problem}",
            got=error.got,
            allowed=error.allowed,
            remedy=error.remedy,
        ) from error


def _workloads(entry: OwnCase, hardware: Hardware) -> Iterator[tuple[Checkpoint, Situation]]:
    """Yield the checkpoint and the situation of each resolution and prompt of an entry."""
    checkpoint = _checkpoint(entry, hardware)
    if entry.guidance_scale is not None and not checkpoint.model.guidance_embeds:
        raise FluxFastError(
            "guidance_scale has no effect on this model",
            got=f"{entry.guidance_scale:g} for {checkpoint.model.name}",
            allowed="a guidance for a model with a guidance input, as dev",
            remedy="leave guidance_scale out",
        )
    unquantized = unquantized_layers(entry.unquantized, checkpoint.block_counts)
    cache_config = _cache_config(entry)
    for (height, width), prompt in product(entry.resolutions, entry.prompts):
        situation = situation_of(
            checkpoint,
            hardware,
            height=height,
            width=width,
            prompt=prompt,
            batch_size=entry.batch_size,
            num_inference_steps=entry.num_inference_steps,
            guidance_scale=entry.guidance_scale,
        )
        yield checkpoint, replace(situation, unquantized=unquantized, cache_config=cache_config)


def _cache_config(entry: OwnCase) -> CacheConfig | None:
    """Return the entry's settings of the cache; a relative path starts at the file's folder."""
    cache = entry.cache
    if isinstance(cache, str) and cache not in CACHE_PRESETS:
        cache = _from_folder(entry, cache)
    return cache_config_from(cache) if cache is not None else None


def _checkpoint(entry: OwnCase, hardware: Hardware) -> Checkpoint:
    """Return the checkpoint of an entry, not loaded; its configuration files are read."""
    written = entry.checkpoint
    folder = entry.folder / Path(written)
    if _exists(folder) and folder.is_dir():
        location, kind = str(folder), "auto"
    elif written.removeprefix(MINI) in MODELS and written.startswith(MINI):
        location, kind = written, "auto"
    elif HUB_ID.fullmatch(written):
        location, kind = written, WeightsKind.HUB.value
    else:
        raise CheckpointError(
            "there is no such checkpoint",
            got=f"{written}, which is no folder in {entry.folder.absolute()}",
            allowed=CHECKPOINT,
            remedy="check the spelling; a relative path starts at the folder of the file of cases",
        )
    resolved = resolve(location, kind, hardware)
    lora = _lora(entry)
    with_lora = f" with {entry.lora.location} × {entry.lora.scale:g}" if entry.lora else ""
    return replace(resolved, why=f"{written}{with_lora}; {resolved.why}", lora=lora)


def _lora(entry: OwnCase) -> LoraSource | None:
    """Return the LoRA of an entry with its file, not read yet; a hub id is downloaded."""
    if entry.lora is None:
        return None
    from fluxfast.models.lora.read import lora_file

    found = lora_file(_from_folder(entry, entry.lora.location))
    return replace(entry.lora, location=str(found))


def _from_folder(entry: OwnCase, path: str) -> str:
    """Return a path in the folder of the file of cases, if there is one there, else as it is."""
    local = entry.folder / path
    return str(local) if _exists(local) else path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or that no file can have
        return False


def _combinations(entry: OwnCase, kind: str | None, situation: Situation) -> Sequence[Names]:
    if entry.optimizations is not None:
        return [entry.optimizations]
    if entry.preset is not None:
        caches = [o.name for o in choices(Axis.CACHE)] if entry.cache is not None else []
        return [preset_names(entry.preset, situation, enable=caches)]
    return matrix(kind or "smoke", situation)


def _planned(
    entry: OwnCase, names: Names, checkpoint: Checkpoint, situation: Situation
) -> PlannedCase:
    planned = planned_case(names, checkpoint, situation)
    case = replace(planned.case, weights=_weights(entry, situation))
    # An entry that lists its optimizations means these, whatever the default is.
    role = planned.role if entry.optimizations is None else None
    return replace(
        planned, case=case, role=role, tolerances=entry.tolerances, quality=entry.quality
    )


def _weights(entry: OwnCase, situation: Situation) -> str:
    """Return the checkpoint's name, and a digest of what its case id does not show."""
    request, checkpoint, lora = situation.request, normpath(entry.checkpoint), entry.lora
    identity: dict[str, Any] = {
        "checkpoint": checkpoint,
        "lora": (normpath(lora.location), lora.scale) if lora else None,
        "prompt": request.prompt,
        "guidance_scale": request.guidance_scale,
    }
    if situation.unquantized:  # ids from before have no such key
        identity["unquantized"] = sorted(situation.unquantized)
    if situation.cache_config:
        identity["cache"] = asdict(situation.cache_config)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    name = re.sub(r"[^a-zA-Z0-9]+", "_", Path(checkpoint).name).strip("_")[:NAME_LENGTH]
    return f"{name or 'checkpoint'}_{digest[:DIGEST_LENGTH]}"


def _check_new(case: Case, entry: OwnCase, places: dict[str, str]) -> None:
    """Refuse a case that an earlier entry has, too."""
    if case.id in places:
        raise FluxFastError(
            f"{entry.where} is there already: {places[case.id]} gives the same case",
            got=case.id,
            allowed="each combination of workload and optimizations once",
            remedy="remove one of them, or change what it is meant to differ in; tolerances are "
            "no part of a case",
        )
    places[case.id] = entry.where


def _titled(cases: list[PlannedCase]) -> list[PlannedCase]:
    """Return the cases with labels that begin with what their workloads differ in."""
    parts = {planned.case.workload: _parts(planned.case) for planned in cases}
    columns = list(zip(*parts.values(), strict=True))
    shown = [i for i in range(DIGEST) if i == 0 or len(set(columns[i])) > 1]
    if len({tuple(of[i] for i in shown) for of in parts.values()}) < len(parts):
        shown.append(DIGEST)
    titles = {workload: " ".join(of[i] for i in shown) for workload, of in parts.items()}
    return [replace(p, label=f"{titles[p.case.workload]}: {p.label}") for p in cases]


def _parts(case: Case) -> tuple[str, ...]:
    """Return what tells the workload of a case apart, the digest last."""
    name, _, digest = case.weights.rpartition("_")
    shape = f"{case.height}×{case.width}"
    return name, shape, f"b{case.batch_size}", f"s{case.num_inference_steps}", digest
