"""Settings that must hold before a test imports torch or Triton, and the groups of xdist."""

import os

import pytest

SHARING = ("docs", "e2e")  # folders whose modules share built pipelines or recorded results

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers already use every core

import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads this when it is imported


def pytest_itemcollected(item):
    """Keep the tests of a module that shares fixtures in one worker of pytest-xdist."""
    if item.path.parent.name in SHARING and not item.get_closest_marker("xdist_group"):
        item.add_marker(pytest.mark.xdist_group(item.path.stem))
