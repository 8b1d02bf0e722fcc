"""Find the baseline of a machine, by the name that --gpu gives or by its hardware. No torch."""

from __future__ import annotations

from pathlib import Path

from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.baselines.file import read_baseline
from fluxfast.bench.results.machine import (
    cpu_slug,
    gpu_from_hardware,
    machine_name,
    machine_slug,
    name_for,
)
from fluxfast.errors import BaselineError
from fluxfast.files import local_folder, shipped_baselines
from fluxfast.hardware import Hardware


def local_baselines() -> Path:
    """Return the folder of baselines of machines that the project does not ship one for."""
    return local_folder() / "baselines"


def known_baselines(folder: Path | None = None) -> dict[str, Path]:
    """Return the path of each machine's file by each of its names.

    `nvidia-h200.json` is known as `nvidia-h200` and as `h200`.

    Args:
        folder: the folder of baselines; by default the shipped ones.
    """
    found = {}
    for path in sorted((folder or shipped_baselines()).glob("[!.]*.json")):
        for alias in (path.stem, path.stem.partition("-")[2]):
            found[alias] = path
    return found


def find_baseline(gpu: str, folder: Path | None = None) -> Baseline:
    """Return the baseline that `--gpu` names; raise BaselineError if there is none."""
    known = known_baselines(folder)
    if gpu not in known:
        raise BaselineError(
            f"no baseline is named {gpu}",
            got=gpu,
            allowed=", ".join(["auto", "cpu", *known]),
            remedy="name one of these, or add a file for a new GPU: see docs/guides/add-a-gpu.md",
        )
    return read_baseline(known[gpu])


def baseline_for(
    gpu: str, hardware: Hardware, folder: Path | None = None, local: Path | None = None
) -> Baseline:
    """Return the baseline of this machine.

    Args:
        gpu: the value of `--gpu`: a name, `cpu`, or `auto` to choose by the hardware.
        hardware: the machine.
        folder: the folder of baselines; by default the shipped ones.
        local: the folder of this machine's own CPU baseline; by default `local_baselines()`.

    Raises:
        BaselineError: no baseline describes the machine, or the named one describes another.
    """
    if gpu == "cpu" or (gpu == "auto" and not hardware.is_gpu):
        return cpu_baseline(hardware, folder, local)
    if gpu == "auto":
        return _detected(hardware, folder)
    baseline = find_baseline(name_for(gpu, hardware.gpus), folder)
    if not baseline.gpu.describes(hardware):
        raise BaselineError(
            "this machine is not the GPU that --gpu names",
            got=f"{machine_name(hardware)} ({hardware.architecture})",
            allowed=f"{baseline.gpu.device_names[0]} ({baseline.gpu.architecture}) for --gpu {gpu}",
            remedy="omit --gpu to detect the machine, or run on that GPU",
        )
    return baseline


def _detected(hardware: Hardware, folder: Path | None) -> Baseline:
    """Return the baseline that describes the GPU.

    A file that cannot be read may describe any GPU, so it is an error if no other file does.
    """
    known = known_baselines(folder)
    unreadable: BaselineError | None = None
    for path in sorted(set(known.values())):
        try:
            baseline = read_baseline(path)
        except BaselineError as error:
            unreadable = unreadable or error
            continue
        if baseline.gpu.describes(hardware):
            return baseline
    if unreadable:
        raise unreadable
    raise BaselineError(
        "no baseline describes this GPU",
        got=f"{machine_name(hardware)} ({hardware.architecture})",
        allowed=", ".join(known),
        remedy="add a file for this GPU: see docs/guides/add-a-gpu.md",
    )


def own_baseline(cases: Path, gpu: str, hardware: Hardware, folder: Path | None = None) -> Baseline:
    """Return the baseline of a file of cases of one's own, or an empty one.

    It lies alongside the file, one for each kind of machine: `my-cases.nvidia-h200.json`.

    Args:
        cases: the file of cases.
        gpu: the value of `--gpu`; a name must be that of the machine.
        hardware: the machine.
        folder: the folder of the project's baselines; by default the shipped ones.

    Raises:
        BaselineError: the file cannot be read, is of another machine, or would be one of the
            project's.
    """
    if gpu not in ("auto", "cpu"):
        baseline_for(gpu, hardware, folder)
    if not cases.name:
        raise BaselineError(
            "not a file of cases",
            got=cases,
            allowed="the YAML file of your cases",
            remedy="name the file",
        )
    path = cases.with_name(f"{cases.stem}.{machine_slug(hardware)}.json")
    projects = {shipped_baselines().resolve(), (folder or shipped_baselines()).resolve()}
    if path.parent.resolve() in projects:
        raise BaselineError(
            "cases of one's own have no baseline among the project's",
            got=path,
            allowed="a file of cases in any other folder",
            remedy="move the file of cases out of the folder of baselines",
        )
    if not path.exists():
        machine = gpu_from_hardware(hardware, machine_slug(hardware))
        return Baseline(gpu=machine, results={}, path=path)
    return _of_this_machine(read_baseline(path), hardware)


def _of_this_machine(baseline: Baseline, hardware: Hardware) -> Baseline:
    """Return a baseline that its file name promises; raise BaselineError if it is of another."""
    gpu = baseline.gpu
    same_kind = hardware.is_gpu or gpu.slug == machine_slug(hardware)
    if not gpu.describes(hardware) or not same_kind:
        raise BaselineError(
            "this baseline is of another machine than its name says",
            got=f"{baseline.path}: {gpu.slug}, {gpu.device_names[0]} ({gpu.architecture}), "
            f"{gpu.memory_gib:g} GiB",
            allowed=f"{machine_slug(hardware)}, {hardware.name} ({hardware.architecture}), "
            f"{hardware.memory_gib:g} GiB",
            remedy="move the file away to record a new one",
        )
    return baseline


def cpu_baseline(
    hardware: Hardware, folder: Path | None = None, local: Path | None = None
) -> Baseline:
    """Return the shipped baseline of this kind of CPU, else this machine's own, or an empty one."""
    slug = cpu_slug(hardware)
    shipped, own = folder or shipped_baselines(), local or local_baselines()
    for path in (shipped / f"{slug}.json", own / f"{slug}.json"):
        if path.exists():
            return _of_this_machine(read_baseline(path), hardware)
    return Baseline(gpu=gpu_from_hardware(hardware, slug), results={}, path=own / f"{slug}.json")
