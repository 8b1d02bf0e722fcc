"""torch.compile of the whole transformer and of the VAE's decoder, with GEMM autotuning.

On an NVIDIA GPU quantized products are left to cuBLAS: for one in fp8 there are 106 kernels of
Triton's to choose from, 70 to 80 s for each of more than 16 shapes, which was not done after 18
minutes on an H200. Left to cuBLAS, flux-fast's settings take 934 s, most of it coordinate descent.
"""

from typing import Any

import torch
from torch._inductor import config

from fluxfast.compiler import compile_proof, dynamic_shapes
from fluxfast.hardware import Hardware, Platform
from fluxfast.optimization import Axis, Build, Optimization


def apply(build: Build) -> None:
    is_cached = build.plan.choice(Axis.CACHE) is not None
    is_cuda = build.situation.hardware.platform is Platform.CUDA
    if is_cuda and build.plan.choice(Axis.QUANTIZATION):
        build.undo.enter_context(config.patch(max_autotune_gemm_backends="ATEN"))
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
        return "the whole transformer is one graph: 934 s with flux-fast's flags (one H200)"
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
