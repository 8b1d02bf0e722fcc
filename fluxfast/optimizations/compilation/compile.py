"""torch.compile of the whole transformer and of the VAE's decoder, with GEMM autotuning.

On an NVIDIA GPU quantized GEMMs are left to cuBLAS: Triton has 106 kernels to choose from for one
in fp8, 70 to 80 s for each of more than 16 shapes, and had not finished after 18 minutes on an
H200. Left to cuBLAS, flux-fast's settings take 934 s, most of it coordinate descent.
"""

from __future__ import annotations

from typing import Any

from fluxfast.hardware import Hardware, Platform
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Optimization
from fluxfast.optimizations.compilation._compiler import (
    compile_proof,
    dynamic_shapes,
    keep_options,
)


def apply(build: Build) -> None:
    """Compile transformer and decoder, whole where no cache decides between blocks."""
    import torch
    from torch._inductor import list_mode_options

    is_cached = build.plan.on(Axis.CACHE) is not None
    is_cuda = build.situation.hardware.platform is Platform.CUDA
    if is_cuda and build.plan.on(Axis.QUANTIZATION):
        build.compiler_options["max_autotune_gemm_backends"] = "ATEN"
    # A cache decides in Python from step to step: graph breaks are allowed, and no CUDA graph can
    # hold the whole step.
    mode = "max-autotune-no-cudagraphs" if is_cached else "max-autotune"
    options: dict[str, Any] = dict(
        options={**list_mode_options(mode), **build.compiler_options},
        dynamic=dynamic_shapes(build.situation.hardware),
    )
    build.pipeline.transformer.compile(fullgraph=not is_cached, **options)
    keep_options([build.pipeline.transformer], options["options"])
    build.pipeline.vae.decode = torch.compile(build.pipeline.vae.decode, fullgraph=True, **options)


def slow_to_build(hardware: Hardware) -> str | None:
    """Return why compiling the whole graph is slow on this hardware, or None."""
    if hardware.is_gpu:
        return "the whole transformer is one graph: 934 s with flux-fast's flags (one H200)"
    return None


def slow_to_generate(hardware: Hardware) -> str | None:
    """Return why compiled images are slow to generate on this hardware, or None."""
    return None if hardware.is_gpu else "a whole-graph compile takes minutes on a CPU"


OPTIMIZATION = Optimization(
    name="compile",
    axis=Axis.COMPILE,
    summary="torch.compile of transformer and VAE decoder, max-autotune",
    apply=apply,
    proof=compile_proof,
    compiles=True,
    on_by_default=lambda hardware: False,
    slow_to_build=slow_to_build,
    slow_to_generate=slow_to_generate,
    used_by=("flux-fast",),
)
