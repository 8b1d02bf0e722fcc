"""`--shard auto`: take the part of the cases from the variables of a scheduler. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from fluxfast.errors import FluxFastError

AUTO = "auto"
KUBERNETES_INDEX, KUBERNETES_COUNT = "JOB_COMPLETION_INDEX", "FLUXFAST_SHARDS"
GITHUB_INDEX, GITHUB_COUNT = "STRATEGY_JOB_INDEX", "STRATEGY_JOB_TOTAL"
SLURM = {name: f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "STEP", "COUNT")}


def resolved_shard(text: str, environ: Mapping[str, str]) -> str:
    """Return the part `I/N` of the cases; `auto` takes it from the scheduler of this job.

    Args:
        text: the value of `--shard`.
        environ: the environment variables of this process.

    Raises:
        FluxFastError: there is no scheduler or more than one, or its variables give no part.
    """
    if text != AUTO:
        return text
    found = dict(_parts(environ))
    if len(found) != 1:
        raise FluxFastError(
            "--shard auto needs the variables of exactly one scheduler",
            got=", ".join(found) or "none",
            allowed=f"a Slurm array ({SLURM['ID']}), an indexed Job of Kubernetes "
            f"({KUBERNETES_INDEX} and {KUBERNETES_COUNT}), or a matrix of GitHub "
            f"({GITHUB_INDEX} and {GITHUB_COUNT})",
            remedy="name the part with --shard I/N",
        )
    return next(iter(found.values()))


def _parts(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each scheduler that started this process, with the part that it gives."""
    if SLURM["ID"] in environ:
        yield "Slurm", _slurm_part(environ)
    if KUBERNETES_INDEX in environ:
        yield "Kubernetes", _counted_from_0(environ, KUBERNETES_INDEX, KUBERNETES_COUNT)
    if GITHUB_INDEX in environ:
        yield "GitHub", _counted_from_0(environ, GITHUB_INDEX, GITHUB_COUNT)


def _counted_from_0(environ: Mapping[str, str], index: str, count: str) -> str:
    return f"{_number(environ, index) + 1}/{_number(environ, count)}"


def _slurm_part(environ: Mapping[str, str]) -> str:
    """Return the part of an array with evenly spaced task numbers, such as `1-4` or `0-9:3`."""
    task, first, last, step, count = (_number(environ, name) for name in SLURM.values())
    if range(first, last + 1, step) != range(first, first + step * count, step):
        raise FluxFastError(
            "the tasks of this Slurm array are not evenly spaced, so that they give no parts",
            got=f"{count} tasks from {first} to {last} in steps of {step}",
            allowed="#SBATCH --array=1-N",
            remedy="submit such an array, or repeat one part with --shard I/N",
        )
    return f"{(task - first) // step + 1}/{count}"


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise FluxFastError(
            f"--shard auto needs a number in {name}",
            got=text or "nothing",
            allowed="a number from 0 on",
            remedy=f"set {name} in the job (see docs/guides/several-gpus.md), or name --shard I/N",
        )
    return int(text)
