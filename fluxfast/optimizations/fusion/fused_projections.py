"""One GEMM for query, key and value, in the transformer and in the VAE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Evidence, Optimization, Proof

if TYPE_CHECKING:
    from torch import nn

# diffusers keeps these layers alongside the fused one, where quantization would convert them too.
FUSED_LAYERS = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}
SEPARATE_LAYERS = tuple(name for names in FUSED_LAYERS.values() for name in names)


def apply(build: Build) -> None:
    """Fuse the projections with diffusers' own method and drop the separate layers."""
    for network in _networks(build.pipeline):
        network.fuse_qkv_projections()
        _drop_separate_layers(network)
        network.requires_grad_(False)


def _networks(pipeline: Any) -> list[Any]:
    """Return the networks of the pipeline that can fuse; a decoder without attention cannot."""
    candidates = (pipeline.transformer, pipeline.vae)
    return [network for network in candidates if hasattr(network, "fuse_qkv_projections")]


def _drop_separate_layers(network: nn.Module) -> None:
    for module in network.modules():
        if hasattr(module, "to_qkv"):
            for name in SEPARATE_LAYERS:
                if getattr(module, name, None) is not None:
                    delattr(module, name)


def proof(evidence: Evidence) -> Proof:
    """Return a proof: active if every attention layer has the fused layer only."""
    networks = _networks(evidence.pipeline)
    fused = [m for n in networks for m in n.modules() if hasattr(m, "to_qkv")]
    separate = [m for n in networks for m in n.modules() if hasattr(m, "to_q")]
    detail = f"{len(fused)} attention layers fused, {len(separate)} separate"
    return Proof(is_active=bool(fused) and not separate, detail=detail)


OPTIMIZATION = Optimization(
    name="fused_projections",
    axis=Axis.PROJECTIONS,
    summary="query, key and value in one GEMM",
    apply=apply,
    proof=proof,
    on_by_default=lambda hardware: True,
    used_by=("flux-fast",),
)
