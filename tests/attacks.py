"""Run the attacks on results, baselines, history and packages: `python -m tests.attacks`.

Each row names the tests that make the attack, and programs that make many. They run here, and the
table shows how each row ended: right if every one of its tests ran and passed, and each program
exited with 0. Rows 21 and 22 are samples of `tests.fuzz` and `tests.kills`.
"""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fluxfast.console import out
from fluxfast.tables import plain_table, render

REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack.

    Attributes:
        number: its row.
        what: what is done.
        right: what has to happen.
        tests: the tests that do it and check what happens, as `unit/test_x.py::test_y`.
        program: the module, and its arguments, that does it many times; none if empty.
    """

    number: int
    what: str
    right: str
    tests: tuple[str, ...]
    program: tuple[str, ...] = ()


def attack(
    number: int, what: str, right: str, *tests: str, program: tuple[str, ...] = ()
) -> Attack:
    """Return one row of the table."""
    return Attack(number=number, what=what, right=right, tests=tests, program=program)


JOINING, HISTORY = "unit/test_joining.py", "unit/test_history.py"
AGAINST, WORKFLOWS = "e2e/test_against.py", "e2e/test_workflows.py"
TRUST, PACKAGE = "unit/test_package_trust.py", "e2e/test_package.py"
MUTATED = "unit/test_mutated_files.py"
DATES = f"{HISTORY}::test_a_date_that_would_hide_other_nights_is_refused_and_can_be_removed"
LINKS = f"{JOINING}::test_a_link_out_of_a_folder_of_results_is_neither_shown_nor_copied"
NAMES = f"{JOINING}::test_a_result_under_the_name_of_another_case_is_refused"

ATTACKS = (
    attack(1, "merge a shard whose case names a path outside", "refused, nothing written", NAMES),
    attack(2, "add a result of 2099 to the history", "refused; --remove removes one", DATES),
    attack(3, "add a result dated “30 Nov 2026”", "refused", DATES),
    attack(
        4, "two writers of one baseline at once", "the second waits and adds",
        f"{JOINING}::test_writers_of_one_baseline_wait_for_each_other_and_all_add",
        f"{JOINING}::test_a_second_holder_of_a_lock_waits",
    ),
    attack(
        5, "resume one recording three times", "one process joins once",
        f"{JOINING}::test_a_process_joins_a_baseline_once_and_a_complete_case_takes_no_more",
    ),
    attack(
        6, "change code, record, check out, resume", "measured again",
        f"{JOINING}::test_a_result_of_uncommitted_changes_is_not_kept_for_their_commit",
    ),
    attack(
        7, "accept three commits or stacks as one case", "refused",
        f"{JOINING}::test_a_case_is_accepted_from_one_commit_and_one_stack",
    ),
    attack(
        8, "kill a comparison while it makes its tree", "the next one runs; nothing stays",
        f"{AGAINST}::test_a_run_that_is_killed_leaves_nothing_that_stops_the_next",
        f"{AGAINST}::test_two_runs_have_a_tree_each",
    ),
    attack(
        9, "two runs in one second without --results", "a folder each",
        "unit/test_session.py::test_a_folder_of_results_is_a_new_one",
    ),
    attack(
        10, "three exports into one --cache-dir at once", "one exports, all load it",
        f"{PACKAGE}::test_exports_that_wait_for_another_take_its_package",
    ),
    attack(
        11, "replace a package, add a library or a pickle", "refused, and before it is loaded",
        f"{TRUST}::test_a_folder_of_this_user_is_accepted_and_one_that_all_can_write_is_not",
        f"{TRUST}::test_a_file_of_another_user_is_refused",
        f"{TRUST}::test_another_library_or_a_pickle_is_refused",
        f"{PACKAGE}::test_a_replaced_file_is_refused",
    ),
    attack(
        12, "rename a result, or a CPU's baseline", "refused",
        NAMES, f"{JOINING}::test_the_baseline_of_another_cpu_is_refused",
    ),
    attack(
        13, "write a comment with the gate's marker", "it stays as it is",
        f"{WORKFLOWS}::test_the_gate_from_end_to_end",
    ),
    attack(
        14, "mentions, links and HTML in names and reasons", "text in the comment",
        "unit/test_escaping.py::test_hostile_text_stays_text",
    ),
    attack(
        15, "a package in a job that can write", "no job has both; without packages all run",
        f"{WORKFLOWS}::test_no_package_runs_next_to_a_token_that_can_write",
        f"{WORKFLOWS}::test_a_proposal_changes_baselines_of_known_gpus_only",
        f"{WORKFLOWS}::test_the_nightly_from_end_to_end",
    ),
    attack(
        16, "a project that leaves files on a GPU runner", "gone with its job",
        "e2e/test_runner.py::test_what_a_job_leaves_is_gone_in_the_next_one",
        f"{WORKFLOWS}::test_a_job_on_a_gpu_runner_has_an_environment_of_its_own",
    ),
    attack(17, "link a result or image to a file elsewhere", "refused", LINKS),
    attack(
        18, "a baseline that cannot be written", "the table, then the error",
        "unit/test_session.py::"
        "test_a_baseline_that_could_not_be_written_is_reported_after_the_table_and_fails",
        f"{JOINING}::test_a_baseline_that_cannot_be_written_is_reported_and_does_not_raise",
    ),
    attack(
        19, "a case with a name of 240 characters", "short, distinct file names",
        f"{JOINING}::test_a_case_with_a_long_id_has_short_and_distinct_file_names",
    ),
    attack(
        20, "10,000 images, or 10,000 cases in a report", "calls and memory grow no faster",
        "unit/test_report_scale.py::test_calls_of_a_report_grow_with_its_cases",
        "unit/test_report_scale.py::test_calls_and_memory_of_a_report_grow_with_its_images",
        "unit/test_report_scale.py::test_ten_thousand_workloads_are_fitted_in_linear_memory",
    ),
    attack(
        21, "mutate results, baselines, cases, manifests", "refused or judged, no traceback",
        f"{MUTATED}::test_a_result_is_refused_or_judged",
        f"{MUTATED}::test_a_baseline_is_refused_or_judges",
        f"{MUTATED}::test_a_file_of_cases_is_refused_or_planned_as_written",
        f"{MUTATED}::test_a_mutated_manifest_is_refused_or_the_same",
        program=("tests.fuzz", "--cases", "300"),
    ),
    attack(
        22, "kill a command at its file events", "nothing lost, nothing stuck",
        f"{HISTORY}::test_a_killed_writer_loses_no_committed_transaction",
        "unit/test_session.py::test_the_lock_of_a_dead_process_is_taken_over",
        "unit/test_fuzz_and_kills.py::"
        "test_commands_that_are_killed_lose_nothing_and_one_that_is_not_safe_is_noticed",
        program=("tests.kills", "--kills", "20", "--of", "commands"),
    ),
)  # fmt: skip


@dataclass
class Recorder:
    """A plugin for pytest that runs the named tests of the collected files alone.

    Attributes:
        wanted: the names of the tests.
        passed: how often each passed, one for each set of parameters.
        failed: those that failed or were skipped.
        messages: what they reported.
    """

    wanted: frozenset[str]
    passed: dict[str, int] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the wanted tests."""
        items[:] = [item for item in items if _name(item.nodeid) in self.wanted]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record how a test ended."""
        name = _name(report.nodeid)
        if not report.passed:
            self.failed.add(name)
            self.messages.append(f"{report.nodeid}\n{report.longreprtext}")
        elif report.when == "call":
            self.passed[name] = self.passed.get(name, 0) + 1

    def outcome(self, of: Attack) -> str:
        """Return `right`, or which test did not run or pass."""
        for name in of.tests:
            if name in self.failed:
                return f"WRONG: {name} failed"
            if name not in self.passed:
                return f"WRONG: {name} did not run"
        return "right" if of.tests else "WRONG: no test"

    def run(self, program: tuple[str, ...]) -> str:
        """Run a program; return `right`, or what to run to see why not."""
        command = [sys.executable, "-m", *program]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        if done.returncode == 0:
            return "right"
        self.messages.append(f"{done.stdout}{done.stderr}")
        return f"WRONG: python -m {' '.join(program)}"


def _name(node: str) -> str:
    return node.partition("[")[0].removeprefix("tests/")


def main() -> int:
    """Run all attacks, print the table, and return 0 if each ended right."""
    recorder = Recorder(frozenset(name for attack in ATTACKS for name in attack.tests))
    files = sorted({f"tests/{name.partition('::')[0]}" for name in recorder.wanted})
    with redirect_stdout(io.StringIO()):
        pytest.main(["-q", "-p", "no:cacheprovider", f"--rootdir={REPOSITORY}",
                     *(str(REPOSITORY / file) for file in files)], plugins=[recorder])  # fmt: skip
    outcomes = {attack.number: recorder.outcome(attack) for attack in ATTACKS}
    for attack in ATTACKS:
        if attack.program and outcomes[attack.number] == "right":
            outcomes[attack.number] = recorder.run(attack.program)
    table = plain_table("#", "attack", "has to happen", "outcome")
    for attack in ATTACKS:
        table.add_row(str(attack.number), attack.what, attack.right, outcomes[attack.number])
    out("\n\n".join([*recorder.messages, render(table)]))
    wrong = sum(outcome != "right" for outcome in outcomes.values())
    tests = sum(recorder.passed.values())
    out(f"{len(ATTACKS) - wrong} of {len(ATTACKS)} right, by {tests} passed tests")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
