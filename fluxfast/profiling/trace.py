"""A Chrome trace of one image with flux-fast's regions marked."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from fluxfast.errors import FluxFastError
from fluxfast.pipeline.build import BuiltPipeline
from fluxfast.pipeline.observe import Observer, Region, observed


class RegionMarker(Observer):
    """Opens a labelled range in the profiler for each region."""

    def __init__(self) -> None:
        self.open: list[record_function] = []

    def enter(self, region: Region) -> None:
        self.open.append(record_function(region.value))
        self.open[-1].__enter__()  # type: ignore[no-untyped-call]

    def exit(self, region: Region) -> None:
        self.open.pop().__exit__(None, None, None)


def write_trace(built: BuiltPipeline, path: Path) -> None:
    """Draw one image under the profiler, written to `path` (`.json`, or `.json.gz` compressed)."""
    activities = [ProfilerActivity.CPU]
    if built.plan.situation.hardware.is_gpu:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, record_shapes=True) as profiler:
        with observed(built.pipeline, RegionMarker()), torch.no_grad():
            built.generate()
        built.synchronize()
    _export(profiler, path)


def _export(profiler: profile, path: Path) -> None:
    ending = ".json.gz" if path.name.endswith(".gz") else ".json"
    temporary = path.with_name(f".{path.name}.part{ending}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(temporary))
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        raise FluxFastError(
            "the trace cannot be written",
            got=f"{path}: {error}",
            allowed="a folder with room that can be written",
            remedy="name another place with --trace-file",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
