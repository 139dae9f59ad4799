"""What one bot sees of its fleet, and tells it."""

import asyncio
import math

import pytest
from fleet_parts import AHEAD, KEY, FakeStore, Process, Time, Voice, outage, turns
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger
from pipecat.frames.frames import (
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.llm_service import LLMService
from pipecat.services.settings import LLMSettings

from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.fleet import Fleet, FleetParams, Lease, ModeSet
from pipecat_circuit_breaker.fleet.store import Answer, Knowledge, StoreUnavailable
from pipecat_circuit_breaker.fleet.view import SecondLooks


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


# What it knows.


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


# What it tells.


async def test_what_it_tells_has_the_bots_own_name(process, store):
    other = process.fleet.join("other", lambda: (), lambda origins: None)
    process.fail()
    other.learn(process.origin(), process.service, exception=OSError())
    other.failed(process.origin(), votes=True)
    await turns()
    (report,) = store.reports
    token = report.token
    assert report.instance == "pod-1"
    assert len(report.bots) == 2
    assert all(bot.partition(".")[0] == token and len(token) == 12 for bot in report.bots)


async def test_one_who_has_left_tells_nothing(process, view, store):
    origin = process.origin()
    view.leave()
    view.failed(origin, votes=True)
    view.learn(origin, process.service, exception=OSError())
    view.failed(origin, votes=True)
    await turns()
    assert store.reports == []


async def test_one_who_has_left_knows_nothing_and_keeps_nothing(process, view, store):
    origin = process.origin()
    store.put(outage())
    await turns()
    assert view.knows(origin) is not None
    view.leave()
    assert not view.learn(origin, process.service, exception=OSError())
    assert view.knows(origin) is None
    assert not (view._keys or view._processors or view._asked or view._heard)
    store.put(outage(state="closed", generation=1))
    await turns()
    assert process.closed == []


async def test_one_who_has_left_ends_nothing(process, view, store):
    store.put(outage(probe_at=store.now))
    await turns()
    view.leave()
    view.service_worked(process.service)
    await turns()
    assert "lease" not in store.log


async def test_what_works_while_nobody_can_be_told_ends_nothing_later(process, view, store, time):
    store.put(outage(probe_at=store.now))
    await turns()
    store.drop_connections()
    await turns()
    view.service_worked(process.service)
    await time.pass_(2)
    assert process.fleet.is_connected
    assert "lease" not in store.log


async def test_alone_nothing_is_known(process, view, store):
    origin = process.origin()
    store.put(outage(probe_at=store.now))
    await turns()
    service = process.service
    assert view.is_connected and view.is_out(service) and view.may_probe_soon(service)
    store.drop_connections()
    await turns()
    assert not (view.is_connected or view.is_out(service) or view.may_probe_soon(service))
    assert view.knows(origin) is None


async def test_a_label_is_asked_for_once_of_each_of_the_latest_services(store, time):
    asked = []
    process = Process(store, time, label=lambda processor: asked.append(processor) or "")
    view = process.join()
    store.put(outage())
    await turns()
    services = [Voice() for _ in range(300)]
    for service in [*services, *services[-100:]]:
        assert view.is_out(service)
    assert asked == services
    assert len(view._names) <= 256
    await process.fleet.close()


async def test_a_success_before_the_probe_is_due_decides_nothing(process, view, store, time):
    store.put(outage(probe_at=store.now + 20))
    await turns()
    view.service_worked(process.service)
    await turns()
    assert "lease" not in store.log


async def test_a_success_when_it_is_due_closes_for_all(process, view, store, time):
    origin = process.origin()
    store.put(outage(probe_at=store.now))
    await turns()
    assert view.knows(origin) == 1
    view.service_worked(process.service)
    await turns()
    assert store.records[KEY].ending == "recovered"
    assert process.closed == [frozenset({origin})]


async def test_only_who_has_asked_about_an_outage_is_told_of_its_end(process, view, store):
    origin = process.origin()
    store.put(outage())
    await turns()
    store.put(outage(state="closed", generation=1))
    await turns()
    assert process.closed == []

    store.put(outage(generation=2))
    await turns()
    view.knows(origin)
    view.knows(process.origin("other"))
    store.put(outage(state="closed", generation=3))
    await turns()
    assert process.closed == [frozenset({origin})]

    store.put(outage(generation=4))
    store.put(outage(state="closed", generation=5))
    await turns()
    assert len(process.closed) == 1


async def test_a_failure_that_may_happen_to_anybody_is_not_told(process, view, store, time):
    for _ in range(5):
        view.failed(process.origin(), votes=False)
        await time.pass_(2)
    assert store.reports == []


async def test_in_an_outage_that_is_known_each_failure_is_told_and_none_of_it_votes(
    process, view, store
):
    store.put(outage())
    await turns()
    view.failed(process.origin(), votes=False)
    await turns()
    assert [report.votes for report in store.reports] == [False]


async def test_who_has_failed_before_the_outage_was_known_is_told_of_its_end(process, view, store):
    origin = process.origin()
    view.failed(origin, votes=False)
    store.put(outage())
    store.put(outage(state="closed", generation=1))
    await turns()
    assert process.closed == [frozenset({origin})]


async def test_of_two_outages_the_end_of_one_is_not_that_of_the_other(process, view, store):
    one, other = process.origin(), process.origin("other")
    for origin in (one, other):
        view.failed(origin, votes=True)
    await turns()
    store.put(outage(state="closed", generation=99, at=store.now))
    await turns()
    assert process.closed == [frozenset({one})]


async def test_it_is_told_of_the_end_also_where_its_latest_failure_was_another(
    process, view, store
):
    origin = process.origin()
    store.put(outage())
    await turns()
    assert view.knows(origin) is not None
    view.learn(origin, process.service, category="invalid_request", exception=OSError())
    assert view.knows(origin) is None
    store.put(outage(state="closed", generation=1))
    await turns()
    assert process.closed == [frozenset({origin})]


# Services that can be heard.


class Model(LLMService):
    """A service that can be heard, with nobody who takes what it says."""

    def __init__(self):
        super().__init__(settings=LLMSettings(model="any"))
        self.pushed = []

    async def push_frame(self, frame, direction=FrameDirection.DOWNSTREAM):
        self.pushed.append(type(frame).__name__)

    async def answer(self):
        await self.push_frame(LLMFullResponseStartFrame())
        await self.push_frame(LLMTextFrame("Yes."))
        await self.push_frame(LLMFullResponseEndFrame())


ANSWER = ["LLMFullResponseStartFrame", "LLMTextFrame", "LLMFullResponseEndFrame"]
MODEL_KEY = "Model: ConnectError in here"


class Hearing:
    """A bot with a model and a voice that may be listened to."""

    def __init__(self, fleet):
        self.model = Model()
        self.services = [FrameProcessor(), Voice(), self.model]
        self.closed = []
        self.view = fleet.join("bot", lambda: self.services, self.closed.append)

    def fail(self, *, votes=False, kind="ConnectError", model=None):
        model = model or self.model
        origin = Origin.of(model, kind, where="here")
        self.view.learn(origin, model, exception=OSError())
        self.view.failed(origin, votes=votes)

    @property
    def heard(self):
        return [service for service in self.services if "push_frame" in vars(service)]


@pytest.fixture
async def hearing(process):
    return Hearing(process.fleet)


@pytest.fixture
def votes(store, time):
    async def votes():
        await time.pass_(2)
        return [report.votes for report in store.reports]

    return votes


async def test_people_speak_slowly_so_the_second_failure_in_a_row_votes(hearing, votes, time):
    hearing.fail()
    assert await votes() == []
    await time.pass_(58)
    hearing.fail()
    assert await votes() == [True]


async def test_the_second_failure_may_be_another_one(hearing, votes, store, time):
    hearing.fail()
    await time.pass_(1)
    hearing.fail(kind="TimeoutError")
    assert await votes() == [True]
    assert store.reports[0].key == "Model: TimeoutError in here"


async def test_one_request_that_is_reported_twice_is_no_second_failure(hearing, votes, time):
    hearing.fail()
    await time.pass_(0.9)
    hearing.fail()
    assert await votes() == []


async def test_a_failover_whose_requests_are_answered_says_so_too(hearing, votes, time):
    for _ in range(3):
        hearing.fail()
        hearing.view.service_worked(hearing.model)
        await time.pass_(2)
    assert await votes() == []


async def test_a_failure_of_long_ago_is_not_confirmed(hearing, votes, time):
    hearing.fail()
    await time.pass_(60.1)
    hearing.fail()
    assert await votes() == []


async def test_an_answer_in_between_makes_it_the_first_again(hearing, votes, time):
    for _ in range(4):
        await time.pass_(1)
        hearing.fail()
        await hearing.model.answer()
    assert await votes() == []


async def test_calls_that_end_at_their_first_failure_are_in_a_row_too(
    hearing, process, votes, time
):
    other = Hearing(process.fleet)
    hearing.fail()
    hearing.view.leave()
    await time.pass_(1)
    other.fail()
    assert await votes() == [True]


async def test_an_answer_to_another_bot_of_the_process_makes_it_the_first_again(
    hearing, process, votes, time
):
    other, third = Hearing(process.fleet), Hearing(process.fleet)
    hearing.fail()
    assert other.heard == [other.model]
    await time.pass_(1)
    await other.model.answer()
    assert hearing.heard == other.heard == []
    third.fail()
    assert await votes() == []


async def test_with_its_own_evidence_the_first_failure_votes_and_counts_as_one(
    hearing, votes, time
):
    hearing.fail(votes=True)
    assert await votes() == [True]
    await time.pass_(6)
    hearing.fail()
    assert await votes() == [True, True]


async def test_the_second_failure_is_one_also_where_the_outage_is_known(
    hearing, votes, store, time
):
    store.put(outage(MODEL_KEY))
    await turns()
    hearing.fail()
    await time.pass_(1)
    hearing.fail()
    await time.pass_(8)
    assert await votes() == [False, True]


async def test_what_is_not_shared_is_no_first_failure(hearing, votes, time):
    model = hearing.model
    origin = Origin.of(model, "ConnectError", where="here")
    hearing.view.learn(origin, model, category="invalid_request")
    hearing.view.failed(origin, votes=False)
    assert hearing.heard == []
    await time.pass_(1)
    hearing.fail()
    assert await votes() == []


async def test_who_has_failed_is_listened_to_until_it_answers(hearing):
    assert hearing.heard == []
    hearing.fail()
    assert hearing.heard == [hearing.model]
    await hearing.model.push_frame(LLMFullResponseStartFrame())
    assert hearing.heard == [hearing.model]
    await hearing.model.answer()
    assert hearing.heard == []
    assert hearing.model.pushed == ANSWER[:1] + ANSWER


async def test_who_is_out_is_listened_to_until_it_is_not(hearing, store):
    store.put(outage("Other: ConnectError in here"))
    store.put(outage("Voice: ConnectError in here"))
    await turns()
    assert hearing.heard == []
    store.put(outage(MODEL_KEY))
    await turns()
    assert hearing.heard == [hearing.model]
    wrapped = hearing.model.push_frame
    hearing.view.changed()
    assert hearing.model.push_frame is wrapped
    store.put(outage(MODEL_KEY, "closed", generation=1))
    await turns()
    assert hearing.heard == []


async def test_who_is_out_is_listened_to_as_well_after_it_has_answered(hearing, store):
    store.put(outage(MODEL_KEY, probe_at=store.now + 20))
    await turns()
    hearing.fail()
    await hearing.model.answer()
    await turns()
    assert "lease" not in store.log
    assert hearing.heard == [hearing.model]


async def test_whole_answer_of_who_is_out_ends_it_for_all_when_it_is_due(hearing, store):
    store.put(outage(MODEL_KEY, probe_at=store.now))
    await turns()
    await hearing.model.push_frame(LLMFullResponseStartFrame())
    await hearing.model.push_frame(LLMFullResponseEndFrame())
    await turns()
    assert store.records[MODEL_KEY].is_open
    await hearing.model.answer()
    await turns()
    assert store.records[MODEL_KEY].ending == "recovered"
    assert hearing.heard == []


async def test_what_was_out_before_it_was_connected_is_listened_to(store, time):
    store.put(outage(MODEL_KEY))
    process = Process(store, time)
    hearing = Hearing(process.fleet)
    await turns()
    assert hearing.heard == [hearing.model]
    await process.fleet.close()


async def test_where_bots_are_not_to_act_it_is_heard_all_the_same_that_it_is_over(hearing, store):
    store.put(ModeSet(mode="observe", at=store.now))
    store.put(outage(MODEL_KEY, probe_at=store.now))
    await turns()
    assert hearing.heard == [hearing.model]
    await hearing.model.answer()
    await turns()
    assert store.records[MODEL_KEY].is_over


async def test_who_has_left_listens_to_nobody(hearing, store):
    hearing.fail()
    hearing.view.leave()
    assert hearing.heard == []
    assert not hearing.view._heard
    store.put(outage(MODEL_KEY))
    await turns()
    hearing.view.changed()
    assert hearing.heard == []


async def test_a_pipeline_that_cannot_say_what_is_in_it_changes_nothing_and_is_told_once(
    process, store
):
    lines = []
    logger.add(lambda line: lines.append(line.record["message"]), level="ERROR")
    hearing = Hearing(process.fleet)
    other = Hearing(process.fleet)
    hearing.services = None
    for generation in range(3):
        store.put(outage(MODEL_KEY, generation=2 * generation))
        await turns()
        assert other.heard == [other.model]
        store.put(outage(MODEL_KEY, "closed", generation=2 * generation + 1))
        await turns()
    assert len(lines) == 1 and lines[0].startswith("listening to services failed")


async def test_an_answer_that_cannot_be_noted_goes_through(hearing, store, monkeypatch):
    lines = []
    logger.add(lambda line: lines.append(line.record["message"]), level="ERROR")
    store.put(outage(MODEL_KEY, probe_at=store.now))
    await turns()
    monkeypatch.setattr(hearing.view, "service_worked", lambda service: 1 / 0)
    for _ in range(2):
        await hearing.model.answer()
    assert hearing.model.pushed == 2 * ANSWER
    assert len(lines) == 1 and lines[0].startswith("noting an answer failed")


# Services that others stand in for.


async def test_a_service_is_out_with_any_of_its_outages(process, view, store):
    assert not view.is_out(process.service)
    store.put(outage("Voices: a in b"))
    await turns()
    assert not view.is_out(process.service)
    store.put(outage("Voice: a in b"))
    await turns()
    assert view.is_out(process.service)


async def test_a_probe_may_go_when_it_is_due_and_nobody_has_the_lease(process, view, store, time):
    store.put(outage(probe_at=store.now + 5))
    await turns()
    assert not view.may_probe_soon(process.service)
    await time.pass_(5)
    assert view.may_probe_soon(process.service)
    lease = Lease(holder="pod-2", token="x", expires_at=store.now + 5)
    store.put(store.records[KEY].model_copy(update={"lease": lease}))
    await turns()
    assert not view.may_probe_soon(process.service)


async def test_a_probe_takes_the_leases_of_all_outages_of_a_service(process, view, store):
    for kind in ("a", "b"):
        store.put(outage(f"Voice: {kind} in here", probe_at=store.now))
    store.put(outage("Voice: later in here", probe_at=store.now + 20))
    store.put(outage("Voices: other in here", probe_at=store.now))
    await turns()
    probe = await view.probe(process.service)
    assert [key for key, _, _ in probe.leases] == ["Voice: a in here", "Voice: b in here"]
    assert store.log.count("lease") == 2

    view.settle(probe, success=True)
    await turns()
    over = {key for key, record in store.records.items() if record.is_over}
    assert over == {"Voice: a in here", "Voice: b in here"}


async def test_a_probe_that_failed_takes_the_next_wait(process, view, store):
    store.put(outage(probe_at=store.now))
    await turns()
    view.settle(await view.probe(process.service), success=False)
    await turns()
    assert view.is_out(process.service)
    assert not view.may_probe_soon(process.service)
    assert store.records[KEY].probe_at > store.now


async def test_an_outcome_is_told_at_once(process, view, store, time):
    store.put(outage(probe_at=store.now))
    await turns()
    probe = await view.probe(process.service)
    await time.pass_(2)
    view.settle(probe, success=True)
    await turns()
    assert store.records[KEY].is_over


async def test_of_two_who_want_to_probe_one_may(process, view, store, time):
    other = Process(store, time, "pod-2")
    other.join()
    store.put(outage(probe_at=store.now))
    await turns()
    probes = await asyncio.gather(view.probe(process.service), other.view.probe(other.service))
    assert [probe is None for probe in probes] == [False, True]
    await other.fleet.close()


async def test_an_outcome_that_a_store_could_not_take_is_told_when_it_is_back(
    process, view, store, time
):
    store.put(outage(probe_at=store.now))
    await turns()
    probe = await view.probe(process.service)
    store.faults["settle"] = StoreUnavailable("gone")
    view.settle(probe, success=True)
    await time.pass_(5)
    store.faults.clear()
    await time.pass_(2)
    assert store.records[KEY].is_over


async def test_an_outcome_is_told_no_more_when_its_lease_is_over(process, view, store, time):
    store.put(outage(probe_at=store.now))
    await turns()
    probe = await view.probe(process.service)
    await time.pass_(15)
    view.settle(probe, success=True)
    await turns()
    assert "settle" not in store.log


@pytest.mark.parametrize("fault", ["hang", "deaf", StoreUnavailable("gone"), ValueError("a bug")])
async def test_asking_for_a_probe_takes_a_second_at_most(process, view, store, time, fault):
    for number in range(5):
        store.put(outage(f"Voice: {number} in here", probe_at=store.now))
    await turns()
    store.faults["lease"] = fault
    asking = asyncio.ensure_future(view.probe(process.service))
    await time.pass_(1)
    assert asking.done() and asking.result() is None
    assert store.log.count("lease") == 1
    store.released.set()
    await turns()


async def test_a_probe_lasts_as_long_as_the_first_lease_that_was_asked_for(
    process, view, store, time
):
    lease = store.lease

    async def takes_its_time(*args):
        time.advance(0.6)
        return await lease(*args)

    store.lease = takes_its_time
    for number in range(3):
        store.put(outage(f"Voice: {number} in here", probe_at=store.now))
    await turns()
    begun = time()
    probe = await view.probe(process.service)
    assert probe.until == begun + FleetParams().lease_secs
    # The third would come after the second that it may take.
    assert len(probe.leases) == store.log.count("lease") == 2


async def test_one_who_leaves_asks_for_no_more_leases(process, view, store):
    lease = store.lease

    async def is_the_last(*args):
        view.leave()
        return await lease(*args)

    store.lease = is_the_last
    for number in range(3):
        store.put(outage(f"Voice: {number} in here", probe_at=store.now))
    await turns()
    await view.probe(process.service)
    assert store.log.count("lease") == 1


async def test_asking_for_a_probe_may_be_cancelled_at_every_turn(process, view, store, time):
    for number in range(12):
        store.records.clear()
        store.put(outage(probe_at=store.now, generation=number))
        await time.pass_(0)
        asking = asyncio.ensure_future(view.probe(process.service))
        await turns(number)
        asking.cancel()
        await asyncio.wait({asking})
        # A lease that was granted runs out by itself.
        await time.pass_(16)
    assert len(asyncio.all_tasks()) <= 5
    assert process.fleet.is_connected


async def test_alone_nobody_is_asked_for_a_probe(process, view, store, time):
    store.put(outage(probe_at=store.now))
    await turns()
    await process.fleet.close()
    assert await view.probe(process.service) is None
    assert "lease" not in store.log


async def test_the_second_failure_of_a_service_in_a_row_is_a_vote(process, view, store, time):
    origin = process.origin()
    for _ in range(2):
        view.service_failed(process.service, origin)
        await time.pass_(2)
    assert [report.votes for report in store.reports] == [False, True]


async def test_with_an_answer_in_between_it_is_none(process, view, store, time):
    origin = process.origin()
    for _ in range(4):
        view.service_failed(process.service, origin)
        view.service_worked(process.service)
        await time.pass_(2)
    assert not any(report.votes for report in store.reports)


async def test_with_too_long_in_between_it_is_none(process, view, store, time):
    origin = process.origin()
    for _ in range(3):
        view.service_failed(process.service, origin)
        await time.pass_(60.1)
    assert [report.votes for report in store.reports] == [False] * 3


async def test_a_minute_in_between_is_not_too_long(process, view, store, time):
    origin = process.origin()
    for _ in range(2):
        view.service_failed(process.service, origin)
        await time.pass_(60)
    assert [report.votes for report in store.reports] == [False, True]


async def test_another_bot_of_the_process_confirms_it(process, view, store, time):
    other = process.fleet.join("other", lambda: (), lambda origins: None)
    origin = process.origin()
    other.learn(origin, process.service, exception=OSError())
    view.service_failed(process.service, origin)
    await time.pass_(2)
    other.service_failed(process.service, origin)
    await time.pass_(2)
    assert [report.votes for report in store.reports] == [False, True]


async def test_a_failure_that_is_not_shared_confirms_nothing(process, view, store, time):
    bad = Origin.of(process.service, "invalid_request")
    view.learn(bad, process.service, category="invalid_request")
    view.service_failed(process.service, bad)
    await time.pass_(1)
    view.service_failed(process.service, process.origin())
    await time.pass_(2)
    assert [report.votes for report in store.reports] == [False]


async def test_a_live_answer_when_the_probe_is_due_closes_for_all(process, view, store):
    store.put(outage(probe_at=store.now))
    await turns()
    view.service_worked(process.service)
    await turns()
    assert store.records[KEY].is_over


def test_services_that_fail_are_counted_up_to_256(clock):
    looks = SecondLooks(10, clock)
    for number in range(1000):
        looks.fail(f"service {number}")
    assert len(looks) == 256
    clock.advance(1)
    assert looks.fail("service 999")
    assert not looks.fail("service 0")


async def test_a_service_that_works_in_peace_asks_nothing(process, view, monkeypatch):
    asked = []
    monkeypatch.setattr(view, "_service", lambda processor: asked.append(processor))
    for _ in range(10):
        view.service_worked(process.service)
        view.is_out(process.service)
    assert asked == []


# A store that says anything.

secs = st.floats(-1e300, 1e300) | st.sampled_from([0.0, AHEAD, AHEAD + 1000, AHEAD + 1001])
leases = st.none() | st.builds(Lease, holder=st.text(), token=st.text(), expires_at=secs)
records = st.builds(
    lambda key, state, **fields: outage(key, state, **fields),
    st.sampled_from([KEY, "Voice: b in c", "Voice[eu]: b", "x", "\x00", "Voice: "])
    | st.text(min_size=1, max_size=200),
    st.sampled_from(["suspected", "open", "closed"]),
    generation=st.integers(0, 2**53),
    seen_at=secs,
    opened_at=st.none() | secs,
    probe_at=st.none() | secs,
    closed_at=st.none() | secs,
    lease=leases,
    is_by_hand=st.booleans(),
    changed_by=st.text(max_size=64),
    failures=st.integers(0, 2**53),
)
modes = st.builds(ModeSet, mode=st.sampled_from(["guard", "observe", "disabled"]), at=secs)
clocks = st.floats() | st.sampled_from([AHEAD, AHEAD + 1000])
faults = st.sampled_from([StoreUnavailable("gone"), RuntimeError("a bug"), "hang"])


class HostileStore(FakeStore):
    """Answers with whatever it was given."""

    def __init__(self, time, answers, did):
        super().__init__(time)
        self._answers = answers
        self._did = did
        self.says = Knowledge(self.now, ModeSet(), ())

    def _next(self):
        return self._answers.pop() if self._answers else None

    async def report(self, report, **settings):
        await self._do("report")
        return Answer(self._next(), self._did)

    async def lease(self, *args):
        await self._do("lease")
        return Answer(self._next(), self._did)

    async def settle(self, *args, **kwargs):
        await self._do("settle")
        return Answer(self._next(), self._did)

    async def read(self, token=""):
        await self._do("read")
        return self.says


acts = st.one_of(
    st.tuples(st.just("put"), records | modes),
    st.tuples(st.just("says"), st.builds(Knowledge, clocks, modes, st.lists(records).map(tuple))),
    st.tuples(st.just("flood"), st.integers(0, 2**53)),
    st.tuples(st.just("fault"), st.tuples(st.sampled_from(["read", "lease", "report"]), faults)),
    st.tuples(st.just("heal"), st.none()),
    st.tuples(st.just("drop"), st.none()),
    st.tuples(st.just("pass"), st.floats(0, 20)),
    st.tuples(st.just("fail"), st.integers(0, 1000)),
    st.tuples(st.just("work"), st.none()),
    st.tuples(st.just("probe"), st.booleans()),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(acts, max_size=25), st.lists(records, max_size=10), st.booleans())
def test_whatever_a_store_says_a_bot_waits_a_minute_at_most(acts, answers, did):
    time = Time()
    faults = []
    logger.remove()
    logger.add(lambda line: faults.append(line), level="ERROR", filter=_is_of_the_engine)

    async def call():
        store = HostileStore(time, answers, did)
        process = Process(store, time)
        view, service = process.join(), process.service
        origins = [process.origin(), process.origin("b")]
        try:
            for act, value in acts:
                await _do(act, value, store, time, process, view, service)
                for origin in origins:
                    knows = view.knows(origin)
                    assert knows is None or 1 <= knows <= 60
                    assert knows is None or math.isfinite(knows)
                assert view.is_out(service) in (True, False)
                assert view.may_probe_soon(service) in (True, False)
                assert len(process.fleet.outages) <= 256
                assert len(view._keys) <= 256 and len(view._asked) <= 256
                assert len(process.fleet._outbox) <= 3 * 256
                process.fleet.status()
        finally:
            store.released.set()
            store.faults.clear()
            closing = asyncio.ensure_future(process.fleet.close())
            await time.pass_(5)
            await closing
            await turns()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(call())
    assert faults == []


def _is_of_the_engine(line):
    # What the store raises and must not is said; what the engine would raise on its
    # account must not be.
    return "a bug" not in str(line["exception"])


async def _do(act, value, store, time, process, view, service):
    match act:
        case "put":
            store.put(value)
        case "says":
            store.says = value
        case "flood":
            for number in range(300):
                store.put(outage(f"Voice: {number + value % 1000} in here"))
        case "fault":
            method, fault = value
            store.faults[method] = fault
        case "heal":
            store.faults.clear()
        case "drop":
            store.drop_connections()
        case "pass":
            await time.pass_(value)
        case "fail":
            for number in range(value):
                origin = process.origin(f"kind {number}")
                view.failed(origin, votes=True)
            view.service_failed(service, process.origin())
        case "work":
            view.service_worked(service)
            view.service_worked(process.service)
        case "probe":
            asking = asyncio.ensure_future(view.probe(service))
            await time.pass_(1)
            if (probe := asking.result()) is not None:
                view.settle(probe, success=value)
    await turns()


async def test_within_one_process_each_bot_has_a_vote(time, monkeypatch):
    store = FakeStore(time)
    monkeypatch.setattr("pipecat_circuit_breaker.fleet.fleet._store", lambda url, params: store)
    params = FleetParams(instance="pod", share=lambda failure: True, label=lambda p: "")
    fleet = Fleet(params=params, clock=time, sleep=time.sleep)
    service = Voice()
    origin = Origin.of(service, "ConnectError", where="here")
    for _ in range(3):
        view = fleet.join("bot", lambda: None, lambda origins: None)
        view.learn(origin, service, exception=OSError())
        await turns()
        assert fleet.outages == ()
        view.failed(origin, votes=True)
    await turns()
    assert [o.key for o in fleet.outages] == [KEY]
    await fleet.close()


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


async def test_of_a_channel_each_failure_is_asked_for(store, time):
    shared = [True, False]
    process = Process(store, time, share=lambda f: f.by_delivery and shared[f.exception is None])
    process.join()
    origin = Origin.of(process.service, "channel down")
    how = {"by_delivery": True}
    assert not process.view.learn(origin, process.service, **how)
    assert process.view.learn(origin, process.service, exception=OSError(), **how)
    assert not process.view.learn(origin, process.service, **how)
    # What was shared once is not forgotten by one that is not.
    process.view.failed(origin, votes=True)
    await turns()
    assert len(store.reports) == 1
    await process.fleet.close()
