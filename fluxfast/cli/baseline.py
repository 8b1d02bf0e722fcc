"""`fluxfast baseline`: show the accepted figures of a machine, accept new ones, or begin again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fluxfast.bench.baselines.accept import (
    by_case,
    check_acceptable,
    history_path,
    history_rows,
    history_text,
    role_changes,
)
from fluxfast.bench.baselines.baseline import PROCESSES, Baseline
from fluxfast.bench.baselines.cards import Signature, with_cards
from fluxfast.bench.baselines.file import locked_baseline, write_baseline
from fluxfast.bench.baselines.lookup import baseline_for, find_baseline, own_baseline
from fluxfast.bench.cases.labels import joined
from fluxfast.bench.results.machine import hardware_of
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.store import read_result, result_paths
from fluxfast.bench.verdicts.tables import baseline_rows, baseline_table
from fluxfast.console import out
from fluxfast.errors import BaselineError, FluxFastError
from fluxfast.files import git, required_checkout, shipped_baselines, stated_path, write_atomically
from fluxfast.hardware import detect
from fluxfast.tables import plain_table, render, wrapping

SHOWN = ("case", "figure", "before", "after", "change", "processes")


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "baseline", help="show the accepted figures of a machine, accept new ones, or begin again"
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    shown = actions.add_parser("show", help="print the accepted figures of a machine")
    shown.add_argument(
        "--gpu", default="auto", help="auto, cpu, or a GPU such as h200 (%(default)s)"
    )
    shown.add_argument("--json", action="store_true", help="print JSON")
    shown.set_defaults(run=show)
    accepted = actions.add_parser("accept", help="make results the new baseline of their machine")
    _add_results(accepted)
    accepted.set_defaults(run=accept)
    added = actions.add_parser(
        "add-card", help="add results of a card that the baseline lacks, where they are the same"
    )
    _add_results(added)
    added.add_argument("--by", help="who adds them (default: git's user.name)")
    added.set_defaults(run=add_card)
    forgotten = actions.add_parser(
        "forget", help="remove results from this CPU's or your cases' own baseline, to begin again"
    )
    forgotten.add_argument(
        "case", nargs="*", metavar="CASE", help="the id of a case (default: all)"
    )
    forgotten.add_argument("--gpu", default="auto", help="auto or cpu (%(default)s)")
    forgotten.add_argument(
        "--cases", type=stated_path, metavar="FILE", help="the baseline of this file of cases"
    )
    forgotten.set_defaults(run=forget)


def _add_results(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which results become part of which baseline."""
    parser.add_argument(
        "results", type=stated_path, nargs="+", metavar="DIR", help="the results of one process"
    )
    parser.add_argument(
        "--case", action="append", metavar="ID", help="only this case; repeat for several"
    )
    parser.add_argument("--gpu", help="the baseline to change (default: detected from the results)")
    parser.add_argument(
        "--processes",
        type=int,
        default=PROCESSES,
        help="processes that each case needs (%(default)s)",
    )
    parser.add_argument(
        "--cases", type=stated_path, metavar="FILE", help="the baseline of this file of cases"
    )


def show(options: argparse.Namespace) -> None:
    """Print the figures of a baseline as a table or as JSON."""
    baseline = _baseline_named(options.gpu)
    summaries = baseline.summaries()
    if options.json:
        out(json.dumps(baseline_rows(summaries), indent=1))
        return
    out(f"{baseline.gpu.device_names[0]}: {baseline.path}, {len(summaries)} cases")
    labels = {s.case.id: joined(s.case.combination) for s in summaries}
    out(baseline_table(summaries, labels))


def _baseline_named(gpu: str) -> Baseline:
    if gpu in ("auto", "cpu"):
        return baseline_for(gpu, detect(gpu))
    return find_baseline(gpu)


def forget(options: argparse.Namespace) -> None:
    """Remove cases from a baseline that grows by itself; the next run records them again."""
    if options.cases:
        hardware = detect("cpu" if options.gpu == "cpu" else "auto")
        baseline = own_baseline(options.cases, options.gpu, hardware)
    else:
        baseline = _baseline_named(options.gpu)
    if baseline.path.parent == shipped_baselines():
        raise BaselineError(
            "the project's baselines forget nothing: their results are reviewed",
            got=baseline.path,
            allowed="this CPU's own baseline, or that of a file of cases",
            remedy="replace results with `fluxfast baseline accept`, or name --gpu cpu",
        )
    if not baseline.results:
        raise BaselineError(
            "there is no baseline to begin again",
            got=f"no results in {baseline.path}",
            allowed="a CPU or a file of cases that was measured before",
            remedy="measure; the first run records",
        )
    chosen = list(dict.fromkeys(options.case or baseline.results))
    _check_known(chosen, baseline.results)
    with locked_baseline(baseline) as newest:
        kept = {case_id: rs for case_id, rs in newest.results.items() if case_id not in chosen}
        if kept:
            write_baseline(replace(newest, results=kept))
        else:
            newest.path.unlink(missing_ok=True)
    out(f"removed {len(chosen)} of {len(baseline.results)} cases from {baseline.path}")
    out("the next run of a commit records them again")


def accept(options: argparse.Namespace) -> None:
    """Check the results, write them into the baseline, and append to its history."""
    found, baseline = _found(options)
    results = [result for _, result in found]
    with locked_baseline(baseline) as newest:
        updated = newest.accept(results)
        check_acceptable(newest, found, options.processes)
        rows, roles = history_rows(newest, results), role_changes(newest, results)
        # First, because the next run adds no row twice, but would not know what was before.
        write_atomically(history_path(updated), history_text(history_path(updated), rows))
        write_baseline(updated)
    table = plain_table(*SHOWN)
    for row in rows:
        table.add_row(wrapping(row["case"]), *(row[column] for column in SHOWN[1:]))
    out("\n".join([render(table), *roles]))
    out(f"wrote {updated.path} and {history_path(updated).name}")


def add_card(options: argparse.Namespace) -> None:
    """Judge results of further cards, and add those that are the same to the baseline."""
    found, baseline = _found(options)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    signature = Signature(by=options.by or _user(), at=now)
    with locked_baseline(baseline) as newest:
        check_acceptable(newest, found, options.processes)
        results = [result for _, result in found]
        extension = with_cards(newest, results, signature, options.processes)
        refused = [f"not added: {case_id}\n  {why}" for case_id, why in extension.refused.items()]
        if not extension.added:
            raise BaselineError(
                "no results were added to the baseline",
                got="\n".join(refused),
                allowed="cases that are the same on a card that the baseline lacks",
                remedy="measure more of the card, or record every card and accept all together",
            )
        write_baseline(extension.baseline)
    for line in refused:
        out(line)
    for case_id, ours in by_case(extension.added).items():
        cards = ", ".join(sorted({result.card for result in ours}))
        out(f"added {len(ours)} processes of {cards}: {case_id}")
    out(f"wrote {baseline.path}, signed by {signature.by}")


def _user() -> str:
    """Return the name that git signs commits with."""
    name = ""
    with suppress(FluxFastError):  # git fails where it is not installed, or knows no name
        name = git("config", "user.name", folder=Path.cwd())
    if not name:
        raise BaselineError(
            "nobody signs for these results",
            got="no --by, and no user.name in git's configuration",
            allowed="a name, which the baseline keeps with each process",
            remedy="name it with --by NAME",
        )
    return name


def _found(options: argparse.Namespace) -> tuple[list[tuple[Path, CaseResult]], Baseline]:
    """Return the chosen results with their files, and the baseline that they are for."""
    if options.processes < 1:
        raise BaselineError(
            "a baseline without processes",
            got=options.processes,
            allowed="1 or more",
            remedy="leave --processes out for three",
        )
    paths = result_paths(options.results)
    found = _chosen([(path, read_result(path)) for path in paths], options.case)
    baseline = _baseline_of([result for _, result in found], options)
    if baseline.path.parent == shipped_baselines():
        required_checkout("accepting results into a stored baseline")
    return found, baseline


def _chosen(
    found: list[tuple[Path, CaseResult]], case_ids: list[str] | None
) -> list[tuple[Path, CaseResult]]:
    if not case_ids:
        return found
    _check_known(case_ids, dict.fromkeys(result.case.id for _, result in found))
    return [(path, result) for path, result in found if result.case.id in case_ids]


def _check_known(case_ids: Collection[str], known: Collection[str]) -> None:
    if missing := [case_id for case_id in case_ids if case_id not in known]:
        raise BaselineError(
            "there are no results of this case",
            got=", ".join(missing),
            allowed=", ".join(known),
            remedy="name one of these cases, or name none for all",
        )


def _baseline_of(results: list[CaseResult], options: argparse.Namespace) -> Baseline:
    hardware = hardware_of(results[0])
    _check_whose(results, options.cases)
    if options.cases:
        return own_baseline(options.cases, options.gpu or "auto", hardware)
    if options.gpu:
        return find_baseline(options.gpu)
    return baseline_for("auto" if hardware.is_gpu else "cpu", hardware)


def _check_whose(results: list[CaseResult], cases: Path | None) -> None:
    """Refuse cases of one's own for the project's baseline, and the project's for another."""
    other = [result.case.id for result in results if result.case.is_own != bool(cases)]
    if not other and (cases is None or cases.is_file()):
        return
    raise BaselineError(
        "these results do not belong to the cases of this baseline",
        got=", ".join(dict.fromkeys(other)) or f"{cases}, which is not a file",
        allowed="--cases FILE with results of pytest perf_tests --cases FILE, and with no others",
        remedy="name the file of cases that was measured, or leave --cases out",
    )
