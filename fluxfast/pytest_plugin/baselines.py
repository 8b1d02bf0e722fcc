"""The baseline of a session: which file it is, and whether results join it. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.baselines.file import locked_baseline, write_baseline
from fluxfast.bench.baselines.lookup import baseline_for, own_baseline
from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.bench.results.result import CaseResult
from fluxfast.errors import FluxFastError
from fluxfast.hardware import Hardware
from fluxfast.pytest_plugin.folders import why_not_writable
from fluxfast.pytest_plugin.options import Options


def session_baseline(
    options: Options, hardware: Hardware, local: Path, planned: Iterable[PlannedCase]
) -> Baseline:
    """Return the baseline that a session judges against; a file of cases has its own.

    Args:
        options: the options of the session.
        hardware: the machine.
        local: the folder of this machine's own CPU baseline.
        planned: the cases of the session, with their tolerances.

    Raises:
        BaselineError: no baseline describes the machine, or the file cannot be read.
    """
    if not options.cases:
        return baseline_for(options.gpu, hardware, options.baselines, local)
    found = own_baseline(options.cases, options.gpu, hardware, options.baselines)
    return replace(found, tolerances={one.case.id: one.tolerances for one in planned})


def grows(options: Options, hardware: Hardware, baseline: Baseline) -> bool:
    """Return whether results join the baseline, up to three processes of a case.

    They do on a CPU that the project has no baseline for, and for cases of one's own.
    """
    is_local = baseline.path.parent != options.baselines
    return bool(options.cases) or (not hardware.is_gpu and is_local)


def grow(baseline: Baseline, results: Sequence[CaseResult]) -> FluxFastError | None:
    """Add results to the file of a baseline; return why that failed, or None.

    A second session that ends now waits, and adds to what the first one has written.
    """
    try:
        with locked_baseline(baseline) as newest:
            write_baseline(newest.extended(results))
    except FluxFastError as error:
        return error
    return None


def why_not_recordable(options: Options, baseline: Baseline) -> str | None:
    """Return why results of one's own cases cannot join their baseline, or None."""
    if options.record or not options.cases:
        return None
    why = why_not_writable(baseline.path.parent)
    return why and f"the baseline would go to {baseline.path}: {why}"
