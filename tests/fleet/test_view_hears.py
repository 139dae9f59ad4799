"""What one bot hears of its own services: the second failure in a row votes, an answer ends it."""

import pytest
from loguru import logger
from pipecat.frames.frames import LLMFullResponseEndFrame, LLMFullResponseStartFrame, LLMTextFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.llm_service import LLMService
from pipecat.services.settings import LLMSettings

from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.fleet import ModeSet
from tests.fleet.fleet_parts import Process, Voice, outage, turns


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
