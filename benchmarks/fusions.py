"""Measure what the fused kernels gain on this machine: one command, one JSON file.

    python -m benchmarks.fusions --out fusions.json              # on a GPU, about 8 minutes
    python -m benchmarks.fusions --out fusions.json              # again: what failed or is missing
    TRITON_INTERPRET=1 python -m benchmarks.fusions --out /tmp/r.json --rehearse    # on a CPU

It measures each kernel's error against float32 and its time against torch.compile's code; the GEMMs
of a step by cuBLASLt; then whole steps of dev, one optimization added after the other. The exit
status is 1 if a part failed or no time was left for it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.kernel_cases import KernelCase, errors, kernel_cases
from benchmarks.record import Record
from fluxfast.bench.cases.planned import PlannedCase, planned_case, situation_of
from fluxfast.bench.measurement.stages import peak_memory_gib, reset_peak_memory, time_image
from fluxfast.cli.profile import to_json
from fluxfast.console import quiet_libraries
from fluxfast.hardware import Hardware, detect, environment
from fluxfast.models.architecture import PUBLISHED
from fluxfast.models.spec import DEV, default_request
from fluxfast.models.weights import resolve
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Plan
from fluxfast.optimizations.registry import available, default_names, in_order, optimization_named
from fluxfast.optimizations.situation import Situation
from fluxfast.pipeline.build import BuiltPipeline, build
from fluxfast.profiling.ceilings import attention_tflops, copy_tb_s, scaled_gemm
from fluxfast.profiling.device_clock import median_ms
from fluxfast.profiling.evidence import gather_evidence, proofs
from fluxfast.profiling.kernel_profile import read_profile
from fluxfast.profiling.roofline import Shape, shape_of
from fluxfast.profiling.trace import write_trace

WARPS = (1, 2, 4, 8)
ERROR_LIMIT = {"bf16": 0.006, "fp8": 0.04}
STEPS = 8  # enough for the time of one step
ADDED = (
    "fused_gelu",
    "fused_rotary",
    "fused_norms",
    "modulation_table",
    "cuda_graph",
    "device_images",
    "fused_encoder",
    "known_device",
)
DECODERS = ("fused_vae",)
GPU_ALONE = ("cuda_graph", "device_images", "fused_encoder", "known_device")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget_s", type=float, default=450, help="no part begins after (450)")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on a CPU")
    options = parser.parse_args()
    quiet_libraries()
    hardware = detect("cpu" if options.rehearse else "cuda")
    record = Record(options.out, options.budget_s)
    record.part("environment", lambda: environment(hardware))
    shape, heads = _shape(options.rehearse)
    torch.set_grad_enabled(False)
    record.part("ceilings", lambda: _ceilings(shape, heads, hardware))
    for case in kernel_cases(shape, heads, hardware.device):
        record.part(f"kernel {case.name}", partial(_kernel, case, hardware))
    record.part("GEMMs", lambda: _gemms(shape, hardware))
    for name, (model, names, steps) in step_cases(options.rehearse, hardware).items():
        measure = partial(_step, model, names, steps, hardware, options.out.parent, name)
        record.part(f"step {name}", measure)
    return record.close()


def _shape(rehearse: bool) -> tuple[Shape, int]:
    if rehearse:
        shape = shape_of(PUBLISHED, DEV, default_request(DEV, side=32))
        return replace(shape, hidden=256, mlp=1024, text_tokens=2, image_tokens=3), 2
    request = default_request(DEV, side=PUBLISHED.default_side)
    return shape_of(PUBLISHED, DEV, request), PUBLISHED.transformer["num_attention_heads"]


def _ceilings(shape: Shape, heads: int, hardware: Hardware) -> dict[str, Any]:
    rates = {
        o.name: attention_tflops(shape, heads, hardware, o.attention())
        for o in available(Axis.ATTENTION, hardware)
        if o.attention
    }
    return {"copy_tb_s": copy_tb_s(hardware), "attention_tflops": rates}


def _kernel(case: KernelCase, hardware: Hardware) -> dict[str, Any]:
    """Return error, time by number of warps, bandwidth, and the time of torch.compile's code."""
    found = errors(case)
    # Triton's interpreter truncates to bfloat16 and loses carries to fp8.
    limit = ERROR_LIMIT["fp8" if case.is_fp8 else "bf16"] * (1 if hardware.is_gpu else 5)
    if not all(error < limit for error in found):
        raise AssertionError(f"errors {found}, limit {limit}")
    repeats = 50 if hardware.is_gpu else 1
    times = {w: median_ms(partial(case.launch, w), hardware.device, repeats) for w in WARPS}
    torch.compiler.reset()
    compiled = torch.compile(case.plain, dynamic=False)
    compiled_ms = median_ms(lambda: compiled(*case.inputs), hardware.device, repeats)
    best_ms = min(times.values())
    return {
        "best_us": best_ms * 1e3,
        "compiled_us": compiled_ms * 1e3,
        "tb_s": case.bytes / best_ms / 1e9,
        "mb": case.bytes / 1e6,
        "us_by_warps": {w: ms * 1e3 for w, ms in times.items()},
        "errors": found,
    }


def _gemms(shape: Shape, hardware: Hardware) -> dict[str, Any]:
    """Return TFLOP/s of every GEMM of a step: fp8 by row, by tensor, and bfloat16."""
    hidden, mlp = shape.hidden, shape.mlp
    streams = {"joint": shape.tokens, "image": shape.image_tokens, "text": shape.text_tokens}
    sizes = {
        "qkv": (hidden, 3 * hidden),
        "mlp": (hidden, mlp),
        "qkv and mlp in one": (hidden, 3 * hidden + mlp),
        "output": (hidden + mlp, hidden),
        "attention output": (hidden, hidden),
        "mlp down": (mlp, hidden),
    }
    found: dict[str, Any] = {}
    for stream, tokens in streams.items():
        for name, (inner, outer) in sizes.items():
            found[f"{stream} {name}"] = _gemm(tokens, inner, outer, hardware)
    return found


def _gemm(tokens: int, inner: int, outer: int, hardware: Hardware) -> dict[str, Any]:
    device, repeats = hardware.device, 20 if hardware.is_gpu else 1
    rows, weight = (torch.randn(n, inner, device=device).bfloat16() for n in (tokens, outer))
    calls: dict[str, Callable[[], Any]] = {
        "by_row": scaled_gemm(tokens, inner, outer, device),
        "by_tensor": scaled_gemm(tokens, inner, outer, device, per_row=False),
        "bf16": lambda: F.linear(rows, weight),
    }
    times = {name: median_ms(call, device, repeats) for name, call in calls.items()}
    rates = {name: 2.0 * tokens * inner * outer / ms / 1e9 for name, ms in times.items()}
    return {"us": {name: ms * 1e3 for name, ms in times.items()}, "tflops": rates}


def step_cases(rehearse: bool, hardware: Hardware) -> dict[str, tuple[str, list[str], int]]:
    """Return model, optimizations and steps of each whole-step measurement, by priority."""
    on = ["fused_projections", "sdpa"] if rehearse else list(_defaults(hardware))
    decided = {optimization_named(name).axis for name in (*ADDED, *DECODERS)}
    on = [name for name in on if optimization_named(name).axis not in decided]
    added = [n for n in ADDED if not rehearse or n not in GPU_ALONE]
    steps = 2 if rehearse else STEPS
    eager = [] if rehearse else ["bf16"]
    cases = {"eager": ("dev", eager, steps), "default": ("dev", on, steps)}
    for count, name in enumerate(added, start=1):
        cases[f"+ {name}"] = ("dev", [*on, *added[:count]], steps)
    everything = [*on, *added]
    cases["schnell, everything"] = ("schnell", everything, 2 if rehearse else 4)
    if rehearse:
        return cases
    epilogues = {"fused_gelu": "gelu_epilogue", "fused_rotary": "rotary_epilogue"}
    in_epilogues = [epilogues.get(name, name) for name in everything]
    without_fp8 = [n for n in on if n not in ("fp8_per_row", "fa3_fp8")]
    lossless = [*without_fp8, "fa3"]
    return cases | {
        "bf16, default": ("dev", lossless, STEPS),
        "bf16, everything": ("dev", [*lossless, *added], STEPS),
        "everything, 28 steps": ("dev", everything, 28),
        "everything, epilogues for passes": ("dev", in_epilogues, STEPS),
        "kontext, everything": ("kontext", everything, STEPS),
        **{f"everything + {name}": ("dev", [*everything, name], STEPS) for name in DECODERS},
    }


def _defaults(hardware: Hardware) -> tuple[str, ...]:
    return default_names(situation_of(resolve("dev", "synthetic", hardware), hardware))


def _planned(model: str, names: list[str], steps: int, hardware: Hardware) -> PlannedCase:
    if hardware.is_gpu:
        checkpoint = resolve(model, "synthetic", hardware)
        situation = situation_of(checkpoint, hardware, num_inference_steps=steps)
        return planned_case(names, checkpoint, situation)
    # A rehearsal: the smallest image, and an unchecked plan, for a CPU has no such kernels.
    checkpoint = resolve(model, "mini", hardware)
    situation = situation_of(checkpoint, hardware, num_inference_steps=steps, height=16, width=32)
    short = replace(situation.request, max_sequence_length=2)
    situation = Situation(model=situation.model, hardware=hardware, request=short)
    ordered = tuple(optimization_named(name) for name in in_order(names))
    eager = planned_case((), checkpoint, situation)
    return replace(eager, plan=Plan(optimizations=ordered, situation=situation))


def _step(
    model: str, names: list[str], steps: int, hardware: Hardware, folder: Path, name: str
) -> dict[str, Any]:
    """Build, warm up, time three images, prove, and compare the latents with the eager ones."""
    planned = _planned(model, names, steps, hardware)
    with build(planned.checkpoint, planned.plan) as built:
        first, _ = time_image(built)
        reset_peak_memory(built)
        timings = [time_image(built)[0] for _ in range(4 if hardware.is_gpu else 2)][1:]
        figures: dict[str, Any] = {
            "step_ms": statistics.median(ms for t in timings for ms in t.step_ms),
            "e2e_s": statistics.median(t.e2e_s for t in timings),
            "decode_ms": statistics.median(t.decode_ms for t in timings),
            "postprocess_ms": statistics.median(t.postprocess_ms for t in timings),
            "encode_ms": statistics.median(t.encode_ms for t in timings),
            "first_image_s": first.e2e_s,
            "peak_gib": peak_memory_gib(built),
            "optimizations": list(built.plan.names),
        }
        figures["latents_error"] = _latents_error(built, folder, model, steps, name)
        if name != "eager":
            seen = proofs(gather_evidence(built))
            figures["proofs"] = {n: [p.is_active, p.detail] for n, p in seen.items()}
            figures["not_active"] = ", ".join(n for n, p in seen.items() if not p.is_active)
        if name in ("default", "+ cuda_graph", "+ modulation_table"):
            figures["waits"] = _waits(built)
            figures["profile"] = _profile(built, folder / f"trace {name}.json.gz")
    return figures


def _latents_error(
    built: BuiltPipeline, folder: Path, model: str, steps: int, name: str
) -> float | None:
    """Return the error relative to the eager latents of the same model and steps, if they exist."""
    latents = built.generate(output_type="latent").float().cpu()
    if not latents.isfinite().all():
        raise AssertionError("the latents are not finite")
    place = folder / f"latents-{model}-{steps}.pt"
    if name == "eager":
        torch.save(latents, place)
    if not place.exists():
        return None
    eager = torch.load(place)
    return float((latents - eager).norm() / eager.norm())


def _waits(built: BuiltPipeline) -> list[str]:
    """Return the source lines that made the host wait for the device while it sampled latents."""
    if not built.plan.situation.hardware.is_gpu:
        return []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            built.generate(output_type="latent")
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]


def _profile(built: BuiltPipeline, path: Path) -> dict[str, Any]:
    write_trace(built, path)
    profile = to_json(read_profile(path))
    return profile | {"kernels": profile["kernels"][:40]}


if __name__ == "__main__":
    sys.exit(main())
