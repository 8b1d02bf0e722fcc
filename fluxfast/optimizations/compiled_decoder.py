"""torch.compile of the VAE's decoder beside a transformer compiled by regions."""

from __future__ import annotations

import torch

from fluxfast.compiler import DECODER_CONFLICTS, dynamic_shapes
from fluxfast.hardware import Hardware, Platform
from fluxfast.optimization import Axis, Build, Evidence, Optimization, Proof


def apply(build: Build) -> None:
    vae, dynamic = build.pipeline.vae, dynamic_shapes(build.situation.hardware)
    vae.decode = torch.compile(vae.decode, fullgraph=True, dynamic=dynamic)


def proof(evidence: Evidence) -> Proof:
    decode = evidence.pipeline.vae.decode
    is_compiled = hasattr(decode, "_torchdynamo_orig_callable") and evidence.compiled_graphs > 0
    return Proof(in_force=is_compiled, seen=f"decode is {'' if is_compiled else 'not '}compiled")


def slow_to_build(hardware: Hardware) -> str | None:
    if hardware.platform is Platform.CUDA:
        return None
    return "30 s of compiling for nothing that shows (two CPU cores)"


OPTIMIZATION = Optimization(
    name="compiled_decoder",
    axis=Axis.DECODER,
    summary="torch.compile of the VAE's decoder",
    apply=apply,
    proof=proof,
    preference=1,
    conflicts=DECODER_CONFLICTS,
    on_by_default=lambda hardware: hardware.platform is Platform.CUDA,
    slow_to_build=slow_to_build,
)
