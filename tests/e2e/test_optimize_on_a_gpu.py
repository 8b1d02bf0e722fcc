"""`fluxfast.optimize()` on a GPU: every dtype, an export, and weights that wait on the host."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import fluxfast
from benchmarks.own_pipeline import psnr_db
from benchmarks.variants import SIZE, VARIANTS, generate, loaded
from fluxfast.models.lora.synthetic import synthetic_lora
from fluxfast.optimizations.base import Artifacts
from fluxfast.pipeline.apply import apply_plan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
TEXT, DEVICE = VARIANTS[0], "cuda"
EXPORTED = {"enable": ["export_aoti"], **SIZE}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A dtype, the arguments of `optimize()`, and the least PSNR to the latents before in dB."""

    dtype: torch.dtype
    least_db: float
    arguments: dict[str, Any] = field(default_factory=dict)


# On an H200 the mini family had 49 dB or more in fp8 and 60 dB or more lossless, in bfloat16.
CHOICES = {
    "bfloat16": Choice(dtype=torch.bfloat16, least_db=45),
    "bfloat16, lossless": Choice(
        dtype=torch.bfloat16, least_db=55, arguments={"preset": "lossless"}
    ),
    "bfloat16, exported": Choice(dtype=torch.bfloat16, least_db=45, arguments=EXPORTED),
    "float16": Choice(dtype=torch.float16, least_db=60),
    "float16, exported": Choice(dtype=torch.float16, least_db=60, arguments=EXPORTED),
    "float32": Choice(dtype=torch.float32, least_db=60),
}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_a_pipeline_is_optimized_as_requested_and_restored(choice, tmp_path, monkeypatch):
    monkeypatch.setitem(apply_plan.__kwdefaults__, "artifacts", Artifacts(folder=tmp_path))
    pipeline = loaded(TEXT, DEVICE).to(choice.dtype)
    before = generate(pipeline, TEXT)
    with fluxfast.optimize(pipeline, **choice.arguments) as fast:
        after = [generate(fast, TEXT) for _ in range(2)]
        report = fast.report()
    assert report.is_as_requested, str(report)
    assert set(choice.arguments.get("enable", ())) <= set(report.proofs)
    assert min(psnr_db(latents, before) for latents in after) >= choice.least_db
    assert torch.equal(generate(pipeline, TEXT), before)


@pytest.mark.parametrize("preset", ["default", "low_memory"])
def test_a_pipeline_in_host_memory_is_moved_while_it_is_optimized(preset):
    """The same latents as of a pipeline that was moved first, and the host's weights at the end."""
    there, here = (loaded(TEXT, device).to(torch.bfloat16) for device in (DEVICE, "cpu"))
    weights = {name: value.clone() for name, value in here.transformer.state_dict().items()}
    with fluxfast.optimize(there, preset=preset) as fast:
        expected = generate(fast, TEXT)
    with fluxfast.optimize(here, preset=preset, device=DEVICE) as fast:
        assert torch.equal(generate(fast, TEXT), expected)
        assert fast.report().is_as_requested
    after = here.transformer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert here.device.type == "cpu"


def test_original_weights_that_were_moved_to_the_host_come_back(monkeypatch):
    monkeypatch.setattr("fluxfast.api.optimize.FREE_MEMORY_SHARE", 2.0)  # never enough
    pipeline = loaded(TEXT, DEVICE)
    before, lora = generate(pipeline, TEXT), synthetic_lora(pipeline.transformer, 4)
    with fluxfast.optimize(pipeline) as fast:
        originals = fast._live.originals.values()
        assert any(original.data.device.type == "cpu" for original in originals)
        base = generate(fast, TEXT)
        fast.set_lora(lora)
        assert not torch.equal(generate(fast, TEXT), base)
        fast.set_lora(None)
        assert torch.equal(generate(fast, TEXT), base)
    assert torch.equal(generate(pipeline, TEXT), before)
    assert {p.device.type for p in pipeline.transformer.parameters()} == {"cuda"}
