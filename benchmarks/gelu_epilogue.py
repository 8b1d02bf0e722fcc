"""GELU in the product's epilogue against a pass after the product, at the shapes of Flux.

    python -m benchmarks.gelu_epilogue       # on a Hopper GPU, about a minute; prints JSON

Each way runs in a loop of its own until the power limit sets the clock, twice in turns with the
others. A chain is what a single block does from its rows to its output product.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fluxfast.block_kernels import BlockKernels, Fp8Rows, Rows, product, unscaled_product
from fluxfast.console import out, quiet_libraries
from fluxfast.hardware import Hardware, detect, environment
from fluxfast.kernels.activation import quantize_rows
from fluxfast.telemetry import reader

HIDDEN, MLP = 3072, 12288
TOKENS = (4608, 4096, 512)
LOOP_S = 0.8
RUNS_AT_ONCE = 20


def main() -> None:
    quiet_libraries()
    hardware = detect("cuda")
    figures = {str(tokens): gelu_figures(tokens, HIDDEN, MLP, hardware) for tokens in TOKENS}
    out(json.dumps({"environment": environment(hardware)} | figures, indent=1))


@torch.no_grad()
def gelu_figures(
    tokens: int, hidden: int, mlp: int, hardware: Hardware
) -> dict[str, list[dict[str, float]]]:
    """Microseconds and millijoules of each way, each twice."""
    figures: dict[str, list[dict[str, float]]] = {}
    for fp8 in (False, True):
        ways = ways_of(tokens, hidden, mlp, fp8=fp8, device=hardware.device)
        for _ in range(2):
            for name, way in ways.items():
                key = f"{'fp8' if fp8 else 'bf16'}, {name}"
                figures.setdefault(key, []).append(_cost(way, hardware))
    return figures


def _cost(way: Callable[[], Any], hardware: Hardware) -> dict[str, float]:
    """Of one run; in a loop without launches between them on a GPU, once on a CPU."""
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
    read = reader(hardware)
    before = read() if read else None
    us, runs = _replayed(graph)
    found = {"us": round(us, 1)}
    if read and before:
        found["mj"] = round((read().energy_j - before.energy_j) / runs * 1e3, 1)
    return found


def _replayed(graph: torch.cuda.CUDAGraph) -> tuple[float, int]:
    """Microseconds of a run, over `LOOP_S` seconds or a little more, and how many they were."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
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


def ways_of(
    tokens: int, hidden: int, mlp: int, *, fp8: bool, device: str
) -> dict[str, Callable[[], Any]]:
    """What a double block's MLP and a single block do, by a pass of GELU's and in the epilogue."""
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, device=device, generator=generator)).bfloat16()

    def layer(inner: int, outer: int) -> Any:
        weight, bias = random(outer, inner, scale=0.02), random(outer, scale=0.02)
        if fp8:
            values, scales = (part[0].t() for part in quantize_rows(weight[None]))
            unit = torch.ones(1, 1, device=device)
            return SimpleNamespace(fp8_weight=values, fp8_scale=scales, fp8_unit=unit, bias=bias)
        linear = torch.nn.Linear(inner, outer, device=device, dtype=torch.bfloat16)
        linear.weight.data, linear.bias.data = weight, bias
        return linear

    rows: Rows = random(1, tokens, hidden)
    attended = random(1, tokens, hidden, scale=0.1)
    up, down = layer(hidden, mlp), layer(hidden + mlp, hidden)
    output = product
    if fp8:
        values, scales = quantize_rows(rows)
        rows = Fp8Rows(values, scales, torch.full_like(scales, hidden**0.5 / 448))
        output = unscaled_product
    a_pass = BlockKernels(gelu=True, fp8_rows=fp8)
    epilogue = replace(a_pass, gelu_epilogue=True)
    return {
        "product, then a pass": lambda: a_pass.activated(None, up, rows),
        "in the epilogue": lambda: epilogue.activated(None, up, rows),
        "chain, a pass": lambda: output(down, a_pass.activated(attended, up, rows)),
        "chain, the epilogue": lambda: output(down, epilogue.activated(attended, up, rows)),
    }


if __name__ == "__main__":
    main()
