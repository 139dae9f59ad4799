"""Which task is doing what: causes are known through tasks, never guessed.

What becomes of a cause, the chain of links, is in test_lineage.py.
"""

import asyncio
import gc
from contextvars import Context, copy_context

import pytest
from loguru import logger

from pipecat_circuit_breaker._core import causality
from pipecat_circuit_breaker._core.causality import Causality
from pipecat_circuit_breaker._core.origin import Origin
from tests.core.core_parts import MAX_TEXT, WINDOW, Notice
from tests.support.core import Frame, Processor

A, B, C = Processor("A"), Processor("B"), Processor("C")
FAILURE = Origin.of(A, "E")


class Pushes:
    """What happens when a processor pushes a tracked frame."""

    def __init__(self, clock):
        self.clock = clock
        self.links = Causality(window_secs=WINDOW, max_text=MAX_TEXT)
        self.frames = []  # alive for the length of a test

    def cause(self, processor, frame=Frame):
        return self.links.cause(causality.note_of(processor), frame, now=self.clock())

    def push(self, processor, *, origin=None, frame=Frame):
        self.frames.append(frame())
        cause = self.cause(processor, frame)
        return self.links.born(
            self.frames[-1], processor, cause, at=self.clock(), text="t", origin=origin
        )


@pytest.fixture
def pushes(clock):
    return Pushes(clock)


async def in_task(function, *args, context=None):
    async def run():
        return function(*args)

    return await asyncio.create_task(run(), context=context)


#
# In a processor's own task
#


async def test__push__while_handling_a_tracked_frame__has_it_as_cause(pushes):
    root = pushes.push(A)

    def work():
        causality.begin(B, root)
        return pushes.push(B)

    child = await in_task(work)
    assert child.cause is child.root is root
    assert (root.cause, root.root) == (None, None)
    assert (root.hop, child.hop) == (0, 1)


async def test__push__while_handling_any_other_frame__is_a_root(pushes):
    root = pushes.push(A)

    def work():
        causality.begin(B, root)
        causality.begin(B, None)
        return pushes.push(B), causality.noted()

    link, note = await in_task(work)
    assert link.cause is None
    assert note is None


async def test__push__while_handling_an_untracked_frame_that_somebody_watches__is_a_root(pushes):
    def work():
        causality.begin(B, None, "AudioFrame")
        return pushes.push(B), causality.note_of(B)

    link, note = await in_task(work)
    assert link.cause is None
    assert (note.processor, note.link, note.handles) == (B, None, "AudioFrame")
    assert (note.outer, note.delivery, note.peer) == (None, None, None)


async def test__begin__with_a_link__notes_what_is_handled(pushes):
    root = pushes.push(A)

    def work():
        causality.begin(B, root, "ErrorFrame")
        return causality.note_of(B)

    note = await in_task(work)
    assert (note.processor, note.link, note.handles) == (B, root, "ErrorFrame")


async def test__processor_that_calls_another_one__passes_the_cause_on(pushes):
    root = pushes.push(C)

    def work():
        causality.begin(A, root)
        return pushes.push(B)  # A calls a method of B that pushes

    assert (await in_task(work)).cause is root


async def test__what_is_handled__does_not_cross_to_an_unrelated_task(pushes):
    root = pushes.push(A)
    await in_task(causality.begin, B, root)
    assert pushes.push(C).cause is None
    assert (await in_task(pushes.push, C, context=Context())).cause is None


async def test__silence__what_the_breaker_says_has_no_cause(pushes):
    root = pushes.push(A)

    def work():
        causality.begin(B, root)
        token = causality.silence()
        own = pushes.push(B)
        causality.restore(token)
        return own, pushes.push(B)

    own, other = await in_task(work)
    assert own.cause is None
    assert other.cause is root


def test__no_event_loop__a_sink_in_a_thread__has_no_cause_and_no_error(pushes):
    assert causality.running_task() is None
    assert copy_context().run(pushes.push, A).cause is None


def test__no_event_loop__what_the_thread_itself_notes__is_its_own(pushes):
    def work():
        causality.begin(B, pushes.push(A))
        pushes.clock.advance(WINDOW)
        return pushes.push(B)

    assert copy_context().run(work).hop == 1


async def test__cause__of_another_pipeline__is_none(pushes, clock):
    other = Pushes(clock)

    def work():
        causality.begin(A, other.push(B))
        return pushes.push(A)

    assert (await in_task(work)).hop == 0


#
# In a task that was created meanwhile
#


async def test__push__from_a_task_created_meanwhile__has_the_same_cause(pushes):
    root = pushes.push(A)

    async def work():
        causality.begin(B, root)
        child = asyncio.create_task(later())
        causality.begin(B, None)  # B has gone on to something else
        return await child

    async def later():
        await asyncio.sleep(0)
        return pushes.push(C)

    assert (await asyncio.create_task(work())).cause is root


async def test__push__from_an_async_log_sink__has_the_same_cause(pushes):
    root = pushes.push(A)
    born = []

    async def sink(message):
        born.append(pushes.push(C))

    logger.add(sink, format="{message}")

    def work():
        causality.begin(B, root)
        logger.error("failed")

    await in_task(work)
    await logger.complete()
    assert [link.cause for link in born] == [root]


async def test__processor_born_while_a_tracked_frame_was_handled__is_not_caused_by_it(pushes):
    root = pushes.push(A)

    async def work():
        causality.begin(A, root)
        return await asyncio.create_task(own_task())

    async def own_task():
        causality.begin(B, None)  # B's own task handles its first frame
        return pushes.push(B)

    assert (await asyncio.create_task(work())).cause is None


async def test__depth__of_nested_contexts__is_bounded(pushes):
    async def spawn(depth):
        causality.nest(Processor(f"P{depth}"), pushes.push(A))
        if depth:
            return await asyncio.create_task(spawn(depth - 1))
        note, length = causality.note_of(A), 0
        while note is not None:
            note, length = note.outer, length + 1
        return length

    assert await asyncio.create_task(spawn(50)) == 2


async def test__task__that_was_noted__is_held_weakly_and_so_is_let_go(pushes):
    root, kept = pushes.push(A), []

    def work():
        causality.begin(B, root)
        kept.append(causality.note_of(B))

    await in_task(work)
    await asyncio.sleep(0)
    gc.collect()
    (note,) = kept
    assert note.task() is None
    assert not note.is_of(asyncio.current_task())


async def test__cause__inherited_from_a_task_that_is_no_more__is_one_all_the_same(pushes):
    root, go, born = pushes.push(A), asyncio.Event(), []

    async def later():
        await go.wait()
        gc.collect()
        born.append(pushes.push(B))

    async def work():
        causality.begin(B, root)
        return asyncio.create_task(later())

    child = await asyncio.create_task(work())
    go.set()
    await child
    assert [link.cause for link in born] == [root]


async def test__cause__in_a_timer_of_a_task_that_is_no_more__expires_as_an_inherited_one(pushes):
    # What a timer calls runs in no task at all, with the context of the task that set it.
    causes, contexts = [], []
    root = pushes.push(A)

    def work():
        causality.begin(B, root)
        contexts.append(copy_context())

    await in_task(work)
    await asyncio.sleep(0)
    gc.collect()
    pushes.clock.advance(WINDOW)
    loop = asyncio.get_running_loop()
    loop.call_soon(lambda: causes.append(pushes.cause(B)), context=contexts[0])
    await asyncio.sleep(0)
    assert causes == [None]


#
# Causes expire
#


@pytest.mark.parametrize(("secs", "is_one"), [(6 * WINDOW - 0.001, True), (6 * WINDOW, False)])
async def test__cause__in_a_processors_own_task__is_one_for_six_windows(pushes, secs, is_one):
    root = pushes.push(A)

    def work():
        causality.begin(B, root)
        pushes.clock.advance(secs)
        return pushes.cause(B)

    assert (await in_task(work) is root) is is_one


@pytest.mark.parametrize(("secs", "is_one"), [(WINDOW - 0.001, True), (WINDOW, False)])
async def test__cause__inherited_by_another_task__is_one_for_one_window(pushes, secs, is_one):
    root = pushes.push(A)

    async def work():
        causality.begin(B, root)
        pushes.clock.advance(secs)
        return await in_task(pushes.cause, B)

    assert (await asyncio.create_task(work()) is root) is is_one


def test__cause__nothing_is_noted__is_none(pushes):
    assert pushes.links.cause(None, Frame, now=0.0) is None


#
# A task that was born of a failure
#


async def test__task_born_of_a_failure__first_frame_of_a_class__is_its_answer(pushes):
    error = pushes.push(A, origin=FAILURE)

    async def work():
        causality.begin(B, error)
        return await in_task(lambda: [pushes.cause(B, f) for f in (Frame, Frame, Notice, Notice)])

    assert await asyncio.create_task(work()) == [error, None, error, None]


async def test__task_born_of_a_success__each_of_its_frames__is_its_answer(pushes):
    root = pushes.push(A)

    async def work():
        causality.begin(B, root)
        return await in_task(lambda: [pushes.cause(B) for _ in range(3)])

    assert await asyncio.create_task(work()) == [root] * 3


async def test__processors_own_task__each_frame_that_it_pushes__is_on_account_of_the_failure(
    pushes,
):
    error = pushes.push(A, origin=FAILURE)

    def work():
        causality.begin(B, error)
        return [pushes.cause(B) for _ in range(3)]

    assert await in_task(work) == [error] * 3


async def test__two_tasks_born_of_a_failure__each__has_an_answer_of_its_own(pushes):
    error = pushes.push(A, origin=FAILURE)

    async def work():
        causality.begin(B, error)
        return [await in_task(pushes.cause, B) for _ in range(2)]

    assert await asyncio.create_task(work()) == [error] * 2


async def test__task_born_of_one_failure__is_noted_anew_on_account_of_another__answers_it_too(
    pushes,
):
    one, other = (pushes.push(A, origin=FAILURE) for _ in range(2))

    async def grandchild():
        return pushes.cause(B), pushes.cause(B)

    async def child():
        first = pushes.cause(B)
        causality.begin(C, other)
        return first, *(await asyncio.create_task(grandchild()))

    async def work():
        causality.begin(B, one)
        return await asyncio.create_task(child())

    assert await asyncio.create_task(work()) == (one, other, None)


#
# Direct mode: a processor that handles a frame inside the task of whoever pushed it
#


async def test__replies_in_a_row_through_a_direct_processor__are_no_chain(pushes):
    async def message_task():
        replies = []
        for _ in range(200):
            replies.append(pushes.push(A))
            causality.nest(B, replies[-1])
            causality.end(B)
        return replies

    assert {link.hop for link in await asyncio.create_task(message_task())} == {0}


async def test__two_pushes_around_a_direct_processor__have_one_cause(pushes):
    root = pushes.push(C)

    def work():
        causality.begin(A, root)
        first = pushes.push(A)
        causality.nest(B, first)
        nested = pushes.push(B)
        causality.end(B)
        return first, nested, pushes.push(A)

    first, nested, second = await in_task(work)
    assert first.cause is root
    assert nested.cause is first
    assert second.cause is root


async def test__direct_processor_that_raised__leaves_no_mark_on_the_next_push(pushes):
    root = pushes.push(C)

    def work():
        causality.begin(A, root)
        causality.nest(B, pushes.push(A))  # no end: it raised
        second = pushes.push(A)
        causality.begin(A, None)
        return second, pushes.push(A)

    second, third = await in_task(work)
    assert second.cause is root
    assert third.cause is None


async def test__direct_processor_that_raised__handles_the_next_frame__has_that_as_cause(pushes):
    first, second = pushes.push(C), pushes.push(C)

    def work():
        causality.begin(A, None, "AudioFrame")
        causality.nest(B, first)  # no end: it raised
        causality.nest(B, second)
        inner = causality.note_of(B)
        return pushes.push(B), inner.outer.processor

    link, around = await in_task(work)
    assert link.cause is second
    assert around is A


async def test__direct_processors_in_one_another__each__has_its_own_frame_as_cause(pushes):
    root = pushes.push(C)

    def work():
        causality.begin(A, root)
        first = pushes.push(A)
        causality.nest(B, first)
        second = pushes.push(B)
        causality.nest(C, second)
        by_each = [pushes.cause(p) for p in (A, B, C)]
        third = pushes.push(C)
        causality.nest(B, third)  # B again, below C: what was nested in it is over
        return first, second, third, by_each, [pushes.cause(p) for p in (A, B, C)]

    first, second, third, by_each, then = await in_task(work)
    assert by_each == [root, first, second]
    assert then == [root, third, third]


async def test__nest__handles_nobodys_frame__is_a_root_inside_and_as_before_outside(pushes):
    root = pushes.push(C)

    def work():
        causality.begin(A, root)
        causality.nest(B, None)
        return pushes.cause(A), pushes.cause(B)

    assert await in_task(work) == (root, None)


async def test__nest__restore__goes_back_to_what_was_before(pushes):
    root, failed = pushes.push(C), pushes.push(C)

    def work():
        causality.begin(A, root)
        token = causality.nest(B, failed, "Message", delivery="a delivery", peer="a worker")
        note = causality.noted()
        causality.restore(token)
        return note, causality.noted()

    note, before = await in_task(work)
    assert (note.processor, note.link, note.handles) == (B, failed, "Message")
    assert (note.delivery, note.peer) == ("a delivery", "a worker")
    assert before.processor is A
    assert before is note.outer


async def test__end__of_another_processor__changes_nothing(pushes):
    root = pushes.push(C)

    def work():
        causality.end(A)  # nothing is being handled yet
        causality.begin(A, root)
        causality.end(B)
        return pushes.cause(A)

    assert await in_task(work) is root


async def test__end__in_a_task_that_only_inherited__changes_nothing(pushes):
    root = pushes.push(C)

    def child():
        causality.end(A)
        return pushes.cause(B)

    async def work():
        causality.begin(A, root)
        return await in_task(child)

    assert await asyncio.create_task(work()) is root


async def test__end__of_what_was_begun__the_task_handles_nothing(pushes):
    root = pushes.push(C)

    def work():
        causality.begin(A, root)
        causality.end(A)
        return causality.noted()

    assert await in_task(work) is None


async def test__direct_processor_in_a_child_task__leaves_what_was_inherited(pushes):
    outer, inner = pushes.push(C), pushes.push(C)
    direct = Processor("D")

    def child_of_direct():
        causality.nest(direct, None)
        causality.end(direct)
        return pushes.cause(C)

    async def work_of_direct():
        causality.begin(A, outer)
        causality.nest(B, inner)
        return await in_task(child_of_direct)

    assert await asyncio.create_task(work_of_direct()) is inner


async def test__same_processor_in_a_child_task__what_it_inherited__is_not_its_own(pushes):
    # It was noted in another task: to nest there does not end what goes on elsewhere.
    root, own = pushes.push(C), pushes.push(C)

    def child():
        causality.nest(A, own)
        inner = causality.noted()
        causality.end(A)
        return inner.outer.link, pushes.cause(A)

    async def work():
        causality.begin(A, root)
        return await in_task(child)

    assert await asyncio.create_task(work()) == (root, root)


async def test__note_of__in_a_child_task__is_the_innermost_that_was_inherited(pushes):
    outer, inner = pushes.push(C), pushes.push(C)

    async def work():
        causality.begin(A, outer)
        causality.nest(B, inner)
        return await in_task(pushes.cause, A)

    assert await asyncio.create_task(work()) is inner


#
# Deliveries
#


async def test__delivering__inside_of_a_delivery_and_in_its_tasks__is_that_delivery(pushes):
    root = pushes.push(C)

    def inside():
        causality.nest(B, root)
        return causality.delivering()

    async def work():
        before = causality.delivering()
        causality.begin(A, root)
        token = causality.nest(A, root, delivery="a delivery")
        here = causality.delivering()
        child = await in_task(inside)
        inner = inside()
        causality.restore(token)
        return before, here.delivery, child.delivery, inner.delivery, causality.delivering()

    assert await asyncio.create_task(work()) == (None, *["a delivery"] * 3, None)
