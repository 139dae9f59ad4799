"""Causes are known through tasks, child tasks and the log; never guessed."""

import asyncio
import gc
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from itertools import count

import pytest
from loguru import logger

from pipecat_circuit_breaker import causality
from pipecat_circuit_breaker.causality import Causality
from pipecat_circuit_breaker.origin import FEEDBACK, Origin

ids = count(1)


@dataclass(eq=False)
class Processor:
    name: str
    id: int = field(default_factory=lambda: next(ids))


@dataclass  # unhashable, as pipecat's frames are
class Frame:
    id: int = field(default_factory=lambda: next(ids))


A, B, C = Processor("A"), Processor("B"), Processor("C")


@pytest.fixture
def links():
    return Causality(max_hops=4, max_text=50)


def push(links, processor, frame=None, origin=None):
    """What happens when a processor pushes a tracked frame."""
    frame = frame or Frame()
    handling = causality.current(processor)
    link = links.born(frame, processor, handling, at=0.0, text="t", origin=origin)
    frames.append(frame)
    return link


frames: list[Frame] = []  # keeps the frames alive for the length of a test


@pytest.fixture(autouse=True)
def forget_frames():
    yield
    frames.clear()


async def in_task(function, context=None):
    async def run():
        return function()

    return await asyncio.create_task(run(), context=context)


async def test__push__while_handling_a_tracked_frame__has_it_as_cause(links):
    root = push(links, A)

    def work():
        causality.begin(B, root)
        return push(links, B)

    child = await in_task(work)
    assert child.cause is root
    assert (root.hop, child.hop) == (0, 1)
    assert child.descends_from(root)
    assert not root.descends_from(child)


async def test__push__while_handling_any_other_frame__is_a_root(links):
    root = push(links, A)

    def work():
        causality.begin(B, root)
        causality.begin(B, None)
        return push(links, B)

    assert (await in_task(work)).cause is None


async def test__push__from_a_task_created_meanwhile__has_the_same_cause(links):
    root = push(links, A)

    async def work():
        causality.begin(B, root)
        child = asyncio.create_task(later())
        causality.begin(B, None)  # B has gone on to something else
        return await child

    async def later():
        await asyncio.sleep(0)
        return push(links, C)

    assert (await asyncio.create_task(work())).cause is root


async def test__push__from_an_async_log_sink__has_the_same_cause(links):
    root = push(links, A)
    born = []

    async def sink(message):
        born.append(push(links, C))

    logger.add(sink, format="{message}")

    def work():
        causality.begin(B, root)
        logger.error("failed")

    await in_task(work)
    await logger.complete()
    assert [link.cause for link in born] == [root]


async def test__processor_born_while_a_tracked_frame_was_handled__is_not_caused_by_it(links):
    root = push(links, A)

    async def work():
        causality.begin(A, root)
        return await asyncio.create_task(own_task())

    async def own_task():
        causality.begin(B, None)  # B's own task handles its first frame
        return push(links, B)

    assert (await asyncio.create_task(work())).cause is None


async def test__replies_in_a_row_through_a_direct_processor__are_no_chain(links):
    async def message_task():
        replies = []
        for _ in range(200):
            replies.append(push(links, A))
            causality.begin(B, replies[-1])  # direct mode: inside the pusher's task
            causality.end(B)
        return replies

    assert {link.hop for link in await asyncio.create_task(message_task())} == {0}


async def test__two_pushes_around_a_direct_processor__have_one_cause(links):
    root = push(links, C)

    def work():
        causality.begin(A, root)
        first = push(links, A)
        causality.begin(B, first)
        nested = push(links, B)
        causality.end(B)
        return first, nested, push(links, A)

    first, nested, second = await in_task(work)
    assert first.cause is root
    assert nested.cause is first
    assert second.cause is root


async def test__direct_processor_that_raised__leaves_no_mark_on_the_next_push(links):
    root = push(links, C)

    def work():
        causality.begin(A, root)
        causality.begin(B, push(links, A))  # no end: it raised
        second = push(links, A)
        causality.begin(A, None)
        return second, push(links, A)

    second, third = await in_task(work)
    assert second.cause is root
    assert third.cause is None


async def test__processor_that_calls_another_one__passes_the_cause_on(links):
    root = push(links, C)

    def work():
        causality.begin(A, root)
        return push(links, B)  # A calls a method of B that pushes

    assert (await in_task(work)).cause is root


async def test__what_is_handled__does_not_cross_to_an_unrelated_task(links):
    root = push(links, A)

    def work():
        causality.begin(B, root)

    await in_task(work)
    assert push(links, C).cause is None
    assert (await in_task(lambda: push(links, C), context=Context())).cause is None


async def test__forget__what_the_breaker_says_has_no_cause(links):
    root = push(links, A)

    def work():
        causality.begin(B, root)
        token = causality.forget()
        own = push(links, B)
        causality.restore(token)
        return own, push(links, B)

    own, other = await in_task(work)
    assert own.cause is None
    assert other.cause is root


def test__no_event_loop__a_sink_in_a_thread__has_no_cause_and_no_error(links):
    assert copy_context().run(push, links, A).cause is None


async def test__depth__of_nested_contexts__is_bounded(links):
    async def spawn(depth):
        causality.begin(Processor(f"P{depth}"), push(links, A))
        if depth:
            return await asyncio.create_task(spawn(depth - 1))
        handling, length = causality.current(A), 0
        while handling is not None:
            handling, length = handling.outer, length + 1
        return length

    assert await asyncio.create_task(spawn(50)) <= 2


async def test__message_set_off_by_a_message__names_who_handled_it(links):
    root = push(links, A)

    def work():
        causality.begin(B, root)
        return push(links, C)

    assert (await in_task(work)).origins == {Origin.of(B, FEEDBACK): 1}


async def test__message_set_off_by_an_error__inherits_its_origin(links):
    failure = Origin.of(A, "E")

    def work():
        error = push(links, A, origin=failure)
        causality.begin(B, error)
        return push(links, B)

    assert (await in_task(work)).origins == {failure: 1}


async def test__chain__longer_than_is_kept__is_cut_and_hops_go_on(links):
    def work():
        link = push(links, A)
        for _ in range(100):
            causality.begin(A, link)
            link = push(links, A)
        return link

    link = await in_task(work)
    assert link.hop == 100
    assert 8 <= len(link.chain()) <= 2 * 8
    assert link.origins == {Origin.of(A, FEEDBACK): 100}
    assert link.chain()[-1] is link


async def test__chain_of_many_origins__keeps_the_first_and_the_latest(links):
    def work():
        link = push(links, A, origin=Origin.of(A, "first"))
        for n in range(100):
            causality.begin(A, link)
            link = push(links, A, origin=Origin.of(A, f"then {n}"))
        return link

    origins = [origin.kind for origin in (await in_task(work)).origins]
    assert len(origins) == 16
    assert (origins[0], origins[-1]) == ("first", "then 99")


async def test__cause_of_another_pipeline__is_none(links):
    def work():
        causality.begin(A, push(Causality(max_hops=4, max_text=50), B))
        return push(links, A)

    assert (await in_task(work)).hop == 0


def test__frames_that_are_gone__leave_nothing_behind(links):
    for _ in range(1000):
        push(links, A)
        frames.clear()
    gc.collect()
    assert len(links) == 0


def test__link_of__frame_without_one__is_none(links):
    assert links.link_of(Frame()) is None


async def test__end__of_another_processor__changes_nothing(links):
    root = push(links, C)

    def work():
        causality.end(A)  # nothing is being handled yet
        causality.begin(A, root)
        causality.end(B)
        return push(links, A)

    assert (await in_task(work)).cause is root


async def test__end__in_a_task_that_only_inherited__changes_nothing(links):
    root = push(links, C)

    async def child():
        causality.end(A)
        return push(links, B)

    async def work():
        causality.begin(A, root)
        return await asyncio.create_task(child())

    assert (await asyncio.create_task(work())).cause is root


async def test__direct_processor_in_a_child_task__leaves_what_was_inherited(links):
    outer, inner = push(links, C), push(links, C)

    direct = Processor("D")

    async def child_of_direct():
        causality.begin(direct, None)
        causality.end(direct)
        return push(links, C)

    async def work_of_direct():
        causality.begin(A, outer)
        causality.begin(B, inner)
        return await asyncio.create_task(child_of_direct())

    assert (await asyncio.create_task(work_of_direct())).cause is inner


async def test__processor_below_a_nested_one__begins_anew_and_drops_what_nested(links):
    first, second = push(links, C), push(links, C)

    def work():
        causality.begin(A, first)
        causality.begin(B, first)  # no end: it raised
        causality.begin(A, second)
        return push(links, A), push(links, B)

    by_a, by_b = await in_task(work)
    assert by_a.cause is second
    assert by_b.cause is second


async def test__nested_processor__keeps_its_pushers_frame_below(links):
    first, second = push(links, C), push(links, C)

    def work():
        causality.begin(A, first)
        causality.begin(B, second)
        causality.begin(B, None)
        return push(links, A), push(links, B)

    by_a, by_b = await in_task(work)
    assert by_a.cause is first
    assert by_b.cause is None


def test__restart__makes_a_root(links):
    root = push(links, A)
    root.hop, root.origins, root.cause = 3, {Origin.of(A, "E"): 1}, push(links, B)
    root.restart()
    assert (root.hop, root.cause, root.origins) == (0, None, {})
