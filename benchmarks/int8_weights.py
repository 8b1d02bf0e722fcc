"""Compare int8 weights with bfloat16: T5's time and error, and the time of a modulation table.

    python -m benchmarks.int8_weights        # on an NVIDIA GPU with 30 GiB, about a minute
    python -m benchmarks.int8_weights --rehearse    # tiny, on a CPU with TRITON_INTERPRET=1

Prints JSON. T5 has the published shape and the synthetic weights of a trained one. Each error is
against float32 of the same weights, of 512 tokens.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchao.quantization import quantize_

from fluxfast.console import out, quiet_libraries
from fluxfast.hardware import detect, environment
from fluxfast.kernels.int8_product import int8_product
from fluxfast.models.architecture import MINI, PUBLISHED, Architecture
from fluxfast.models.synthetic.encoders import fill_t5
from fluxfast.models.synthetic.layers import Layers
from fluxfast.models.synthetic.profiles import STATISTICS, Profile
from fluxfast.models.synthetic.values import Values
from fluxfast.optimizations.fusion._t5 import FusedT5
from fluxfast.optimizations.fusion._t5_int8 import Int8T5
from fluxfast.optimizations.graphs._replay import GraphReplay
from fluxfast.optimizations.precision._torchao import int8_weights
from fluxfast.profiling.device_clock import median_ms

PROMPT_TOKENS = (256, 512)
TABLE_ROWS = (4, 28, 112)  # schnell, dev, four images of dev
MODULATION = (38 * 6 * 3072, 38 * 3 * 3072)  # columns: double blocks, single blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on a CPU")
    is_tiny = parser.parse_args().rehearse
    quiet_libraries()
    hardware = detect("cpu" if is_tiny else "cuda")
    figures: dict[str, Any] = {"environment": environment(hardware)}
    with torch.no_grad():
        figures["t5"] = t5_figures(MINI if is_tiny else PUBLISHED, hardware.device)
        inner, columns = (64, (128,)) if is_tiny else (3072, MODULATION)
        figures["table"] = table_figures(inner, columns, hardware.device)
    out(json.dumps(figures, indent=1))


def t5_figures(shape: Architecture, device: str) -> dict[str, Any]:
    """Return milliseconds, first seconds, GiB and relative errors of each kind of T5."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(feed_forward_proj="gated-gelu", tie_word_embeddings=False, **shape.t5)
    with torch.device(device):
        t5 = T5EncoderModel(config).eval().requires_grad_(False)
    fill_t5(
        t5, Layers(values=Values(0, torch.device(device)), statistics=STATISTICS[Profile.TRAINED])
    )
    tokens = [count if shape is PUBLISHED else 16 for count in PROMPT_TOKENS]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, t5.config.vocab_size, (1, tokens[-1]), generator=generator).to(device)
    exact = t5(ids)[0]
    t5.to(torch.bfloat16)
    figures = {"bfloat16": _measured(FusedT5(t5), ids, tokens, exact)}
    figures["bfloat16"]["gib"] = _gib(t5)
    quantize_(t5.encoder.block, int8_weights())
    figures["int8, torchao"] = _measured(FusedT5(t5), ids, tokens, exact)
    figures["int8"] = _measured(Int8T5(t5), ids, tokens, exact)
    figures["int8"]["gib"] = _gib(t5)
    return figures


def _measured(forward: Any, ids: Tensor, tokens: list[int], exact: Tensor) -> dict[str, Any]:
    call = GraphReplay(forward) if ids.is_cuda else forward
    started = time.perf_counter()
    found = call(ids)[0]
    error = float((found.float() - exact).norm() / exact.norm())
    figures: dict[str, Any] = {"first_s": time.perf_counter() - started, "error": error}
    for count in tokens:
        figures[f"{count}_tokens_ms"] = median_ms(partial(call, ids[:, :count]), ids.device.type)
    return figures


def _gib(network: Any) -> float:
    stored = {p.untyped_storage().data_ptr(): p.nbytes for p in _plain(network)}
    return sum(stored.values()) / 2**30


def _plain(network: Any) -> list[Tensor]:
    from fluxfast.optimizations.precision._plain_tensors import plain_tensors

    return [leaf for parameter in network.parameters() for leaf in plain_tensors(parameter)]


def table_figures(inner: int, columns: tuple[int, ...], device: str) -> dict[str, Any]:
    """Return milliseconds of the modulation's GEMMs for each number of rows."""
    figures = dict[str, Any]()
    for rows in TABLE_ROWS:
        x = torch.randn(rows, inner, device=device, dtype=torch.bfloat16)
        figures[f"{rows} rows"] = {
            "bfloat16_ms": median_ms(_products(_plain_product, x, columns), device),
            "int8_ms": median_ms(_products(_int8_product, x, columns), device),
        }
    return figures


def _products(
    made: Callable[[Tensor, int], Callable[[], Tensor]], x: Tensor, columns: tuple[int, ...]
) -> Callable[[], None]:
    products = [made(x, count) for count in columns]

    def run() -> None:
        for product in products:
            product()

    return run


def _plain_product(x: Tensor, columns: int) -> Callable[[], Tensor]:
    weight = torch.randn(columns, x.shape[1], device=x.device, dtype=x.dtype)
    return partial(torch.nn.functional.linear, x, weight, weight[:, 0])


def _int8_product(x: Tensor, columns: int) -> Callable[[], Tensor]:
    shape = (columns, x.shape[1])
    weight = torch.randint(-127, 128, shape, device=x.device, dtype=torch.int8)
    scales = torch.rand(columns, device=x.device)
    return partial(int8_product, x, weight, scales, x.new_zeros(columns))


if __name__ == "__main__":
    main()
