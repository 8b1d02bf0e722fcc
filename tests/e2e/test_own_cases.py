"""`pytest perf_tests --cases FILE`: the first run records, the second compares."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fluxfast.mini import WEIGHTS
from tests.support.forked import run_module
from tests.support.results import steady

REPOSITORY = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.subprocess]

CASES = """
cases:
  - checkpoint: my-flux-dev
    prompt: a large red circle on a white background
    resolution: 64
    num_inference_steps: 2
    lora: {path: style.safetensors, scale: 0.8}
    optimizations: [fused_projections]
    tolerances: {eager_ratio: 0.4, step_ms: 0.1}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with a checkpoint, a LoRA and a file of cases."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("FLUXFAST_COMMIT", "tests")
    shutil.copytree(WEIGHTS / "mini-dev", tmp_path / "my-flux-dev")
    (tmp_path / "my-cases.yaml").write_text(CASES)
    config = json.loads((tmp_path / "my-flux-dev" / "transformer" / "config.json").read_text())
    width = config["num_attention_heads"] * config["attention_head_dim"]
    names = [f"transformer.transformer_blocks.0.attn.to_q.lora_{f}.weight" for f in "AB"]
    factors = (torch.randn(2, width), torch.randn(width, 2))
    save_file(dict(zip(names, factors, strict=True)), tmp_path / "style.safetensors")
    return tmp_path


def run(folder: Path, *options: str) -> pytest.RunResult:
    """Run the suite from another directory than its own."""
    words = [str(REPOSITORY / "perf_tests"), f"--rootdir={folder}", "--gpu=cpu", "--rounds=2"]
    return run_module("pytest", [*words, "--cases=my-cases.yaml", *options], folder)


def test_the_first_run_records_the_second_compares_and_a_mistake_loads_nothing(folder):
    first = run(folder, "--results=results")
    assert first.ret == 0, first.stdout.str()
    for line in (
        "these cases have no baseline yet: this run records commit tests and passes",
        "my-flux-dev with style.safetensors × 0.8",
        "no such figure here, so no tolerance: step_ms",
    ):
        assert line in first.stdout.str()
    (path,) = folder.glob("my-cases.cpu-*.json")
    (case,) = json.loads(path.read_text())["cases"]
    assert case["case"]["weights"].startswith("my_flux_dev_")
    assert [len(image["step_ms"]) for image in case["processes"][0]["images"]] == [2, 2]
    assert not (REPOSITORY / "baselines" / path.name).exists()

    # Three hundred times slower than its baseline, on a machine whose canaries are not compared. A
    # busy one is not judged by its two images: both have the times of the first.
    (result,) = (folder / "results").glob("*.json")
    measured = json.loads(result.read_text())
    result.write_text(json.dumps(measured | steady(measured)))
    process = case["processes"][0]
    process |= steady(process) | {"canaries": {}}
    process["reference_e2e_s"] = [s * 300 for s in process["reference_e2e_s"]]
    data = json.loads(path.read_text()) | {"cases": [case]}
    path.write_text(json.dumps(data))
    slower = run(folder, "--results=results", "--resume")  # judges the result of the first
    assert slower.ret == 1, slower.stdout.str()
    assert "SLOWER: whole image: eager_ratio" in slower.stdout.str()
    assert "(tolerance ±40%)" in slower.stdout.str()
    assert len(json.loads(path.read_text())["cases"][0]["processes"]) == 1

    (folder / "my-cases.yaml").write_text(CASES.replace("fused_projections", "fused_projektions"))
    mistake = run(folder)
    assert mistake.ret == pytest.ExitCode.USAGE_ERROR
    for part in ("unknown optimization", "got:     fused_projektions", "allowed:", "remedy:"):
        assert part in mistake.stderr.str()
    assert "building" not in mistake.stdout.str()
    assert "Traceback" not in mistake.stderr.str()
