"""GELU in the product's epilogue against a pass after the product, at the shapes of Flux.

    python -m benchmarks.gelu_epilogue       # on a Hopper GPU, about a minute; prints JSON

Each way runs in a loop of its own until the power limit sets the clock, twice in turns with the
others. A chain is what a single block does from its rows to its output product.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxfast.console import out, quiet_libraries
from fluxfast.hardware import Hardware, detect, environment
from fluxfast.kernels.activation import joined, joined_fp8, quantize_rows
from fluxfast.kernels.gelu_product import (
    gelu_product,
    gelu_product_fp8,
    gelu_product_join_fp8,
    product_of_two,
)
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
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, device=device, generator=generator)).bfloat16()

    rows, attended = random(1, tokens, hidden), random(1, tokens, hidden, scale=0.1)
    up, bias = random(mlp, hidden, scale=0.02), random(mlp, scale=0.02)
    down, out_bias = random(hidden, hidden + mlp, scale=0.02), random(hidden, scale=0.02)
    if not fp8:
        return {
            "product, then a pass": lambda: joined(None, F.linear(rows, up, bias)),
            "in the epilogue": lambda: gelu_product(rows, up, bias),
            "chain, a pass": lambda: F.linear(
                joined(attended, F.linear(rows, up, bias)), down, out_bias
            ),
            "chain, the epilogue": lambda: product_of_two(
                attended, gelu_product(rows, up, bias), down, out_bias
            ),
        }
    values, scales = quantize_rows(rows)
    (up8, up_scales), (down8, _) = (
        (weight[0], of_rows[0])
        for weight, of_rows in (quantize_rows(up[None]), quantize_rows(down[None]))
    )
    inner = scales.new_full(scales.shape, hidden**0.5 / 448)
    unit = torch.ones(1, 1, device=device)

    def product() -> Tensor:
        return _scaled(values[0], up8, scales[0], up_scales.t(), bias).view(1, tokens, mlp)

    given = (values, scales, inner, up8, up_scales, bias)
    return {
        "product, then a pass": lambda: joined_fp8(None, product()),
        "in the epilogue": lambda: gelu_product_fp8(*given),
        "chain, a pass": lambda: _scaled(
            joined_fp8(attended, product())[0][0], down8, unit, unit, None
        ),
        "chain, the epilogue": lambda: _scaled(
            gelu_product_join_fp8(attended, *given)[0][0], down8, unit, unit, None
        ),
    }


def _scaled(
    rows: Tensor, weight: Tensor, of_rows: Tensor, of_columns: Tensor, bias: Tensor | None
) -> Tensor:
    return torch._scaled_mm(
        rows,
        weight.t(),
        scale_a=of_rows,
        scale_b=of_columns,
        bias=bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


if __name__ == "__main__":
    main()
