"""Chrome traces: one generated image under the PyTorch profiler, with flux-fast's regions."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from fluxfast.files import replacing
from fluxfast.pipeline.build import BuiltPipeline
from fluxfast.pipeline.observe import Observer, Region, observed


class RegionMarker(Observer):
    """Open a labelled range in the profiler for each region."""

    def __init__(self) -> None:
        """Begin with no open range."""
        self.open: list[record_function] = []

    def enter(self, region: Region) -> None:
        """Open the range of the region."""
        self.open.append(record_function(region.value))
        self.open[-1].__enter__()

    def exit(self, region: Region) -> None:
        """Close the range that was opened last."""
        self.open.pop().__exit__(None, None, None)


def write_trace(built: BuiltPipeline, path: Path) -> None:
    """Generate one image under the profiler and write its trace.

    Args:
        built: the pipeline, warmed up already.
        path: the file, `.json`, or `.json.gz` for a compressed one; its folder is created.

    Raises:
        FluxFastError: the file cannot be written.
    """
    activities = [ProfilerActivity.CPU]
    if built.plan.situation.hardware.is_gpu:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, record_shapes=True) as profiler:
        with observed(built.pipeline, RegionMarker()), torch.no_grad():
            built.generate()
        built.synchronize()
    with replacing(path, RuntimeError) as temporary:
        profiler.export_chrome_trace(str(temporary))
