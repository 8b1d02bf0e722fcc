"""Ahead-of-time packages: torch.export and AOTInductor on the weights of a live module.

A package holds code only. Loading binds it to the tensors of a module with the same parameters, so
there is no second copy of the weights, neither on disk nor on the device.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from fluxfast.errors import ArtifactError
from fluxfast.optimizations.compilation._trust import check_members
from fluxfast.optimizations.precision._plain_tensors import plain_tensors

INDUCTOR_OPTIONS = {
    "aot_inductor.package": True,
    "aot_inductor.package_constants_in_so": False,
    # Returns the constants instead of writing them, to compare them with the module's.
    "aot_inductor.package_constants_on_disk_format": "pickle_weights",
    # Else small constants become literals of the code, whatever the weights at load time.
    "always_keep_tensor_constants": True,
}

LOADING = "import sys, torch; [*map(torch._inductor.aoti_load_package, sys.argv[1:])]"


def layout(tensor: Tensor) -> list[Any]:
    """Return shape, strides, dtype and device as JSON values."""
    return [list(tensor.shape), list(tensor.stride()), str(tensor.dtype), tensor.device.type]


def live_constants(module: nn.Module) -> dict[str, Tensor]:
    """Return every plain tensor of the module by AOTInductor's name; quantized ones in parts."""
    named: dict[str, Tensor] = {}
    for walk in (module.named_parameters, module.named_buffers):
        for name, tensor in walk(remove_duplicate=False):
            if not is_traceable_wrapper_subclass(tensor):
                named[name] = tensor
                continue
            owner, _, leaf = name.rpartition(".")
            stem = f"{owner}.parametrizations.{leaf}.original".removeprefix(".")
            named |= {f"{stem}{i}": part for i, part in enumerate(plain_tensors(tensor))}
    return named


def export_package(
    module: nn.Module,
    keywords: Mapping[str, Any],
    path: Path,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Export `module(**keywords)` and compile it into `path`.

    Args:
        module: the module.
        keywords: the arguments of the call that is exported.
        path: the file of the package.
        options: Inductor options in addition to those that a package needs.

    Returns:
        What a later load is checked against: inputs, constants, and the hash of the file; and the
        options.

    Raises:
        ArtifactError: the package cannot be written.
    """
    from torch._inductor import aot_compile, config
    from torch.export.pt2_archive._package import package_pt2

    # AOTInductor stores the device in a global of its configuration: the patch restores it.
    with torch.no_grad(), config.patch({"aot_inductor.metadata": {}}):
        program = torch.export.export(module, (), dict(keywords), strict=False)
        files = aot_compile(
            program.module(check_guards=False),
            *program.example_inputs,
            options={**(options or {}), **INDUCTOR_OPTIONS},
        )
    constants = _constants_of(files)
    _check_constants(constants, live_constants(module))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.part.pt2")
    try:
        package_pt2(str(temporary), aoti_files=[file for file in files if isinstance(file, str)])
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        raise ArtifactError(
            "the exported package cannot be written",
            got=f"{path}: {error}",
            allowed="a folder with room that can be written",
            remedy="free some space, or name another folder with --cache-dir",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return {
        "sha256": sha256(path),
        "options": dict(options or {}),
        "inputs": [_described(leaf) for leaf in pytree.tree_leaves(((), dict(keywords)))],
        "constants": {name: layout(tensor) for name, tensor in constants.items()},
    }


def check_loads(paths: Iterable[Path]) -> None:
    """Load packages in another process, which a crash would end; the real load raises other errors.

    Raises:
        ArtifactError: the process crashed; the packages are removed.
    """
    paths = list(paths)
    loader = [sys.executable, "-c", LOADING, *map(str, paths)]
    status = subprocess.run(loader, capture_output=True, check=False).returncode
    if status < 0:
        for path in paths:
            path.unlink()
        raise ArtifactError(
            "an exported package crashes the process that loads it",
            got=f"signal {-status}, compiled with CXX={os.environ.get('CXX', 'unset: g++')}",
            allowed="a C++ compiler compatible with PyTorch's standard library",
            remedy="set the distribution's compiler (export CXX=/usr/bin/g++), and export again",
        )


def _constants_of(files: Iterable[Any]) -> dict[str, Tensor]:
    from torch.export.pt2_archive._package_weights import Weights

    weights = [file for file in files if isinstance(file, Weights)]
    return {name: tensor for group in weights for name, (tensor, _) in group.items()}


def _check_constants(constants: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> None:
    """Check that every constant is a parameter or a buffer: others would not be in the package."""
    foreign = sorted(constants.keys() - live.keys())
    if foreign:
        raise ArtifactError(
            "the export holds constants that are not tensors of the module",
            got=", ".join(foreign[:5]),
            allowed="parameters and buffers",
            remedy="use --compile_export_mode regional and report this",
        )


def _described(leaf: Any) -> Any:
    return {"tensor": layout(leaf)} if isinstance(leaf, Tensor) else {"value": leaf}


def sha256(path: Path) -> str:
    """Return the SHA-256 hash of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Decoder(nn.Module):
    """The VAE's decoder as a module of its own: export requires a `forward`."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae: Any = vae

    def forward(self, latents: Tensor) -> Tensor:
        """Return the image (batch, 3, height, width) of latents."""
        image: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return image


class LoadedPackage:
    """A package bound to the memory of a live module, called with the exported keyword arguments.

    Attributes:
        calls: number of calls so far.
        options: Inductor options that it was compiled with.
        release: lets go of the bound tensors.
    """

    def __init__(self, runner: Any, entry: Mapping[str, Any], bound: list[Tensor]) -> None:
        self.runner, self.calls = runner, 0
        self.inputs, self.options = list(entry["inputs"]), dict(entry["options"])
        self.in_spec, self.out_spec = map(pytree.treespec_loads, runner.get_call_spec())
        self.names = list(pytree.tree_unflatten(range(self.in_spec.num_leaves), self.in_spec)[1])
        # The runner never frees its bound tensors: emptying the aliases releases the weights.
        self.release = weakref.finalize(self, _release, bound)
        self.release.atexit = False

    def __call__(self, **keywords: Any) -> Any:
        """Return the result of the exported module.

        Raises:
            ArtifactError: the arguments differ from the exported ones.
        """
        if set(keywords) != set(self.names):
            raise _differs("its arguments", sorted(keywords), sorted(self.names))
        leaves, structure = pytree.tree_flatten(((), {name: keywords[name] for name in self.names}))
        if structure != self.in_spec:
            raise _differs("the structure of its arguments", structure, self.in_spec)
        tensors = [
            fitted
            for leaf, wanted in zip(leaves, self.inputs, strict=True)
            if (fitted := _fitted(leaf, wanted)) is not None
        ]
        self.calls += 1
        return pytree.tree_unflatten(self.runner.boxed_run(tensors), self.out_spec)


def _fitted(leaf: Any, wanted: Mapping[str, Any]) -> Tensor | None:
    """Return the tensor in the exported layout, which AOTInductor itself does not check."""
    if not isinstance(leaf, Tensor):
        if "tensor" in wanted or leaf != wanted["value"]:
            raise _differs("a fixed argument", leaf, wanted)
        return None
    shape, strides, dtype, device = wanted.get("tensor", (None,) * 4)
    if [list(leaf.shape), str(leaf.dtype), leaf.device.type] != [shape, dtype, device]:
        raise _differs("a tensor argument", layout(leaf), wanted)
    if list(leaf.stride()) == strides:
        return leaf
    return torch.empty_strided(shape, strides, dtype=leaf.dtype, device=leaf.device).copy_(leaf)


def _differs(what: str, got: object, allowed: object) -> ArtifactError:
    return ArtifactError(
        f"an exported package was called with another shape: {what} differs",
        got=got,
        allowed=f"as exported: {allowed}",
        remedy="export again for this request (leave --use-cached-model out)",
    )


def _release(bound: list[Tensor]) -> None:
    for alias in bound:
        alias.data = torch.empty(0, dtype=alias.dtype, device=alias.device)


def load_package(path: Path, module: nn.Module, entry: Mapping[str, Any]) -> LoadedPackage:
    """Load a package and bind it to the tensors of `module`.

    Args:
        path: the package.
        module: a module with the parameters and buffers of the exported one.
        entry: the result of `export_package`.

    Raises:
        ArtifactError: the file or the module differs from the entry.
    """
    from torch.export.pt2_archive._package import load_pt2

    if not path.exists() or sha256(path) != entry["sha256"]:
        raise ArtifactError(
            "an exported package is damaged or was replaced",
            got=f"{path}: {'another hash' if path.exists() else 'missing'}",
            allowed="the file that was exported",
            remedy="export again (leave --use-cached-model out)",
        )
    check_members(path)
    live = live_constants(module)
    device = next(iter(live.values())).device
    # Graph capture needs a runner that does not take a lock and a thread of its own.
    contents = load_pt2(
        str(path),
        run_single_threaded=True,
        device_index=-1 if device.index is None else device.index,
    )
    runner = contents.aoti_runners["model"]
    constants = {
        name: _constant(name, live.get(name), entry["constants"].get(name))
        for name in runner.get_constant_fqns()
    }
    runner.load_constants(constants, check_full_update=True, user_managed=True)
    return LoadedPackage(runner.loader, entry, list(constants.values()))


def _constant(name: str, found: Tensor | None, wanted: list[Any] | None) -> Tensor:
    """Return an alias of the live tensor, after a check of layout that binding does not make."""
    if found is None or layout(found) != wanted:
        raise ArtifactError(
            "the model is not the one that was exported",
            got=f"{name}: {None if found is None else layout(found)}",
            allowed=str(wanted),
            remedy="export again (leave --use-cached-model out)",
        )
    return found.detach()
