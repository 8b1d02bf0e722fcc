"""torch.export and AOTInductor, replayed as CUDA graphs: no compiler once the package exists.

Shapes are those of a real call of the pipeline. A package holds no weights (`_package.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from fluxfast.errors import ArtifactError
from fluxfast.files import locked
from fluxfast.hardware import Hardware
from fluxfast.models.spec import ImageRequest
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Artifacts, Build, Evidence, Optimization, Plan, Proof
from fluxfast.optimizations.compilation import _manifest as manifest
from fluxfast.optimizations.compilation._trust import check_owner
from fluxfast.optimizations.graphs._support import replay_proof
from fluxfast.optimizations.situation import Situation

if TYPE_CHECKING:
    from torch import Tensor, nn

LOCK = ".lock"  # in the folder of a package


def apply(build: Build) -> None:
    """Export transformer and decoder, or load the cached packages, and call them from now on."""
    from fluxfast.optimizations.compilation._package import Decoder
    from fluxfast.optimizations.graphs._replay import GraphReplay

    pipeline, situation = build.pipeline, build.situation
    modules = {"transformer": pipeline.transformer, "decoder": Decoder(pipeline.vae)}
    description = manifest.described(situation, build.plan.names)
    folder = build.artifacts.folder / manifest.folder_name(description)
    if folder.exists():
        check_owner(folder)
    if build.artifacts.use_cached:
        loaded = _cached(modules, folder, description)
    else:
        before = manifest.state(folder)
        calls = _captured_calls(build, situation.request)
        with locked(folder / LOCK):
            if manifest.state(folder) == before or not manifest.fits(folder, description):
                entries = _exported(modules, calls, folder, build.compiler_options)
                manifest.write(folder, description, entries)
            # Else another process has exported the same since this one began, and is waited for.
            loaded = _loaded(modules, folder, description)
    for package in loaded.values():
        build.undo.callback(package.release)
    if situation.hardware.is_gpu:
        loaded = {name: GraphReplay(package) for name, package in loaded.items()}
    _install(pipeline, loaded["transformer"], loaded["decoder"])


def _cached(
    modules: Mapping[str, nn.Module], folder: Path, description: Mapping[str, Any]
) -> dict[str, Any]:
    """Load the packages that are there, after the process that replaces them, if one does.

    Whoever only reads may lack the permission to lock the folder, so it is locked when it helps.
    """
    before = manifest.state(folder)
    try:
        return _loaded(modules, folder, description)
    except ArtifactError:
        if manifest.state(folder) == before and not (folder / LOCK).exists():
            raise
    with locked(folder / LOCK):
        return _loaded(modules, folder, description)


def _exported(
    modules: Mapping[str, nn.Module],
    calls: Mapping[str, Mapping[str, Any]],
    folder: Path,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Export the modules into a folder; return their entries of the manifest.

    Packages that are there already are used by others until all new ones have been loaded once.
    """
    from fluxfast.optimizations.compilation._package import check_loads, export_package

    new = folder / ".new"
    paths = {name: new / f"{name}.pt2" for name in modules}
    rmtree(new, ignore_errors=True)  # of an export that was killed
    try:
        entries = {
            name: export_package(module, calls[name], paths[name], options)
            for name, module in modules.items()
        }
        check_loads(paths.values())
        for path in paths.values():
            path.replace(folder / path.name)
        return entries
    finally:
        rmtree(new, ignore_errors=True)


def _loaded(
    modules: Mapping[str, nn.Module], folder: Path, description: Mapping[str, Any]
) -> dict[str, Any]:
    """Load the packages in a folder and bind them to the modules."""
    from fluxfast.optimizations.compilation._package import load_package

    entries = manifest.read(folder, description)
    return {
        name: load_package(folder / f"{name}.pt2", module, entries[name])
        for name, module in modules.items()
    }


def _install(pipeline: Any, transformer: Any, decoder: Any) -> None:
    def decode(latents: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        return (decoder(latents=latents),)

    # The modules stay: they hold the weights, and the pipeline reads their configuration.
    pipeline.transformer.forward = transformer
    pipeline.vae.decode = decode


def _captured_calls(build: Build, request: ImageRequest) -> dict[str, dict[str, Any]]:
    """Return the keyword arguments of transformer and decoder in a one-step call."""
    from fluxfast.models.arguments import call_arguments

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


def why_unsupported_request(situation: Situation) -> str | None:
    """Return why the pipeline's calls cannot be captured for an export, or None."""
    loaded = situation.loaded
    if loaded is None or loaded.pipeline_class in ("FluxPipeline", "FluxKontextPipeline"):
        return None
    return (
        f"an export calls the pipeline itself, and {loaded.pipeline_class} needs more than a prompt"
    )


def slow_to_build(hardware: Hardware) -> str | None:
    """Return why an export is slow on this hardware, or None."""
    if hardware.is_gpu:
        return "an export of schnell takes 4 to 6 minutes (one H200)"
    return None


def slow_to_generate(hardware: Hardware) -> str | None:
    """Return why images of an exported model are slow to generate here, or None."""
    return None if hardware.is_gpu else "an export takes minutes on a CPU"


def proof(evidence: Evidence) -> Proof:
    """Return a proof: active if the package was called, on a GPU through a CUDA graph."""
    from fluxfast.optimizations.compilation._package import LoadedPackage

    forward = evidence.pipeline.transformer.forward
    if evidence.plan.situation.hardware.is_gpu:
        return replay_proof(forward)
    calls = forward.calls if isinstance(forward, LoadedPackage) else 0
    return Proof(is_active=calls > 0, detail=f"{calls} calls of the package")


def package_mib(plan: Plan, artifacts: Artifacts) -> float:
    """Return the size of the plan's exported packages in MiB."""
    folder = artifacts.folder / manifest.folder_name(manifest.described(plan.situation, plan.names))
    return sum(path.stat().st_size for path in folder.glob("*.pt2")) / 2**20


OPTIMIZATION = Optimization(
    name="export_aoti",
    axis=Axis.COMPILE,
    summary="torch.export, AOTInductor and CUDA graphs",
    apply=apply,
    proof=proof,
    compiles=True,
    package_mib=package_mib,
    why_unsupported_request=why_unsupported_request,
    on_by_default=lambda hardware: False,
    slow_to_build=slow_to_build,
    slow_to_generate=slow_to_generate,
)
