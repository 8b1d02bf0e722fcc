"""One matrix product for query, key and value, in the transformer and in the VAE."""

from torch import nn

from fluxfast.optimization import Axis, Build, Evidence, Optimization, Proof

# diffusers keeps these beside the fused layer, where quantization would convert them too.
SEPARATE_LAYERS = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")


def _drop_separate_layers(network: nn.Module) -> None:
    for module in network.modules():
        if hasattr(module, "to_qkv"):
            for name in SEPARATE_LAYERS:
                if getattr(module, name, None) is not None:
                    delattr(module, name)


def apply(build: Build) -> None:
    for network in (build.pipeline.transformer, build.pipeline.vae):
        network.fuse_qkv_projections()
        _drop_separate_layers(network)
        network.requires_grad_(False)


def proof(evidence: Evidence) -> Proof:
    networks = (evidence.pipeline.transformer, evidence.pipeline.vae)
    fused = [m for n in networks for m in n.modules() if hasattr(m, "to_qkv")]
    separate = [m for n in networks for m in n.modules() if hasattr(m, "to_q")]
    seen = f"{len(fused)} attention layers fused, {len(separate)} separate"
    return Proof(in_force=bool(fused) and not separate, seen=seen)


OPTIMIZATION = Optimization(
    name="fused_projections",
    axis=Axis.PROJECTIONS,
    summary="query, key and value in one matrix product",
    apply=apply,
    proof=proof,
    on_by_default=lambda hardware: True,
)
