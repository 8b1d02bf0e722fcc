"""Commands that write: fluxfast baseline accept, merge, history --add."""

import sqlite3
from collections.abc import Callable
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

from fluxfast.bench.baselines import lookup
from fluxfast.bench.baselines.accept import history_path
from fluxfast.bench.baselines.file import read_baseline, write_baseline
from fluxfast.bench.results import artifacts
from fluxfast.bench.results.shards import note_shard, shards_in
from fluxfast.bench.results.store import read_results, write_result
from fluxfast.cli import baseline as baseline_command
from fluxfast.cli.main import main
from fluxfast.history.database import append, measurement_of, opened
from tests.kills.scenario import CASES, SHIPPED, Reported, Scenario, again, measured
from tests.support.machines import H200


def command(*words: object) -> None:
    with redirect_stdout(StringIO()):
        assert main([str(word) for word in words]) == 0, words


def prepare_accept(folder: Path) -> None:
    (folder / "baselines").mkdir()
    write_baseline(replace(SHIPPED, results={}, path=folder / "baselines" / SHIPPED.path.name))
    for number in range(3):
        for one in CASES:
            write_result(folder / str(number), measured(one, H200, number))


def accept(folder: Path, report: Callable[[str], None]) -> None:
    shipped = folder / "baselines"
    lookup.shipped_baselines = baseline_command.shipped_baselines = lambda: shipped
    command("baseline", "accept", *(folder / str(number) for number in range(3)))
    report("accepted")


def check_accept(folder: Path, reported: Reported | None) -> None:
    baseline = read_baseline(folder / "baselines" / SHIPPED.path.name)
    history = history_path(baseline)
    rows = history.read_text().splitlines() if history.exists() else []
    assert len(set(rows)) == len(rows), "a row of the history is there twice"
    if reported is None or "accepted" in reported or baseline.results:
        assert {len(results) for results in baseline.results.values()} == {3}
        assert {row.split("\t")[2] for row in rows[1:]} == {one.id for one in CASES}


def prepare_merge(folder: Path) -> None:
    for number in range(2):
        shard = folder / f"shard{number + 1}"
        result = measured(CASES[number], H200, number)
        write_result(shard, result)
        artifacts.write_figures(shard, "kernels", result.case, {"GEMM": 1.0})
        note_shard(shard, f"{number + 1}/2")


def merge(folder: Path, report: Callable[[str], None]) -> None:
    command(*_merge(folder))
    report("merged")


def _merge(folder: Path) -> list[str]:
    shards = (str(folder / "shard1"), str(folder / "shard2"))
    return ["merge", *shards, "--output", str(folder / "merged")]


def check_merge(folder: Path, reported: Reported | None) -> None:
    merged = folder / "merged"
    if reported is None or "merged" in reported or merged.exists():
        assert len(read_results([merged])) == 2 and shards_in(merged) == ["1/2", "2/2"]
        assert len([*(merged / "kernels").glob("*.json")]) == 2


def merge_again(folder: Path, reported: Reported) -> None:
    """Merge again; a folder that is complete is refused, and stays."""
    is_complete, said = (folder / "merged").exists(), StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        assert main(_merge(folder)) == (2 if is_complete else 0), said.getvalue()
    assert not is_complete or "is not empty" in said.getvalue()


def prepare_history(folder: Path) -> None:
    with opened(folder / "history.sqlite3", new=True) as connection:
        append(connection, [measurement_of(measured(one, H200, 1)) for one in CASES])
    for one in CASES:
        write_result(folder / "results", measured(one, H200, 2))


def history(folder: Path, report: Callable[[str], None]) -> None:
    command("history", "--database", folder / "history.sqlite3", "--add", folder / "results")
    report("added")


def check_history(folder: Path, reported: Reported | None) -> None:
    with closing(sqlite3.connect(folder / "history.sqlite3")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        processes = [row[0] for row in connection.execute("SELECT process FROM result")]
    assert processes.count("1") == 2 and processes.count("2") in (0, 2)
    if reported is None or "added" in reported:
        assert processes.count("2") == 2


SCENARIOS = (
    Scenario(
        name="baseline accept",
        prepare=prepare_accept,
        run=accept,
        check=check_accept,
        again=again(accept),
    ),
    Scenario(
        name="merge",
        prepare=prepare_merge,
        run=merge,
        check=check_merge,
        again=merge_again,
    ),
    Scenario(
        name="history --add",
        prepare=prepare_history,
        run=history,
        check=check_history,
        again=again(history),
    ),
)
