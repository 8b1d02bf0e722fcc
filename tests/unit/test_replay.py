"""Replay recorded samples with fewer runs than docs/explanation/gate-error-rates.md."""

import pytest

from fluxfast.bench.measurement.limits import ON_CPU, Limits
from fluxfast.bench.verdicts.outcome import Outcome
from tests.support.replay.__main__ import (
    cpu_reduced,
    h100,
    h200,
    h200_one_card_reduced,
    h200_same_gpu,
)
from tests.support.replay.peers import PEERS
from tests.support.replay.simulate import against_rates, stored_rates
from tests.support.replay.unknown_card import rates as unknown_card_rates


@pytest.mark.parametrize(
    ("recorded", "simulate", "limits", "slowdown", "seen"),
    [
        pytest.param(h200, stored_rates, Limits(), 1.10, 1.0, id="H200, stored"),
        pytest.param(h200_one_card_reduced, stored_rates, Limits(), 1.02, 0.9, id="H200, one card"),
        pytest.param(h100, stored_rates, Limits(), 1.02, 0.95, id="H100, stored"),
        pytest.param(h200_same_gpu, against_rates, Limits(), 1.02, 0.85, id="H200, --against"),
        pytest.param(cpu_reduced, stored_rates, ON_CPU, 1.15, 0.9, id="CPU, stored"),
        pytest.param(cpu_reduced, against_rates, ON_CPU, 1.15, 0.95, id="CPU, --against"),
    ],
)
@pytest.mark.slow
def test_unchanged_runs_raise_no_alarm_and_slow_ones_are_detected(
    recorded, simulate, limits, slowdown, seen
):
    samples = recorded()
    alarms, unchanged = simulate(samples, 1, {}, 60, limits)
    assert alarms["fluxfast"] == 0 and unchanged.total() >= 60
    found, _ = simulate(samples, slowdown, {}, 40, limits)
    assert found["fluxfast"] >= seen * 40


@pytest.mark.slow
def test_cycles_decide_on_cards_outside_the_baseline():
    """Each of six recorded H200s against a baseline of the five others."""
    assert unknown_card_rates(30, 1.0) == {Outcome.SAME: 30}
    assert unknown_card_rates(30, 1.02) == {Outcome.SLOWER: 30}
    assert unknown_card_rates(30, 1.0, counts_cycles=False)[Outcome.UNDECIDED] > 15
    assert Outcome.SAME not in unknown_card_rates(30, 1.02, others=3)


def test_the_rules_of_other_tools_follow_their_documents():
    old, steady = [1.0, 1.01, 1.02, 1.03], [1.04, 1.04, 1.05, 1.05]
    called = {name for name, rule in PEERS.items() if rule(old * 5, steady * 5)}
    assert called == {"asv, factor 1.01", "nvbench robust"}
    slow = [x * 1.2 for x in old]
    assert all(rule(old * 5, slow * 5) for rule in PEERS.values())
    assert not any(rule(old * 5, old * 5) for rule in PEERS.values())
