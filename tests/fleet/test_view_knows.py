"""What one bot knows of its fleet's outages: what is out, for how long, and what has come back."""

import pytest
from loguru import logger
from pipecat.processors.frame_processor import FrameProcessor

from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.fleet import ModeSet
from tests.fleet.fleet_parts import AHEAD, Process, Voice, outage, turns


async def test_a_failure_of_a_known_outage_is_known_until_the_next_probe(
    process, view, store, time
):
    origin = process.origin()
    assert view.knows(origin) is None
    store.put(outage(probe_at=store.now + 20))
    await turns()
    assert view.knows(origin) == 20
    await time.pass_(12)
    assert view.knows(origin) == 8


@pytest.mark.parametrize(
    ("fields", "secs"),
    [
        ({"probe_at": AHEAD}, 1),
        ({"probe_at": AHEAD + 1e9}, 60),
        ({"probe_at": None}, 60),
        ({"probe_at": AHEAD, "is_by_hand": True}, 60),
    ],
)
async def test_no_bot_waits_longer_than_a_minute_or_not_at_all(process, view, store, fields, secs):
    store.put(outage(**fields))
    await turns()
    assert view.knows(process.origin()) == secs


@pytest.mark.parametrize("state", ["suspected", "closed"])
async def test_what_is_not_open_is_not_known(process, view, store, state):
    store.put(outage(state=state))
    await turns()
    assert view.knows(process.origin()) is None


@pytest.mark.parametrize("mode", ["observe", "disabled"])
async def test_somebody_may_keep_bots_from_acting(process, view, store, mode):
    store.put(outage())
    store.put(ModeSet(mode=mode, at=store.now))
    await turns()
    assert view.knows(process.origin()) is None
    assert not view.is_out(process.service)
    assert not view.may_probe_soon(process.service)
    assert await view.probe(process.service) is None


async def test_of_an_origin_that_nobody_has_told_of_nothing_is_known(process, view, store):
    store.put(outage())
    await turns()
    origin = Origin.of(process.service, "ConnectError", where="here")
    assert view.knows(origin) is None
    view.failed(origin, votes=True)
    view.service_worked(process.service)
    await turns()
    assert store.reports == []


async def test_what_is_not_shared_is_neither_known_nor_told(store, time):
    process = Process(store, time, share=lambda failure: False)
    process.join()
    store.put(outage())
    await turns()
    assert process.view.knows(process.origin()) is None
    process.fail()
    await turns()
    assert store.reports == []
    await process.fleet.close()


async def test_by_default_a_processor_of_the_applications_own_is_not_shared(process, view, store):
    class Own(FrameProcessor):
        pass

    own = Own()
    origin = Origin.of(own, "ValueError")
    assert not view.learn(origin, own)
    view.failed(origin, votes=True)
    await turns()
    assert store.reports == []


@pytest.mark.parametrize("name", ["share", "label"])
async def test_an_application_that_raises_shares_nothing_and_hears_of_it_once(store, time, name):
    lines = []
    logger.add(lambda line: lines.append(line.record["message"]), level="ERROR")
    process = Process(store, time, **{name: lambda subject: 1 / 0})
    process.join()
    for kind in ("ConnectError", "other", "third"):
        view, origin = process.view, process.origin(kind)
        view.failed(origin, votes=True)
        assert view.knows(origin) is None
    assert not view.is_out(process.service)
    view.service_failed(process.service, origin)
    view.service_worked(process.service)
    await turns()
    assert store.reports == []
    assert len(lines) == 1 and name in lines[0]
    await process.fleet.close()


async def test_a_label_is_part_of_the_name(store, time):
    process = Process(store, time, label=lambda processor: "eu")
    process.join()
    process.fail()
    await turns()
    assert store.reports[0].key == "Voice[eu]: ConnectError in here"
    await process.fleet.close()


async def test_whether_a_failure_is_shared_is_asked_of_each(store, time):
    process = Process(store, time, share=lambda failure: failure.category == "server")
    process.join()
    view, origin = process.view, process.origin("HTTPStatusError")
    for category in ("invalid_request", "server", "invalid_request"):
        shared = view.learn(origin, process.service, category=category)
        assert shared is (category == "server")
        view.failed(origin, votes=True)
    await turns()
    assert [report.failures for report in store.reports] == [1]
    await process.fleet.close()


async def test_what_an_error_says_is_in_no_name(store, time):
    process = Process(store, time)
    process.join()
    origin = process.origin("cannot speak the words of John Smith")
    process.view.learn(origin, process.service)
    process.view.failed(origin, votes=True)
    await turns()
    assert store.reports[0].key.startswith("Voice: error ")
    assert "John" not in store.reports[0].key
    await process.fleet.close()


async def test_a_bot_remembers_256_origins_the_latest(process, view, store):
    origins = [process.origin(f"kind {chr(65 + n % 26)}{n}") for n in range(1000)]
    store.put(outage(f"Voice: {origins[-1].kind} in here"))
    store.put(outage(f"Voice: {origins[0].kind} in here"))
    await turns()
    assert view.knows(origins[-1]) is not None
    assert view.knows(origins[0]) is None
    for number in range(1000):
        view.failed(process.origin(f"another kind {chr(65 + number % 26)}{number}"), votes=True)
    assert len(view._asked) <= 256
    assert len(view._keys) == len(view._processors) == 256


async def test_a_bot_may_ask_whether_another_has_seen_a_service_work_again(
    process, view, store, time
):
    assert not view.came_back(process.service, 10)
    store.put(outage(generation=1, at=store.now))
    await turns()
    over = {"state": "closed", "closed_at": store.now, "ending": "recovered"}
    other = outage("Voice: other in here", at=store.now)
    store.put(other)
    store.put(outage(generation=2, **over))
    await turns()
    assert not view.came_back(process.service, 10)
    store.put(other.model_copy(update={**over, "ending": "by_hand", "generation": 1}))
    await turns()
    assert view.came_back(process.service, 10)
    assert not view.came_back(Other(), 10)
    await time.pass_(10)
    assert not view.came_back(process.service, 10)


class Other(Voice):
    pass


@pytest.mark.parametrize("ending", ["by_hand", "forgotten"])
async def test_an_outage_that_nobody_has_seen_end_says_nothing(process, view, store, ending):
    store.put(outage())
    await turns()
    over = {"state": "closed", "closed_at": store.now, "ending": ending}
    store.put(outage(generation=1, **over))
    await turns()
    assert not view.came_back(process.service, 10)


async def test_where_bots_are_not_to_act_no_service_has_come_back(process, view, store):
    store.put(outage())
    await turns()
    store.put(outage(state="closed", generation=1, closed_at=store.now, ending="recovered"))
    await turns()
    assert view.came_back(process.service, 10)
    store.put(ModeSet(mode="observe", at=store.now))
    await turns()
    assert not view.came_back(process.service, 10)


async def test_a_bot_is_told_that_something_has_begun_or_is_over(process, store):
    told = []
    process.fleet.join("other", lambda: told.append("changed"), lambda origins: None)
    store.put(outage(state="suspected"))
    await turns()
    assert told == []
    store.put(outage(generation=1))
    store.put(outage(generation=1, failures=9))
    await turns()
    assert told == ["changed"]
    store.put(outage(state="closed", generation=2))
    await turns()
    assert told == ["changed"] * 2
