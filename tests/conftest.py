"""Settings that must hold before a test imports torch or Triton, and the groups of xdist."""

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers already use every core

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads this when it is imported


def pytest_itemcollected(item):
    """Keep the tests that use a fixture of their module in one worker of pytest-xdist."""
    known = getattr(item, "_fixtureinfo", None)  # has no public counterpart
    definitions = [d for found in known.name2fixturedefs.values() for d in found] if known else []
    if any(definition.scope == "module" for definition in definitions):
        item.add_marker(pytest.mark.xdist_group(item.path.stem))
