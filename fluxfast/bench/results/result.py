"""What one process measured of one case: raw samples, and all it takes to judge them. No torch."""

from __future__ import annotations

import json
import math
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from fluxfast.bench.cases.case import Case
from fluxfast.errors import BaselineError
from fluxfast.files import write_atomically
from fluxfast.hardware import Hardware, Platform

SCHEMA = 2
SOURCES = ("fluxfast", "perf_tests", "conftest.py", "pyproject.toml")  # what a figure is of
DEVICE_BOUND = 0.9  # of a step; below, the device waits for the host at least a tenth of the time
POWER_BOUND = 0.95  # of the power limit; beyond, the clock is what the limit leaves


@dataclass(frozen=True, kw_only=True)
class ImageTiming:
    """One image: wall time between two synchronizations, and its stages (device events on a GPU).

    `prepare_ms` lies between encoding and the first step: latents, schedule, Kontext's VAE encoder.
    """

    e2e_s: float
    encode_ms: float
    prepare_ms: float
    step_ms: tuple[float, ...]
    decode_ms: float
    postprocess_ms: float

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ImageTiming:
        step_ms = tuple(data["step_ms"])
        if not step_ms:
            raise ValueError("an image without steps")
        return cls(**{**data, "step_ms": step_ms})


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """`reference_e2e_s`: on a CPU, the eager pipeline's image timed just before each of the case's.

    `pace_ms`: on a CPU, fixed work of no pipeline, timed just before and after each image.
    `first_image_s`: with all that is compiled on the way, from an empty cache on a GPU.
    `proofs`: for each optimization what was seen of it.
    `counters`, `kernels`: compared exactly; kernels are names by what they do (gemm, attention).
    `canaries`: what each took before the case and after it, in the unit of its name.
    `telemetry`: for each image, clocks, temperature, power and energy, where the GPU tells.
    `device_busy`: share of a step in which the GPU was computing, by one profiled step; None on a
    CPU. At the power limit that step, alone, has a higher clock, and the share comes out too small.
    `sampling`: images of warm-up, images discarded, images kept although the GPU was held back, why
    sampling ended, and the seconds from the first image to the end of the canaries.
    """

    case: Case
    images: tuple[ImageTiming, ...]
    reference_e2e_s: tuple[float, ...]
    load_s: float
    apply_s: float
    first_image_s: float
    compiles: bool
    peak_memory_gib: float | None
    counters: Mapping[str, int]
    proofs: Mapping[str, str]
    environment: Mapping[str, Any]
    provenance: Mapping[str, Any]
    pace_ms: tuple[float, ...] = ()
    telemetry: tuple[Mapping[str, float], ...] = ()
    canaries: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    kernels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    package_mib: float | None = None
    device_busy: float | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return bool(self.environment["hardware"]["platform"] != "cpu")

    @property
    def card(self) -> str:
        """Which GPU of its kind, for cards differ; a CPU's figures are ratios, and have none."""
        return str((self.environment.get("gpu") or {}).get("uuid", ""))

    @property
    def eager_ratios(self) -> list[float]:
        """Of each image to the eager image timed just before it; empty where none was."""
        return eager_ratios(self.images, self.reference_e2e_s)

    @property
    def bound(self) -> str:
        """What more of would help: `power`, a faster `device` or `host`; on a CPU these are one."""
        if self.power_share and self.power_share >= POWER_BOUND:
            return "power"
        if self.device_busy is None:
            return "host"
        return "device" if self.device_busy >= DEVICE_BOUND else "host"

    @property
    def power_w(self) -> float | None:
        """Mean power of all images, where the GPU tells their energy.

        It counts ten times a second: of an image of 0.3 s that is coarse, of shorter ones too much
        or nothing.
        """
        energy_j: float = sum(image["energy_j"] for image in self.telemetry)
        return energy_j / sum(image.e2e_s for image in self.images) if energy_j else None

    @property
    def power_share(self) -> float | None:
        """Power over the power limit, where the GPU tells both."""
        limit_w = (self.environment.get("gpu") or {}).get("power_cap_w")
        return self.power_w / float(limit_w) if self.power_w and limit_w else None

    @property
    def compile_s(self) -> float | None:
        """Seconds beyond loading and a steady image: exporting, compiling, autotuning, capturing.

        None where nothing is compiled.
        """
        if not self.compiles:
            return None
        steady = statistics.median(image.e2e_s for image in self.images)
        return self.apply_s + max(0.0, self.first_image_s - steady)

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA} | asdict(self) | {"case": self.case.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str) -> CaseResult:
        """Raises BaselineError for another schema, for missing parts or for wrong values."""
        check_schema(data, where)
        try:
            values = {field.name: data[field.name] for field in fields(cls)}
            values["case"] = Case.from_json(data["case"])
            values["images"] = tuple(map(ImageTiming.from_json, data["images"]))
            values["reference_e2e_s"] = tuple(data["reference_e2e_s"])
            for name in ("pace_ms", "telemetry"):
                values[name] = tuple(values[name])
            for name in ("proofs", "provenance", "sampling"):
                values[name] = dict(values[name])
            for name in ("canaries", "kernels"):
                values[name] = {k: tuple(v) for k, v in values[name].items()}
            if not values["images"]:
                raise ValueError("no images")
            for beside in (values["reference_e2e_s"], values["pace_ms"]):
                if len(beside) not in (0, len(values["images"])):
                    raise ValueError(f"{len(beside)} timings beside {len(values['images'])} images")
            hardware = data["environment"]["hardware"]
            changes = {"platform": Platform(hardware["platform"])}
            # Raises for what describes no machine.
            Hardware(**{**hardware, **changes, "packages": dict(hardware["packages"])})
            check_positive(memory_gib=hardware["memory_gib"])
            found = cls(**values)
            _check_figures(found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BaselineError(
                "a result is incomplete, or a value of it is wrong",
                got=f"{where}: {error!r}",
                allowed=f"schema {SCHEMA} of fluxfast",
                remedy="restore it from version control, or delete it and measure again",
            ) from error
        return found


def _check_figures(result: CaseResult) -> None:
    """While the file is known: a verdict, which takes their logarithms, could not name it."""
    check_positive(load_s=result.load_s, apply_s=result.apply_s, first_image_s=result.first_image_s)
    check_positive(reference_e2e_s=result.reference_e2e_s, pace_ms=result.pace_ms)
    check_positive(**result.canaries)
    for image in result.images:
        check_positive(**vars(image))
    for name in ("peak_memory_gib", "package_mib", "device_busy"):
        if figure := getattr(result, name):  # 0 and None: not measured
            check_positive(**{name: figure})


def check_positive(**figures: Any) -> None:
    """Raises ValueError unless each is a finite number above 0, or a tuple of such."""
    for name, figure in figures.items():
        for number in figure if isinstance(figure, tuple) else (figure,):
            if type(number) not in (int, float) or not 0 < number < math.inf:
                raise ValueError(f"{name} is {number!r}, which is no finite number above 0")


def eager_ratios(images: Sequence[ImageTiming], reference_e2e_s: Sequence[float]) -> list[float]:
    if not reference_e2e_s:
        return []
    return [i.e2e_s / eager_s for i, eager_s in zip(images, reference_e2e_s, strict=True)]


def check_schema(data: Any, where: str) -> None:
    found = data.get("schema") if isinstance(data, dict) else None
    if found != SCHEMA:
        age = "not"
        if isinstance(found, int):
            age = "newer than" if found > SCHEMA else "older than"
        raise BaselineError(
            f"this file is {age} what this version of fluxfast reads",
            got=f"{where}: schema {found!r}",
            allowed=f"schema {SCHEMA}",
            remedy="record it again, or use the fluxfast that wrote it",
        )


def read_json(path: Path) -> Any:
    """Raises BaselineError for a file that is missing, truncated or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BaselineError(
            "there is no such file", got=path, allowed="an existing file", remedy="check the path"
        ) from error
    except (OSError, ValueError) as error:
        raise BaselineError(
            "this file is corrupt or truncated",
            got=f"{path}: {error}",
            allowed="JSON written by fluxfast",
            remedy="restore it from version control, or delete and record it again",
        ) from error


def result_path(folder: Path, case: Case) -> Path:
    return folder / f"{case.id}.json"


def write_result(folder: Path, result: CaseResult) -> Path:
    path = result_path(folder, result.case)
    write_atomically(path, json.dumps(result.to_json()) + "\n")
    return path


def read_result(path: Path) -> CaseResult:
    return CaseResult.from_json(read_json(path), str(path))


def read_results(folders: Iterable[Path]) -> list[CaseResult]:
    """Every result in the folders. Raises BaselineError where there is none."""
    return [read_result(path) for path in result_paths(folders)]


def result_paths(folders: Iterable[Path]) -> list[Path]:
    """Of every result in the folders. Raises BaselineError where there is none."""
    folders = list(folders)
    paths = [path for folder in folders for path in sorted(folder.glob("*.json"))]
    if not paths:
        raise BaselineError(
            "there are no results here",
            got=", ".join(str(f) for f in folders),
            allowed="folders written by pytest perf_tests --results",
            remedy="run `pytest perf_tests --gpu GPU --record --results DIR` first",
        )
    return paths


def provenance() -> dict[str, Any]:
    """Commit, date, command and process behind a figure.

    Where the code travelled without its repository, or into one that has not got its commit,
    FLUXFAST_COMMIT says which it is.
    """
    commit, has_repository = _commit()
    return {
        "commit": commit,
        "dirty": _is_dirty(commit) if commit and has_repository else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([*_program(), *sys.argv[1:]]),
        "process": os.getpid(),
    }


@cache
def _commit() -> tuple[str | None, bool]:
    """Of the code that this process began with, and whether its repository is here.

    What is committed while cases are measured is not what they run.
    """
    named = os.environ.get("FLUXFAST_COMMIT", "")
    if named and _git("cat-file", "-e", f"{named}^{{commit}}") is None:
        return named, False
    head = _git("rev-parse", "HEAD")
    return head, head is not None


def _is_dirty(commit: str) -> bool | None:
    """Whether one of the sources differs from the commit, or is untracked: it joins the matrix.

    Results and documents beside the sources change no figure. None where git does not say.
    """
    changed = _git("diff", "--name-only", commit, "--", *SOURCES)
    untracked = _git("ls-files", "--others", "--exclude-standard", "--", *SOURCES)
    return None if changed is None or untracked is None else bool(changed or untracked)


def _program() -> list[str]:
    """As it can be called again: `python -m pytest` has the path of a module for its name."""
    path = Path(sys.argv[0])
    return ["python", "-m", path.parent.name] if path.name == "__main__.py" else [path.name]


def _git(*arguments: str) -> str | None:
    repository = Path(__file__).parents[3]
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=repository,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
