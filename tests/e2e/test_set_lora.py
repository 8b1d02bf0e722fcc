"""LoRAs on an optimized pipeline: merged before `optimize()`, and swapped by `set_lora()`."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fluxfast
from benchmarks.variants import VARIANTS, generate, loaded
from fluxfast.models.lora.synthetic import synthetic_lora

TEXT = VARIANTS[0]
EAGER = ("regional", "inductor_flags")
CLOSE = dict(rtol=0, atol=1e-3)  # of latents of about 1; a LoRA of these tests changes them by 0.1


@pytest.fixture(scope="module")
def pipeline():
    return loaded(TEXT)


@pytest.fixture(scope="module")
def plain(pipeline):
    return generate(pipeline, TEXT)


@pytest.fixture(scope="module")
def loras(pipeline):
    return [synthetic_lora(pipeline.transformer, rank, seed=rank) for rank in (4, 8)]


@pytest.fixture(scope="module")
def with_peft(pipeline, loras):
    """Return diffusers' own images: with the first LoRA at 0.7, and with both."""
    pipeline.load_lora_weights(loras[0], adapter_name="a")
    pipeline.load_lora_weights(loras[1], adapter_name="b")
    images = {}
    for scales in ((0.7, 0.0), (0.5, 0.25)):
        pipeline.set_adapters(["a", "b"], list(scales))
        images[scales] = generate(pipeline, TEXT)
    pipeline.unload_lora_weights()
    return images


@pytest.fixture(params=[(), ("int8", "sdpa")], ids=["float32", "int8"])
def fast(request, pipeline, plain):
    with fluxfast.optimize(pipeline, enable=request.param, disable=EAGER) as optimized:
        yield optimized
    assert torch.equal(generate(pipeline, TEXT), plain)


def test_a_swapped_lora_gives_diffusers_image_and_returns_exactly(fast, plain, loras, with_peft):
    base, is_exact = generate(fast, TEXT), "int8" not in fast.plan.names
    for source, scale, wanted in (
        (loras[0], 0.7, with_peft[0.7, 0.0]),
        (loras, [0.5, 0.25], with_peft[0.5, 0.25]),
    ):
        fast.set_lora(source, scale)
        image = generate(fast, TEXT)
        error, effect = (image - wanted).norm(), (wanted - plain).norm()
        assert error < (1e-4 if is_exact else 0.5) * effect
    assert [str(lora) for lora in fast.loras] == [
        f"state dict (scale {scale}, rank {rank}, 54 layers)"
        for scale, rank in ((0.5, 4), (0.25, 8))
    ]
    fast.set_lora(None)
    assert torch.equal(generate(fast, TEXT), base) and fast.loras == ()


def test_a_lora_of_fewer_layers_restores_those_of_the_one_before(fast, loras):
    part = {n: t for n, t in loras[0].items() if "norm1.linear" in n}
    fast.set_lora(part)
    alone = generate(fast, TEXT)
    fast.set_lora(loras[1])
    fast.set_lora(part)
    assert torch.equal(generate(fast, TEXT), alone)


def test_the_weights_keep_their_memory(fast, loras):
    addresses = {n: t.data_ptr() for n, t in fast.transformer.named_buffers()}
    parameters = {
        n: p.qdata.data_ptr() if hasattr(p, "qdata") else p.data_ptr()
        for n, p in fast.transformer.named_parameters()
    }
    fast.set_lora(loras[0])
    assert addresses == {n: t.data_ptr() for n, t in fast.transformer.named_buffers()}
    assert parameters == {
        n: p.qdata.data_ptr() if hasattr(p, "qdata") else p.data_ptr()
        for n, p in fast.transformer.named_parameters()
    }


def test_loras_that_are_loaded_become_part_of_the_weights(pipeline, plain, loras, with_peft):
    pipeline.load_lora_weights(loras[0], adapter_name="cartoon")
    pipeline.set_adapters(["cartoon"], [0.7])
    try:
        with fluxfast.optimize(pipeline, enable=["sdpa"], disable=EAGER) as fast:
            folded = generate(fast, TEXT)
            torch.testing.assert_close(folded, with_peft[0.7, 0.0], **CLOSE)
            assert "1 LoRA: cartoon (scale 0.7, rank 4, 54 layers)" in str(fast.report())
            fast.set_lora(loras[1], 0.5)
            assert not torch.equal(generate(fast, TEXT), folded) and len(fast.loras) == 2
            fast.set_lora(None)
            assert torch.equal(generate(fast, TEXT), folded)
        torch.testing.assert_close(generate(pipeline, TEXT), with_peft[0.7, 0.0], **CLOSE)
        assert pipeline.get_active_adapters() == ["cartoon"]
    finally:
        pipeline.unload_lora_weights()
    assert torch.equal(generate(pipeline, TEXT), plain)


@pytest.mark.compile
@pytest.mark.slow
def test_compiled_code_sees_a_swapped_lora_without_compiling_again(pipeline, loras, with_peft):
    from torch._dynamo.utils import counters

    with fluxfast.optimize(pipeline) as fast:
        base = generate(fast, TEXT)
        graphs = counters["stats"]["unique_graphs"]
        fast.set_lora(loras[0], 0.7)
        torch.testing.assert_close(generate(fast, TEXT), with_peft[0.7, 0.0], **CLOSE)
        fast.set_lora(None)
        assert torch.equal(generate(fast, TEXT), base)
        assert counters["stats"]["unique_graphs"] == graphs


def test_a_lora_that_cannot_be_set_changes_nothing(pipeline, loras, tmp_path):
    wrong = {"transformer.proj_out.lora_A.weight": torch.ones(4, 7)}
    wrong["transformer.proj_out.lora_B.weight"] = torch.ones(64, 4)
    layers = {name.partition(".lora_")[0] for name in loras[0]}
    alphas = {f"{layer}.alpha": torch.tensor(1e38) for layer in layers}
    file = tmp_path / "style.safetensors"
    save_file(loras[0], file)
    with fluxfast.optimize(pipeline, disable=EAGER) as fast:
        fast.set_lora(file, np.float32(1.0))
        image = generate(fast, TEXT)
        for source, scale, problem in (
            (wrong, 1.0, "another shape"),
            ([loras[0], wrong], 1.0, "another shape"),
            (loras, [1.0], "not as many scales"),
            (loras[0], float("nan"), "not finite"),
            (loras[0], 1e38, "too large"),  # float32 weights would overflow
            (loras, [5.0, 1e300], "too large"),
            ({**loras[0], **alphas}, 1.0, "too large"),
            ("nowhere.safetensors", 1.0, "no such LoRA"),
        ):
            with pytest.raises(fluxfast.FluxFastError, match=problem):
                fast.set_lora(source, scale)
        assert torch.equal(generate(fast, TEXT), image)
        assert [lora.name for lora in fast.loras] == ["style"]
