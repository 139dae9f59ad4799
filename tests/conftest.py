"""What tests share: a clock that stands still, and a bot that runs."""

import pytest
from loguru import logger


class Clock:
    """Monotonic seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, secs: float) -> None:
        self.now += secs


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def quiet_log():
    """Each test adds the sinks that it counts with."""
    logger.remove()
    yield
    logger.remove()
