"""Run a measuring process of one side of a comparison, and read its results. No torch."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from fluxfast.bench.ab.installation import Installation
from fluxfast.bench.ab.request import Event, Request, parse_event
from fluxfast.bench.ab.revision import CHILD, CHILD_FILE, understands_role
from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.store import read_result, result_path
from fluxfast.console import no_progress
from fluxfast.errors import FluxFastError

LINES_QUOTED = 15
Measured = Mapping[str, CaseResult | FluxFastError]  # by case id


def log_path(results: Path, first_case_id: str) -> Path:
    """Return where a process logs its output, named after the first case that it measures."""
    return results / f"{Case.from_id(first_case_id).file_stem}.log"


def measure_in(
    installation: Installation, request: Request, report: Callable[[str], None] = no_progress
) -> Measured:
    """Measure the cases of the request with the code and the interpreter of a side, in one process.

    Args:
        installation: the checkout whose code measures, and its interpreter.
        request: the cases and the folder for their results; the log goes there, too.
        report: called with each line of progress.

    Returns:
        By the id of the case that was asked for, the result, or the error with the reason why there
        is none. In a tree that does not know its role, a case is measured by its id.
    """
    tree = installation.tree
    if not (tree / CHILD_FILE).is_file():  # then Python would find the installed package instead
        error = FluxFastError(
            "a revision cannot measure: it is too old to compare with",
            got=f"{tree}, which has no {CHILD_FILE}",
            allowed="a revision that has the measuring process of `--against`",
            remedy="compare with a newer revision",
        )
        return dict.fromkeys(request.cases, error)
    request.results.mkdir(parents=True, exist_ok=True)
    log = log_path(request.results, request.cases[0])
    roles = {one: role for one, role in request.roles.items() if understands_role(role, tree)}
    request = replace(request, roles=roles)
    status, ends = _run(installation, request, log, report)
    return {
        case_id: _result_of(case_id, installation, request.results, status, ends.get(case_id), log)
        for case_id in request.cases
    }


def _run(
    installation: Installation, request: Request, log: Path, report: Callable[[str], None]
) -> tuple[int, dict[str, Event]]:
    """Run the process; return its exit status and the last event of each case."""
    ends: dict[str, Event] = {}
    with (
        log.open("w", encoding="utf-8") as kept,
        subprocess.Popen(
            installation.command(CHILD),
            cwd=installation.tree,
            env=installation.variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        try:
            _send(process.stdin, request.to_json())
            for line in process.stdout:
                event = parse_event(line)
                kept.write(f"{event.text or event.kind}\n" if event else line)
                if event and event.kind == "progress":
                    report(event.text)
                elif event:
                    ends[event.case] = event
        except BaseException:
            process.kill()
            raise
    return process.returncode, ends


def _send(pipe: object, text: str) -> None:
    """Write the request; a process that ended already says why in its output."""
    try:
        pipe.write(text)  # type: ignore[attr-defined]
        pipe.close()  # type: ignore[attr-defined]
    except BrokenPipeError:
        pass


def _result_of(
    case_id: str,
    installation: Installation,
    results: Path,
    status: int,
    end: Event | None,
    log: Path,
) -> CaseResult | FluxFastError:
    error = end.text if end and end.kind == "failed" else None
    measured_id = end.text if end and end.kind == "measured" and end.text else case_id
    path = result_path(results, Case.from_id(measured_id))
    if error is None and path.exists():
        try:
            return read_result(path)
        except FluxFastError as unreadable:
            return unreadable
    return FluxFastError(
        "one side of the comparison did not measure this case",
        got=f"{case_id} with {installation}, exit status {status}:\n{error or _last_lines(log)}",
        allowed="a case that both revisions and both environments can measure",
        remedy=f"see {log}; leave the case out with -k, or compare with a side that has it",
    )


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8").splitlines()[-LINES_QUOTED:])
