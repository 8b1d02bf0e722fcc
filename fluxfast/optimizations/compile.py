"""torch.compile of the whole transformer and of the VAE's decoder, with GEMM autotuning."""

from typing import Any

import torch

from fluxfast.compiler import compile_proof, dynamic_shapes
from fluxfast.hardware import Hardware
from fluxfast.optimization import Axis, Build, Optimization


def apply(build: Build) -> None:
    is_cached = build.plan.choice(Axis.CACHE) is not None
    # A cache decides in Python from step to step: graph breaks are allowed, and no CUDA graph can
    # hold the whole of it.
    options: dict[str, Any] = dict(
        mode="max-autotune-no-cudagraphs" if is_cached else "max-autotune",
        dynamic=dynamic_shapes(build.situation.hardware),
    )
    build.pipeline.transformer.compile(fullgraph=not is_cached, **options)
    build.pipeline.vae.decode = torch.compile(build.pipeline.vae.decode, fullgraph=True, **options)


def slow_to_build(hardware: Hardware) -> str | None:
    if hardware.is_gpu:
        return "max-autotune of fp8 was not done after 18 minutes (one H200)"
    return None


OPTIMIZATION = Optimization(
    name="compile",
    axis=Axis.COMPILE,
    summary="torch.compile of transformer and VAE decoder, max-autotune",
    apply=apply,
    proof=compile_proof,
    on_by_default=lambda hardware: False,
    slow_to_build=slow_to_build,
)
