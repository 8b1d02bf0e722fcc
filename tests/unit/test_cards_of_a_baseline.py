"""A baseline learns the cards of a fleet: results that are the same, and no others."""

import os
from dataclasses import replace

import pytest

from fluxfast.bench.baselines.cards import Signature, with_cards
from fluxfast.bench.baselines.file import read_baseline, write_baseline
from fluxfast.bench.baselines.lookup import find_baseline
from fluxfast.bench.results.store import write_result
from fluxfast.cli import baseline as command
from fluxfast.cli.main import main
from fluxfast.errors import BaselineError
from tests.support.processes import ONE_CARD, processes
from tests.support.results import CANARIES, case

DEV, SCHNELL = case(), case(model="schnell")
SIGNATURE = Signature(by="Ada", at="2026-11-30T10:00:00+00:00")


def on(card, pace=1.0, work=1.0, **changes):
    """Return the processes of a card: one with half the pace has half the clock."""
    return processes(
        100 * work / pace,
        clock_mhz=1500 * pace,
        seed=sum(card.encode()),
        environment={**ONE_CARD, "gpu": {"uuid": card}},
        **{"case": DEV, "canaries": CANARIES, **changes},
    )


@pytest.fixture
def baseline(tmp_path):
    empty = replace(find_baseline("h200"), results={}, path=tmp_path / "nvidia-h200.json")
    known = [one for of in (DEV, SCHNELL) for card in "ab" for one in on(f"GPU-{card}", case=of)]
    return empty.accept(known)


def test_a_card_with_another_clock_joins_and_the_others_stay(baseline):
    slow_card = on("GPU-c", pace=0.98)
    found = with_cards(baseline, slow_card, SIGNATURE, 3)
    assert found.refused == {} and len(found.added) == 3
    before, after = (b.results[DEV.id] for b in (baseline, found.baseline))
    assert after[: len(before)] == before and len(after) == len(before) + 3
    assert {one.provenance["added_by"] for one in after[len(before) :]} == {"Ada"}
    assert found.baseline.results[SCHNELL.id] == baseline.results[SCHNELL.id]
    # From now on it is compared with itself.
    assert {one.card for one in found.baseline.accepted_for(slow_card)} == {"GPU-c"}


@pytest.mark.parametrize(
    ("results", "why"),
    [
        (on("GPU-c", work=1.05), "slower: "),
        (on("GPU-c", work=1.02), ""),
        (on("GPU-c", counters={"graph_breaks": 1}), "broken: "),
        (on("GPU-a"), "the baseline has processes of GPU-a"),
        (on(""), "without the UUID"),
        ([on(f"GPU-{card}")[0] for card in "cde"], "1 of 3 processes of GPU-c"),
        (on("GPU-c", case=case(batch_size=2)), "no accepted process"),
    ],
    ids=["slower", "two percent", "another program", "known card", "no card", "one", "new case"],
)
def test_what_is_not_known_to_be_the_same_does_not_join(baseline, results, why):
    found = with_cards(baseline, results, SIGNATURE, 3)
    assert found.baseline == baseline and found.added == ()
    (reason,) = found.refused.values()
    assert why in reason.lower() or why in reason


def test_cards_that_joined_do_not_let_slower_ones_join(baseline):
    """Each is slower than the one before by as much as is allowed, if the reference moves along."""
    joined = list[float]()
    for number, percent in enumerate((1.2, 1.4, 1.6, 1.8, 2.0, 2.2), 1):
        found = with_cards(baseline, on(f"GPU-{number}", work=1 + percent / 100), SIGNATURE, 3)
        baseline = found.baseline
        joined += [percent] if found.added else []
    assert 1.2 in joined and max(joined) < 1.6


@pytest.fixture
def add(baseline, tmp_path, monkeypatch):
    """Return the command on results, for a baseline in a folder of its own."""
    lookup = "fluxfast.bench.baselines.lookup"
    monkeypatch.setattr(f"{lookup}.shipped_baselines", lambda: tmp_path)
    write_baseline(baseline)

    def run(results, *options):
        folders = [write_result(tmp_path / str(n), one).parent for n, one in enumerate(results)]
        return main(["baseline", "add-card", *map(str, dict.fromkeys(folders)), *options])

    return run


def test_the_command_adds_what_is_the_same_and_names_the_rest(add, baseline, capsys):
    slower = on("GPU-c", work=1.05, case=SCHNELL)
    assert add([*on("GPU-c"), *slower], "--by", "Ada") == 0
    text = capsys.readouterr().out
    assert f"not added: {SCHNELL.id}\n  slower: " in text
    assert f"added 3 processes of GPU-c: {DEV.id}" in text and "signed by Ada" in text
    written = read_baseline(baseline.path)
    assert len(written.results[DEV.id]) == 9 and len(written.results[SCHNELL.id]) == 6
    assert written.results[DEV.id][-1].provenance["added_at"].endswith("+00:00")


def test_nothing_is_written_where_nothing_is_the_same_or_nobody_signs(
    add, baseline, capsys, monkeypatch
):
    before = baseline.path.read_text()
    assert add(on("GPU-c", work=1.05), "--by", "Ada") == 2
    told = capsys.readouterr().err
    assert (
        "no results were added" in told and f"not added: {DEV.id}\n" in told and "slower:" in told
    )
    assert add(on("GPU-c")[:2], "--by", "Ada") == 2
    assert "too few processes" in capsys.readouterr().err
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    monkeypatch.chdir(baseline.path.parent)
    for path in (os.environ["PATH"], ""):  # also where git is not installed
        monkeypatch.setenv("PATH", path)
        with pytest.raises(BaselineError, match="nobody signs"):
            command._user()
    assert baseline.path.read_text() == before
