"""Checkpoints, LoRAs, exported packages and traces."""

import gzip
import json
import os
import shutil
import stat
import zipfile
from functools import cache
from importlib import import_module
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save
from torch import nn

from fluxfast.mini import WEIGHTS
from fluxfast.models import completeness
from fluxfast.models.completeness import check_checkpoint
from fluxfast.models.configuration import read_configuration
from fluxfast.models.lora.read import read_lora
from fluxfast.optimizations.compilation import _manifest as manifest
from fluxfast.optimizations.compilation._package import load_package, sha256
from fluxfast.optimizations.compilation._trust import check_members, check_owner
from fluxfast.profiling.kernel_profile import STEP
from tests.fuzz.mutations import damaged, damaged_bytes, mutated, replaced_file
from tests.fuzz.outcomes import Insane, Kind, command, strict_json
from tests.support.machines import CPU, situation

# Before the processes fork, because the libraries take seconds to import.
PIPELINE = import_module("diffusers.pipelines.flux.pipeline_flux")
MINI = WEIGHTS / "mini-dev"
INDEX = MINI / "model_index.json"
CONFIGURATIONS = [path.relative_to(MINI) for path in (INDEX, *sorted(MINI.rglob("*config.json")))]
SAFETENSORS = sorted(path.relative_to(MINI) for path in MINI.rglob("*.safetensors"))


def feed_checkpoint(random: Random, folder: Path) -> None:
    copy = folder / "checkpoint"
    _link_tree(MINI, copy)
    file = random.choice((*CONFIGURATIONS, *CONFIGURATIONS, *SAFETENSORS))
    path = copy / file
    path.unlink()
    if file in SAFETENSORS:
        path.write_bytes(_changed_safetensors(random, (MINI / file).read_bytes()))
    else:
        text = json.dumps(mutated(random, json.loads((MINI / file).read_text()), _keys()))
        text = damaged(random, text) if random.random() < 0.2 else text
        path.write_bytes(text.encode(errors="surrogatepass"))
    if random.random() < 0.04:
        replaced_file(random, path)
    completeness._check_network = _checked_network
    configuration = read_configuration(str(copy))
    check_checkpoint(copy, configuration)


def _keys() -> tuple[str, ...]:
    return ("auto_map", "dtype", "quantization_config", "num_layers", "patch_size", "_class_name")


def _link_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=os.symlink)


_check_network = completeness._check_network


def _checked_network(folder: Path, network_class):
    """Check a component; one whose files are those of the mini model once in this process."""
    files = [path for path in folder.iterdir() if path.is_file()]
    if all(path.resolve().is_relative_to(MINI) for path in files):
        return _whole(MINI / folder.name, network_class)
    return _check_network(folder, network_class)


@cache
def _whole(folder: Path, network_class):
    return _check_network(folder, network_class)


def _changed_safetensors(random: Random, content: bytes) -> bytes:
    """Change the header of a safetensors file as JSON, or its bytes."""
    length = int.from_bytes(content[:8], "little")
    if random.random() < 0.4:
        return damaged_bytes(random, content)
    header = mutated(random, json.loads(content[8 : 8 + length]), ("__metadata__",))
    text = json.dumps(header)
    text = damaged(random, text) if random.random() < 0.1 else text
    encoded = text.encode(errors="surrogatepass")
    return len(encoded).to_bytes(8, "little") + encoded + content[8 + length :]


@cache
def _lora_file() -> bytes:
    tensors = {}
    for layer in ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.proj_out"):
        tensors[f"transformer.{layer}.lora_A.weight"] = torch.ones(2, 16)
        tensors[f"transformer.{layer}.lora_B.weight"] = torch.ones(16, 2)
    tensors["transformer.transformer_blocks.0.attn.to_q.alpha"] = torch.tensor(4.0)
    settings = {"lora_alpha": 8, "alpha_pattern": {"attn.to_q": 2}, "use_rslora": False}
    return save(tensors, {"lora_adapter_metadata": json.dumps(settings), "format": "pt"})


def feed_lora(random: Random, folder: Path) -> None:
    path = folder / "lora.safetensors"
    content = _lora_file()
    if random.random() < 0.3:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        settings = json.loads(header["__metadata__"]["lora_adapter_metadata"])
        text = json.dumps(mutated(random, settings, ("(((", "a|b", "(a+)+$")))
        header["__metadata__"]["lora_adapter_metadata"] = text
        encoded = json.dumps(header).encode()
        content = len(encoded).to_bytes(8, "little") + encoded + content[8 + length :]
    else:
        content = _changed_safetensors(random, content)
    path.write_bytes(content)
    if random.random() < 0.04:
        replaced_file(random, path)
    lora = read_lora(random.choice((path, folder)), random.choice((1.0, 0.5)))
    assert lora.layers


DESCRIPTION = manifest.described(situation(CPU), ("export_aoti",))
MEMBERS = ("archive_format", "byteorder", ".data/version", "data/aotinductor/model/a.so")


@cache
def _package(folder: Path) -> bytes:
    path = folder / "whole.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        for name in MEMBERS:
            archive.writestr(f"model/{name}", "content")
    return path.read_bytes()


def feed_package(random: Random, folder: Path) -> None:
    """Change a package, its manifest, or what else lies in its folder; nothing native is loaded."""
    cached = folder / "cache"
    cached.mkdir(mode=0o755)
    path = cached / "transformer.pt2"
    path.write_bytes(_package(Path(folder.parent)))
    entry = {"sha256": sha256(path), "options": {}, "inputs": [{"value": None}], "constants": {}}
    manifest.write(cached, DESCRIPTION, {"transformer": entry})
    whole = (path.read_bytes(), (cached / manifest.FILE).read_text())
    match random.choice(("package", "package", "manifest", "manifest", "members", "folder")):
        case "package":
            path.write_bytes(damaged_bytes(random, whole[0]))
        case "manifest":
            text = json.dumps(mutated(random, json.loads(whole[1])))
            text = damaged(random, text) if random.random() < 0.3 else text
            (cached / manifest.FILE).write_bytes(text.encode(errors="surrogatepass"))
        case "members":
            names = ("data/weights/w", "../../x", "data/aotinductor/model/b.so", "x" * 300, "a/\n")
            with zipfile.ZipFile(path, "a") as archive:
                archive.writestr(f"model/{random.choice(names)}", "content")
        case "folder":
            _change_folder(random, cached)
    check_owner(cached)
    check_members(path)
    if manifest.read(cached, DESCRIPTION) != {"transformer": entry}:
        raise Insane("a changed manifest was accepted")
    if path.read_bytes() != whole[0]:
        load_package(path, nn.Linear(1, 1), entry)
        raise Insane("a changed package was loaded")


def _change_folder(random: Random, cached: Path) -> None:
    match random.choice(("mode", "link", "file", "manifest")):
        case "mode":
            path = random.choice((cached, *cached.iterdir()))
            path.chmod(stat.S_IMODE(path.stat().st_mode) | random.choice((0o2, 0o20, 0o4000)))
        case "link":
            (cached / "decoder.pt2").symlink_to(cached / "transformer.pt2")
        case "file":
            replaced_file(random, cached / "transformer.pt2")
        case "manifest":
            replaced_file(random, cached / manifest.FILE)


def _event(name: str, category: str, begin: float, length: float, **args: object) -> dict:
    times = {"ts": begin, "dur": length}
    return {"ph": "X", "name": name, "cat": category, **times, "tid": 1, "args": args}


TRACES = tuple(
    {
        "traceEvents": [
            _event(STEP, "user_annotation", 0, 100),
            _event(STEP, "user_annotation", 100, 100),
            *events,
            {"ph": "M", "name": "process_name"},
        ],
        "schemaVersion": 1,
    }
    for events in (
        [
            _event("aten::linear", "cpu_op", 0, 50),
            _event("aten::addmm", "cpu_op", 10, 30),
            _event("aten::copy_", "cpu_op", 120, 10),
        ],
        [
            _event("cudaLaunchKernel", "cuda_runtime", 10, 5, correlation=1),
            _event("nvjet_sm90", "kernel", 50, 400, correlation=1),
            _event("Memcpy DtoD", "gpu_memcpy", 350, 200, correlation=2),
        ],
    )
)


def feed_trace(random: Random, folder: Path) -> None:
    before, now = folder / "before.json", folder / random.choice(("now.json", "now.json.gz"))
    before.write_text(json.dumps(random.choice(TRACES)))
    text = json.dumps(mutated(random, random.choice(TRACES)))
    text = damaged(random, text) if random.random() < 0.2 else text
    content = text.encode(errors="surrogatepass")
    content = gzip.compress(content) if now.suffix == ".gz" else content
    now.write_bytes(damaged_bytes(random, content) if random.random() < 0.2 else content)
    if random.random() < 0.04:
        replaced_file(random, now)
    words = ["profile", "--diff", *random.sample((before, now), 2)]
    if random.randrange(2):
        strict_json(command(*words, "--json"))
    else:
        command(*words)


KINDS = (
    Kind(name="checkpoint", weight=8, feed=feed_checkpoint),
    Kind(name="LoRA", weight=6, feed=feed_lora),
    Kind(name="package", weight=6, feed=feed_package),
    Kind(name="trace", weight=7, feed=feed_trace),
)
