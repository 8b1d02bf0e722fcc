"""Check the environment of another interpreter, and describe both sides of a comparison. No torch.

The check comes before anything is built: an interpreter that cannot measure is a usage error.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxfast.bench.ab.installation import Installation
from fluxfast.bench.results.provenance import provenance
from fluxfast.bench.results.sides import ComparedSide, ComparedSides
from fluxfast.errors import FluxFastError
from fluxfast.files import PACKAGE, git

PROBE = PACKAGE / "bench" / "ab" / "probe.py"
MARK = "fluxfast probe: "
OLDEST, NEWEST = (3, 11), (3, 13)  # of Python, as in pyproject.toml
TIMEOUT_S = 300  # importing takes 10 s; from a cold network disk or on a busy machine, minutes
LINES_QUOTED = 5
CREATE = "create one: python3 -m venv DIR && DIR/bin/pip install -e ."
# The modules that measuring imports, and the distributions that have them.
REQUIRED: Mapping[str, str] = {
    "torch": "torch",
    "torchao": "torchao",
    "diffusers": "diffusers",
    "transformers": "transformers",
    "cache_dit": "cache-dit",
    "torchmetrics": "torchmetrics",
    "yaml": "pyyaml",
    "scipy": "scipy",
    "PIL": "pillow",
    "rich": "rich",
    "packaging": "packaging",
    "importlib_metadata": "importlib_metadata",
}


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The environment of an interpreter that can measure.

    Attributes:
        interpreter: the path of the interpreter.
        gpu: the name of the GPU that its PyTorch uses; empty without one.
    """

    interpreter: Path
    gpu: str


def checked_environment(interpreter: Path) -> Environment:
    """Return the environment of an interpreter, checked within seconds.

    Raises:
        FluxFastError: there is no such interpreter, its Python is too old or too new, or modules
            are missing or fail.
    """
    found = _probe(interpreter)
    version = tuple(found["python"])
    if not OLDEST <= version[:2] <= NEWEST:
        raise FluxFastError(
            "the other environment has a Python that fluxfast does not support",
            got=f"{interpreter}: Python {'.'.join(map(str, version))}",
            allowed=f"Python {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}",
            remedy=CREATE,
        )
    if failed := found["failed"]:
        distributions = " ".join(sorted(REQUIRED[name] for name in failed))
        errors = "".join(f"\n    {name}: {error}" for name, error in failed.items())
        raise FluxFastError(
            f"the other environment cannot measure without {', '.join(failed)}",
            got=f"{interpreter}{errors}",
            allowed="an environment with the dependencies of fluxfast; fluxfast may be missing",
            remedy=f"{interpreter} -m pip install {distributions}",
        )
    return Environment(interpreter=interpreter, gpu=found["gpu"])


def check_same_device(environment: Environment, gpu: str) -> None:
    """Refuse an environment whose PyTorch does not use the device of this one.

    Args:
        environment: the other environment.
        gpu: the name of the GPU that this session uses; empty for a CPU.

    Raises:
        FluxFastError: the devices differ.
    """
    if gpu and environment.gpu != gpu:
        raise FluxFastError(
            "the other environment does not use the same GPU",
            got=f"{environment.interpreter}: {environment.gpu or 'no GPU'}",
            allowed=gpu,
            remedy="install a build of PyTorch for this GPU and its driver there",
        )


def _probe(interpreter: Path) -> dict[str, Any]:
    """Run the probe; raise FluxFastError if the program does not answer as Python would."""
    if interpreter.is_dir():
        raise _no_interpreter(interpreter, "a folder", f"name {interpreter}/bin/python")
    code = PROBE.read_text(encoding="utf-8")
    here = Installation(tree=PACKAGE.parent, interpreter=interpreter)
    try:
        done = subprocess.run(
            [str(interpreter), "-c", code, MARK, *REQUIRED],
            env=here.variables,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        why = f"no answer in {TIMEOUT_S} s"
        raise _no_interpreter(interpreter, why, "import torch there by hand") from error
    except OSError as error:
        raise _no_interpreter(interpreter, error.strerror or str(error), CREATE) from error
    answers = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not answers:
        why = _last_lines(done.stderr or done.stdout) or f"exit status {done.returncode}"
        raise _no_interpreter(interpreter, why, CREATE)
    found: dict[str, Any] = json.loads(answers[-1].removeprefix(MARK))
    return found


def _no_interpreter(interpreter: Path, why: str, remedy: str) -> FluxFastError:
    return FluxFastError(
        "this is no Python interpreter that can be run",
        got=f"{interpreter}: {why}",
        allowed="the Python of a virtual environment, such as DIR/bin/python",
        remedy=remedy,
    )


def doctor_reports(
    installations: Mapping[str, Installation], device: str
) -> dict[str, dict[str, Any]]:
    """Return what `fluxfast doctor --json` prints in each installation, by side.

    The processes run at the same time: each imports PyTorch, which takes seconds.

    Raises:
        FluxFastError: the command failed in an installation.
    """
    processes = {
        side: subprocess.Popen(
            installation.command("fluxfast", "doctor", "--json", "--device", device),
            cwd=installation.tree,
            env=installation.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        for side, installation in installations.items()
    }
    answers = {side: process.communicate() for side, process in processes.items()}
    for side, process in processes.items():
        if process.returncode:
            raise FluxFastError(
                f"`fluxfast doctor` fails on side {side} of the comparison",
                got=f"{installations[side]}:\n{_last_lines(answers[side][1])}",
                allowed="a revision and an environment that can measure",
                remedy="run the command there by hand and follow its message",
            )
    return {side: _json_at_the_end(out) for side, (out, _) in answers.items()}


def _json_at_the_end(text: str) -> dict[str, Any]:
    """Parse the report; libraries may print lines before it."""
    found: dict[str, Any] = json.loads(text[text.index("{\n") :])
    return found


def _last_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-LINES_QUOTED:])


def described_sides(
    installations: Mapping[str, Installation],
    reports: Mapping[str, Mapping[str, Any]],
    revision: str | None,
    limits: Mapping[str, float],
) -> ComparedSides:
    """Describe side A, the reference, and side B.

    Args:
        installations: code and interpreter by side.
        reports: `fluxfast doctor --json` by side.
        revision: the name of side A's revision; None if it is this checkout.
        limits: the options that limit the images of a case, see `ComparedSide`.
    """
    now = provenance()
    b = ComparedSide(
        name="B",
        revision=None,
        commit=now["commit"],
        dirty=now["dirty"],
        limits=limits,
        **_environment_of(installations["B"], reports["B"]),
    )
    a = ComparedSide(
        name="A",
        revision=revision,
        commit=git("rev-parse", "HEAD", folder=installations["A"].tree) if revision else b.commit,
        dirty=False if revision else b.dirty,
        limits=limits,
        **_environment_of(installations["A"], reports["A"]),
    )
    return ComparedSides(a=a, b=b)


def _environment_of(installation: Installation, report: Mapping[str, Any]) -> dict[str, Any]:
    stack = report["hardware"]["packages"]
    gpu = report.get("gpu") or {}
    drivers = {name: str(gpu[name]) for name in ("cuda", "hip") if gpu.get(name)}
    return {
        "interpreter": str(installation.interpreter),
        "versions": {"python": report["python"], **drivers, **stack},
        "packages": report.get("packages", stack),  # older revisions report the stack alone
    }
