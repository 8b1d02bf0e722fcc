"""Collect the tests of a pytest command in this process, on the GPU that the command names."""

import pytest

from tests.support.pages import REPOSITORY
from tests.support.rehearsal import described, forget_suites

QUIET = ["--collect-only", "-qq", "-p", "no:cacheprovider", "-p", "no:faulthandler"]


class Collected:
    """A pytest plugin that keeps the names of the collected tests."""

    names: tuple[str, ...] = ()

    def pytest_collection_finish(self, session):
        """Keep the tests that remain after `-k`."""
        self.names = tuple(item.name for item in session.items)


def collected(words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Return the names of the tests that `pytest WORDS` selects."""
    gpu = words[words.index("--gpu") + 1]
    if gpu != "cpu":
        machine = described(gpu)
        monkeypatch.setattr("fluxfast.pytest_plugin.session.detect", lambda device, gpus: machine)
    monkeypatch.chdir(REPOSITORY)
    plugin = Collected()
    forget_suites()
    assert pytest.main([*words, *QUIET], plugins=[plugin]) == 0
    return plugin.names
