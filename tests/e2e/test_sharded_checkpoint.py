"""A synthetic pipeline, written in shards and loaded by its folder, is the one in memory."""

import mmap
import shutil
import time

import pytest
import torch

from benchmarks.checkpoint import (
    NARROW_SHARD,
    SAMPLE_S,
    TINY,
    loaded_and_compared,
    main,
    peak_memory,
    write,
)
from fluxfast.hardware import detect
from fluxfast.models.weights import resolve

SIZE = 64 * 2**20
FREE_BYTES = 40e9  # the published weights in bfloat16, and some


@torch.no_grad()
def test_a_checkpoint_of_several_shards_loads_equal_weights(tmp_path):
    hardware = detect("cpu")
    written = write(tmp_path, hardware, TINY, NARROW_SHARD)
    assert written["files"]["transformer"] > 3 and written["files"]["text_encoder_2"] > 1
    found = loaded_and_compared(tmp_path, hardware, TINY)
    assert found["weights_equal"] and found["latents_relative_error"] < 0.02
    assert resolve(str(tmp_path), "auto", hardware).blocks == 4


def test_the_peak_of_memory_is_that_within_the_block():
    with peak_memory() as memory:
        pages = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages.write(bytes(SIZE))
        time.sleep(25 * SAMPLE_S)
    assert memory["host_peak"] > 0.9 * SIZE < memory["anonymous_peak"]
    pages.close()


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_checkpoint_of_full_size_generates_the_same_latents(tmp_path, monkeypatch):
    if shutil.disk_usage(tmp_path).free < FREE_BYTES:
        pytest.skip(f"needs {FREE_BYTES / 1e9:.0f} GB of disk")
    monkeypatch.setattr("sys.argv", ["checkpoint", "--folder", str(tmp_path)])
    assert main() == 0
