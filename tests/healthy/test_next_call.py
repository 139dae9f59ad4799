"""A transport that serves one call after the other, each with a worker of its own."""

import json

import pytest
from pipecat.frames.frames import TextFrame

from pipecat_circuit_breaker.testing import Output, ended, running
from tests.healthy.healthy_parts import LiveKit, numbers
from tests.support.guard import Guard
from tests.support.parts import On, app_message, settle

MESSAGES = 20


class Plain:
    """An output transport, and a processor that goes with it from call to call."""

    def __init__(self, patch):
        async def nothing(*_):
            pass

        self.output = Output()
        self.processors = [On(TextFrame, nothing), self.output]

    def arrived(self):
        return self.output.sent


class Room:
    """LiveKit's, which leaves its room with `EndFrame` and joins it again with the next call."""

    def __init__(self, patch):
        self._room = LiveKit(patch)
        transport = self._room.transport
        self.output = transport.output()
        self.processors = [transport.input(), self.output]

    def arrived(self):
        return [json.loads(d) for d in self._room.room.local_participant.arrived]


@pytest.fixture(params=[Plain, Room])
def served(request, monkeypatch):
    return request.param(monkeypatch)


def left_behind(processor):
    """What of the breaker's is on a processor itself."""
    return [name for name, value in vars(processor).items() if is_the_breakers(value)]


def is_the_breakers(value):
    module = getattr(value, "__module__", None) or ""
    package, _, rest = module.partition(".")
    return package == "pipecat_circuit_breaker" and not rest.startswith("testing")


async def call(served, processors):
    """One call: messages, and its end. Returns what arrived, and what is on the processors."""
    before = len(served.arrived())
    async with running(*processors) as worker:
        on_them = [left_behind(p) for p in served.processors]
        for n in range(MESSAGES):
            await worker.queue_frame(app_message(n))
        await settle(400)
        await ended(worker)
    return numbers(served.arrived()[before:], "app"), on_them


async def test__three_calls__a_new_breaker_each__all_messages_arrive(guard, served):
    for _ in range(3):
        arrived, _ = await call(served, guard.line(*served.processors, breaker=guard.new()))
        assert arrived == [*range(MESSAGES)]


async def test__three_calls__the_same_breaker__all_messages_arrive(guard, served):
    for _ in range(3):
        arrived, _ = await call(served, guard.line(*served.processors))
        assert arrived == [*range(MESSAGES)]


async def test__calls_with_a_breaker__then_calls_without__all_arrive_and_nothing_is_left(
    guard, served
):
    for _ in range(2):
        arrived, _ = await call(served, guard.line(*served.processors))
        assert arrived == [*range(MESSAGES)]
    for _ in range(2):
        # The worker that has the processors now knows nothing of a breaker.
        arrived, on_them = await call(served, served.processors)
        assert arrived == [*range(MESSAGES)]
        assert on_them == [[] for _ in served.processors]
    assert [left_behind(p) for p in served.processors] == [[] for _ in served.processors]


async def test__calls_with_a_breaker__the_next_has_it_elsewhere__one_guard_stands(guarded, served):
    # What the first guard put on the processors is gone: nothing is stood before twice.
    await call(served, guarded.line(*served.processors))
    other = Guard("last" if guarded.position == "first" else "first", guarded.clock)
    arrived, _ = await call(served, other.line(*served.processors))

    assert arrived == [*range(MESSAGES)]
