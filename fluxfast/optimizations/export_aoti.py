"""torch.export and AOT Inductor, replayed as CUDA graphs: no compiler once the package is there.

Shapes are those of a real call of the pipeline. The package holds no weights: see
fluxfast/package.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from fluxfast import manifest
from fluxfast.call import call_arguments
from fluxfast.cuda_graph import GraphReplay, replay_proof
from fluxfast.hardware import Hardware
from fluxfast.model import ImageRequest
from fluxfast.optimization import Axis, Build, Evidence, Optimization, Proof
from fluxfast.package import LoadedPackage, export_package, load_package


class Decoder(nn.Module):
    """The VAE's decoder as a module of its own, for export needs a `forward`."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae: Any = vae

    def forward(self, latents: Tensor) -> Tensor:
        image: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return image


def apply(build: Build) -> None:
    pipeline, situation = build.pipeline, build.situation
    modules = {"transformer": pipeline.transformer, "decoder": Decoder(pipeline.vae)}
    description = manifest.described(situation, build.plan.names)
    folder = build.artifacts.folder / manifest.folder_name(description)
    if not build.artifacts.use_cached:
        calls = _captured_calls(build, situation.request)
        entries = {
            name: export_package(module, calls[name], folder / f"{name}.pt2")
            for name, module in modules.items()
        }
        manifest.write(folder, description, entries)
    entries = manifest.read(folder, description)
    loaded: dict[str, Any] = {
        name: load_package(folder / f"{name}.pt2", module, entries[name])
        for name, module in modules.items()
    }
    for package in loaded.values():
        build.undo.callback(package.release)
    if situation.hardware.is_gpu:
        loaded = {name: GraphReplay(package) for name, package in loaded.items()}
    _install(pipeline, loaded["transformer"], loaded["decoder"])


def _install(pipeline: Any, transformer: Any, decoder: Any) -> None:
    def decode(latents: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        return (decoder(latents=latents),)

    # The modules stay: they hold the weights, and the pipeline reads their configuration.
    pipeline.transformer.forward = transformer
    pipeline.vae.decode = decode


def _captured_calls(build: Build, request: ImageRequest) -> dict[str, dict[str, Any]]:
    """Keyword arguments of transformer and decoder in a call of one step of the pipeline."""
    calls: dict[str, dict[str, Any]] = {}

    def transformer_called(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        calls["transformer"] = kwargs

    pipeline = build.pipeline
    decode = pipeline.vae.decode

    def decoder_called(latents: Tensor, return_dict: bool = True) -> Any:
        calls["decoder"] = {"latents": latents}
        return decode(latents, return_dict=return_dict)

    hook = pipeline.transformer.register_forward_pre_hook(transformer_called, with_kwargs=True)
    pipeline.vae.decode = decoder_called
    try:
        one_step = replace(request, num_inference_steps=1)
        pipeline(**call_arguments(one_step, build.situation.model.takes_image))
    finally:
        hook.remove()
        del pipeline.vae.decode
    return calls


def slow_to_build(hardware: Hardware) -> str | None:
    if hardware.is_gpu:
        return "an export of schnell takes 4 to 6 minutes (one H200)"
    return None


def proof(evidence: Evidence) -> Proof:
    forward = evidence.pipeline.transformer.forward
    if isinstance(forward, GraphReplay):
        return replay_proof(forward)
    calls = forward.calls if isinstance(forward, LoadedPackage) else 0
    return Proof(in_force=calls > 0, seen=f"{calls} calls of the package")


OPTIMIZATION = Optimization(
    name="export_aoti",
    axis=Axis.COMPILE,
    summary="torch.export, AOT Inductor and CUDA graphs",
    apply=apply,
    proof=proof,
    on_by_default=lambda hardware: False,
    slow_to_build=slow_to_build,
)
