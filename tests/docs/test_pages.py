"""The pages: every option is described, the site builds offline, and tables match the baseline."""

import argparse
import json
import os
import re
import subprocess
import sys

import pytest

from fluxfast.bench.baselines.file import read_baseline
from fluxfast.bench.baselines.lookup import find_baseline
from fluxfast.bench.cases.role import Role
from fluxfast.bench.verdicts.counters import COUNTERS
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.cli.main import main, parser
from tests.support.pages import REPOSITORY

REFERENCE = REPOSITORY / "docs" / "reference"


def test_every_option_is_described():
    text = (REFERENCE / "options.md").read_text()
    plugin = (REPOSITORY / "fluxfast" / "pytest_plugin").glob("*.py")
    source = "".join(path.read_text() for path in plugin)
    of_pytest = set(re.findall(r'addoption\(\s*"(--[a-z-]+)"', source))
    assert len(of_pytest) >= 15
    options = of_pytest | options_of(parser())
    assert len(options) > 50
    assert not {option for option in options if not re.search(rf"{option}(?![\w-])", text)}


def options_of(one):
    """Return the options of a parser and of the commands in it, without the hidden ones."""
    shown = [action for action in one._actions if action.help != argparse.SUPPRESS]
    nested = [a for a in shown if isinstance(a, argparse._SubParsersAction)]
    found = {option for action in shown for option in action.option_strings}
    found |= {
        o for action in nested for inner in action.choices.values() for o in options_of(inner)
    }
    return {option for option in found if option.startswith("--")} - {"--help"}


def test_the_table_of_verdicts_has_every_outcome():
    rows = re.findall(r"^\| (.+?) \| (passes|fails|skipped) \| (\d)", verdicts(), re.MULTILINE)
    found = {name: (test == "passes", int(status)) for name, test, status in rows}
    for outcome in Outcome:
        passes, status = found[outcome.display]
        assert passes == (outcome.is_pass and outcome is not Outcome.RECORDED)
        if outcome.is_judged:
            assert status == outcome.exit_code


def test_the_table_of_counters_has_every_counter_with_its_direction():
    rows = re.findall(r"^\| `(\w+)`.*? \| (more|fewer) \| (.+) \|$", verdicts(), re.MULTILINE)
    assert rows == [(counter.name, counter.worse, counter.why) for counter in COUNTERS]


def verdicts():
    return (REFERENCE / "verdicts.md").read_text()


@pytest.mark.slow
@pytest.mark.subprocess
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    pytest.importorskip("mkdocstrings", reason="the extra `docs` is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=REPOSITORY, capture_output=True, text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    errors = (tmp_path / "reference" / "errors" / "index.html").read_text()
    assert errors.count("<tr>") > 40 and "PyTorch finds no GPU on this machine" in errors
    api = (tmp_path / "reference" / "api" / "index.html").read_text()
    assert 'id="fluxfast.plan"' in api and 'id="fluxfast.OptimizedPipeline.report"' in api
    for page in tmp_path.rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)', page.read_text()
        )
        assert not fetched, (page, fetched)


# The columns of the tables of tiers, by the names of `fluxfast baseline show --json`.
TIERS_OF = {
    "README.md": ("## Results", "e2e_s step_ms speedup to_first_image_s peak_memory_gib processes"),
    "docs/reference/results-h200.md": (
        "## Tiers",
        "e2e_s step_ms decode_ms to_first_image_s peak_memory_gib speedup processes",
    ),
}
TIER = re.compile(
    r"\| (schnell|dev|Kontext),(?: \d+,)? (unoptimized|lossless|default)( \+[^|]*)? \|(.*)\|"
)
ROLE_OF = {"unoptimized": Role.EAGER, "lossless": Role.LOSSLESS, "default": Role.DEFAULT}


@pytest.mark.parametrize("page", TIERS_OF)
def test_the_tiers_on_a_page_are_those_of_the_baseline(page, capsys):
    assert main(["baseline", "show", "--gpu", "h200", "--json"]) == 0
    shown = {of["case"]: of for of in json.loads(capsys.readouterr().out)}
    accepted = [results[-1] for results in find_baseline("h200").results.values()]
    case_in = {(one.case.model, one.role): one.case.id for one in accepted if one.role}
    title, columns = TIERS_OF[page]
    section = (REPOSITORY / page).read_text().partition(title)[2].partition("\n## ")[0]
    rows = TIER.findall(section)
    assert len(rows) >= 8
    for model, tier, more, cells in rows:
        figures = shown[case_in[model.lower(), Role.CACHE if more else ROLE_OF[tier]]]
        for name, cell in zip(columns.split(), cells.split("|"), strict=True):
            printed = cell.strip(" *")
            if found := re.match(r"\d+(\.\d+)?", printed):
                digits = len(found[1] or ".") - 1
                assert found[0] == f"{figures[name]:.{digits}f}", f"{model} {tier}{more}: {name}"
            else:
                assert printed in ("", "–") or figures[name] is None, f"{model} {tier}: {name}"


def test_the_pages_state_which_stored_cases_have_cycles():
    guide = " ".join((REPOSITORY / "docs" / "guides" / "read-a-verdict.md").read_text().split())
    assert "cycles in the `tiers` of synthetic weights: of three cards in schnell and dev" in guide
    cards = {}
    for path in (REPOSITORY / "baselines").glob("*.json"):
        for results in read_baseline(path).results.values():
            if counted := {result.card for result in results if result.step_mcycles}:
                case, role = results[-1].case, results[-1].role
                assert (path.name, case.weights) == ("nvidia-h200.json", "synthetic")
                cards[case.model, role] = len(counted)
    of_three = {
        (model, role) for model in ("schnell", "dev") for role in (Role.EAGER, Role.DEFAULT)
    }
    assert {case for case, count in cards.items() if count == 3} == of_three
    assert {count for case, count in cards.items() if case not in of_three} == {1}
