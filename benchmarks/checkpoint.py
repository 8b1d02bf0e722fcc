"""Write a synthetic pipeline as a sharded checkpoint, load it by its folder, and compare both.

    python -m benchmarks.checkpoint --folder /tmp/flux --out checkpoint.json  # a GPU, 34 GB of disk
    python -m benchmarks.checkpoint --folder /tmp/flux --out /tmp/c.json --rehearse    # on a CPU

The folder is loaded as `--ckpt FOLDER` loads it, in a process of its own, so that the peak of host
memory is that of loading. The exit status is 1 if a weight or, on a GPU, a latent differs from the
pipeline in memory. On a CPU weights are memory-mapped, and their alignment changes the rounding.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks.weights import NARROW, generated, relative
from fluxfast.console import quiet_libraries
from fluxfast.files import write_atomically
from fluxfast.hardware import Hardware, detect, environment
from fluxfast.mini.tokenizers import clip_tokenizer, t5_tokenizer
from fluxfast.models.architecture import PUBLISHED, Architecture
from fluxfast.models.loading import load
from fluxfast.models.spec import DEFAULT_PROMPT, DEV, ImageRequest, default_request
from fluxfast.models.synthetic.pipeline import assemble
from fluxfast.models.synthetic.profiles import Profile
from fluxfast.models.weights import resolve

PROFILE = Profile.TRAINED
SHARD, NARROW_SHARD = "10GB", "2MB"
NETWORKS = ("transformer", "vae", "text_encoder", "text_encoder_2")
LIBRARIES = ("diffusers.pipelines.flux", "transformers.models.t5", "transformers.models.clip")
SAMPLE_S = 0.02
# The narrow shape with few blocks, and with embeddings for every token of CLIP's tokenizer.
TINY = replace(
    NARROW,
    transformer=NARROW.transformer | dict(num_layers=2, num_single_layers=2),
    clip=NARROW.clip | dict(vocab_size=1024, num_hidden_layers=2),
    t5=NARROW.t5 | dict(num_layers=2),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--folder", type=Path, required=True, help="where the checkpoint is written"
    )
    parser.add_argument("--out", type=Path, help="the figures, as JSON")
    parser.add_argument("--rehearse", action="store_true", help="a small width, on a CPU")
    parser.add_argument("--stage", choices=("write", "load"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    quiet_libraries()
    torch.set_grad_enabled(False)
    hardware = detect("cpu" if options.rehearse else "cuda")
    shape = TINY if options.rehearse else PUBLISHED
    if options.stage == "write":
        shard = NARROW_SHARD if options.rehearse else SHARD
        sys.stdout.write(json.dumps(write(options.folder, hardware, shape, shard)))
        return 0
    if options.stage == "load":
        sys.stdout.write(json.dumps(loaded_and_compared(options.folder, hardware, shape)))
        return 0
    figures = {"environment": environment(hardware)}
    for stage in ("write", "load"):
        figures |= _in_a_process(stage, options.folder, options.rehearse)
    text = json.dumps(figures, indent=1)
    if options.out:
        write_atomically(options.out, text)
    sys.stdout.write(f"{text}\n")
    same = figures["weights_equal"] and (figures["latents_equal"] or not hardware.is_gpu)
    return 0 if same else 1


def _in_a_process(stage: str, folder: Path, rehearse: bool) -> dict[str, Any]:
    module = [sys.executable, "-m", "benchmarks.checkpoint"]
    command = [*module, "--folder", str(folder), "--stage", stage]
    command += ["--rehearse"] if rehearse else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def in_memory(hardware: Hardware, shape: Architecture) -> Any:
    """Return the synthetic pipeline, with tokenizers of the classes that checkpoints have."""
    pipeline = assemble(DEV, torch.bfloat16, hardware.device, PROFILE, shape)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.tokenizer = clip_tokenizer([DEFAULT_PROMPT])
    pipeline.tokenizer_2 = t5_tokenizer([DEFAULT_PROMPT], shape.max_text_tokens)
    # The published value: the pooled embedding is that of the token with the highest number.
    pipeline.text_encoder.config.eos_token_id = pipeline.text_encoder.eos_token_id = 2
    return pipeline


def write(folder: Path, hardware: Hardware, shape: Architecture, shard: str) -> dict[str, Any]:
    """Write the pipeline in diffusers layout; return seconds, bytes and files."""
    pipeline = in_memory(hardware, shape)
    started = time.perf_counter()
    pipeline.save_pretrained(folder, max_shard_size=shard)
    files = list(folder.rglob("*.safetensors"))
    return {
        "write_s": round(time.perf_counter() - started, 2),
        "gb": round(sum(path.stat().st_size for path in files) / 1e9, 3),
        "files": {name: len(list((folder / name).glob("*.safetensors"))) for name in NETWORKS},
    }


def loaded_and_compared(folder: Path, hardware: Hardware, shape: Architecture) -> dict[str, Any]:
    """Load the folder; return seconds, host memory, and whether it equals the one in memory."""
    for library in LIBRARIES:
        import_module(library)  # this takes seconds and is not loading
    with peak_memory() as memory:
        started = time.perf_counter()
        checkpoint = resolve(str(folder), "auto", hardware)
        pipeline = load(checkpoint, dtype=torch.bfloat16, hardware=hardware)
        seconds = time.perf_counter() - started
    request = _request(checkpoint.request(), shape)
    latents = generated(pipeline, request)
    reference = in_memory(hardware, shape)
    expected = generated(reference, request)
    return {
        "load_s": round(seconds, 2),
        **{f"{name}_gib": round(value / 2**30, 2) for name, value in memory.items()},
        "weights_equal": all(equal_weights(pipeline, reference, name) for name in NETWORKS),
        "latents_equal": torch.equal(latents, expected),
        "latents_relative_error": relative(latents, expected),
    }


def _request(request: ImageRequest, shape: Architecture) -> ImageRequest:
    """Return the default request, of a narrow shape with fewer pixels, tokens and steps."""
    if shape is PUBLISHED:
        return request
    side, tokens = shape.default_side, shape.max_text_tokens
    small = default_request(DEV, side=side, max_text_tokens=tokens, num_inference_steps=2)
    return replace(small, prompt=request.prompt)


def equal_weights(pipeline: Any, other: Any, name: str) -> bool:
    """Return whether a network of two pipelines has the same tensors, bit for bit."""
    ours, theirs = getattr(pipeline, name).state_dict(), getattr(other, name).state_dict()
    return ours.keys() == theirs.keys() and all(
        torch.equal(tensor, theirs[key]) and tensor.dtype == theirs[key].dtype
        for key, tensor in ours.items()
    )


@contextmanager
def peak_memory() -> Iterator[dict[str, int]]:
    """Measure what a block adds to this process's host memory at its peak, in bytes.

    `host_peak` has all resident pages, with those of mapped files; `anonymous_peak` has those that
    no file backs, which the kernel cannot drop.
    """
    found: dict[str, int] = {}
    ended, before = threading.Event(), _resident()

    def sample() -> None:
        while not ended.wait(SAMPLE_S):
            for name, value in _resident().items():
                found[name] = max(found.get(name, 0), value - before[name])

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def _resident() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
    return {"host_peak": 1024 * sum(kib.values()), "anonymous_peak": 1024 * kib["RssAnon"]}


if __name__ == "__main__":
    sys.exit(main())
