"""What each of these tests has: a pipeline without a breaker, or with one first or last."""

import pytest
from healthy_parts import Guard


@pytest.fixture(params=["without", "first", "last"])
def guard(request, clock):
    return Guard(request.param, clock)


@pytest.fixture(params=["first", "last"])
def guarded(request, clock):
    """For what only a breaker can be asked."""
    return Guard(request.param, clock)
