"""The baseline of a session: which file it is, and whether results join it. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.baselines.file import locked_baseline, write_baseline
from fluxfast.bench.baselines.lookup import baseline_for, own_baseline
from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.bench.results.folders import why_not_writable
from fluxfast.bench.results.provenance import changed_sources
from fluxfast.bench.results.result import CaseResult
from fluxfast.errors import BaselineError, FluxFastError
from fluxfast.files import shipped_baselines
from fluxfast.hardware import Hardware
from fluxfast.pytest_plugin.options import Options

SOURCES_NAMED = 3  # changed sources that an error lists


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


def check_folder(options: Options, hardware: Hardware, baseline: Baseline) -> None:
    """Check that --baselines has an effect: a CPU's own baseline is in one place for all commands.

    Args:
        options: the options of the session.
        hardware: the machine.
        baseline: the baseline that the session found for the machine.

    Raises:
        BaselineError: the folder that is named has no baseline of this CPU.
    """
    named, used = options.baselines.resolve(), baseline.path.parent.resolve()
    if hardware.is_gpu or options.cases or named in (used, shipped_baselines().resolve()):
        return
    raise BaselineError(
        "--baselines has no effect: the folder has no baseline of this CPU",
        got=options.baselines,
        allowed=f"a folder with {baseline.path.name}",
        remedy=f"leave --baselines out: the CPU's own baseline is in {baseline.path.parent}",
    )


def baselines_of_fewer_gpus(options: Options, hardware: Hardware, local: Path) -> list[Baseline]:
    """Return the baselines of such machines of which fewer GPUs share an image.

    They are only compared with: a machine that has no baseline, or none that can be read, is left
    out.
    """
    detected, found = replace(options, gpu="auto"), []
    for gpus in range(1, hardware.gpus):
        with suppress(BaselineError):
            found.append(session_baseline(detected, replace(hardware, gpus=gpus), local, ()))
    return found


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


def check_recordable(options: Options, baseline: Baseline, selected: Sequence[PlannedCase]) -> None:
    """Check before a long run that it can judge or record a case.

    A baseline that grows by itself learns from commits only: a slowdown in changes that are not
    committed would become the standard.

    Args:
        options: the options of the session.
        baseline: a baseline that grows by itself.
        selected: the cases to judge.

    Raises:
        BaselineError: the baseline has none of the cases, and the sources have changes.
    """
    changed = () if options.record or options.compares else changed_sources()
    if not changed or any(
        baseline.counterpart(one.case, one.role) in baseline.results for one in selected
    ):
        return
    more = f" and {len(changed) - SOURCES_NAMED} more" if len(changed) > SOURCES_NAMED else ""
    against = "compare with the last commit: pytest perf_tests --gpu cpu --against HEAD; or "
    raise BaselineError(
        "there is no baseline of these cases, and the sources have uncommitted changes",
        got=f"{', '.join(changed[:SOURCES_NAMED])}{more}",
        allowed="a first run of a commit, because a slowdown in the changes would be recorded",
        remedy=("" if options.cases else against) + "commit the changes; or record the commit "
        "without them: git stash --include-untracked, run again, git stash pop",
    )
