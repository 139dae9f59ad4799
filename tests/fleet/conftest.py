import pytest
from fleet_parts import FakeStore, Time


@pytest.fixture
def time():
    return Time()


@pytest.fixture
async def store(time):
    return FakeStore(time)
