"""pytest perf_tests --against REF: the tree of the other revision, with git."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from fluxfast.bench.ab.revision import CHILD_FILE, worktree
from fluxfast.bench.ab.revision import _git as git
from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.sides import write_sides
from fluxfast.bench.results.store import read_results, write_result
from fluxfast.pytest_plugin import comparing
from tests.kills.scenario import Reported, Scenario, again, measured
from tests.kills.sessions import prepare_gate, session
from tests.support.machines import H200
from tests.support.synthetic_sides import two_environments


def prepare_against(folder: Path) -> None:
    repository = folder / "repository"
    (repository / CHILD_FILE).parent.mkdir(parents=True)
    prepare_gate(repository)
    git(repository, "init", "--quiet", "--template=")
    for number in range(2):
        (repository / CHILD_FILE).write_text(f"revision = {number}\n")
        for n in range(3):
            (repository / f"file{n}.py").write_text(f"{number} {n}\n" * 200)
        git(repository, "add", CHILD_FILE, *(f"file{n}.py" for n in range(3)))
        who = ("-c", "user.name=nobody", "-c", "user.email=nobody@localhost")
        git(repository, *who, "commit", "--quiet", "--message", f"Revision {number}")


def against(folder: Path, report: Callable[[str], None]) -> None:
    repository = folder / "repository"
    comparing.required_checkout = lambda purpose: repository
    comparing.measure_in = _measured_in
    comparing.ProcessSettings.describe = _describe
    suite = session(repository, H200, against="HEAD~1")
    suite.open_results(judges=True)
    with worktree("HEAD~1", repository, suite.folder / "against") as tree:
        assert (tree / CHILD_FILE).read_text() == "revision = 0\n"
        suite.__dict__["progress"] = SimpleNamespace(line=lambda text: None)
        suite.compare(lambda: tree)
        assert not suite.compared.errors, suite.compared.errors
        for planned in suite.selected:
            if planned.case.id not in suite.reference_ids:
                suite.judge(planned)
    suite.close()
    report("compared")


def _describe(settings):
    sides = two_environments("2.11.0", "2.12.0")
    write_sides(settings.results, sides)
    return sides


def _measured_in(installation, request, report):
    number = sum(request.results.name.encode())
    results = {text: measured(Case.from_id(text), H200, number) for text in request.cases}
    for result in results.values():
        write_result(request.results, result)
    return results


def check_against(folder: Path, reported: Reported | None) -> None:
    repository = folder / "repository"
    assert git(repository, "worktree", "list").count("\n") == 0
    assert git(repository, "status", "--short", "--untracked-files=no") == ""
    if reported is None or "compared" in reported:
        for side in ("A1", "B1"):
            assert read_results([repository / "results" / side])


SCENARIOS = (
    Scenario(
        name="--against",
        prepare=prepare_against,
        run=against,
        check=check_against,
        again=again(against),
    ),
)
