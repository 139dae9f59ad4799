"""Fixtures of the storm filter's tests: a filter, and a sink behind it."""

import pytest

from pipecat_circuit_breaker.logs import StormFilter
from tests.logs.sink_parts import Sink


@pytest.fixture
def storm(clock):
    return StormFilter(first=3, interval_secs=60, clock=clock)


@pytest.fixture
def sink(storm):
    return Sink(storm)
