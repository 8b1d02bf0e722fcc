"""A checkpoint is complete and is what it says, or is refused before its weights are loaded."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers import FluxControlNetModel, FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from transformers import T5PreTrainedModel

from fluxfast.errors import CheckpointError, FluxFastError
from fluxfast.hardware import detect
from fluxfast.mini import WEIGHTS
from fluxfast.models.architecture import MINI
from fluxfast.models.completeness import check_checkpoint, check_vocabularies
from fluxfast.models.configuration import NETWORKS, read_configuration
from fluxfast.models.hub_cache import is_cached
from fluxfast.models.loading import load
from fluxfast.models.memory import check_weights_fit
from fluxfast.models.weight_files import weight_map
from fluxfast.models.weights import resolve
from tests.support.machines import CPU

TRANSFORMER_FILE = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    """Return a copy of mini-dev, as a download has it."""
    return shutil.copytree(WEIGHTS / "mini-dev", tmp_path / "copy")


def rewrite(folder, component, change):
    """Change the tensors of a component's file."""
    (file,) = (folder / component).glob("*.safetensors")
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def rename_all(tensors, prefix):
    for name in list(tensors):
        tensors[prefix + name] = tensors.pop(name)


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def check(folder):
    return check_checkpoint(folder, read_configuration(str(folder)))


def refusal(folder):
    with pytest.raises(CheckpointError) as refused:
        check(folder)
    return str(refused.value)


def test_the_shipped_checkpoints_are_complete():
    for name in ("dev", "schnell", "kontext"):
        assert check(WEIGHTS / f"mini-{name}").elements > 1_000_000


@pytest.mark.parametrize("component", NETWORKS)
def test_missing_tensors_are_counted_and_named(component, folder):
    removed = []

    def remove(tensors):
        removed.extend(sorted(tensors)[3:8])
        for name in removed:
            del tensors[name]

    rewrite(folder, component, remove)
    text = refusal(folder)
    assert f"{component} do not fit" in text and "5 missing" in text and removed[0] in text


def test_a_checkpoint_that_lacks_a_tensor_is_not_loaded(folder):
    rewrite(folder, "transformer", lambda t: t.pop("single_transformer_blocks.2.proj_out.weight"))
    here = detect("cpu")
    checkpoint = resolve(str(folder), "auto", here)
    with pytest.raises(CheckpointError, match=r"single_transformer_blocks\.2\.proj_out\.weight"):
        load(checkpoint, dtype=torch.float32, hardware=here)


@pytest.mark.parametrize("component", NETWORKS)
def test_unexpected_tensors_are_named(component, folder):
    rewrite(folder, component, lambda tensors: tensors.update({"extra.scale": torch.zeros(2)}))
    assert "1 unexpected (extra.scale)" in refusal(folder)


@pytest.mark.parametrize("component", NETWORKS)
def test_a_tensor_of_another_shape_is_named(component, folder):
    def cut(tensors):
        name = next(
            name for name in tensors if "mlp" in name or "wi_0" in name or "conv_in" in name
        )
        tensors[name] = tensors[name][:-1].clone()

    def cut_any(tensors):
        try:
            cut(tensors)
        except StopIteration:
            tensors["proj_out.weight"] = tensors["proj_out.weight"][:-1].clone()

    rewrite(folder, component, cut_any)
    assert "1 of another shape" in refusal(folder)


def test_missing_tensors_are_not_initialized(monkeypatch, folder):
    """Initializing T5-XXL takes 16 GB and minutes, only to report that it is missing."""

    def initialize(network, module):
        raise AssertionError(f"initialized {module}")

    monkeypatch.setattr(T5PreTrainedModel, "_init_weights", initialize)
    rewrite(folder, "text_encoder_2", lambda tensors: rename_all(tensors, "other."))
    assert "39 unexpected (other." in refusal(folder)


def test_a_controlnet_is_checked_with_its_pipeline(folder):
    edit(
        folder / "model_index.json",
        _class_name="FluxControlNetPipeline",
        controlnet=["diffusers", "FluxControlNetModel"],
    )
    network = FluxControlNetModel(**MINI.transformer | {"num_single_layers": 1})
    network.save_pretrained(folder / "controlnet")
    check(folder)
    rewrite(folder, "controlnet", lambda tensors: tensors.pop("x_embedder.bias"))
    assert "controlnet do not fit" in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8], ids=str)
def test_weights_in_a_quantized_dtype_are_named(dtype, folder):
    rewrite(folder, "transformer", lambda t: t.update({"proj_out.bias": torch.zeros(64).to(dtype)}))
    assert "proj_out.bias" in refusal(folder)


OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def rename_attention(tensors):
    for new, old in OLD_ATTENTION.items():
        for name in [name for name in tensors if f".{new}." in name]:
            tensors[name.replace(f".{new}.", f".{old}.")] = tensors.pop(name)


HARMLESS = {
    "attention of an old VAE": ("vae", rename_attention),
    "names of the published CLIP": (
        "text_encoder",
        lambda t: rename_all(t, "text_model."),
    ),
    "positions of an old CLIP": (
        "text_encoder",
        lambda t: (
            rename_all(t, "text_model.")
            or t.update({"text_model.embeddings.position_ids": torch.arange(77)[None]})
        ),
    ),
    "projection of a whole CLIP": (
        "text_encoder",
        lambda t: t.update({"text_projection.weight": torch.zeros(2)}),
    ),
    "tied embedding twice": (
        "text_encoder_2",
        lambda t: t.update({"encoder.embed_tokens.weight": t["shared.weight"].clone()}),
    ),
    "tied embedding in the encoder": (
        "text_encoder_2",
        lambda t: t.update({"encoder.embed_tokens.weight": t.pop("shared.weight")}),
    ),
    "decoder of a whole T5": (
        "text_encoder_2",
        lambda t: t.update(
            {"decoder.block.0.layer.0.a": torch.zeros(2), "lm_head.weight": torch.zeros(2)}
        ),
    ),
}


@pytest.mark.parametrize("layout", HARMLESS)
def test_other_layouts_of_a_network_are_complete(layout, folder):
    component, change = HARMLESS[layout]
    rewrite(folder, component, change)
    check(folder)


def test_shards_hold_what_their_index_lists(folder):
    transformer = FluxTransformer2DModel.from_pretrained(folder / "transformer")
    (folder / TRANSFORMER_FILE).unlink()
    transformer.save_pretrained(folder / "transformer", max_shard_size="12MB")
    index = folder / f"{TRANSFORMER_FILE}.index.json"
    check(folder)
    shard = folder / "transformer" / weight_map(index)["proj_out.weight"]
    tensors = load_file(shard)
    save_file({n: t for n, t in tensors.items() if n != "proj_out.weight"}, shard)
    assert "1 tensors differ (proj_out.weight)" in refusal(folder)
    shard.unlink()
    assert shard.name in refusal(folder)


WEIGHT_MAPS = ("[]", "{}", '{"a": 1}', '{"a": "../other.safetensors"}')


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", *(f'{{"weight_map": {listed}}}' for listed in WEIGHT_MAPS)]
)
def test_an_index_that_names_no_shards_is_refused(text, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(CheckpointError, match=index.name):
        weight_map(index)


def test_a_variant_is_loaded_and_two_are_refused(folder):
    for file in list(folder.glob("*/*.safetensors")):
        file.rename(file.with_suffix(".fp16.safetensors"))
    assert check(folder).variant == "fp16"
    here = detect("cpu")
    loaded = load(resolve(str(folder), "auto", here), dtype=torch.float32, hardware=here)
    assert loaded.transformer.proj_out.weight.isfinite().all()
    file = folder / "vae/diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(file, file.with_name("diffusion_pytorch_model.bf16.safetensors"))
    assert "keep one variant" in refusal(folder)
    file.unlink()
    assert "different variants" in refusal(folder)


def test_pickled_weights_are_never_loaded(folder):
    file = folder / TRANSFORMER_FILE
    file.rename(file.with_suffix(".bin"))
    assert "pickled weights" in refusal(folder) and "diffusion_pytorch_model.bin" in refusal(folder)


@pytest.mark.parametrize(
    ("file", "values", "named"),
    [
        ("model_index.json", {"_class_name": ["pipeline_own", "OwnPipeline"]}, "pipeline_own"),
        ("model_index.json", {"transformer": ["own_module", "Own"]}, "own_module"),
        ("model_index.json", {"transformer": ["diffusers", "UNet2DModel"]}, "UNet2DModel"),
        ("model_index.json", {"text_encoder_2": [None, None]}, "none"),
        ("model_index.json", {"safety_checker": ["os", "system"]}, "safety_checker"),
        ("text_encoder_2/config.json", {"auto_map": {"AutoModel": "own.Own"}}, "own.Own"),
        ("text_encoder/config.json", {"transformers_weights": "a.safetensors"}, "another weights"),
        ("transformer/config.json", {"quantization_config": {"quant_method": "x"}}, "quantized"),
        ("transformer/config.json", {"guidance_embeds": "yes"}, "neither true nor false"),
        ("transformer/config.json", {"num_layers": -1}, "number of blocks"),
    ],
    ids=str,
)
def test_a_configuration_with_own_code_or_classes_is_refused(file, values, named, folder):
    edit(folder / file, **values)
    with pytest.raises(CheckpointError, match=named):
        read_configuration(str(folder))


def test_code_beside_a_component_is_not_run(folder):
    (folder / "transformer" / "diffusers.py").write_text("raise SystemExit('was run')")
    here = detect("cpu")
    with pytest.raises(CheckpointError, match=r"custom code in diffusers\.py"):
        load(resolve(str(folder), "auto", here), dtype=torch.float32, hardware=here)


@pytest.mark.parametrize(
    ("file", "values", "named"),
    [
        ("vae/config.json", {"shift_factor": None}, "shift_factor"),
        ("vae/config.json", {"scaling_factor": 0}, "scaling_factor"),
        ("vae/config.json", {"act_fn": "nosuch"}, "nosuch"),
        ("transformer/config.json", {"num_layers": 10**9}, "num_layers"),
        ("transformer/config.json", {"axes_dims_rope": [16, 56, 40]}, "axes_dims_rope"),
        ("transformer/config.json", {"axes_dims_rope": [56, 56, 16]}, "axes_dims_rope"),
        ("transformer/config.json", {"attention_head_dim": "128"}, "transformer"),
        ("text_encoder_2/config.json", {"d_ff": 10**12}, "d_ff"),
        ("scheduler/scheduler_config.json", {"base_shift": "3"}, "scheduler"),
        ("scheduler/scheduler_config.json", {"max_image_seq_len": 256}, "ZeroDivisionError"),
        (
            "scheduler/scheduler_config.json",
            {"shift": -1, "use_dynamic_shifting": False},
            "falling",
        ),
    ],
    ids=str,
)
def test_a_configuration_with_impossible_values_is_refused(file, values, named, folder):
    edit(folder / file, **values)
    assert named in refusal(folder)


def test_components_of_two_checkpoints_are_refused(folder):
    small = FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=1,
        joint_attention_dim=64,
        pooled_projection_dim=96,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=True,
    )
    small.save_pretrained(folder / "transformer")
    assert "joint_attention_dim" in refusal(folder)


def test_a_tokenizer_of_another_vocabulary_is_refused():
    def pipeline(clip_tokens, t5_tokens):
        """Return what a pipeline of mini-dev has of vocabularies: 613 and 131 tokens."""
        return SimpleNamespace(
            tokenizer=range(clip_tokens),
            tokenizer_2=range(t5_tokens),
            text_encoder=SimpleNamespace(config=SimpleNamespace(vocab_size=613)),
            text_encoder_2=SimpleNamespace(config=SimpleNamespace(vocab_size=131)),
        )

    check_vocabularies(pipeline(613, 100))
    with pytest.raises(CheckpointError, match="tokenizer_2"):
        check_vocabularies(pipeline(613, 613))


def test_weights_that_do_not_fit_in_memory_are_refused():
    check_weights_fit(4e9, torch.bfloat16, CPU)
    with pytest.raises(FluxFastError, match="do not fit in memory"):
        check_weights_fit(1e12, torch.bfloat16, CPU)


def test_a_hub_checkpoint_in_the_local_cache_is_checked_like_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository, commit = tmp_path / "models--some--fine-tune", "0" * 40
    snapshot = shutil.copytree(WEIGHTS / "mini-dev", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    here = detect("cpu")
    checkpoint = resolve("some/fine-tune", "auto", here)
    load(checkpoint, dtype=torch.float32, hardware=here)
    (snapshot / "vae/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"vae: config\.json"):
        load(checkpoint, dtype=torch.float32, hardware=here)


def test_a_damaged_index_in_the_local_cache_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--black-forest-labs--FLUX.1-dev"
    transformer = repository / "snapshots" / "0" / "transformer"
    transformer.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0")
    index = transformer / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text("{")
    with pytest.raises(CheckpointError, match=index.name):
        is_cached("black-forest-labs/FLUX.1-dev")
