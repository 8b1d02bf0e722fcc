"""`fluxfast report`: write results as an HTML page, a Markdown summary and JSON."""

from __future__ import annotations

import argparse
import json
from typing import Any

from fluxfast.console import out
from fluxfast.errors import FluxFastError
from fluxfast.files import check_writable, stated_path, write_atomically
from fluxfast.report.contents import report_json, report_of
from fluxfast.report.markdown import markdown
from fluxfast.report.page import page


def add_parser(commands: Any) -> None:
    """Add the options of `fluxfast report`."""
    parser = commands.add_parser("report", help="write results as a page, a summary and JSON")
    parser.add_argument(
        "results",
        type=stated_path,
        nargs="+",
        metavar="RESULTS",
        help="results folders or baseline files",
    )
    parser.add_argument(
        "--html", type=stated_path, metavar="FILE", help="write one page that needs no network"
    )
    parser.add_argument(
        "--markdown", type=stated_path, metavar="FILE", help="write the summary for a pull request"
    )
    parser.add_argument("--json", type=stated_path, metavar="FILE", help="write JSON for programs")
    parser.add_argument(
        "--against",
        type=stated_path,
        nargs="+",
        default=[],
        metavar="RESULTS",
        help="results to compare with (default: the other side of a comparison, else the baseline)",
    )
    parser.add_argument(
        "--history",
        type=stated_path,
        metavar="DATABASE",
        help="history database whose change points the page shows",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the files that were asked for; without any, print the Markdown summary."""
    _check_outputs(options)
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


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuse files that cannot be written, and those that would replace what is read."""
    read = [
        path.resolve() for path in (*options.results, *options.against, options.history) if path
    ]
    outputs = [path for path in (options.html, options.markdown, options.json) if path]
    for number, path in enumerate(outputs):
        check_writable(path, creates_folder=True)
        whole = path.resolve()
        others = [other.resolve() for other in outputs[:number]]
        is_result = whole.parent in read and whole.suffix == ".json"
        if is_result or whole in [*read, *others]:
            raise FluxFastError(
                "this file would be read as a result or written twice",
                got=path,
                allowed="a file of its own for each output, .json outside of the results",
                remedy="name another file",
            )
