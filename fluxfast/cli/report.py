"""`fluxfast report`: write results as an HTML page, a Markdown summary and JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fluxfast.console import out
from fluxfast.files import write_atomically
from fluxfast.report.contents import report_json, report_of
from fluxfast.report.markdown import markdown
from fluxfast.report.page import page


def add_parser(commands: Any) -> None:
    """Add the options of `fluxfast report`."""
    parser = commands.add_parser("report", help="write results as a page, a summary and JSON")
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        metavar="RESULTS",
        help="results folders or baseline files",
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write one page that needs no network"
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the summary for a pull request"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write JSON for programs")
    parser.add_argument(
        "--against",
        type=Path,
        nargs="+",
        default=[],
        metavar="RESULTS",
        help="results to compare with (default: the other side of a comparison, else the baseline)",
    )
    parser.add_argument(
        "--history",
        type=Path,
        metavar="DATABASE",
        help="history database whose change points the page shows",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the files that were asked for; without any, print the Markdown summary."""
    report = report_of(options.results, options.against, options.history)
    if options.html:
        write_atomically(options.html, page(report))
    if options.markdown:
        write_atomically(options.markdown, markdown(report))
    if options.json:
        write_atomically(options.json, json.dumps(report_json(report), indent=1) + "\n")
    written = [path for path in (options.html, options.markdown, options.json) if path]
    out("\n".join([report.verdict_line, *(f"wrote {path}" for path in written)]))
    if not written:
        out(markdown(report))
