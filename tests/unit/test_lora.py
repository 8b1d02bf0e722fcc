"""LoRAs: every format is read as diffusers reads it, the rest is refused, and peft's are folded."""

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from fluxfast.errors import FluxFastError
from fluxfast.models.lora.adapter import Lora, LowRank, check_fits, describe, merged
from fluxfast.models.lora.fold import fold
from fluxfast.models.lora.read import read_lora
from fluxfast.models.lora.transfer import chunks
from fluxfast.optimizations.base import Artifacts, Build, Plan
from fluxfast.optimizations.fusion._modulation import StackedLinear
from fluxfast.optimizations.fusion.fused_projections import SEPARATE_LAYERS
from fluxfast.optimizations.precision._torchao import quantize_blocks
from fluxfast.pipeline.live_weights import LiveWeights, recorded_layers
from fluxfast.pipeline.snapshot import Snapshot, plain_tensors
from tests.support.machines import CPU, situation

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # two adapters

WIDTH = 3072  # diffusers' translation of kohya's names has the published width built in


def factors(shapes, down, up, *, rank=2, alpha=None):
    """Return random factors for layers (name: rows, columns) under these names of the factors."""
    torch.manual_seed(0)
    tensors = {}
    for name, (rows, columns) in shapes.items():
        tensors[f"{name}{down}.weight"] = torch.randn(rank, columns)
        tensors[f"{name}{up}.weight"] = torch.randn(rows, rank)
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(float(alpha))
    return tensors


def black_forest_labs_layers(doubles, singles):
    shapes = {}
    for i in range(doubles):
        for stream in ("img", "txt"):
            block = f"double_blocks.{i}.{stream}"
            shapes[f"{block}_attn.qkv"] = (3 * WIDTH, WIDTH)
            shapes[f"{block}_attn.proj"] = (WIDTH, WIDTH)
            shapes[f"{block}_mlp.0"] = (4 * WIDTH, WIDTH)
            shapes[f"{block}_mlp.2"] = (WIDTH, 4 * WIDTH)
            shapes[f"{block}_mod.lin"] = (6 * WIDTH, WIDTH)
    for i in range(singles):
        shapes[f"single_blocks.{i}.linear1"] = (7 * WIDTH, WIDTH)
        shapes[f"single_blocks.{i}.linear2"] = (WIDTH, 5 * WIDTH)
        shapes[f"single_blocks.{i}.modulation.lin"] = (3 * WIDTH, WIDTH)
    return shapes


def kohya(alpha):
    shapes = black_forest_labs_layers(1, 1) | {"img_in": (WIDTH, 64), "txt_in": (WIDTH, 4096)}
    names = {f"lora_unet_{name.replace('.', '_')}": shape for name, shape in shapes.items()}
    final = {
        "lora_unet_final_layer_adaLN_modulation_1": (2 * WIDTH, WIDTH),
        "lora_unet_final_layer_linear": (64, WIDTH),
    }
    return factors(names, ".lora_down", ".lora_up", alpha=alpha) | factors(
        final, ".lora_down", ".lora_up"
    )


def comfyui():
    names = {f"diffusion_model.{n}": s for n, s in black_forest_labs_layers(1, 1).items()}
    return factors(names, ".lora_down", ".lora_up")


def fal():
    names = black_forest_labs_layers(19, 38) | {"final_layer.linear": (64, WIDTH)}
    names = {f"base_model.model.{name}": shape for name, shape in names.items()}
    return factors(names, ".lora_A", ".lora_B", rank=1)


def xlabs():
    names = {"single_blocks.0.processor.proj_lora": (WIDTH, 5 * WIDTH)}
    names["single_blocks.0.processor.qkv_lora"] = (3 * WIDTH, WIDTH)
    for number in (1, 2):
        names[f"double_blocks.0.processor.qkv_lora{number}"] = (3 * WIDTH, WIDTH)
        names[f"double_blocks.0.processor.proj_lora{number}"] = (WIDTH, WIDTH)
    return factors(names, ".down", ".up")


def mixed_trainer():
    layers = ("attn_to_q", "attn_to_out_0", "attn_add_k_proj")
    names = {f"lora_transformer_transformer_blocks_0_{n}": (WIDTH, WIDTH) for n in layers}
    names["lora_transformer_x_embedder"] = (WIDTH, 64)
    return factors(names, ".lora_down", ".lora_up", alpha=1)


def own_names():
    names = {"transformer.transformer_blocks.0.ff.net.0.proj": (4 * WIDTH, WIDTH)}
    names["transformer.single_transformer_blocks.0.proj_out"] = (WIDTH, 5 * WIDTH)
    return factors(names, ".lora_A", ".lora_B", alpha=8)


FORMATS = {
    "kohya": lambda: kohya(1),
    "kohya without alpha": lambda: kohya(None),
    "ComfyUI": comfyui,
    "fal": fal,
    "XLabs": xlabs,
    "mixed trainer": mixed_trainer,
    "diffusers": own_names,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_changes_the_layers_that_diffusers_changes(name):
    lora = read_lora(FORMATS[name](), 0.5)
    expected, alphas = FluxPipeline.lora_state_dict(FORMATS[name](), return_alphas=True)
    downs = {k.removesuffix(".lora_A.weight"): v for k, v in expected.items() if ".lora_A." in k}
    assert lora.layers.keys() == {layer.removeprefix("transformer.") for layer in downs}
    for layer, down in downs.items():
        change = lora.layers[layer.removeprefix("transformer.")]
        alpha = float((alphas or {}).get(f"{layer}.alpha", len(down)))
        x = torch.randn(down.shape[1])
        reference = 0.5 * alpha / len(down) * (expected[f"{layer}.lora_B.weight"] @ (down @ x))
        torch.testing.assert_close(change.scale * (change.up @ (change.down @ x)), reference)


LAYER = "transformer.transformer_blocks.0.attn.to_q"
FACTORS = {f"{LAYER}.lora_A.weight": torch.ones(2, 16), f"{LAYER}.lora_B.weight": torch.ones(16, 2)}
ADDED = {
    "DoRA scales": f"{LAYER}.dora_scale",
    "DoRA magnitudes": f"{LAYER}.lora_magnitude_vector",
    "LyCORIS factors": f"{LAYER}.lokr_w1",
    "layers of the T5 text encoder": "text_encoders.t5xxl.transformer.block.0.lora_A.weight",
    "layers of the CLIP text encoder": "lora_te1_text_model_layers_0_fc1.lora_down.weight",
    "biases": f"{LAYER}.lora_B.bias",
    "norms of a Flux-Control LoRA": "transformer.transformer_blocks.0.attn.norm_q.weight",
    "differences of weights": "diffusion_model.img_in.diff_b",
    "unknown keys": f"{LAYER}.weight",
    "is incomplete": "transformer.proj_out.lora_A.weight",
    "layer twice": f"{LAYER}.lora_down.weight",
}


@pytest.mark.parametrize("problem", ADDED)
def test_a_key_that_cannot_be_merged_is_refused(problem):
    with pytest.raises(FluxFastError, match=problem):
        read_lora(FACTORS | {ADDED[problem]: torch.ones(2, 16)})


def with_up(up):
    return FACTORS | {f"{LAYER}.lora_B.weight": up}


def of_layer(name):
    return {f"{name}.lora_A.weight": torch.ones(2, 16), f"{name}.lora_B.weight": torch.ones(16, 2)}


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (with_up(torch.full((16, 2), math.nan)), "not finite"),
        (with_up(torch.full((16, 2), math.inf, dtype=torch.bfloat16)), "not finite"),
        (with_up(torch.ones(16, 3)), "do not go together"),
        (with_up(torch.ones(16, 2, dtype=torch.int8)), "do not go together"),
        (with_up(2.0), "does not map names to tensors"),
        (FACTORS | {f"{LAYER}.alpha": math.inf}, "alpha that is not a finite number"),
        (FACTORS | {f"{LAYER}.alpha": torch.ones(2)}, "alpha that is not a finite number"),
        (FACTORS | of_layer("transformer_blocks.0.attn.to_q"), "given twice"),
        (of_layer("unet.down_blocks.0.attn.to_q"), "of no Flux model"),
        ({}, "is incomplete"),
        ("./absent.safetensors", "no such LoRA"),
        ("absent", "no such LoRA"),
    ],
)
def test_a_source_that_is_no_lora_is_refused(source, problem):
    with pytest.raises(FluxFastError, match=problem):
        read_lora(source)


def test_files_and_folders(tmp_path):
    folder = tmp_path / "cartoon"
    folder.mkdir()
    with pytest.raises(FluxFastError, match="does not tell which file"):
        read_lora(folder)
    save_file(FACTORS, folder / "first.safetensors")
    assert read_lora(folder).name == read_lora(folder / "first.safetensors").name == "first"
    save_file(FACTORS, folder / "pytorch_lora_weights.safetensors")
    assert read_lora(str(folder)).name == "cartoon"
    broken = folder / "first.safetensors"
    broken.write_bytes(broken.read_bytes()[:-10])
    with pytest.raises(FluxFastError, match="truncated"):
        read_lora(broken)
    with pytest.raises(FluxFastError, match="scale"):
        read_lora(folder, math.nan)


@pytest.mark.parametrize(
    "configuration",
    [
        "{",
        "[]",
        '{"lora_alpha": "x"}',
        '{"alpha_pattern": {"(": 1}}',
        '{"transformer.lora_alpha": NaN}',
    ],
)
def test_a_configuration_that_cannot_be_understood_is_refused(configuration, tmp_path):
    save_file(FACTORS, tmp_path / "a.safetensors", {"lora_adapter_metadata": configuration})
    with pytest.raises(FluxFastError, match="configuration that cannot be understood"):
        read_lora(tmp_path)


def test_a_hub_id_names_a_file_of_a_repository(tmp_path, monkeypatch):
    def download(repository, name):
        if repository == "owner/gone":
            raise FileNotFoundError("not in the cache, and no network")
        save_file(FACTORS, tmp_path / name)
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert read_lora("owner/cartoon").name == "owner/cartoon"
    assert read_lora("owner/cartoon/style.safetensors").name == "owner/cartoon/style"
    assert {file.stem for file in tmp_path.iterdir()} == {"pytorch_lora_weights", "style"}
    with pytest.raises(FluxFastError, match="cannot be downloaded"):
        read_lora("owner/gone")


def test_a_lora_of_another_model_does_not_fit():
    lora = read_lora(FACTORS)
    check_fits(lora, {"transformer_blocks.0.attn.to_q": (16, 16)})
    with pytest.raises(FluxFastError, match="layers of another shape"):
        check_fits(lora, {"transformer_blocks.0.attn.to_q": (16, 32)})
    with pytest.raises(FluxFastError, match="does not have"):
        check_fits(lora, {"transformer_blocks.0.attn.to_k": (16, 16)})


def test_a_merged_weight_is_rounded_once():
    torch.manual_seed(0)
    weight = torch.randn(64, 64).bfloat16()
    changes = [
        LowRank(down=torch.randn(4, 64) / 8, up=torch.randn(64, 4) / 8, scale=s) for s in (0.7, -2)
    ]
    exact = weight.double() + sum(c.scale * c.up.double() @ c.down.double() for c in changes)
    differs = merged(weight, changes) != exact.bfloat16()
    assert differs.float().mean() < 1e-3  # where the exact value is half-way between two numbers
    assert torch.equal(merged(weight, []), weight)


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    network = FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8), guidance_embeds=False,
    )  # fmt: skip
    return network.eval()


TARGETS = ["to_q", "add_k_proj", "to_out.0", "ff.net.2", "norm1.linear", "proj_mlp", "x_embedder"]


def adapt(transformer, name, **options):
    settings = dict(r=4, lora_alpha=8, target_modules=TARGETS, init_lora_weights=False) | options
    transformer.add_adapter(LoraConfig(**settings), name)


def output(transformer):
    torch.manual_seed(1)
    with torch.no_grad():
        return transformer(
            hidden_states=torch.randn(1, 4, 4),
            encoder_hidden_states=torch.randn(1, 3, 32),
            pooled_projections=torch.randn(1, 32),
            timestep=torch.tensor([0.5]),
            img_ids=torch.randn(4, 3),
            txt_ids=torch.zeros(3, 3),
        ).sample


def two_adapters(network):
    adapt(network, "one")
    adapt(network, "two", r=2, alpha_pattern={"to_q": 3})
    network.set_adapters(["one", "two"], [0.7, -0.4])


def inactive_adapter(network):
    two_adapters(network)
    network.set_adapters(["one", "two"], [0.0, 1.0])


def disabled(network):
    two_adapters(network)
    network.disable_lora()


def fused(network):
    two_adapters(network)
    network.fuse_lora(lora_scale=0.5, adapter_names=["one"])


ADAPTERS = {
    two_adapters: "2 LoRAs: one (scale 0.7, rank 4, 8 layers), two (scale -0.4, rank 2, 8 layers)",
    inactive_adapter: "1 LoRA: two (scale 1, rank 2, 8 layers)",
    disabled: "no LoRA",
    fused: "1 LoRA: one (scale 0.35, rank 4, 8 layers)",
    lambda n: adapt(n, "dora", use_dora=True): "1 LoRA: dora (scale 1, rank 4, 8 layers)",
    lambda n: adapt(n, "bias", lora_bias=True): "1 LoRA: bias (scale 1, rank 4, 8 layers)",
    lambda n: adapt(n, "rs", use_rslora=True): "1 LoRA: rs (scale 1, rank 4, 8 layers)",
}


@pytest.mark.parametrize("load", ADAPTERS)
def test_folded_adapters_compute_what_peft_computes(load, transformer):
    load(transformer)
    with_peft = output(transformer)
    layers = {n: m for n, m in transformer.named_modules() if hasattr(m, "base_layer")}
    bases = {name: layer.base_layer.weight for name, layer in layers.items()}
    before = {name: (base.data_ptr(), base.clone()) for name, base in bases.items()}
    loras = fold(transformer)
    torch.testing.assert_close(output(transformer), with_peft, rtol=1e-4, atol=1e-5)
    assert describe(loras) == ADAPTERS[load]
    assert not any("peft" in type(module).__module__ for module in transformer.modules())
    assert not transformer.peft_config and not transformer._hf_peft_config_loaded
    with pytest.raises(FluxFastError, match="part of the weights"):
        get_peft_model_state_dict(transformer, adapter_name="one")
    for name, base in bases.items():
        address, values = before[name]
        assert base.data_ptr() == address and torch.equal(base, values)


def test_an_adapter_that_changes_the_weights_changes_the_output(transformer):
    before = output(transformer)
    two_adapters(transformer)
    fold(transformer)
    assert (output(transformer) - before).abs().max() > 0.01


def test_an_adapter_that_trained_whole_modules_is_refused(transformer):
    adapt(transformer, "other", modules_to_save=["norm_out"])
    with pytest.raises(FluxFastError, match="replaces whole modules"):
        fold(transformer)
    assert hasattr(transformer, "peft_config")


def test_an_adapter_of_a_layer_that_is_not_plain_is_refused(transformer):
    class QuantizedLinear(nn.Linear):
        pass

    adapt(transformer, "one")
    transformer.x_embedder.base_layer.__class__ = QuantizedLinear
    with pytest.raises(FluxFastError, match=r"x_embedder: QuantizedLinear(.|\n)*without quantiz"):
        fold(transformer)
    assert hasattr(transformer.x_embedder, "base_layer")


@pytest.mark.parametrize(
    "options",
    [dict(rank_pattern={"to_q": 2}, alpha_pattern={"proj_mlp": 3}), dict(use_rslora=True)],
)
def test_the_strength_of_a_file_that_diffusers_saved(options, transformer, tmp_path):
    """peft's configuration in the header has alphas; the tensors have none."""
    adapt(transformer, "one", **options)
    FluxPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(transformer, adapter_name="one"),
        transformer_lora_adapter_metadata=transformer.peft_config["one"].to_dict(),
    )
    lora = read_lora(tmp_path, 0.25)
    layers = {n: m for n, m in transformer.named_modules() if hasattr(m, "base_layer")}
    assert lora.layers.keys() == layers.keys()
    for name, layer in layers.items():
        assert lora.layers[name].scale == pytest.approx(0.25 * layer.scaling["one"])


def test_tensors_are_moved_in_chunks_of_bounded_size():
    parts = [torch.arange(count) + count for count in (3, 4, 10, 1, 1)]
    groups = list(chunks(parts, 4))
    assert max(sum(map(len, pieces)) for pieces in groups) == 4 < len(groups)
    assert torch.equal(torch.cat([p for pieces in groups for p in pieces]), torch.cat(parts))


def optimized(transformer, dtype, is_quantized):
    """Return LiveWeights of a transformer with fused projections and stacked modulation."""
    transformer.to(dtype).requires_grad_(False)
    pipeline = SimpleNamespace(transformer=transformer, components={"transformer": transformer})
    left_out = replace(situation(CPU), unquantized={"transformer_blocks.0.ff.net.2"})
    plan = Plan(optimizations=(), situation=left_out)
    build = Build(pipeline=pipeline, plan=plan, artifacts=Artifacts(folder=None))
    originals = recorded_layers(transformer, Snapshot(pipeline))
    transformer.fuse_qkv_projections()
    for module in transformer.modules():
        for name in SEPARATE_LAYERS if hasattr(module, "to_qkv") else ():
            if hasattr(module, name):
                delattr(module, name)
    block = transformer.transformer_blocks[0]
    StackedLinear([block.norm1.linear, block.norm1_context.linear])
    if is_quantized:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig

        quantize_blocks(build, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))
    return LiveWeights(build, originals)


def random_lora(shapes, rank):
    torch.manual_seed(rank)
    return Lora(
        name="random",
        scale=1.0,
        layers={
            name: LowRank(down=torch.randn(rank, columns), up=torch.randn(rows, rank), scale=0.1)
            for name, (rows, columns) in shapes.items()
        },
    )


def stored(transformer):
    """Return copies of the bytes of every linear layer, by layer."""
    layers = {n: m for n, m in transformer.named_modules() if isinstance(m, nn.Linear)}
    return {
        name: [t.clone() for t in plain_tensors(layer.weight.data)]
        for name, layer in layers.items()
    }


def equal(one, other):
    return {n for n in one if all(map(torch.equal, one[n], other[n]))}


KINDS = {
    "float32": (torch.float32, False),
    "bfloat16": (torch.bfloat16, False),
    "int8": (torch.bfloat16, True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_live_weights_return_to_the_same_bytes(kind, transformer):
    live = optimized(transformer, *KINDS[kind])
    before = stored(transformer)
    first, second = random_lora(live.shapes, 4), random_lora(live.shapes, 2)
    live.set_loras([first, second])
    both = stored(transformer)
    assert not equal(before, both)
    live.set_loras([second])
    assert not equal(both, stored(transformer))
    live.set_loras([first, second])
    assert equal(both, stored(transformer)) == both.keys()
    live.set_loras([])
    assert equal(before, stored(transformer)) == before.keys()


def test_an_interrupted_swap_is_restored_by_the_next(transformer, monkeypatch):
    live = optimized(transformer, torch.float32, False)
    before, lora = stored(transformer), random_lora(live.shapes, 4)
    write = partial(LiveWeights._write, live)
    fails_after = iter([write, write, write])
    monkeypatch.setattr(live, "_write", lambda *arguments: next(fails_after)(*arguments))
    with pytest.raises(StopIteration):
        live.set_loras([lora])
    assert equal(before, stored(transformer)) != before.keys()
    monkeypatch.setattr(live, "_write", write)
    live.set_loras([])
    assert equal(before, stored(transformer)) == before.keys()
