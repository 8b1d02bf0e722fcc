"""Settings that must hold before a test imports Triton."""

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Let Triton interpret its kernels where there is no GPU; it reads this when it is imported.

    The process that starts the workers of pytest-xdist runs no test, and need not import torch.
    """
    if not config.getoption("numprocesses", None):
        import torch

        if not torch.cuda.is_available():
            os.environ["TRITON_INTERPRET"] = "1"
