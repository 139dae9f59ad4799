"""Bots of several machines whose service fails: what each finds out, and what all then know."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from pipecat.frames.frames import (
    ErrorFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    OutputTransportMessageUrgentFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.services.llm_service import LLMService
from pipecat.services.settings import LLMSettings

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.fleet import Fleet, FleetParams
from pipecat_circuit_breaker.fleet.memory import MemoryStore
from pipecat_circuit_breaker.incident import Ending, Trigger
from pipecat_circuit_breaker.testing import Output, running
from tests.support.jumping import Jumping
from tests.support.parts import Failing, Tap, settle

pytestmark = pytest.mark.releases

MAX_ERRORS = CircuitBreakerParams().max_errors


@pytest.fixture
def event_loop_policy():
    return Jumping()


def now():
    return asyncio.get_running_loop().time()


class Model(LLMService):
    """Asks a provider that all bots share."""

    def __init__(self, provider):
        super().__init__(settings=LLMSettings(model="shared"))
        self.provider = provider

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        self.provider.requests += 1
        await self.push_frame(LLMFullResponseStartFrame())
        try:
            if self.provider.is_out:
                raise ConnectionError("no provider")
            await self.push_frame(LLMTextFrame("Yes."))
            if self.provider.breaks:
                raise ConnectionError("no end")
        except ConnectionError as e:
            await self.push_error(f"request {self.provider.requests}: {e}", exception=e)
        finally:
            await self.push_frame(LLMFullResponseEndFrame())


class Provider:
    def __init__(self):
        self.is_out = True
        self.breaks = False
        self.requests = 0


class Bot:
    def __init__(self, fleet, provider, *parts):
        self.front = Tap()
        self.breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=now), fleet=fleet)
        self.model = Model(provider)
        self.line = [self.breaker, self.front, self.model, *parts]
        self.worker = None

    async def ask(self, times=1):
        for _ in range(times):
            await self.worker.queue_frame(LLMContextFrame(LLMContext()))
            await settle()

    @property
    def errors(self):
        return [error.error for error in self.front.frames(ErrorFrame)]

    @property
    def incidents(self):
        return self.breaker.incidents


class Pod:
    """A machine: a fleet's process on it, and its bots."""

    def __init__(self, name, store, provider, bots=1, parts=(), **params):
        params = {"min_instances": 3, **params}
        self.fleet = Fleet(store=store, params=FleetParams(instance=name, **params), clock=now)
        self.told = []
        for event in ("opened", "closed"):
            self.fleet.add_event_handler(f"on_fleet_outage_{event}", self._teller(event))
        for event in ("alone", "connected"):
            self.fleet.add_event_handler(f"on_fleet_{event}", self._teller(event))
        self.bots = [Bot(self.fleet, provider, *parts) for _ in range(bots)]

    def _teller(self, event):
        async def tell(fleet, *args):
            first = [arg for arg in args if isinstance(arg, bool)]
            self.told.append((event, *first))

        return tell


@asynccontextmanager
async def pods(*made):
    async with AsyncExitStack() as stack:
        for pod in made:
            stack.push_async_callback(pod.fleet.close)
            for bot in pod.bots:
                bot.worker = await stack.enter_async_context(running(*bot.line))
        yield made


async def passed(secs):
    await settle()
    await asyncio.sleep(secs)
    await settle()


def fleet_of(n, **more):
    store, provider = MemoryStore(clock=now), Provider()
    return provider, [Pod(f"pod-{i}", store, provider, **more) for i in range(n)]


async def test__three_pods_find_out__every_other_bot_opens_at_its_first_failure():
    provider, made = fleet_of(6)
    async with pods(*made):
        for pod in made[:3]:
            await pod.bots[0].ask(MAX_ERRORS)
        await passed(0.5)
        for pod in made[3:]:
            await pod.bots[0].ask(3)

        for pod in made[:2]:
            assert [i.trigger for i in pod.bots[0].incidents] == [Trigger.ERRORS]
        for pod in made[3:]:
            (bot,) = pod.bots
            assert [(i.trigger, i.failures) for i in bot.incidents] == [(Trigger.FLEET, 1)]
            assert len(bot.errors) == 1 and "the fleet knows" in bot.errors[0]
        opened = [told for pod in made for told in pod.told if told[0] == "opened"]
        assert len(opened) == 6 and opened.count(("opened", True)) == 1


async def test__two_pods_find_out__is_no_outage_of_the_fleet():
    provider, made = fleet_of(4)
    async with pods(*made):
        for pod in made[:2]:
            await pod.bots[0].ask(MAX_ERRORS)
        await passed(0.5)
        await made[3].bots[0].ask()

        assert made[3].bots[0].incidents == ()
        assert made[3].fleet.outages == ()
        assert not any(event == "opened" for pod in made for event, *_ in pod.told)


async def test__many_bots_of_one_sick_pod__is_no_outage_of_the_fleet():
    store, sick, well = MemoryStore(clock=now), Provider(), Provider()
    well.is_out = False
    a, b = Pod("sick", store, sick, bots=10), Pod("well", store, well, bots=3)
    async with pods(a, b):
        for bot in a.bots:
            await bot.ask(MAX_ERRORS)
        await passed(0.5)
        for bot in b.bots:
            await bot.ask(3)
        assert a.fleet.outages == b.fleet.outages == ()
        assert all(bot.incidents == () and bot.errors == [] for bot in b.bots)


async def test__bot_that_does_not_fail__is_not_touched():
    store, broken, well = MemoryStore(clock=now), Provider(), Provider()
    well.is_out = False
    made = [Pod(f"pod-{i}", store, broken) for i in range(3)]
    output = Output()
    other = Pod("other", store, well, parts=(output,))
    async with pods(*made, other):
        for pod in made:
            await pod.bots[0].ask(MAX_ERRORS)
        await passed(0.5)
        (bot,) = other.bots
        assert len(other.fleet.outages) == 1
        for n in range(20):
            await bot.ask()
            await bot.worker.queue_frame(OutputTransportMessageUrgentFrame(message={"n": n}))
        await settle()

        assert [m["n"] for m in output.sent if "n" in m] == [*range(20)]
        assert bot.errors == [] and bot.incidents == ()


async def test__provider_is_back__one_result_closes_for_all():
    provider, made = fleet_of(5)
    async with pods(*made):
        for pod in made:
            await pod.bots[0].ask(MAX_ERRORS)
        await passed(8.0)
        provider.is_out = False
        await made[4].bots[0].ask()
        await passed(0.5)

        for pod in made:
            assert pod.fleet.outages == ()
            assert [i.ending for i in pod.bots[0].incidents] == [Ending.RECOVERED]
        closed = [told for pod in made for told in pod.told if told[0] == "closed"]
        assert len(closed) == 5 and closed.count(("closed", True)) == 1


async def test__provider_breaks_off_its_answers__that_is_no_end():
    provider, made = fleet_of(4)
    async with pods(*made):
        for pod in made[:3]:
            await pod.bots[0].ask(MAX_ERRORS)
        await passed(8.0)
        provider.is_out, provider.breaks = False, True
        for pod in made:
            await pod.bots[0].ask(3)
        await passed(0.5)
        assert len(made[0].fleet.outages) == 1


async def test__answer_had_begun_before_the_outage__its_end_is_no_end_of_that():
    provider, made = fleet_of(4)
    async with pods(*made):
        model = made[3].bots[0].model
        await passed(0.1)
        await model.push_frame(LLMFullResponseStartFrame())
        for pod in made[:3]:
            await pod.bots[0].ask(MAX_ERRORS)
        await passed(8.0)
        await model.push_frame(LLMTextFrame("Yes."))
        await model.push_frame(LLMFullResponseEndFrame())
        await passed(0.5)
        assert len(made[0].fleet.outages) == 1


async def test__people_speak_slowly__the_second_failure_in_a_row_is_a_vote():
    provider, made = fleet_of(4)
    async with pods(*made):
        for _ in range(2):
            for pod in made[:3]:
                await pod.bots[0].ask()
            await passed(8.0)
        assert len(made[3].fleet.outages) == 1
        assert all(bot.incidents == () for pod in made for bot in pod.bots)


async def test__answer_between_two_failures__no_vote():
    provider, made = fleet_of(4)
    async with pods(*made):
        for turn in range(6):
            provider.is_out = turn % 2 == 0
            for pod in made:
                await pod.bots[0].ask()
            await passed(3.0)
        assert made[3].fleet.outages == ()


async def test__process_connects_during_an_outage__its_answers_are_heard():
    provider, made = fleet_of(4)
    async with pods(*made[:3]):
        for pod in made[:3]:
            await pod.bots[0].ask(MAX_ERRORS)
        await passed(8.0)
        async with pods(made[3]):
            await passed(0.5)
            provider.is_out = False
            await made[3].bots[0].ask()
            await passed(0.5)
            assert made[0].fleet.outages == ()


async def test__outage_is_over__nothing_is_left_on_the_services():
    provider, made = fleet_of(4)
    async with pods(*made):
        for pod in made[:3]:
            await pod.bots[0].ask(MAX_ERRORS)
        await passed(8.0)
        models = [pod.bots[0].model for pod in made]
        assert all("push_frame" in vars(model) for model in models)
        provider.is_out = False
        for pod in made:
            await pod.bots[0].ask()
        await passed(0.5)
        assert not any("push_frame" in vars(model) for model in models)


async def test__call_that_begins_in_an_outage__its_answer_ends_it_for_all():
    store, provider = MemoryStore(clock=now), Provider()
    made = [Pod(f"pod-{i}", store, provider) for i in range(3)]
    async with pods(*made):
        for pod in made:
            await pod.bots[0].ask(MAX_ERRORS)
        await passed(3.0)
        provider.is_out = False
        new = Pod("new", store, provider)
        async with pods(new):
            await passed(0.5)
            assert len(new.fleet.outages) == 1
            await new.bots[0].ask()
            await passed(0.5)
            assert new.told[-1] == ("closed", True)
            assert all(pod.fleet.outages == () for pod in made)


async def test__provider_is_still_out__no_error_of_any_bot_goes_on_until_it_is_back():
    provider, made = fleet_of(4)
    async with pods(*made):
        for pod in made:
            await pod.bots[0].ask(MAX_ERRORS)
        heard = [len(pod.bots[0].errors) for pod in made]
        for _ in range(30):
            await passed(2.0)
            for pod in made:
                await pod.bots[0].ask()

        assert [len(pod.bots[0].errors) for pod in made] == heard
        (outage,) = made[0].fleet.outages
        assert outage.openings == 1, "what fails by itself costs nobody a request"
        assert outage.instance_count == 4


#
# Channels
#


class Line(Output):
    """An output whose signalling is down, or stumbles."""

    def __init__(self):
        super().__init__()
        self.is_down = self.stumbles = False

    async def send_message(self, frame):
        if self.is_down or self.stumbles:
            self.stumbles = False
            raise ConnectionError("signalling is dead")
        self.sent.append(frame.message)


def lines(n):
    store, provider = MemoryStore(clock=now), Provider()
    provider.is_out = False
    share = {"share": lambda failure: failure.by_delivery}
    made = [Pod(f"pod-{i}", store, provider, parts=(Line(),), **share) for i in range(n)]
    return made, [pod.bots[0].line[-1] for pod in made]


async def say(pod, number=1):
    for n in range(number):
        message = OutputTransportMessageUrgentFrame(message={"type": "app", "n": n})
        await pod.bots[0].worker.queue_frame(message)
        await settle()


async def test__signalling_is_down_on_three_pods__a_new_call_stops_at_its_first_failure():
    made, outputs = lines(4)
    for output in outputs:
        output.is_down = True
    async with pods(*made):
        for pod in made[:3]:
            await say(pod, MAX_ERRORS)
        await passed(0.05)
        await say(made[3], 2)
        triggers = {i.trigger for i in made[3].bots[0].incidents if i.is_channel}
        assert triggers == {Trigger.FLEET}


async def test__signalling_is_back__what_is_delivered_ends_the_outage():
    made, outputs = lines(4)
    for output in outputs[:3]:
        output.is_down = True
    async with pods(*made):
        for pod in made[:3]:
            await say(pod, MAX_ERRORS)
        await passed(8.0)
        assert len(made[3].fleet.outages) == 1
        await say(made[3])  # one whose channel has never failed
        await passed(0.5)
        assert all(pod.fleet.outages == () for pod in made)


async def test__outage_of_channels__one_that_delivers_and_stumbles__loses_what_fails_alone():
    made, outputs = lines(4)
    for output in outputs[:3]:
        output.is_down = True
    async with pods(*made):
        await say(made[3])
        for pod in made[:3]:
            await say(pod, MAX_ERRORS)
        await passed(0.05)
        assert len(made[3].fleet.outages) == 1
        outputs[3].stumbles = True
        await say(made[3])
        await say(made[3], 5)
        assert [m["n"] for m in outputs[3].sent if "n" in m] == [0, 0, 1, 2, 3, 4]


async def test__application_processor_of_its_own__is_nobody_elses_concern():
    store, provider = MemoryStore(clock=now), Provider()
    made = [
        Pod(
            f"pod-{i}",
            store,
            provider,
            parts=(Failing(LLMTextFrame, lambda n: {"error_msg": "x"}),),
        )
        for i in range(4)
    ]
    provider.is_out = False
    async with pods(*made):
        for pod in made:
            await pod.bots[0].ask(MAX_ERRORS)
            await passed(0.1)
        assert all(pod.fleet.outages == () for pod in made)
        assert (await store.read()).outages == ()


async def test__in_memory__bots_of_one_process_are_a_fleet():
    provider = Provider()
    fleet = Fleet(params=FleetParams(name="in-memory-test"), clock=now)
    bots = [Bot(fleet, provider) for _ in range(5)]
    async with AsyncExitStack() as stack:
        stack.push_async_callback(fleet.close)
        for bot in bots:
            bot.worker = await stack.enter_async_context(running(*bot.line))
        for bot in bots[:3]:
            await bot.ask(MAX_ERRORS)
        await passed(0.5)
        await bots[4].ask()
        assert [i.trigger for i in bots[4].incidents] == [Trigger.FLEET]
