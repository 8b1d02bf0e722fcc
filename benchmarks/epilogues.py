"""Compare work in a GEMM's epilogue with a pass after it, and two GEMMs with one launch.

    python -m benchmarks.epilogues       # on a Hopper GPU, about two minutes; prints JSON

Each variant runs in a loop of its own until the clock has dropped under the power cap, twice,
alternating with the others. A chain is a single block from its rows to its output GEMM, in bfloat16
with query, key, value and attention as well.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fluxfast.console import out, quiet_libraries
from fluxfast.hardware import Hardware, detect, environment
from fluxfast.kernels.activation import quantize_rows
from fluxfast.optimizations.attention.fa3 import fa3, fa3_into
from fluxfast.optimizations.fusion._block_kernels import BlockKernels
from fluxfast.optimizations.fusion._rows import Fp8Rows, Rows, linear, unscaled_linear
from fluxfast.profiling.telemetry import gpu_reader, telemetry_of_image

HEADS, HEAD_DIM, MLP = 24, 128, 12288
TOKENS = (4608, 4096, 512)
# Text and image in a GEMM each; no text and both joined.
STREAMS = ((512, 4096), (0, 4608))
# Text and image of dev, of Kontext.
JOINED = (4608, 8704)
LOOP_S = 0.8
RUNS_AT_ONCE = 20

Ways = dict[str, Callable[[], Any]]


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    quiet_libraries()
    hardware = detect("cuda")
    ways = {
        f"GELU of {tokens} tokens": partial(gelu_ways, tokens, HEADS * HEAD_DIM, MLP)
        for tokens in TOKENS
    }
    for text, image in STREAMS:
        name = f"query, key and value of {text} and {image} tokens"
        ways[name] = partial(heads_ways, text, image, HEADS, HEAD_DIM)
    for tokens in JOINED:
        name = f"both products of a single block of {tokens} tokens"
        ways[name] = partial(single_block_ways, tokens, HEADS, HEAD_DIM, MLP)
    found = {name: figures(made, hardware) for name, made in ways.items()}
    out(json.dumps({"environment": environment(hardware)} | found, indent=1))


@torch.no_grad()
def figures(made: Callable[..., Ways], hardware: Hardware) -> dict[str, list[dict[str, float]]]:
    """Return microseconds and millijoules of each variant, measured twice."""
    found: dict[str, list[dict[str, float]]] = {}
    for fp8 in (False, True):
        ways = made(Random(hardware.device), fp8=fp8)
        for _ in range(2):
            for name, way in ways.items():
                key = f"{'fp8' if fp8 else 'bf16'}, {name}"
                found.setdefault(key, []).append(_cost(way, hardware))
    return found


def _cost(way: Callable[[], Any], hardware: Hardware) -> dict[str, float]:
    """Return the cost of one run: on a GPU from replays of a CUDA graph, on a CPU from one call."""
    way()
    if not hardware.is_gpu:
        started = time.perf_counter()
        way()
        return {"us": (time.perf_counter() - started) * 1e6}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(RUNS_AT_ONCE):
            way()
    _replayed(graph)
    read = gpu_reader(hardware)
    before = read() if read else None
    us, runs = _replayed(graph)
    found = {"us": round(us, 1)}
    if read and before:
        energy_j = telemetry_of_image(before, read()).get("energy_j")
        found |= {} if energy_j is None else {"mj": round(energy_j / runs * 1e3, 1)}
    return found


def _replayed(graph: torch.cuda.CUDAGraph) -> tuple[float, int]:
    """Replay for at least `LOOP_S` seconds; return microseconds per run and the number of runs."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    runs, started = 0, time.perf_counter()
    begin.record()
    while time.perf_counter() - started < LOOP_S:
        for _ in range(5):
            graph.replay()
        torch.cuda.synchronize()
        runs += 5 * RUNS_AT_ONCE
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / runs * 1e3, runs


class Random:
    """Random tensors and layers, the same in each run."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.generator = torch.Generator(device).manual_seed(0)

    def tensor(self, *shape: int, scale: float = 1.0) -> Tensor:
        drawn = torch.randn(*shape, device=self.device, generator=self.generator)
        return (scale * drawn).bfloat16()

    def layer(self, inner: int, outer: int, *, fp8: bool) -> Any:
        weight, bias = self.tensor(outer, inner, scale=0.02), self.tensor(outer, scale=0.02)
        if fp8:
            values, scales = (part[0].t() for part in quantize_rows(weight[None]))
            unit = torch.ones(1, 1, device=self.device)
            return SimpleNamespace(fp8_weight=values, fp8_scale=scales, fp8_unit=unit, bias=bias)
        linear = torch.nn.Linear(inner, outer, device=self.device, dtype=torch.bfloat16)
        linear.weight.data, linear.bias.data = weight, bias
        return linear

    def rows(self, tokens: int, hidden: int, *, fp8: bool) -> Rows:
        rows = self.tensor(1, tokens, hidden)
        if not fp8:
            return rows
        values, scales = quantize_rows(rows)
        return Fp8Rows(values, scales, torch.full_like(scales, hidden**0.5 / 448))

    def attention(self, heads: int, head_dim: int, *, fp8: bool) -> Any:
        hidden = heads * head_dim
        return SimpleNamespace(
            to_qkv=self.layer(hidden, 3 * hidden, fp8=fp8),
            to_added_qkv=self.layer(hidden, 3 * hidden, fp8=fp8),
            norm_weights=1 + self.tensor(2, 2, head_dim, scale=0.1),
            norm_q=SimpleNamespace(eps=1e-6),
            heads=heads,
            head_dim=head_dim,
        )

    def angles(self, tokens: int, head_dim: int) -> tuple[Tensor, Tensor]:
        """Return cos/sin tables with one entry per pair of channels."""
        angles = 3.14 * self.tensor(tokens, head_dim // 2).float()
        return angles.cos(), angles.sin()


def gelu_ways(tokens: int, hidden: int, mlp: int, random: Random, *, fp8: bool) -> Ways:
    """Return GELU of a double and of a single block, by a pass and in the epilogue."""
    rows = random.rows(tokens, hidden, fp8=fp8)
    attended = random.tensor(1, tokens, hidden, scale=0.1)
    up = random.layer(hidden, mlp, fp8=fp8)
    down = random.layer(hidden + mlp, hidden, fp8=fp8)
    output: Any = unscaled_linear if fp8 else linear
    a_pass = BlockKernels(gelu=True)
    epilogue = replace(a_pass, gelu_epilogue=True)
    return {
        "product, then a pass": lambda: a_pass.activated(None, up, rows, down),
        "in the epilogue": lambda: epilogue.activated(None, up, rows, down),
        "chain, a pass": lambda: output(down, a_pass.activated(attended, up, rows, down)),
        "chain, the epilogue": lambda: output(down, epilogue.activated(attended, up, rows, down)),
    }


def heads_ways(
    text_tokens: int, image_tokens: int, heads: int, head_dim: int, random: Random, *, fp8: bool
) -> Ways:
    """Return QK norm and RoPE by a pass and in the epilogue, for attention in the same precision.

    Without text as a single block does them, which leaves the value of bfloat16 where it is.
    """
    hidden = heads * head_dim
    attn = random.attention(heads, head_dim, fp8=fp8)
    text = random.rows(text_tokens, hidden, fp8=fp8) if text_tokens else None
    image = random.rows(image_tokens, hidden, fp8=fp8)
    half = random.angles(text_tokens + image_tokens, head_dim)
    cosines, sines = (table.repeat_interleave(2, dim=1) for table in half)
    a_pass = BlockKernels(rotary=True, fp8_heads=fp8)
    epilogue = BlockKernels(rotary_epilogue=True, fp8_heads=fp8)
    return {
        "product, then a pass": lambda: a_pass.heads(attn, text, image, (cosines, sines)),
        "in the epilogue": lambda: epilogue.heads(attn, text, image, half),
    }


def single_block_ways(
    tokens: int, heads: int, head_dim: int, mlp: int, random: Random, *, fp8: bool
) -> Ways:
    """Return heads and GELU of a single block by two launches and by one; none in fp8."""
    if fp8:
        return {}
    hidden = heads * head_dim
    attn = random.attention(heads, head_dim, fp8=False)
    rows, angles = random.rows(tokens, hidden, fp8=False), random.angles(tokens, head_dim)
    up, down = random.layer(hidden, mlp, fp8=False), random.layer(hidden + mlp, hidden, fp8=False)
    kernels = BlockKernels(rotary_epilogue=True, gelu_epilogue=True)

    def two_launches() -> Tensor:
        attended = fa3()(*kernels.heads(attn, None, rows, angles)).flatten(2, 3)
        return linear(down, kernels.activated(attended, up, rows, down))

    def one_launch() -> Tensor:
        found, joined = kernels.heads_and_activated(attn, up, rows, angles)
        fa3_into()(*found, joined)
        return linear(down, joined)

    return {
        "two launches": lambda: (
            kernels.heads(attn, None, rows, angles),
            kernels.activated(None, up, rows, down),
        ),
        "one launch": lambda: kernels.heads_and_activated(attn, up, rows, angles),
        "chain, two launches": two_launches,
        "chain, one launch": one_launch,
    }


if __name__ == "__main__":
    main()
