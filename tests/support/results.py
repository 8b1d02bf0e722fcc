"""Synthetic results in the form that a run writes."""

from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.image_timing import ImageTiming
from fluxfast.bench.results.result import CaseResult
from fluxfast.hardware import Hardware
from tests.support.machines import H200

# Typical readings of an H200, before and after a case.
CANARIES = {
    "gemm_ms": (0.52, 0.53),
    "attention_ms": (0.44, 0.45),
    "copy_ms": (0.26, 0.26),
    "launch_us": (9.0, 9.1),
    "python_ms": (3.8, 3.9),
}


def case(**changes) -> Case:
    return Case(
        **{
            "model": "dev",
            "weights": "synthetic",
            "optimizations": ("bf16", "regional"),
            "height": 1024,
            "width": 1024,
            "batch_size": 1,
            "num_inference_steps": 2,
            **changes,
        }
    )


def result(
    e2e_s=2.0, hardware: Hardware = H200, counters=None, reference_e2e_s=(), **changes
) -> CaseResult:
    image = ImageTiming(
        e2e_s=e2e_s,
        encode_ms=20.0,
        prepare_ms=1.0,
        step_ms=(e2e_s * 450, e2e_s * 450),
        decode_ms=80.0,
        postprocess_ms=10.0,
    )
    return CaseResult(
        **{
            "case": case(),
            "images": (image,) * 3,
            "reference_e2e_s": reference_e2e_s,
            "load_s": 1.0,
            "apply_s": 0.5,
            "first_image_s": e2e_s + 10.0,
            "compiles": True,
            "peak_memory_gib": 25.0,
            "counters": counters or {"graph_breaks": 0},
            "proofs": {"bf16": "all bfloat16"},
            "environment": {"hardware": hardware.to_json(), "python": "3.12"},
            "provenance": {"commit": "abc", "dirty": False},
            **changes,
        }
    )


def steady(process):
    """Return the times of a process as JSON, in which each image took as long as the first.

    Two images on a busy machine are not enough to judge by.
    """
    names = ("images", "reference_e2e_s", "pace_ms")
    return {name: [process[name][0]] * len(process[name]) for name in names if process[name]}
