"""`fluxfast generate`: draw an image."""

from __future__ import annotations

import argparse
import time
from typing import Any

from fluxfast.commands.drawing import add_options, build_from, planned_from, save_images
from fluxfast.console import Console


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
        images = built.draw()
        console.stage(f"drawn in {time.perf_counter() - started:.2f} s")
    save_images(images, options.output_file, console)
