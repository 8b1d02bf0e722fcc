"""The structure that readers rely on: few modules at the top, knowledge in one place."""

import ast
from pathlib import Path

from fluxfast.optimizations.registry import optimizations

REPOSITORY = Path(__file__).parents[2]
MODULES = sorted((REPOSITORY / "fluxfast").rglob("*.py"))
MOST_MODULES_AT_THE_TOP = 8
MOST_LINES = 300
# Two options of flux-fast each mean one optimization: --use-cached-model and --cache_dit_config.
NAMED_BY_OPTIONS = {"export_aoti", "dbcache"}


def relative(path):
    return str(path.relative_to(REPOSITORY))


def test_few_modules_lie_at_the_top_of_the_package():
    top = [path.name for path in MODULES if path.parent == REPOSITORY / "fluxfast"]
    assert len(top) <= MOST_MODULES_AT_THE_TOP, top


def test_a_module_is_short_enough_to_be_read():
    folders = ("fluxfast", "benchmarks", "training", "perf_tests", "correctness_tests")
    modules = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    lines = {relative(path): len(path.read_text().splitlines()) for path in modules}
    assert not {name: count for name, count in lines.items() if count > MOST_LINES}


def test_no_module_outside_of_the_optimizations_names_one():
    names = set(optimizations())
    found = [
        f"{relative(path)}:{node.lineno}: {node.value}"
        for path in MODULES
        if "optimizations" not in path.relative_to(REPOSITORY / "fluxfast").parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and node.value in names
        and not (path.parent.name == "cli" and node.value in NAMED_BY_OPTIONS)
    ]
    assert not found, "\n".join(["optimizations listed by name:", *found])


def test_test_modules_do_not_import_each_other():
    found = [
        f"{relative(path)}:{node.lineno}: {node.module}"
        for path in sorted((REPOSITORY / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and any(part.startswith("test_") for part in (node.module or "").split("."))
    ]
    assert not found, "\n".join(["shared code belongs in tests/support:", *found])
