"""Run pytest in processes that are forked from one which has imported the libraries.

Each process starts without modules of fluxfast and has seen no other run, as a process of
`pytest` does; it saves the five seconds that Python needs to import PyTorch and diffusers.
"""

import multiprocessing
import os
import sys
from pathlib import Path

import pytest

LIBRARIES = [
    "diffusers.pipelines.flux.pipeline_flux",
    "pytest_benchmark.plugin",
    "scipy.special",
    "torchmetrics.functional.image",
]
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(LIBRARIES)


def run_pytest(arguments: list[str], folder: Path) -> pytest.RunResult:
    """Return the result of `pytest ARGUMENTS` in a folder, with this process's environment."""
    texts = [folder / name for name in ("stdout", "stderr")]
    process = PROCESSES.Process(target=_run, args=(arguments, folder, dict(os.environ), texts))
    process.start()
    process.join()
    assert process.exitcode is not None
    out, err = (text.read_text(encoding="utf-8").splitlines() for text in texts)
    return pytest.RunResult(process.exitcode, out, err, duration=0.0)


def _run(
    arguments: list[str], folder: Path, environment: dict[str, str], texts: list[Path]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, text in enumerate(texts, start=1):
        os.dup2(os.open(text, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [str(folder), *filter(None, paths)]
    sys.argv = ["pytest", *arguments]
    sys.exit(int(pytest.main(arguments)))
