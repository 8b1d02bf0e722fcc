"""`fluxfast merge`: merge the results of several shards into one folder."""

from __future__ import annotations

import argparse
from typing import Any

from fluxfast.bench.results.shards import has_no_cases, shards_in
from fluxfast.console import out
from fluxfast.files import stated_path
from fluxfast.report.merge import merge


def add_parser(commands: Any) -> None:
    """Add the options of `fluxfast merge`."""
    parser = commands.add_parser("merge", help="merge the results of several shards")
    parser.add_argument(
        "results", type=stated_path, nargs="+", metavar="DIR", help="results folder of a shard"
    )
    parser.add_argument(
        "--output",
        type=stated_path,
        required=True,
        metavar="DIR",
        help="new folder for the merged results",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Merge, and name the folders that had no results and the shards that are missing."""
    merged = merge(options.results, options.output)
    used = len(options.results) - len(merged.empty)
    out(f"merged {merged.count} results of {used} folders into {options.output}")
    for folder in merged.empty:
        shards = f" (shard {', '.join(found)})" if (found := shards_in(folder)) else ""
        out(f"no {'cases' if has_no_cases(folder) else 'results'} in {folder}{shards}")
    if merged.missing:
        out(f"missing shards: {', '.join(merged.missing)}")
