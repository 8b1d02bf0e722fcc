"""`fluxfast generate`: draw an image."""

from __future__ import annotations

import argparse
import time
from typing import Any

from fluxfast.cli.pipeline_options import StepProgress, add_options, build_from, planned_from, save
from fluxfast.console import Console
from fluxfast.pipeline.observe import observed


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("generate", help="draw an image with every optimization there is")
    add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    console = Console()
    planned = planned_from(options)
    with build_from(options, planned, console) as built:
        compiles = " (compiling first)" if built.plan.compiles else ""
        console.stage(f"drawing{compiles}")
        started = time.perf_counter()
        with observed(built.pipeline, StepProgress(console, built.request.num_inference_steps)):
            images = built.generate()
        console.stage(f"drawn in {time.perf_counter() - started:.2f} s")
        save(images, built, options, console)
