"""Fixtures of the core's tests."""

import pytest

from tests.core.core_parts import Bench, Pages


@pytest.fixture
def bench(clock):
    return Bench(clock)


@pytest.fixture
def pages(clock):
    return Pages(clock)
