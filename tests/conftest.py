"""What tests share: a clock that stands still, and a bot that runs."""

import pytest
from loguru import logger

from clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def quiet_log():
    """Each test adds the sinks that it counts with, and leaves none of its own settings."""
    logger.remove()
    yield
    logger.remove()
    logger.configure(extra={})
