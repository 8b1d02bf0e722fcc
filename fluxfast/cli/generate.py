"""`fluxfast generate`: generate an image with the optimizations of this machine."""

from __future__ import annotations

import argparse
import time
from typing import Any

from fluxfast.cli.arguments import add_options
from fluxfast.cli.finish import finish
from fluxfast.cli.pipeline_options import (
    StepProgress,
    build_from,
    enough_memory,
    planned_from,
    save,
)
from fluxfast.console import Console
from fluxfast.errors import FluxFastError
from fluxfast.pipeline.observe import observed


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "generate", help="generate an image with the default optimizations of this machine"
    )
    add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Build the pipeline, generate the image and write it."""
    console = Console()
    planned = planned_from(options)
    if planned.checkpoint.model.takes_image and options.image is None:
        raise FluxFastError(
            "Kontext edits an image, and none was given",
            got="no --image",
            allowed="an image file that Pillow opens",
            remedy="add --image photo.png; `fluxfast bench` can do without one",
        )
    with enough_memory(planned), build_from(options, planned, console) as built:
        compiles = " (compiling first)" if built.plan.compiles else ""
        console.stage(f"generating{compiles}")
        started = time.perf_counter()
        with observed(built.pipeline, StepProgress(console, built.request.num_inference_steps)):
            images = built.generate()
        console.stage(f"generated in {time.perf_counter() - started:.2f} s")
        save(images, built, options, console)
        finish(images, built, console)
