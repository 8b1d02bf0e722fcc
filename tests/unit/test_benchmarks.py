"""The studies on a GPU: each can be imported and takes its options, also where no GPU is."""

import sys
from dataclasses import replace
from importlib import import_module

import pytest

from tests.support.pages import REPOSITORY
from tests.support.results import result
from tests.support.synthetic_results import write

STUDIES = sorted(
    path.stem
    for path in (REPOSITORY / "benchmarks").glob("*.py")
    if "\ndef main(" in path.read_text()
)


def call(study, *arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", [study, *map(str, arguments)])
    return import_module(f"benchmarks.{study}").main()


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_prints_its_options(study, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        call(study, "--help", monkeypatch=monkeypatch)
    assert not ended.value.code and capsys.readouterr().out.startswith(f"usage: {study}")


def test_every_study_is_in_the_table():
    page = (REPOSITORY / "benchmarks" / "README.md").read_text()
    assert [study for study in STUDIES if f"| `{study}` |" not in page] == []


def test_workers_compares_figures_with_and_without_an_interval(tmp_path, monkeypatch, capsys):
    def compared(memory_gib):
        alone, together = (
            replace(result(), peak_memory_gib=gib, provenance={"process": number})
            for number, gib in enumerate((25.0, memory_gib))
        )
        (one,), (other,) = (write([r], tmp_path / str(memory_gib)) for r in (alone, together))
        return call("workers", "--alone", one, "--together", other, monkeypatch=monkeypatch)

    assert [compared(gib) for gib in (25.1, 15.0, 35.0)] == [0, 1, 1]
