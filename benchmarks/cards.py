"""Measure how GPUs of one model differ, and which calibration predicts the pace of a card.

    python -m benchmarks.cards --out card.json            # on an NVIDIA GPU, a minute; three times
    python -m benchmarks.cards --table card*.json         # files of several cards and processes
    python -m benchmarks.cards --out /tmp/r.json --rehearse  # on a CPU, without clocks

A process generates images of dev with the default optimizations that do not compile, in turns with
calibrations: 0.6 s of GEMMs, of attention or of both at the shapes of a Flux block, replayed as a
CUDA graph. Each calibration is timed in its second half, when the power limit has set the clock.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from fluxfast.bench.cases.planned import planned_case, situation_of
from fluxfast.bench.measurement.stages import time_image
from fluxfast.bench.results.image_timing import ImageTiming
from fluxfast.console import quiet_libraries
from fluxfast.files import write_atomically
from fluxfast.hardware import detect, environment
from fluxfast.models.weights import resolve
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.registry import default_names
from fluxfast.pipeline.build import build

TOKENS, WIDTH, HEADS = 4608, 3072, 24  # a Flux block at 1024×1024
ROUNDS, IMAGES, REPLAYS = 2, 2, 30
GRAPH_MS = 20.0
clock_of, cycles_of = attrgetter("sm_clock_mhz"), attrgetter("step_mcycles")
Work = Callable[[], object]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="measure, and write the process here")
    parser.add_argument("--table", type=Path, nargs="+", help="compare these processes by card")
    parser.add_argument("--rehearse", action="store_true", help="the mini family, on a CPU")
    options = parser.parse_args()
    if options.table:
        processes = [json.loads(path.read_text()) for path in options.table]
        if not all(map(_card, processes)):
            parser.error("--table compares cards, and a rehearsal names none: measure on a GPU")
        sys.stdout.write("\n".join(table(processes)) + "\n")
    if options.out:
        quiet_libraries()
        write_atomically(options.out, json.dumps(measured(options.rehearse), indent=1))
    return 0


def measured(rehearse: bool) -> dict[str, Any]:
    """Return the images and calibrations of one process."""
    hardware = detect("cpu" if rehearse else "cuda")
    checkpoint = resolve("dev", "mini" if rehearse else "synthetic", hardware)
    situation = situation_of(checkpoint, hardware)
    compilers = (Axis.COMPILE, Axis.ENCODER, Axis.COMPILER_FLAGS)
    names = default_names(situation, dict.fromkeys(compilers))
    planned = planned_case(names, checkpoint, situation)
    work = {} if rehearse else {name: Calibration(of) for name, of in calibrations().items()}
    rounds = []
    with build(planned.checkpoint, planned.plan) as built:
        for _ in range(2):
            time_image(built)
        for _ in range(ROUNDS):
            times_ms = {name: calibration.ms() for name, calibration in work.items()}
            images = [time_image(built)[0].to_json() for _ in range(IMAGES)]
            rounds.append({"calibrations_ms": times_ms, "images": images})
    return {"environment": environment(hardware), "optimizations": names, "rounds": rounds}


def calibrations() -> dict[str, Work]:
    """Return the calibrations by name: the GEMMs and the attention of a block, and mixes."""
    random = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, device="cuda").bfloat16()

    def in_fp8(rows: int, columns: int) -> tuple[Tensor, Tensor]:
        values = normal(rows, columns)
        scales = values.abs().amax(1, keepdim=True).float() / 448
        return (values / scales).to(torch.float8_e4m3fn), scales

    shapes = ((WIDTH, 7 * WIDTH), (5 * WIDTH, WIDTH))  # a single block: into and out of it
    plain = [(normal(TOKENS, inner), normal(inner, outer)) for inner, outer in shapes]
    fp8 = [(in_fp8(TOKENS, inner), in_fp8(outer, inner)) for inner, outer in shapes]
    query, key, value = (normal(1, HEADS, TOKENS, WIDTH // HEADS) for _ in range(3))

    def bf16_gemms() -> None:
        for rows, weight in plain:
            rows @ weight

    def fp8_gemms() -> None:
        for (rows, row_scales), (weight, scales) in fp8:
            torch._scaled_mm(
                rows,
                weight.t(),
                scale_a=row_scales,
                scale_b=scales.t(),
                out_dtype=torch.bfloat16,
                use_fast_accum=True,
            )

    def attention() -> None:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            scaled_dot_product_attention(query, key, value)

    return {
        "bf16 GEMMs": bf16_gemms,
        "fp8 GEMMs": fp8_gemms,
        "attention": attention,
        "fp8 GEMMs + attention": in_turn(fp8_gemms, attention),
        "bf16 GEMMs + attention": in_turn(bf16_gemms, attention),
    }


def in_turn(*works: Work) -> Work:
    """Return work that does these one after the other."""
    return lambda: [work() for work in works]


class Calibration:
    """Work that is recorded as a CUDA graph of about GRAPH_MS and replayed."""

    def __init__(self, work: Work) -> None:
        self.work = work  # keeps the tensors that the graph reads
        with torch.inference_mode():
            for _ in range(3):
                work()
            torch.cuda.synchronize()
            started = time.perf_counter()
            work()
            torch.cuda.synchronize()
            self.count = max(1, round(GRAPH_MS / (time.perf_counter() - started) / 1e3))
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                for _ in range(self.count):
                    work()

    def ms(self) -> float:
        """Return the median time of the work in the second half of the replays."""
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(REPLAYS + 1)]
        marks[0].record()
        for mark in marks[1:]:
            self.graph.replay()
            mark.record()
        torch.cuda.synchronize()
        replays_ms = [a.elapsed_time(b) for a, b in pairwise(marks)]
        return float(statistics.median(replays_ms[REPLAYS // 2 :])) / self.count


def _card(process: Mapping[str, Any]) -> str:
    """Return the beginning of the UUID of a process's GPU; "" on a CPU."""
    return str(process["environment"].get("gpu", {}).get("uuid", ""))[4:12]


def table(processes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return lines: each card, then how far each predictor is from a card that it has not seen."""
    cards: dict[str, list[Mapping[str, Any]]] = {}
    for process in processes:
        cards.setdefault(_card(process), []).append(process)
    lines = ["| card | processes | ms/step | mean clock, MHz | M cycles/step |", "| --- " * 5 + "|"]
    for name, of_card in cards.items():
        step_ms, clock, mcycles = (_level(of_card, value) for value in (_step, clock_of, cycles_of))
        lines.append(f"| {name} | {len(of_card)} | {step_ms:.2f} | {clock:.0f} | {mcycles:.2f} |")
    times = [_level(of_card, _step) for of_card in cards.values()]
    predictors = {
        name: [_calibrated(c, name) for c in cards.values()] for name in _names(processes)
    }
    lines += ["", "| predictor of a step | residual, RMS | largest |", "| --- " * 3 + "|"]
    rows = {
        "none: the mean of the other cards": _residuals(times, None),
        **{name: _residuals(times, known) for name, known in predictors.items()},
        "mean clock: cycles": _residuals([_level(c, cycles_of) for c in cards.values()], None),
    }
    for name, found in rows.items():
        rms = math.sqrt(statistics.fmean(x * x for x in found))
        lines.append(f"| {name} | {rms:.2%} | {max(map(abs, found)):.2%} |")
    return lines


def _step(image: ImageTiming) -> float:
    return statistics.fmean(image.step_ms)


def _level(of_card: Sequence[Mapping[str, Any]], value: Callable[[ImageTiming], Any]) -> float:
    """Return the mean over processes of the medians of their images."""
    return statistics.fmean(
        statistics.median(
            value(ImageTiming.from_json(image))
            for part in process["rounds"]
            for image in part["images"]
        )
        for process in of_card
    )


def _calibrated(of_card: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.fmean(
        part["calibrations_ms"][name] for process in of_card for part in process["rounds"]
    )


def _names(processes: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    return list(processes[0]["rounds"][0]["calibrations_ms"])


def _residuals(levels: Sequence[float], known: Sequence[float] | None) -> list[float]:
    """Return each card's log level less its prediction from the other cards.

    The prediction is their mean, in proportion to the calibration where one is given.
    """
    known = known or [1.0] * len(levels)
    logs = [math.log(level / pace) for level, pace in zip(levels, known, strict=True)]
    return [log - statistics.fmean(logs[:n] + logs[n + 1 :]) for n, log in enumerate(logs)]


if __name__ == "__main__":
    sys.exit(main())
