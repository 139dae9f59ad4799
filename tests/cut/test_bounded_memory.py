"""What is kept does not grow with what a client or a provider sends."""

import gc
import tracemalloc
from contextlib import contextmanager

import pytest
from pipecat.frames.frames import (
    InputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    TextFrame,
)
from pipecat.transports.livekit.transport import LiveKitOutputTransportMessageUrgentFrame

from pipecat_circuit_breaker import CircuitBreakerParams
from pipecat_circuit_breaker.testing import Output, running
from tests.cut.cut_parts import heard
from tests.support.parts import On, settle

MEGABYTE = 2**20
RELAYED = 300
PARTICIPANTS = 2_000

#: What may be kept of it all: a few of the latest, and what Python and pipecat keep by themselves.
FLAT = 12 * MEGABYTE


class Counting(Output):
    """Keeps nothing of what it is to send."""

    def __init__(self, fails=lambda message: None):
        super().__init__(fails)
        self.count = 0

    async def send_message(self, frame):
        self.count += 1
        failure = self.fails(frame.message)
        if failure is not None:
            raise failure


def long(n, size=MEGABYTE):
    """A long text, and another one for each number."""
    return f"{n} ".ljust(size, "x")


@contextmanager
def flat(limit=FLAT):
    """What is kept afterwards has grown by less than the limit."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < limit


async def relay(processor, frame, direction):
    await processor.push_frame(OutputTransportMessageUrgentFrame(message=frame.message))


async def client_says(processor, frame, direction):
    n = int(frame.text)
    text = {"type": long(n), "label": long(n)} if n % 2 else {"type": long(n)}
    await processor.push_frame(InputTransportMessageFrame(message=text))


async def test__clients_megabyte_types_are_relayed__all_arrive__memory_is_flat(guard):
    output = Counting()
    client, application = On(TextFrame, client_says), On(InputTransportMessageFrame, relay)
    async with running(*guard.line(client, application, output)) as worker:
        with flat():
            for n in range(RELAYED):
                await worker.queue_frame(TextFrame(str(n)))
                await settle(30)

    assert output.count == RELAYED


def every_second(message):
    """Fails for every second sort of message, so that the channel is never down."""
    return TypeError("not serialisable") if message.get("label", "rtvi-ai") != "rtvi-ai" else None


async def test__clients_megabyte_types_are_relayed__half_of_them_fails__memory_is_flat(guarded):
    output = Counting(every_second)
    client, application = On(TextFrame, client_says), On(InputTransportMessageFrame, relay)
    async with running(*guarded.line(client, application, output)) as worker:
        with flat():
            for n in range(RELAYED // 3):
                await worker.queue_frame(TextFrame(str(n)))
                await settle(30)

    assert output.count >= RELAYED // 3


def to_participant(name):
    return LiveKitOutputTransportMessageUrgentFrame(message={"type": "app"}, participant_id=name)


FAILS = {"delivered": lambda m: None, "fails": lambda m: ConnectionError("the client is gone")}


@pytest.mark.parametrize("outcome", FAILS)
async def test__participants_with_megabyte_names__one_message_each__memory_is_flat(
    guarded, outcome
):
    output = Counting(FAILS[outcome])
    async with running(*guarded.line(output)) as worker:
        with flat():
            for n in range(RELAYED):
                await worker.queue_frame(to_participant(long(n)))
                await settle(20)

    if outcome == "delivered":
        assert output.count == RELAYED


@pytest.mark.parametrize("outcome", FAILS)
async def test__participants_without_end__one_message_each__memory_and_circuits_are_bounded(
    guarded, outcome
):
    output = Counting(FAILS[outcome])
    async with running(*guarded.line(output)) as worker:
        with flat(4 * MEGABYTE):
            for n in range(PARTICIPANTS):
                await worker.queue_frame(to_participant(f"participant {n}".ljust(1000)))
                await settle(5)
            await settle()
        circuits = guarded.breaker.circuits

    assert len(circuits) <= CircuitBreakerParams().max_circuits
    assert len(guarded.breaker.totals) <= CircuitBreakerParams().max_circuits + 1
    if outcome == "delivered":
        assert output.count == PARTICIPANTS


async def test__errors_of_a_hundred_kilobytes__another_one_each_time__memory_is_flat(guarded):
    # pipecat itself takes a tenth of a second for each megabyte of an error.
    async def fail(processor, frame, direction):
        await processor.push_error(long(int(frame.text), MEGABYTE // 10))

    async with running(*guarded.line(On(TextFrame, fail), Output())) as worker:
        with heard(worker) as errors, flat():
            for n in range(RELAYED):
                await worker.queue_frame(TextFrame(str(n)))
                await settle(20)
            errors.clear()
        incidents = guarded.breaker.incidents

    assert all(len(incident.model_dump_json()) < MEGABYTE // 10 for incident in incidents)
