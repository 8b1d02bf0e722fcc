"""The table of attacks: every row has tests, and a row is right only if they ran and passed."""

import importlib.util
import re
from types import SimpleNamespace

import pytest

from tests.attacks import ATTACKS, REPOSITORY, Recorder, attack

ROWS = 22


def test_each_row_names_tests_that_exist():
    assert [one.number for one in ATTACKS] == list(range(1, ROWS + 1))
    for path, name in (name.split("::") for one in ATTACKS for name in one.tests):
        text = (REPOSITORY / "tests" / path).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", text, re.MULTILINE), f"{path}::{name}"
    programs = [one.program[0] for one in ATTACKS if one.program]
    assert len(programs) == 2 and all(map(importlib.util.find_spec, programs))


@pytest.mark.parametrize(
    ("reports", "outcome"),
    [
        ({"x": ["passed"], "y": ["passed", "passed"]}, "right"),
        ({"x": ["passed"]}, "WRONG: t.py::y did not run"),
        ({"x": ["passed"], "y": ["skipped"]}, "WRONG: t.py::y failed"),
        ({"x": ["failed"], "y": ["passed"]}, "WRONG: t.py::x failed"),
        ({"x": ["passed"], "y": ["passed", "failed"]}, "WRONG: t.py::y failed"),
        ({}, "WRONG: t.py::x did not run"),
    ],
)
def test_a_row_is_right_if_all_of_its_tests_ran_and_passed(reports, outcome):
    row = attack(1, "an attack", "refused", "t.py::x", "t.py::y")
    recorder = Recorder(frozenset(row.tests))
    for name, ends in reports.items():
        for number, end in enumerate(ends):
            recorder.pytest_runtest_logreport(SimpleNamespace(
                nodeid=f"tests/t.py::{name}[{number}]", passed=end == "passed", when="call",
                longreprtext="",
            ))  # fmt: skip
    assert recorder.outcome(row) == outcome
    assert recorder.outcome(attack(2, "another", "refused")) == "WRONG: no test"
