"""The lines that a session prints before and after its tests: functions of the session's state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fluxfast.bench.baselines.baseline import PROCESSES
from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.bench.results.folders import KEPT
from fluxfast.bench.results.provenance import provenance
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.scaling import Degree, accepted_degrees, scalings
from fluxfast.bench.results.shards import WHOLE
from fluxfast.bench.results.store import result_path
from fluxfast.bench.results.summary import CaseSummary, summarize
from fluxfast.bench.verdicts.metrics import metric_named
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.tables import (
    failure_text,
    speedups,
    verdict_table,
    why_not_faster,
)
from fluxfast.bench.verdicts.verdict import Verdict
from fluxfast.pytest_plugin.baselines import baselines_of_fewer_gpus
from fluxfast.pytest_plugin.options import Options
from fluxfast.pytest_plugin.resuming import why_not_resumed
from fluxfast.pytest_plugin.session import Suite

IMPROVED = (Outcome.FASTER, Outcome.CHANGED)  # outcomes that pass and make a new baseline


def header(suite: Suite, *, judges: bool) -> Iterator[str]:
    """Yield the lines before the tests: machine, weights, results, baseline.

    Args:
        suite: the session.
        judges: whether tests that judge are selected.
    """
    hardware, now = suite.hardware, provenance()
    cases = [case for plan in suite.plans.values() for case in plan.cases]
    weights = dict.fromkeys(
        f"{c.case.model}: {c.checkpoint.kind} ({c.checkpoint.why})" for c in cases
    )
    changes = " with changes" if now["dirty"] else ""
    yield (
        f"{hardware.name} ({hardware.architecture}), torch {hardware.packages['torch']}, "
        f"commit {_commit(now)}{changes}"
    )
    yield f"weights of {', '.join(weights)}"
    yield f"results in {suite.results_folder}"
    if suite.options.shard != WHOLE:
        yield f"shard {suite.options.shard}: {len(cases)} cases"
    if suite.options.compares:
        yield f"compared with {_other_side(suite.options)}; no baseline is used or recorded"
    elif judges:
        yield from _baseline_lines(suite)
    if suite.options.resume and (why := why_not_resumed()):
        yield f"nothing is resumed: {why}"
    yield from _left_out(suite)


def _other_side(options: Options) -> str:
    environment = f"the environment of {options.against_env}" if options.against_env else ""
    return " in ".join(filter(None, [options.against, environment]))


def _left_out(suite: Suite) -> Iterator[str]:
    """Yield one line with the number of optimizations that no case has."""
    by_model = [names for plan in suite.plans.values() for names in plan.left_out.values()]
    if names := {excluded.name for of_model in by_model for excluded in of_model}:
        matrix, *_ = next(iter(suite.plans))
        command = f"fluxfast matrix --gpu {suite.options.gpu} --matrix {matrix}"
        yield f"{len(names)} optimizations left out: `{command}` lists them"


def _baseline_lines(suite: Suite) -> Iterator[str]:
    known, now = suite.baseline.results, provenance()
    yield f"baseline {suite.baseline.path} ({len(known)} cases)"
    if not suite.grows_baseline or suite.is_recording:
        return
    if now["dirty"]:
        yield "the sources have uncommitted changes: this run is judged and not recorded"
    elif not known:
        what = "these cases have" if suite.options.cases else "this CPU has"
        yield f"{what} no baseline yet: this run records commit {_commit(now)} and passes"


def _commit(origin: Mapping[str, Any]) -> str:
    return (origin["commit"] or "unknown")[:7]


def summary(suite: Suite) -> Iterator[str]:
    """Yield the lines after the tests: the table, conditions, remarks, and where results are."""
    shown = _shown(suite)
    if suite.compared and suite.compared.described:
        yield f"side A → side B: {suite.compared.described.change}"
    if shown:
        quality = {planned.case.id: suite.quality_of(planned) for planned in shown}
        yield verdict_table([row(suite, planned) for planned in shown], quality)
    for planned in shown:
        yield f"{_name(planned)}: {'; '.join(conditions(suite, planned))}"
    for planned in shown:
        if text := remark(suite, planned):
            yield text
        yield from _unused_tolerances(suite, planned)
    yield from _warnings(suite, shown)
    for planned in (p for p in suite.selected if p not in shown):
        yield f"{'no verdict' if _is_stored(suite, planned) else 'no figures'}: {_name(planned)}"
    if suite.compared and suite.compared.seconds:
        yield f"processes of both sides: {suite.compared.seconds:.0f} s"
    yield f"results: {suite.results_folder}"
    if suite.removed:
        yield f"removed {suite.removed} older result folders; the newest {KEPT} are kept"
    if suite.is_recording:
        whose = f" --cases {suite.options.cases}" if suite.options.cases else ""
        yield f"accept them with: fluxfast baseline accept {suite.results_folder}{whose}"
    yield from _recorded_lines(suite)


def _warnings(suite: Suite, shown: Sequence[PlannedCase]) -> Iterator[str]:
    """Yield a line for each preset that is slower than eager or than on fewer GPUs.

    One more line is about a card that the baseline does not contain.
    """
    speedup = speedups(summary_of(suite, planned) for planned in shown)
    for planned in shown:
        if why := why_not_faster(planned.role, speedup.get(planned.case.id)):
            yield f"WARNING: {planned.case.model}: {why}"
    yield from _slower_than_fewer_gpus(suite, shown)
    yield from unknown_card(suite)


def _slower_than_fewer_gpus(suite: Suite, shown: Sequence[PlannedCase]) -> Iterator[str]:
    """Yield a line for each case that a stored baseline has as faster on fewer GPUs.

    A comparison of two sides uses no baseline.
    """
    if suite.hardware.gpus == 1 or suite.options.compares:
        return
    local = suite.folder / "baselines"
    fewer = baselines_of_fewer_gpus(suite.options, suite.hardware, local)
    stored = accepted_degrees(baseline.results.values() for baseline in fewer)
    names = {planned.case.id: _name(planned) for planned in shown}
    measured = [Degree(results=(suite.measured[case_id],)) for case_id in names]
    for scaling in scalings(measured, stored):
        for degree in scaling.degrees:
            if degree.case.id in names and (why := scaling.warning(degree)):
                yield f"WARNING: {names[degree.case.id]}: {why}"


def unknown_card(suite: Suite) -> Iterator[str]:
    """Yield what to do where the baseline does not contain this card."""
    if undecided := _on_unknown_card(suite, Outcome.UNDECIDED):
        yield (
            f"{len(undecided)} undecided cases have no process of this card ({undecided[0].card}) "
            "in the baseline: compare with --against REF, or record the card "
            "(docs/guides/read-a-verdict.md)"
        )
    if same := _on_unknown_card(suite, Outcome.SAME):
        yield (
            f"{len(same)} cases are the same on a card that the baseline lacks ({same[0].card}): "
            "with three processes, `fluxfast baseline add-card` lets it join"
        )


def _on_unknown_card(suite: Suite, outcome: Outcome) -> list[CaseResult]:
    """Return the results of this outcome, unless both sides of a comparison ran on this card."""
    found = [suite.measured[case_id] for case_id, of in suite.outcomes.items() if of is outcome]
    if not found or suite.options.compares:
        return []
    return [result for result in found if suite.baseline.lacks_card(result)]


def has_summary(suite: Suite) -> bool:
    """Return whether the session has measured anything, or found stored results."""
    return bool(suite.measured) or any(_is_stored(suite, planned) for planned in suite.selected)


def _shown(suite: Suite) -> list[PlannedCase]:
    """Return the cases of the final table: those that a test judged, or all when recording."""
    references = suite.reference_ids & suite.measured.keys()
    ids = suite.measured.keys() if suite.is_recording else suite.judged | references
    return [planned for planned in suite.selected if planned.case.id in ids]


def _name(planned: PlannedCase) -> str:
    return f"{planned.case.model}, {planned.label}"


def _is_stored(suite: Suite, planned: PlannedCase) -> bool:
    return result_path(suite.results_folder, planned.case).exists()


def row(suite: Suite, planned: PlannedCase) -> tuple[str, CaseSummary, Verdict | None]:
    """Return the row of a case in the final table."""
    case_id = planned.case.id
    verdict = suite.judgement.verdict(case_id) if case_id in suite.judged else None
    return planned.label, summary_of(suite, planned), verdict


def summary_of(suite: Suite, planned: PlannedCase) -> CaseSummary:
    """Return the figures of a case; of a compared one over all processes of this side, as the page.

    The verdict compares all of them, so the last one alone could contradict it.
    """
    sides = suite.sides.get(planned.case.id)
    return summarize(sides.ours if sides else [suite.measured[planned.case.id]])


def conditions(suite: Suite, planned: PlannedCase) -> Iterator[str]:
    """Yield the conditions of a measurement: samples, bottleneck, clock and power."""
    result, sides = suite.measured[planned.case.id], suite.sides.get(planned.case.id)
    last = ""
    if sides and len(sides.ours) > 1:
        yield f"medians of {len(sides.ours)} processes"
        last = "last process: "
    yield f"{last}{len(result.images)} images ({result.sampling.get('ended', 'kept')})"
    if after_s := result.sampling.get("after_first_image_s"):
        yield f"{after_s:.0f} s after its first image"
    yield from _bottleneck(result)
    if sides and sides.left_out:
        yield f"{sides.left_out} processes left out: their canaries differ from the others'"
    if discarded := result.sampling.get("discarded"):
        yield f"{len(discarded)} discarded: {discarded[-1]}"
    if result.telemetry:
        yield "{sm_clock_mhz:.0f} MHz, {temperature_c:.0f} °C".format(**result.telemetry[-1])
    if result.power_w:
        yield f"{result.power_w:.0f} W"


def _bottleneck(result: CaseResult) -> Iterator[str]:
    if result.bottleneck == "power":
        yield f"power-limited ({result.power_share:.0%} of the limit)"
    elif result.device_busy is not None:
        bound = "device-bound" if result.bottleneck == "device" else "launch-bound"
        yield f"{bound} (device {result.device_busy:.0%} busy)"


def remark(suite: Suite, planned: PlannedCase) -> str | None:
    """Return the text of a case that passed or was skipped but needs attention, or None."""
    case_id = planned.case.id
    verdict = suite.judgement.verdict(case_id) if case_id in suite.judged else None
    if verdict is None or (verdict.is_judged and verdict.outcome not in IMPROVED):
        return None
    return failure_text(planned.case, verdict, is_against=case_id in suite.sides)


def _unused_tolerances(suite: Suite, planned: PlannedCase) -> Iterator[str]:
    """Yield a line with the tolerances of a case for figures that this machine does not have."""
    result = suite.measured[planned.case.id]
    unused = [n for n in planned.tolerances if not metric_named(n).samples(result)]
    if unused:
        yield f"{_name(planned)}: no such figure here, so no tolerance: {', '.join(unused)}"


def _recorded_lines(suite: Suite) -> Iterator[str]:
    """Yield which results joined the baseline, and how to begin it again."""
    if not suite.joining:
        return
    if suite.unsaved:
        yield f"the results did not join the baseline: {suite.unsaved}"
        return
    path, first = suite.baseline.path, suite.joining & suite.judgement.first
    if first:
        whose = f" --cases {suite.options.cases}" if suite.options.cases else " --gpu cpu"
        yield (
            f"{len(first)} cases of commit {_commit(provenance())} recorded in {path}: they gate "
            f"from the next run on; `fluxfast baseline forget{whose}` begins again"
        )
    if further := len(suite.joining) - len(first):
        yield f"{further} cases added to {path} (up to {PROCESSES} processes per case)"


def figure_properties(summary: CaseSummary) -> list[tuple[str, float]]:
    """Return the figures of a case for junit's properties."""
    names = ("e2e_s", "step_ms", "eager_ratio", "compile_s", "peak_memory_gib")
    found = {name: getattr(summary, name) for name in names}
    return [(name, value) for name, value in found.items() if value is not None]


def verdict_properties(verdict: Verdict | None) -> list[tuple[str, float | str]]:
    """Return a verdict for junit's properties; None stands for a recorded case."""
    if verdict is None:
        return [("outcome", Outcome.RECORDED.value)]
    found: list[tuple[str, float | str]] = [("outcome", verdict.outcome.value)]
    found.append(("reason", verdict.reason))
    return [*found, ("change", verdict.shown.relative)] if verdict.shown else found
