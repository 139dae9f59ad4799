"""What tests share: a clock that stands still, and pipelines without and with a breaker."""

import pytest
from loguru import logger

from pipecat_circuit_breaker.testing import Clock
from tests.support.guard import Guard


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["without", "first", "last"])
def guard(request, clock):
    return Guard(request.param, clock)


@pytest.fixture(params=["first", "last"])
def guarded(request, clock):
    """For what only a breaker can be asked."""
    return Guard(request.param, clock)


@pytest.fixture(autouse=True)
def quiet_log():
    """Each test adds the sinks that it counts with, and leaves none of its own settings."""
    logger.remove()
    yield
    logger.remove()
    logger.configure(extra={})
