"""The history: no result is lost, queries are fast, change points are distinguished from noise."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from fluxfast.bench.baselines.file import read_baseline
from fluxfast.bench.results.store import write_result
from fluxfast.cli.main import main
from fluxfast.errors import FluxFastError
from fluxfast.files import locked, shipped_baselines
from fluxfast.history.changes import Cause, change_points, still_slower
from fluxfast.history.database import (
    ADDED,
    METRICS,
    TABLES,
    Acceptance,
    StoredFigures,
    acceptances,
    add_acceptances,
    append,
    measurement_of,
    opened,
)
from fluxfast.history.series import Night, Series, all_series
from tests.support.machines import CPU
from tests.support.results import case, result
from tests.support.synthetic_history import (
    FIRST,
    NIGHTS,
    OPTIMIZED,
    SLOWER,
    SLOWER_AGAIN,
    UPGRADE,
    autoregressive,
    nightly_results,
)

REPOSITORY = Path(__file__).parents[2]

# A writer in another process: 200 transactions of five rows each, a line after each.
WRITER = """
import sys
from pathlib import Path
from fluxfast.history.database import StoredFigures, append, opened
name = sys.argv[2]
with opened(Path(sys.argv[1]), new=True) as connection:
    for batch in range(200):
        append(connection, [
            StoredFigures(gpu="G", case_id=f"case {row}", measured_at=f"2026-01-01T{batch:05}",
                        commit_id="c", stack={}, process=name, figures={"e2e_s": 1.0})
            for row in range(5)
        ])
        print(batch, flush=True)
"""


def nights(values, **changes):
    return tuple(
        Night(
            **{
                "measured_at": f"2026-{1 + n // 28:02}-{1 + n % 28:02}T02:00:00+00:00",
                "commit_id": f"commit {n}",
                "stack": '{"torch": "2.11.0"}',
                "value": float(value),
                "processes": 3,
                "by_card": {},
                **changes,
            }
        )
        for n, value in enumerate(values)
    )


def series(values, **changes):
    return Series(gpu="G", case_id="case", metric="e2e_s", nights=nights(values, **changes))


def on_cards(cards, values, slower=1.03):
    """Return a series; each night lists its cards as a word, and card b is slower than the rest."""
    found = []
    for night, names in zip(nights(values), cards, strict=True):
        by_card = {name: night.value * (slower if name == "b" else 1.0) for name in names}
        value = float(np.median(list(by_card.values())))
        found.append(night._replace(value=value, by_card=by_card))
    return Series(gpu="G", case_id="case", metric="e2e_s", nights=tuple(found))


def causes(points):
    return [(point.night, point.cause.value) for point in points]


@pytest.fixture(scope="module")
def synthetic_database(tmp_path_factory):
    path = tmp_path_factory.mktemp("history") / "history.sqlite3"
    with opened(path, new=True) as connection:
        assert append(connection, map(measurement_of, nightly_results())) == NIGHTS * 3 * 3
    return path


def test_sixty_synthetic_nights_get_the_right_change_points(synthetic_database, capsys):
    """Two commits and one upgrade are found; the spike and the noise are not."""
    assert main(["history", "--database", str(synthetic_database), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 3
    for row in rows:
        optimized = row["case"].endswith("+".join(OPTIMIZED))
        found = [
            (
                row["nights"].index(
                    next(n for n in row["nights"] if n["measured_at"] == c["date"])
                ),
                c["cause"],
            )
            for c in row["changes"]
        ]
        expected = [(SLOWER, "code"), (UPGRADE, "stack"), (SLOWER_AGAIN, "code")]
        assert found == (expected if optimized else [])
        if optimized:
            sizes = [c["relative"] for c in row["changes"]]
            assert sizes == pytest.approx([0.04, -0.035, 0.06], abs=0.01)
            assert "torch 2.11.0 → 2.12.0" in row["changes"][1]["detail"]

    assert main(["history", "--database", str(synthetic_database), "--case", "schnell"]) == 0
    text = capsys.readouterr().out
    assert "stack: torch 2.11.0 → 2.12.0" in text and "dev" not in text
    assert f"{FIRST.year}-10-19" in text  # the forty-ninth night


@pytest.mark.parametrize("deviation", [0.003, 0.01])
def test_autocorrelated_noise_alone_gives_no_change_points(deviation):
    """300 series of 60 nights; a search without thresholds finds steps in half of them."""
    random = np.random.default_rng(1)
    alarms = sum(
        bool(change_points(series(np.exp(autoregressive(random, 60, deviation)))))
        for _ in range(300)
    )
    assert alarms <= 3


def test_steps_of_three_percent_are_found_at_their_night():
    random = np.random.default_rng(2)
    found = 0
    for _ in range(100):
        values = np.exp(autoregressive(random, 60, 0.004))
        values[40:] *= 1.03
        points = change_points(series(values))
        found += len(points) == 1 and abs(points[0].night - 40) <= 1
    assert found >= 95


def test_spikes_of_one_or_two_nights_are_no_change_points_at_any_position():
    for first in range(30):
        for length in (1, 2):
            values = np.ones(30)
            values[first : first + length] = 1.3
            assert not change_points(series(values)), (first, length)


def test_a_change_point_needs_two_percent_and_three_nights():
    assert not change_points(series([1.0] * 20 + [1.015] * 20))
    assert not change_points(series([1.0] * 20 + [1.05] * 2))
    (point,) = change_points(series([1.0] * 20 + [1.05] * 3))
    assert point.night == 20 and point.cause is Cause.CODE


def test_a_step_without_commit_or_upgrade_has_the_machine_as_cause():
    (point,) = change_points(series([1.0] * 9 + [1.1] * 9, commit_id="the same"))
    assert point.cause is Cause.MACHINE and "check the runner" in point.detail


def test_a_change_that_goes_with_the_card_is_no_slowdown():
    (point,) = change_points(on_cards("a" * 20 + "b" * 20, [1.0] * 40))
    assert causes([point]) == [(20, "another card")] and still_slower([point]) == []
    assert point.relative == pytest.approx(0.03)
    assert point.detail == (
        "card a → b, and commit 19 → commit 20; nights of both cards would show which"
    )
    # The way back shows that the code is as fast as before.
    there_and_back = on_cards("a" * 20 + "b" * 20 + "a" * 20, [1.0] * 60)
    assert causes(change_points(there_and_back)) == [(20, "another card"), (40, "another card")]
    assert change_points(there_and_back)[0].detail == "card a → b"
    # A visit of a night or two, and cards that take turns, change no level.
    for cards in ("a" * 20 + "bb" + "a" * 18, "ab" * 20, ["ab"] * 40):
        assert change_points(on_cards(cards, [1.0] * 40)) == []


@pytest.mark.parametrize(
    ("cards", "night", "last_good"),
    [
        ("a" * 20 + "b" * 20 + "a" * 20, 40, 19),  # seen when the first card is back
        (["a"] * 20 + ["b"] * 35 + ["ab"] * 5, 20, 19),  # nights of both cards, later
        ("ab" * 30, 20, 18),
        (["ab"] * 60, 20, 19),
    ],
)
def test_nights_of_both_cards_show_a_slowdown_of_the_code(cards, night, last_good):
    found = change_points(on_cards(cards, [1.0] * 20 + [1.04] * 40, slower=0.985))
    (point,) = (one for one in found if one.cause is not Cause.CARD)
    assert causes([point]) == [(night, "code")] and still_slower(found) == [point]
    assert point.relative == pytest.approx(0.04)
    assert point.last_good.commit_id == f"commit {last_good}"


def test_a_move_does_not_explain_more_than_cards_differ_by():
    (point,) = change_points(on_cards("a" * 20 + "b" * 20, [1.0] * 20 + [1.07] * 20))
    assert point.cause is Cause.CODE and point.detail == "commit 19 → commit 20; card a → b"
    # Every night has a card of its own: none is known well enough to explain anything.
    pool = [[f"card {n}"] for n in range(40)]
    (point,) = change_points(on_cards(pool, [1.0] * 20 + [1.04] * 20))
    assert causes([point]) == [(20, "code")]


def test_moves_between_cards_cause_no_false_alarm_and_hide_no_later_slowdown():
    """60 series of 60 nights with one move, each without and with +4% ten nights after it."""
    random = np.random.default_rng(4)
    alarms = missed = 0
    for _ in range(60):
        values, at = np.exp(autoregressive(random, 60, 0.004)), int(random.integers(10, 40))
        cards = "a" * at + "b" * (60 - at)
        alarms += bool(still_slower(change_points(on_cards(cards, values))))
        values[at + 10 :] *= 1.04
        found = still_slower(change_points(on_cards(cards, values)))
        missed += [abs(one.night - at - 10) <= 1 for one in found] != [True]
    assert alarms <= 1 and missed <= 2


def test_a_slowdown_is_open_until_it_recovers_or_is_accepted():
    slower = series([1.0] * 10 + [1.1] * 10)
    assert len(still_slower(change_points(slower))) == 1
    recovered = series([1.0] * 10 + [1.1] * 10 + [1.0] * 10)
    assert still_slower(change_points(recovered)) == []
    (night,) = (p.first_changed for p in change_points(slower))
    merged = dict(pull="12", merged_at="2026-01-10", who="kim", reason="needs float32")
    reason = Acceptance(**merged, measured_at=night.measured_at)
    (point,) = change_points(slower, [reason])
    assert point.accepted == (reason,) and still_slower([point]) == []
    for at, is_accepted in (
        ("", False),  # not measured yet
        (slower.nights[8].measured_at, True),  # the point may be off by two nights
        (slower.nights[7].measured_at, False),
        (slower.nights[13].measured_at, False),
    ):
        (point,) = change_points(slower, [Acceptance(**merged, measured_at=at)])
        assert bool(point.accepted) == is_accepted, at
    # A slowdown that recovered stays closed, whatever comes later.
    again = change_points(series([1.0] * 10 + [1.05] * 10 + [1.0] * 10 + [1.1] * 10))
    assert still_slower(again) == [again[-1]]


def test_a_result_is_stored_once_by_gpu_case_stack_and_commit(tmp_path, capsys):
    database = tmp_path / "history.sqlite3"
    origin = {"commit": "abc", "dirty": True, "date": "2026-11-27T10:00:00+01:00"}
    write_result(tmp_path / "results", result(provenance=origin))
    cpu = {"hardware": CPU, "case": case(optimizations=()), "reference_e2e_s": (4.0, 4.0, 4.0)}
    write_result(tmp_path / "results", result(2.0, provenance=origin, **cpu))
    for added in (2, 0):
        assert (
            main(["history", "--database", str(database), "--add", str(tmp_path / "results")]) == 0
        )
        assert f"{added} of 2 results added" in capsys.readouterr().out
    with opened(database) as connection:
        time_s, ratio = all_series(connection)
        one = Acceptance(pull="1", merged_at="2026", measured_at="", who="kim", reason="why")
        add_acceptances(connection, [one])
        assert acceptances(connection)[0].reason == "why"
    assert (ratio.gpu, ratio.metric, ratio.nights[0].value) == (
        "a CPU (cpu-x86_64-avx2-2cores)",
        "eager_ratio",
        0.5,
    )
    assert (time_s.gpu, time_s.metric, *time_s.nights[0][:2]) == (
        "NVIDIA H200",
        "e2e_s",
        "2026-11-27T09:00:00+00:00",
        "abc+dirty",
    )


def test_a_history_without_cards_is_migrated(tmp_path, capsys):
    """Old results have no card; adding them again does not double them."""
    database, old = tmp_path / "history.sqlite3", nightly_results()[:9]
    with opened(database, new=True) as connection:
        append(connection, map(measurement_of, old))
    with sqlite3.connect(database) as connection:
        for name in ADDED:
            connection.execute(f"ALTER TABLE result DROP COLUMN {name}")
        connection.execute("PRAGMA user_version = 2")
    with_card = [
        replace(one, environment=one.environment | {"gpu": {"uuid": "GPU-1b2c"}})
        for one in nightly_results()[9:18]
    ]
    for one in (*old, *with_card):
        name = f"{one.provenance['process']} {one.provenance['date'][:10]}"
        write_result(tmp_path / name, one)
    folders = [str(path) for path in tmp_path.iterdir() if path.is_dir()]
    assert main(["history", "--database", str(database), "--add", *folders]) == 0
    assert "9 of 18 results added" in capsys.readouterr().out
    assert main(["history", "--database", str(database), "--json"]) == 0
    for row in json.loads(capsys.readouterr().out):
        old_night, new_night = row["nights"]
        assert old_night["by_card"] == {} and list(new_night["by_card"]) == ["GPU-1b2c"]


def test_the_cycles_of_a_step_are_kept(tmp_path, capsys):
    dated = result(provenance={"date": "2026-11-30T00:00:00+00:00"})
    counted = replace(dated, images=(replace(dated.images[0], sm_clock_mhz=1500.0),))
    write_result(tmp_path / "results", counted)
    command = ["history", "--database", str(tmp_path / "history.sqlite3")]
    assert main([*command, "--add", str(tmp_path / "results")]) == 0
    capsys.readouterr()
    assert main([*command, "--metric", "step_mcycles", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["nights"][0]["value"] == pytest.approx(900.0 * 1.5)


def test_a_date_that_would_hide_other_nights_is_refused_and_can_be_removed(tmp_path, capsys):
    database = tmp_path / "history.sqlite3"
    command = ["history", "--database", str(database)]
    tomorrow = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    for date in ("2099-01-01T00:00:00+00:00", tomorrow, "30 Nov 2026", "", 7):
        write_result(tmp_path / "results", result(provenance={"date": date}))
        assert main([*command, "--add", str(tmp_path / "results")]) == 2
        why = capsys.readouterr().err
        assert "no date that the history can order" in why or "incomplete or wrong" in why
    # An older fluxfast has added them.
    good = [measurement_of(one) for one in nightly_results()[:9]]
    bad = [replace(good[0], measured_at=date) for date in ("2099-01-01T00:00:00", "30 Nov 2026")]
    with opened(database) as connection:
        append(connection, [*good, *bad])
    assert main([*command, "--json"]) == 0
    printed = capsys.readouterr()
    assert [len(row["nights"]) for row in json.loads(printed.out)] == [1, 1, 1]
    assert "left out: results dated 2099-01-01T00:00:00, 30 Nov 2026" in printed.err
    for date, status in (("2099-01-01", 0), ("30 Nov 2026", 0), ("30 Nov 2026", 2), ("", 2)):
        assert main([*command, "--remove", date]) == status, date
    assert main([*command, "--remove", FIRST.date().isoformat(), "--case", "schnell"]) == 0
    assert "removed 3 results" in capsys.readouterr().out
    assert main([*command, "--add", "x", "--remove", "2026-01-01"]) == 2


def test_the_table_does_not_break_names_of_optimizations(tmp_path, capsys):
    cpu = replace(CPU, name="AMD EPYC 7B13 64-Core Processor", architecture="x86_64-avx512")
    names = ("fused_projections", "channels_last", "dbcache", "int8", "modulation_table")
    longest = {"width": 1024, "height": 1024, "num_inference_steps": 28, "optimizations": names}
    origin = {"date": "2026-11-27T10:00:00+00:00"}
    one = result(hardware=cpu, case=case(model="kontext", **longest), provenance=origin)
    with opened(tmp_path / "history.sqlite3", new=True) as connection:
        append(connection, [measurement_of(one)])
    assert main(["history", "--database", str(tmp_path / "history.sqlite3")]) == 0
    text = capsys.readouterr().out
    assert text.startswith("AMD EPYC 7B13 64-Core Processor (cpu-x86_64-avx512-2cores)\n")
    assert set(names[1:]) <= set(text.split())
    assert "kontext-synthetic-1024x1024-b1-s28-fused_projections" in text.split()
    assert max(map(len, text.splitlines())) <= 100


def start_writer(database, name):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(database), name],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )


def rows_in(database):
    with sqlite3.connect(database) as connection:
        return connection.execute(
            "SELECT process, count(*) FROM result GROUP BY process"
        ).fetchall()


@pytest.mark.subprocess
def test_two_concurrent_writers_lose_nothing(tmp_path):
    """Both also create the database at the same moment."""
    database = tmp_path / "history.sqlite3"
    writers = [start_writer(database, name) for name in ("one", "two")]
    assert [w.wait(timeout=60) for w in writers if w.communicate()] == [0, 0]
    assert rows_in(database) == [("one", 1000), ("two", 1000)]


def test_one_process_at_a_time_creates_the_database(tmp_path):
    """SQLite refuses the change to write-ahead mode at once while another process uses the file."""
    database = tmp_path / "history.sqlite3"

    def create():
        with opened(database, new=True) as connection:
            return connection.execute("PRAGMA journal_mode").fetchone()

    with ThreadPoolExecutor() as pool:
        with locked(tmp_path / ".history.sqlite3.lock"):
            created = pool.submit(create)
            with pytest.raises(TimeoutError):
                created.result(0.3)
        assert created.result(60) == ("wal",)
    assert [path.name for path in tmp_path.iterdir()] == ["history.sqlite3"]


@pytest.mark.subprocess
def test_a_killed_writer_loses_no_committed_transaction(tmp_path):
    database = tmp_path / "history.sqlite3"
    writer = start_writer(database, "killed")
    printed = [writer.stdout.readline() for _ in range(20)]
    writer.send_signal(signal.SIGKILL)
    printed += writer.communicate()[0].splitlines()
    ((_, rows),) = rows_in(database)
    assert rows >= 5 * len(printed) and rows % 5 == 0  # whole transactions, all that were printed
    assert sqlite3.connect(database).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_query_takes_no_more_than_a_few_times_as_long_as_reading_every_row(tmp_path, capsys):
    """92 cases, 120 nights with three processes each; CPU seconds of the fastest of three.

    A query takes three times as long, and one that searches all rows for each case sixteen times.
    """
    import ruptures  # noqa: F401 - imported before the clock starts, which takes seconds

    random = np.random.default_rng(3)
    rows = [
        StoredFigures(
            gpu="NVIDIA H200",
            case_id=f"case {number}",
            measured_at=f"{night}T02:00:00+00:00",
            commit_id="a commit",
            stack={"torch": "2.11.0", "triton": "3.6.0"},
            process=process,
            figures=dict.fromkeys(METRICS[:5], float(value)),
        )
        for number in range(92)
        for process in "123"
        for night, value in zip(
            np.arange("2026-04-01", "2026-07-30", dtype="datetime64[D]"),
            np.exp(random.normal(0, 0.01, 120)),
            strict=True,
        )
    ]
    database = tmp_path / "history.sqlite3"
    with opened(database, new=True) as connection:
        assert append(connection, rows) == len(rows) == 92 * 3 * 120

    def query():
        assert main(["history", "--database", str(database)]) == 0
        assert "no change points" in capsys.readouterr().out

    def read():
        with sqlite3.connect(database) as connection:
            assert len(connection.execute("SELECT * FROM result").fetchall()) == len(rows)

    assert fastest_of_three_s(query) < 8 * fastest_of_three_s(read)


def fastest_of_three_s(run):
    """Return CPU seconds."""

    def seconds():
        started = time.process_time()
        run()
        return time.process_time() - started

    return min(seconds() for _ in range(3))


def test_a_baseline_file_is_added_once(tmp_path, capsys):
    baseline, database = shipped_baselines() / "nvidia-h200.json", str(tmp_path / "history.sqlite3")
    count = sum(map(len, read_baseline(baseline).results.values()))
    for added in (count, 0):
        assert main(["history", "--database", database, "--add", str(baseline)]) == 0
        assert f"{added} of {count} results added" in capsys.readouterr().out


def test_a_file_that_is_no_history_is_refused_and_not_changed(tmp_path):
    path = tmp_path / "text"
    path.write_text("not a database, but long enough to be read as one" * 9)
    with pytest.raises(FluxFastError, match="this history cannot be used"), opened(path):
        pass
    assert path.read_text().startswith("not a database")
    missing = tmp_path / "mistyped.sqlite3"
    with pytest.raises(FluxFastError, match="no history yet"), opened(missing):
        pass
    assert not missing.exists()
    newer = tmp_path / "newer"
    with sqlite3.connect(newer) as connection:
        connection.executescript(f"{TABLES}PRAGMA user_version = 99;")
    with pytest.raises(FluxFastError, match="newer"), opened(newer):
        pass
    for version, table in ((0, "bookmarks"), (3, "bookmarks"), (2, "result"), (1, None)):
        foreign = tmp_path / f"foreign {version} {table}"
        with sqlite3.connect(foreign) as connection:
            if table:
                connection.execute(f"CREATE TABLE {table} (url TEXT)")
            connection.execute(f"PRAGMA user_version = {version}")
        before = foreign.read_bytes()
        with (
            pytest.raises(FluxFastError, match="belongs to another program"),
            opened(foreign, new=True),
        ):
            pass
        assert foreign.read_bytes() == before


def test_two_commits_of_one_night_are_two_nights_in_any_order(tmp_path):
    """Two runners interleave: six nights of one process each looked like a lasting change."""
    rows = [
        StoredFigures(
            gpu="G",
            case_id="case",
            measured_at=f"2026-01-01T0{hour}:00:00+00:00",
            commit_id=commit,
            stack={},
            process=str(hour),
            figures={"e2e_s": 1.0},
        )
        for hour, commit in enumerate("abab")
    ]
    with opened(tmp_path / "history.sqlite", new=True) as connection:
        append(connection, rows)
        (found,) = all_series(connection)
    assert [(night.commit_id, night.processes) for night in found.nights] == [("a", 2), ("b", 2)]
