"""LoRA swaps and further sizes: figures with a tolerance that tests of their own add to a case."""

import importlib.util
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.baselines.file import read_baseline, write_baseline
from fluxfast.bench.baselines.lookup import find_baseline
from fluxfast.bench.cases.planned import planned_case, situation_of
from fluxfast.bench.measurement.other_sizes import LEAST_EXTRA_S, SizeTiming
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.store import read_result, result_path, write_result
from fluxfast.bench.results.summary import summarize
from fluxfast.bench.verdicts.comparison import compare_sides
from fluxfast.bench.verdicts.noise import noises
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.tables import baseline_rows
from fluxfast.bench.verdicts.verdict import decide
from fluxfast.cli.main import main
from fluxfast.errors import BaselineError
from fluxfast.models.weights import resolve
from fluxfast.optimizations.registry import default_names
from fluxfast.pytest_plugin.session import Suite
from fluxfast.report.columns import columns_of
from fluxfast.report.contents import report_json, report_of
from fluxfast.report.inputs import read_inputs
from fluxfast.report.rows import rows_of
from tests.support.collecting import collected
from tests.support.machines import H200
from tests.support.pages import REPOSITORY
from tests.support.processes import ONE_CARD
from tests.support.results import CANARIES, result

FIGURES = {"lora_swap_s", "other_size_extra_s"}
SWAP_S, EXTRA_S = 0.40, 0.30


def timed(swap_s=SWAP_S, extra_s=EXTRA_S, **changes) -> CaseResult:
    """Return a process of one card; its swaps scatter, and the third size takes no extra time."""
    swaps_s = () if swap_s is None else (swap_s, swap_s + 0.3, swap_s - 0.05)
    extras_s = () if extra_s is None else (extra_s, LEAST_EXTRA_S)
    given = {"environment": ONE_CARD, "canaries": CANARIES, **changes}
    return result(**{"lora_swaps_s": swaps_s, "other_sizes_extra_s": extras_s, **given})


def verdict(measured, accepted):
    (found,) = decide([compare_sides(measured, accepted, noises([accepted]))])
    return found


def names(measured, accepted):
    changes = compare_sides(measured, accepted, noises([accepted])).changes
    return {change.metric.name for change in changes} & FIGURES


ACCEPTED = [timed(), timed(SWAP_S + 0.01), timed(SWAP_S - 0.01)]


@pytest.mark.parametrize(
    ("swap_s", "outcome"),
    [(0.40, Outcome.SAME), (0.57, Outcome.SAME), (0.59, Outcome.BROKEN), (0.05, Outcome.FASTER)],
)
def test_a_swap_is_slower_by_more_than_a_fifth_and_a_tenth_of_a_second(swap_s, outcome):
    found = verdict([timed(swap_s)], ACCEPTED)
    assert found.outcome is outcome
    line = "LoRA swap: lora_swap_s 0.59 s, was 0.40: +47.5% (tolerance ±20% ± 0.1 s)"
    assert (found.reason == line) == (swap_s == 0.59)


@pytest.mark.parametrize(
    ("extra_s", "outcome"),
    [(0.30, Outcome.SAME), (0.85, Outcome.SAME), (0.87, Outcome.BROKEN), (8.0, Outcome.BROKEN)],
)
def test_another_size_is_slower_by_more_than_a_fifth_and_half_a_second(extra_s, outcome):
    found = verdict([timed(extra_s=extra_s)], ACCEPTED)
    assert found.outcome is outcome
    if outcome is Outcome.BROKEN:
        assert found.worse_names == ("other_size_extra_s",)
        assert found.reason.startswith("first image of another size: other_size_extra_s")
        assert "was 0.30" in found.reason and "(tolerance ±20% ± 0.5 s)" in found.reason


@pytest.mark.parametrize(
    ("before_s", "now_s", "outcome"),
    [
        (LEAST_EXTRA_S, 0.49, Outcome.SAME),
        (LEAST_EXTRA_S, 0.51, Outcome.BROKEN),
        (0.49, LEAST_EXTRA_S, Outcome.SAME),
        (0.51, LEAST_EXTRA_S, Outcome.FASTER),
    ],
)
def test_a_size_without_extra_time_is_compared_by_the_difference(before_s, now_s, outcome):
    assert verdict([timed(extra_s=now_s)], [timed(extra_s=before_s)] * 3).outcome is outcome


def test_a_later_size_that_is_slow_counts_too():
    slow = replace(timed(), other_sizes_extra_s=(EXTRA_S, 4.0))
    assert verdict([slow], ACCEPTED).outcome is Outcome.BROKEN


def test_what_either_side_lacks_is_not_compared():
    without = timed(None, None)
    assert names([timed()], ACCEPTED) == FIGURES
    assert names([without], ACCEPTED) == names([timed(9.0, 9.0)], [without] * 3) == set()
    assert verdict([timed(9.0, 9.0)], [without] * 3).outcome is Outcome.SAME
    assert names([timed(extra_s=None)], ACCEPTED) == {"lora_swap_s"}
    assert names([timed(None)], ACCEPTED) == {"other_size_extra_s"}
    assert names([timed()], ACCEPTED[:1]) == set()  # one process shows no scatter
    assert names([timed()], [*ACCEPTED[:2], without]) == FIGURES


def test_processes_of_one_card_are_compared_and_the_shortest_counts():
    other = timed(environment={**ONE_CARD, "gpu": {"uuid": "GPU-2"}})
    assert names([timed()], [other] * 3) == set()
    assert verdict([timed(0.9), timed(0.41)], ACCEPTED).outcome is Outcome.SAME
    varied = [timed(swap_s) for swap_s in (0.4, 0.5, 0.7)]
    assert names([timed(9.0)], varied) == {"other_size_extra_s"}


def test_a_result_keeps_the_samples_and_may_lack_them():
    data = json.loads(json.dumps(timed().to_json()))
    assert CaseResult.from_json(data, "here") == timed()
    for name in ("lora_swaps_s", "other_sizes_extra_s"):
        del data[name]
    before = CaseResult.from_json(data, "here")
    assert before == timed(None, None)
    assert before.lora_swap_s is None and before.other_size_extra_s is None


@pytest.mark.parametrize("name", ["lora_swaps_s", "other_sizes_extra_s"])
@pytest.mark.parametrize("wrong", [None, 3, [0], [-1.0], ["1"], [None], [float("nan")], [True]])
def test_a_figure_that_cannot_be_compared_is_refused_with_its_file(name, wrong):
    with pytest.raises(BaselineError, match="incomplete or wrong"):
        CaseResult.from_json({**timed().to_json(), name: wrong}, "here")


@pytest.fixture
def baseline(tmp_path) -> Baseline:
    empty = replace(find_baseline("h200"), results={}, path=tmp_path / "nvidia-h200.json")
    return empty.accept(ACCEPTED)


def test_a_baseline_keeps_the_figures_and_judges_by_them(baseline):
    write_baseline(baseline)
    again = read_baseline(baseline.path)
    (shown,) = baseline_rows(again.summaries())
    assert (shown["lora_swap_s"], shown["other_size_extra_s"]) == (SWAP_S, EXTRA_S)
    assert again.judge([timed()]).outcome is Outcome.SAME
    assert again.judge([timed(1.0)]).outcome is Outcome.BROKEN


def test_accepting_writes_both_figures_into_the_history(baseline, tmp_path, monkeypatch):
    monkeypatch.setattr("fluxfast.bench.baselines.lookup.shipped_baselines", lambda: tmp_path)
    write_baseline(replace(baseline, results={}))
    found = [
        timed(e2e_s=2.0 + n / 100, provenance={"commit": "abc", "dirty": False}) for n in range(3)
    ]
    folders = [str(write_result(tmp_path / str(n), r).parent) for n, r in enumerate(found)]
    assert main(["baseline", "accept", *folders]) == 0
    history = (tmp_path / "nvidia-h200.history.tsv").read_text()
    assert "\tlora_swap_s\t\t0.4\tnew\t3" in history
    assert "\tother_size_extra_s\t\t0.3\tnew\t3" in history
    (accepted,) = read_baseline(baseline.path).summaries()
    assert accepted.lora_swap_s == SWAP_S


def test_the_report_has_a_column_for_each_where_a_case_has_it(tmp_path, baseline):
    write_baseline(baseline)
    write_result(tmp_path / "run", timed(0.45, 0.2))
    write_result(tmp_path / "other", timed(None, None))
    inputs = read_inputs([tmp_path / "run"])
    rows = rows_of(inputs, read_inputs([baseline.path]))
    cells = {column.name: column.cell(rows[0]) for column in columns_of(rows)}
    assert (cells["LoRA swap (s)"].text, cells["LoRA swap (s)"].was) == ("0.45", "0.40")
    assert (cells["Another size (s)"].text, cells["Another size (s)"].was) == ("0.20", "0.30")
    assert cells["LoRA swap (s)"].change.metric == "lora_swap_s"
    assert cells["Another size (s)"].change.metric == "other_size_extra_s"
    (shown,) = report_json(report_of([tmp_path / "run"], [baseline.path]))["cases"]
    assert (shown["lora_swap_s"], shown["other_size_extra_s"]) == (0.45, 0.2)
    assert shown["before"]["lora_swap_s"] == SWAP_S
    rows = rows_of(read_inputs([tmp_path / "other"]))
    assert not {"LoRA swap (s)", "Another size (s)"} & {c.name for c in columns_of(rows)}


def test_a_summary_is_of_the_processes_that_have_a_figure():
    found = summarize([timed(None, None), timed(0.5, 0.1), timed(0.7, 0.3)])
    assert found.lora_swap_s == pytest.approx(0.6)
    assert found.other_size_extra_s == pytest.approx(0.2)


# The tests that measure.


def planned_on_h200():
    checkpoint = resolve("schnell", "synthetic", H200)
    situation = situation_of(checkpoint, H200)
    return planned_case(default_names(situation), checkpoint, situation)


@pytest.fixture
def session(tmp_path):
    """A session that has measured a case, without pytest."""
    options = SimpleNamespace(compares=False, rounds=None, results=tmp_path, record=True)
    planned = planned_on_h200()
    found = Suite(config=None, options=options)
    found.measured[planned.case.id] = result(case=planned.case)
    found.report = lambda *_: None
    return found


def module(name):
    path = REPOSITORY / "perf_tests" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"a_copy_of_{name}", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_further_sizes_are_added_to_the_result_of_the_case(session, tmp_path, monkeypatch):
    sizes = module("test_other_sizes")
    timings = [
        SizeTiming(height=1, width=1, first_s=first_s, steady_s=1.0, graphs=1)
        for first_s in (9.0, 1.25, 0.9)
    ]
    monkeypatch.setattr(sizes, "time_sizes", lambda built, report: timings)
    request = SimpleNamespace(getfixturevalue=lambda name: None)
    planned = planned_on_h200()
    sizes.test_other_sizes(planned, session, request, lambda planned, timings: None)
    written = read_result(result_path(tmp_path, planned.case))
    assert written == session.measured[planned.case.id]
    assert written.other_sizes_extra_s == (0.25, LEAST_EXTRA_S)
    assert written.images == result().images


@pytest.mark.parametrize("rank", [16, 128])
def test_swaps_of_one_rank_are_added_to_the_result_of_the_case(session, rank, monkeypatch):
    import torch

    images = iter(torch.tensor([0.0, 1.0, 0.0]))
    swappable = SimpleNamespace(
        built=SimpleNamespace(generate=lambda kind: next(images)),
        set_lora=lambda rank: None,
        compiled_and_recorded=(0, []),
    )
    stats = SimpleNamespace(data=[0.4, 0.3], median=0.35, rounds=2)
    benchmark = SimpleNamespace(
        disabled=False,
        extra_info={},
        stats=SimpleNamespace(stats=stats),
        pedantic=lambda *_, **__: None,
    )
    planned = planned_on_h200()
    module("test_lora_swap").test_lora_swap(
        planned, rank, swappable, session, benchmark, lambda *_: None
    )
    assert session.measured[planned.case.id].lora_swaps_s == ((0.4, 0.3) if rank == 128 else ())


def test_a_case_that_was_not_measured_gets_no_result(session, tmp_path):
    session.measured.clear()
    session.add_figures(planned_on_h200(), lora_swaps_s=(1.0,))
    assert not session.measured and not any(tmp_path.iterdir())


def test_figures_are_added_after_cases_are_measured_and_before_they_are_judged(monkeypatch):
    """Each file of swaps and sizes runs on its own: it builds the pipeline of a case once more."""
    files = [f"perf_tests/test_{name}.py" for name in ("latency", "lora_swap", "other_sizes")]
    found = collected([*files, "--gpu", "cpu"], monkeypatch)
    order = [name.partition("[")[0] for name in found]
    assert order == [
        *["test_latency"] * 6,
        *["test_lora_swap"] * 6,
        *["test_other_sizes"] * 3,
        *["test_verdict"] * 6,
    ]
    swaps = found[6:12]
    models = [name.partition("[")[2].partition("-")[0] for name in swaps]
    assert models == ["schnell", "schnell", "dev", "dev", "kontext", "kontext"]


def test_pytest_perf_tests_times_neither_swaps_nor_sizes(monkeypatch):
    order = {
        name.partition("[")[0] for name in collected(["perf_tests", "--gpu", "cpu"], monkeypatch)
    }
    assert order == {"test_latency", "test_verdict"}
