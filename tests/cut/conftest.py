"""What each of these tests has: a pipeline without a breaker, or with one first or last."""

import pytest
from cut_parts import Guard, Storm


@pytest.fixture(params=["without", "first", "last"])
def guard(request, clock):
    return Guard(request.param, clock)


@pytest.fixture(params=["first", "last"])
def guarded(request, clock):
    """For what only a breaker can be asked."""
    return Guard(request.param, clock)


@pytest.fixture
def storm():
    return Storm()
