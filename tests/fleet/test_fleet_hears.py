"""How a fleet's one task gets up, and what it hears: outages, who is first, and their end."""

import asyncio
import contextvars

from pipecat_circuit_breaker.fleet.link import LINGER_SECS
from pipecat_circuit_breaker.fleet.memory import MemoryStore
from pipecat_circuit_breaker.fleet.store import StoreUnavailable
from tests.fleet.fleet_parts import AHEAD, KEY, Process, outage, turns

# How it gets up.


async def test_nothing_runs_before_a_bot_joins(start, store):
    process = await start(joins=False)
    await turns()
    assert store.log == []
    assert not process.fleet.is_connected


async def test_it_listens_before_it_reads(start, store):
    store.put(outage())
    process = await start()
    assert store.log == ["news", "read"]
    assert process.fleet.is_connected
    assert process.told == ["connected", ("opened", KEY, False)] or process.told == [
        ("opened", KEY, False),
        "connected",
    ]
    assert [o.key for o in process.fleet.outages] == [KEY]


async def test_fifty_bots_have_one_task(start, store):
    process = await start()
    tasks = len(asyncio.all_tasks())
    for _ in range(50):
        process.join()
    await turns()
    assert len(asyncio.all_tasks()) == tasks
    assert store.log == ["news", "read"]


async def test_it_may_be_started_before_any_bot(start, store, time):
    process = await start(joins=False)
    await process.fleet.start()
    await time.pass_(10 * LINGER_SECS)
    assert process.fleet.is_connected


async def test_its_task_knows_nothing_of_the_bot_that_started_it(start, store):
    ours = contextvars.ContextVar("ours", default=None)
    seen = []
    process = await start(joins=False)

    @process.fleet.event_handler("on_fleet_connected")
    async def on_fleet_connected(fleet):
        seen.append(ours.get())

    ours.set("handling an error")
    process.join()
    await turns()
    assert seen == [None]


# What it hears.


async def test_what_others_find_out_is_known_without_asking(start, store):
    process = await start()
    asked = len(store.log)
    store.put(outage())
    await turns()
    assert process.told[-1] == ("opened", KEY, False)
    store.put(outage(state="closed", generation=1))
    await turns()
    assert process.told[-1] == ("closed", KEY, False)
    assert len(store.log) == asked


async def test_a_bot_has_a_look_at_what_was_read_before_it_could_be_used(start, store, time):
    store.put(outage())
    process = await start(joins=False)
    seen = []
    view = process.fleet.join(
        "b", lambda: seen.append(view.is_out(process.service)), lambda o: None
    )
    await time.pass_(0)
    assert seen[-1]


async def test_an_outage_takes_two_pods_and_one_of_them_is_first(start):
    one, two, three = [await start(f"pod-{n}") for n in range(3)]
    one.fail()
    await turns()
    assert one.fleet.outages == ()
    two.fail()
    await turns()

    opened = [("opened", KEY, first) for first in (False, True, False)]
    assert [process.told[-1] for process in (one, two, three)] == opened


async def test_an_outage_is_over_for_all_and_one_of_them_is_first(start, time):
    one, two, three = [await start(f"pod-{n}") for n in range(3)]
    one.fail()
    two.fail()
    await turns()
    three.view.service_worked(three.service)
    await turns()

    assert three.fleet.outages != ()
    await time.pass_(3)
    three.view.service_worked(three.service)
    await turns()
    closed = [("closed", KEY, first) for first in (False, False, True)]
    assert [process.told[-1] for process in (one, two, three)] == closed


async def test_of_an_outage_that_is_forgotten_one_is_first_too(time):
    store = MemoryStore(clock=lambda: AHEAD + time())
    processes = [Process(store, time, f"pod-{n}", hold_secs=20.0) for n in range(3)]
    for process in processes:
        process.join()
    processes[0].fail()
    processes[1].fail()
    await time.pass_(15)
    assert all(process.fleet.outages for process in processes)
    await store.read()  # Who only looks takes that from nobody.
    await time.pass_(10)
    await store.read()
    closed = [told for process in processes for told in process.told if told[0] == "closed"]
    assert sorted(closed) == [("closed", KEY, False), ("closed", KEY, False), ("closed", KEY, True)]
    for process in processes:
        await process.fleet.close()


async def test_who_was_first_is_so_also_where_the_answer_got_lost(start, store, time):
    process = await start(min_instances=1)
    answer = store.report

    async def report(*args, **kwargs):
        await answer(*args, **kwargs)
        raise StoreUnavailable("lost the answer")

    # Neither an answer nor any news comes.
    store.listeners.clear()
    store.report = report
    process.fail()
    await turns()
    del store.report
    await time.pass_(2)
    assert [told for told in process.told if told[0] == "opened"] == [("opened", KEY, True)]


async def test_an_outage_opened_by_hand_has_no_first(start, store):
    process = await start()
    store.put(outage(is_by_hand=True, opened_by="ada", probe_at=None))
    await turns()
    assert process.told[-1] == ("opened", KEY, False)


async def test_a_listener_that_raises_changes_nothing_for_others(start, store):
    process = await start(joins=False)

    def raises(*args):
        raise RuntimeError("mine")

    for event in ("opened", "closed"):
        process.fleet.add_event_handler(f"on_fleet_outage_{event}", raises)
        handlers = process.fleet._event_handlers[f"on_fleet_outage_{event}"].handlers
        handlers.reverse()
    process.join()
    bad = process.fleet.join("bad", raises, raises)
    origin = process.origin()
    bad._keys.update(process.view._keys)
    await turns()
    store.put(outage())
    await turns()
    assert process.view.knows(origin) and bad.knows(origin)
    store.put(outage(state="closed", generation=1))
    await turns()

    assert process.told[-2:] == [("opened", KEY, False), ("closed", KEY, False)]
    assert process.closed == [frozenset({origin})]
    assert process.fleet.is_connected


async def test_a_listener_that_never_ends_holds_up_nothing(start, store):
    process = await start(joins=False)

    @process.fleet.event_handler("on_fleet_connected")
    async def on_fleet_connected(fleet):
        await store.released.wait()

    process.join()
    await turns()
    store.put(outage())
    await turns()
    assert ("opened", KEY, False) in process.told
