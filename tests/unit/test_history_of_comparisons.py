"""Comparisons in the history: what an upgrade did, with its interval, apart from the nights."""

import json
from dataclasses import replace

from fluxfast.bench.cases.role import Role
from fluxfast.bench.results.artifacts import write_figures
from fluxfast.bench.results.sides import write_sides
from fluxfast.bench.results.store import write_result
from fluxfast.cli.main import main
from fluxfast.history.comparisons import compared_cases
from tests.support.results import case, result
from tests.support.synthetic_sides import two_environments

CHANGE = {"change": 0.018, "change_of": "step_ms", "interval": [0.011, 0.025]}
VERDICT = {"outcome": "same", "reason": ""} | CHANGE


def comparison(results):
    """Write a comparison of two environments in two pairs of processes; return its folder."""
    write_sides(results, two_environments("2.11.0", "2.12.0"))
    for number, folder in enumerate(("A1", "B1", "B2", "A2")):
        origin = {"commit": "0123", "dirty": False, "date": f"2026-11-30T10:0{number}:00+00:00"}
        write_result(results / folder, replace(result(provenance=origin), role=Role.DEFAULT))
    write_figures(results / "B2", "verdicts", case(), VERDICT)
    return results


def test_the_history_has_what_an_upgrade_did_and_no_night_of_it(tmp_path, capsys):
    run, history = str(comparison(tmp_path / "upgrade")), ["history", "--database", "h.sqlite3"]
    history[-1] = str(tmp_path / "h.sqlite3")
    for added in (1, 0):
        assert main([*history, "--add", run]) == 0
        assert f"{added} of 1 cases of comparisons added" in capsys.readouterr().out
    assert main(history) == 0
    output = " ".join(capsys.readouterr().out.split())
    name = "dev (synthetic), 2 steps, 1024×1024, default: step"
    line = f"torch 2.11.0 → 2.12.0: {name} +1.8% (+1.1 to +2.5%), same"
    assert f"2026-11-30 NVIDIA H200, {line}" in output
    assert main([*history, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main([*history, "--gpu", "h100"]) == 0
    assert "no results match" in capsys.readouterr().out


def test_cases_without_a_role_are_told_apart_by_their_optimizations(tmp_path):
    run, cached = comparison(tmp_path / "upgrade"), case(optimizations=("dbcache",), cache="fast")
    names = [("fa3",), ("fused_projections", "fa3")]
    for one in (cached, *(case(optimizations=optimizations) for optimizations in names)):
        write_result(run / "B2", result(case=one))
        write_figures(run / "B2", "verdicts", one, VERDICT | {"change_of": "e2e_s"})
    labels = [compared.label.rpartition("1024×1024, ")[2] for compared in compared_cases(run)]
    assert sorted(labels) == [
        "dbcache (fast): image",
        "default: step",
        "fa3: image",
        "fused_projections + fa3: image",
    ]
