"""`fluxfast merge`: the results of several machines as one folder, if they belong together."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fluxfast.console import out
from fluxfast.report.merge import merge


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("merge", help="join the shards of one run")
    parser.add_argument("results", type=Path, nargs="+", metavar="DIR", help="a shard's results")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    count = merge(options.results, options.output)
    out(f"{count} results of {len(options.results)} folders are in {options.output}")
