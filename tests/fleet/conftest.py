"""Fixtures of the fleet's tests: time, a store that can fail, processes, and what one bot sees."""

import pytest
from loguru import logger

from tests.fleet.fleet_parts import FakeStore, Process, Time, turns


@pytest.fixture
def time():
    return Time()


@pytest.fixture
async def store(time):
    return FakeStore(time)


@pytest.fixture
async def start(store, time):
    """Starts processes, and ends them."""
    processes = []

    async def start(instance="pod-1", *, joins=True, **params):
        process = Process(store, time, instance, **params)
        processes.append(process)
        if joins:
            process.join()
            await time.pass_(0)
        return process

    yield start
    store.released.set()
    store.faults.clear()
    for process in processes:
        await process.fleet.close()


@pytest.fixture
def log():
    lines = []
    logger.add(lambda line: lines.append((line.record["level"].name, line.record["message"])))
    return lines


@pytest.fixture
async def process(store, time):
    process = Process(store, time, min_instances=1)
    process.join()
    await turns()
    yield process
    await process.fleet.close()


@pytest.fixture
def view(process):
    return process.view
