"""`fluxfast report`: a page, a summary in Markdown, and JSON of results."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fluxfast.console import out
from fluxfast.files import write_atomically
from fluxfast.report.markdown import markdown
from fluxfast.report.page import page
from fluxfast.report.report import report_of, to_json


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("report", help="a page, a summary and JSON of results")
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        metavar="RESULTS",
        help="folders of results, or baseline files",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="one page that needs no network")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="for a pull request")
    parser.add_argument("--json", type=Path, metavar="FILE", help="for programs")
    parser.add_argument(
        "--against",
        type=Path,
        nargs="+",
        default=[],
        metavar="RESULTS",
        help="what they are judged by (the baseline of their GPU)",
    )
    parser.add_argument("--history", type=Path, metavar="DATABASE", help="with change points")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    report = report_of(options.results, options.against, options.history)
    if options.html:
        write_atomically(options.html, page(report))
    if options.markdown:
        write_atomically(options.markdown, markdown(report))
    if options.json:
        write_atomically(options.json, json.dumps(to_json(report), indent=1) + "\n")
    written = [path for path in (options.html, options.markdown, options.json) if path]
    out("\n".join([report.verdict_line, *(f"wrote {path}" for path in written)]))
    if not written:
        out(markdown(report))
