"""Fixtures of the kernel tests."""

import pytest

from tests.support.attention import install_fake_kernels


@pytest.fixture
def fake_kernels(monkeypatch):
    """Install stand-ins for FlashAttention-3 and AITER."""
    install_fake_kernels(monkeypatch)
