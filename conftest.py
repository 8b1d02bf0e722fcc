"""Load the plugin of the performance suite, and tell pytest-xdist which tests belong together."""

from functools import cache
from pathlib import Path

import pytest

pytest_plugins = ["fluxfast.pytest_plugin.plugin"]


def group_of(nodeid: str) -> str:
    """Return the tests that share expensive fixtures: those of a case, or of a module."""
    file, _, test = nodeid.partition("::")
    if Path(file).parts[:1] == ("correctness_tests",) and "[" in test:
        return test[test.index("[") :]
    return file if _shares_fixtures(file) else nodeid


@cache
def _shares_fixtures(file: str) -> bool:
    path = Path(__file__).parent / file
    return path.exists() and 'scope="module"' in path.read_text(encoding="utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep the tests of a group in one worker.

    The groups of `--dist loadgroup` have no effect with pytest 9.2 and pytest-xdist 3.8: xdist
    writes them into node ids, which pytest no longer reads.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)
