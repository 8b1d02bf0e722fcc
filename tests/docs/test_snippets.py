"""The Python snippets of the documentation run on mini weights, and the example optimization works.

README names `dev`, whose weights need a GPU; here its snippet runs on mini-dev, and without the
default optimizations, whose compilation takes a minute.
"""

import shlex
import subprocess
import sys
from dataclasses import replace

import pytest
from safetensors.torch import save_file

import fluxfast
import fluxfast.optimizations.attention as attention
from fluxfast.hardware import detect
from fluxfast.models.lora.synthetic import synthetic_lora
from fluxfast.models.weights import resolve
from fluxfast.optimizations.registry import list_optimizations, optimizations, plan
from fluxfast.optimizations.situation import Situation
from fluxfast.pipeline.build import build
from fluxfast.profiling.evidence import gather_evidence
from tests.support.collecting import collected
from tests.support.pages import REPOSITORY, commands, snippets

GUIDE = "docs/guides/add-an-optimization.md"
NAME = "sdpa_flash"


@pytest.mark.slow
def test_the_snippet_of_the_readme_generates_an_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (snippet,) = snippets("README.md")
    assert snippet.count('"dev"') == 1
    small = snippet.replace('"dev"', '"mini-dev"').replace(
        "optimize(pipeline)", 'optimize(pipeline, preset="eager")'
    )
    small = small.replace("steps=28", "steps=2, height=64, width=64, max_sequence_length=32")
    exec(compile(small, "README.md", "exec"), {})
    assert (tmp_path / "cat.png").exists()


@pytest.mark.slow
def test_the_snippets_of_the_python_guide_run_in_their_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    transformer = fluxfast.load("mini-dev").transformer
    for seed, name in enumerate(("cartoon", "ink")):
        save_file(synthetic_lora(transformer, 4, seed=seed), f"{name}.safetensors")
    names = {}
    for number, snippet in enumerate(snippets("docs/guides/python.md")):
        exec(compile(snippet, f"python.md, snippet {number}", "exec"), names)
    output = capsys.readouterr().out
    assert "sdpa               active" in output  # the proof
    assert "dbcache" in output and "remedy" in output  # the error
    assert (tmp_path / "image.png").exists()
    assert names["again"].size == names["eager"].size == (256, 256)


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Save the example of the guide in a folder that the kind `attention` searches, too."""
    file = tmp_path / f"{NAME}.py"
    file.write_text(snippets(GUIDE)[0])
    monkeypatch.setattr(attention, "__path__", [*attention.__path__, str(tmp_path)])
    optimizations.cache_clear()
    yield file
    sys.modules.pop(f"fluxfast.optimizations.attention.{NAME}", None)
    optimizations.cache_clear()


@pytest.mark.slow
@pytest.mark.subprocess
def test_the_example_optimization_passes_the_linters(example):
    for program in (
        ["ruff", "check", "--config", "pyproject.toml", "--no-cache"],
        ["ruff", "format", "--check", "--config", "pyproject.toml", "--no-cache"],
        ["mypy"],  # strict, by its configuration: other options would not use what it has cached
    ):
        words = [sys.executable, "-m", *program, str(example)]
        done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_example_optimization_generates_and_is_proved_active(example):
    assert NAME in [optimization.name for optimization in list_optimizations()]
    hardware = detect("cpu")
    checkpoint = resolve("mini-schnell", "auto", hardware)
    request = replace(checkpoint.request(), height=64, width=64, num_inference_steps=1)
    situation = Situation(model=checkpoint.model, hardware=hardware, request=request)
    checked = plan([NAME], situation)
    with build(checkpoint, checked) as built:
        assert built.generate()[0].size == (64, 64)
        proof = checked.optimizations[0].proof(gather_evidence(built))
    assert proof.is_active and NAME in proof.detail


def test_the_example_optimization_joins_the_suites(example, monkeypatch):
    lines = [line for line in commands("collected") if NAME in line]
    assert len(lines) == 2
    for line in lines:
        assert collected(shlex.split(line)[1:], monkeypatch)
