"""The command-line options of the suite, and their checks."""

from __future__ import annotations

import argparse
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from fluxfast.bench.baselines.lookup import known_baselines
from fluxfast.bench.cases.matrix import MATRICES
from fluxfast.bench.results.shards import WHOLE
from fluxfast.errors import FluxFastError
from fluxfast.files import shipped_baselines, stated_path
from fluxfast.models.spec import MODELS
from fluxfast.models.weights import WEIGHTS_CHOICES
from fluxfast.pytest_plugin.sharding import resolved_shard


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one session, under the names of the command line.

    Attributes:
        gpu: the name of the machine's baseline; `auto` follows the machine.
        gpus: GPUs that share an image.
        matrix: the matrix of cases; None for each test module's own.
        models: the models to measure; all of them where none is named.
        weights: one of WEIGHTS_CHOICES.
        resolution: height x width in pixels; None for the weights' own.
        batch_size: images of one prompt at a time; None for the test module's own.
        num_inference_steps: denoising steps; None for the model's own.
        rounds: an exact number of timed images per case; None for as many as the noise needs.
        seconds: time limit for a case's images in seconds.
        record: measure for a new baseline and judge nothing.
        results: the folder for results; None for a new one below .fluxfast/results.
        against: the revision to compare with, as side A; None for this one.
        against_env: the interpreter of the environment to compare with, as side A; None for this
            one. Without either, cases are judged against the baseline.
        resume: keep the results that the folder holds already.
        shard: the part I/N of the cases; `auto` is replaced by the part of a scheduler's job.
        baselines: the folder of baselines.
        cases: a file of cases of one's own; None for the project's cases.
    """

    gpu: str = "auto"
    gpus: int = 1
    matrix: str | None = None
    models: tuple[str, ...] = tuple(MODELS)
    weights: str = "auto"
    resolution: str | None = None
    batch_size: int | None = None
    num_inference_steps: int | None = None
    rounds: int | None = None
    seconds: float = 30.0
    record: bool = False
    results: Path | None = None
    against: str | None = None
    against_env: Path | None = None
    resume: bool = False
    shard: str = WHOLE
    baselines: Path
    cases: Path | None = None

    @property
    def compares(self) -> bool:
        """Return whether two sides are measured and compared, without a baseline."""
        return bool(self.against or self.against_env)

    @property
    def comparing(self) -> str:
        """The option that asks for a comparison, for messages."""
        return "--against-env" if self.against_env else "--against"

    @classmethod
    def of(cls, config: pytest.Config) -> Self:
        """Return the options of a session.

        Raises:
            pytest.UsageError: an option has no sensible value, or two contradict each other.
        """
        given: dict[str, Any] = {
            name: config.getoption(f"--{name.replace('_', '-')}")
            for name in cls.__annotations__
            if name != "models"
        }
        models = tuple(config.getoption("--model") or ())
        try:
            given["shard"] = resolved_shard(given["shard"], os.environ)
        except FluxFastError as error:
            raise pytest.UsageError(f"fluxfast: {error}") from None
        options = cls(models=models or tuple(MODELS), **given)
        if mistake := _mistake(options) or (options.cases and _contradiction(options, models)):
            raise pytest.UsageError(mistake)
        return options


def _mistake(options: Options) -> str | None:
    """Return what is wrong with the options, or None."""
    for name in ("against", "matrix", "resolution"):
        if getattr(options, name) == "":  # for example a `$(git merge-base …)` that failed
            return f"--{name} is empty: give it a value, or leave it out"
    if not _is_folder(options.baselines):
        return f"--baselines is {options.baselines}: there is no such folder"
    if options.gpu not in (known := ["auto", "cpu", *known_baselines(options.baselines)]):
        return f"no baseline is named {options.gpu}: --gpu takes {', '.join(known)}"
    if options.gpus < 1:
        return f"--gpus is {options.gpus}: give 1 or more, or leave it out"
    if options.rounds is not None and options.rounds < 1:
        return f"--rounds is {options.rounds}: give 1 or more, or leave it out"
    if not 0 < options.seconds < math.inf:
        return f"--seconds is {options.seconds:g}: give a positive number, or leave it out"
    if options.compares and options.record:
        return f"{options.comparing} compares and --record judges nothing: choose one of them"
    if options.resume and not options.results:
        return "--resume needs the --results DIR of the run that was interrupted"
    return None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


def _contradiction(options: Options, models: tuple[str, ...]) -> str | None:
    """Return which option contradicts --cases, or None; `models` are those that --model names."""
    stated = {
        "--model": models,
        "--weights": options.weights != "auto",
        "--resolution": options.resolution,
        "--batch-size": options.batch_size is not None,
        "--num-inference-steps": options.num_inference_steps is not None,
    }
    for name, given in stated.items():
        if given:
            return f"{name} has no effect with --cases: state it in {options.cases}, or use -k"
    if options.compares:
        named = options.comparing
        return f"{named} compares the project's cases: leave it out, or leave --cases out"
    return None


def _interpreter(path: str) -> Path:
    """Return the path of an interpreter; links stay, because a venv's Python is one."""
    if not path:  # for example a `$(which …)` that found nothing
        raise argparse.ArgumentTypeError("give it the path of a Python, or leave it out")
    return Path(shutil.which(path) or path).absolute()


def add_options(parser: pytest.Parser) -> None:
    """Add the options of the suite to pytest's command line."""
    group = parser.getgroup("fluxfast", "FluxFast")
    group.addoption(
        "--gpu",
        default="auto",
        help="name of the machine's baseline: auto, cpu, h100, h200, …",
    )
    group.addoption("--gpus", type=int, default=1, help="GPUs that share an image (1)")
    group.addoption(
        "--cases",
        type=stated_path,
        metavar="FILE",
        help="measure cases of your own, from a YAML file",
    )
    group.addoption("--matrix", help=f"which cases: {', '.join(MATRICES)} (the tests' own)")
    group.addoption(
        "--model", action="append", help=f"one of {', '.join(MODELS)} (repeat for more; all)"
    )
    group.addoption("--weights", default="auto", help=", ".join(WEIGHTS_CHOICES))
    group.addoption("--resolution", help="HEIGHTxWIDTH in pixels (the weights' own)")
    group.addoption("--batch-size", type=int, help="images of one prompt at a time (1)")
    group.addoption("--num-inference-steps", type=int, help="denoising steps (the model's own)")
    group.addoption("--rounds", type=int, help="images to time (as many as the noise needs)")
    group.addoption("--seconds", type=float, default=30.0, help="time for a case's images (30)")
    group.addoption(
        "--record", action="store_true", help="measure for a new baseline, judge nothing"
    )
    group.addoption(
        "--results",
        type=stated_path,
        metavar="DIR",
        help="folder for results (.fluxfast/results/TIME)",
    )
    group.addoption(
        "--against", metavar="REF", help="compare with this revision on this machine, interleaved"
    )
    group.addoption(
        "--against-env",
        type=_interpreter,
        metavar="PYTHON",
        help="compare with the environment of this interpreter, on this machine, interleaved",
    )
    group.addoption("--resume", action="store_true", help="keep the cases that --results DIR holds")
    group.addoption(
        "--shard",
        default=WHOLE,
        metavar="I/N",
        help="run the I-th of N parts; auto: the part of this Slurm, Kubernetes or GitHub job",
    )
    group.addoption(
        "--baselines",
        type=stated_path,
        default=shipped_baselines(),
        metavar="DIR",
        help="folder of baselines",
    )
