"""The models of these tests are servers on this machine."""

import pytest


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Connect to loopback directly, whatever proxy the environment names."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
