"""The pytest plugin: options and hooks, and the session that plans, records, judges and prints.

The `pytest11` entry point loads this module in every project of an environment in which fluxfast
is installed, so it imports nothing. A project that uses the suite sets `fluxfast = true` in its
pytest configuration; only then the plugin with its options is loaded.
"""

from __future__ import annotations

from typing import Any

PLUGIN = f"{__name__}.plugin"


def pytest_addoption(parser: Any) -> None:
    """Add the setting that loads the plugin."""
    parser.addini("fluxfast", "load the performance-regression suite of fluxfast", "bool", False)


def pytest_load_initial_conftests(early_config: Any) -> None:
    """Load the plugin where the project asks for it."""
    if early_config.getini("fluxfast"):
        early_config.pluginmanager.import_plugin(PLUGIN)
