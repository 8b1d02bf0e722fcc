"""Run `python -m MODULE` in processes forked from one that has imported the libraries.

Such a process starts without modules of fluxfast and has seen no other run, but it need not import
PyTorch and diffusers, which takes five seconds.
"""

import gc
import multiprocessing
import os
import runpy
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

LIBRARIES = [
    "diffusers.pipelines.flux.pipeline_flux",
    "hypothesis",
    "pytest_benchmark.plugin",
    "scipy.special",
    "torchmetrics.functional.image",
]
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(LIBRARIES)


def run_module(module: str, arguments: list[str], folder: Path) -> pytest.RunResult:
    """Return the result of `python -m MODULE ARGUMENTS` in a folder, with this environment."""
    words = [module, *arguments]
    with TemporaryDirectory() as outside:
        texts = [Path(outside) / name for name in ("stdout", "stderr")]
        process = PROCESSES.Process(target=_run, args=(words, folder, dict(os.environ), texts))
        process.start()
        process.join()
        out, err = (text.read_text(encoding="utf-8").splitlines() for text in texts)
    assert process.exitcode is not None
    return pytest.RunResult(process.exitcode, out, err, duration=0.0)


def _run(words: list[str], folder: Path, environment: dict[str, str], texts: list[Path]) -> None:
    gc.freeze()  # garbage collections, two for each pipeline, skip the libraries
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, text in enumerate(texts, start=1):
        os.dup2(os.open(text, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [str(folder), *filter(None, paths)]
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
