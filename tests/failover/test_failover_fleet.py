"""Services that other bots have found to be out: asked last, and by one bot to see whether they work."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from pipecat.frames.frames import ManuallySwitchServiceFrame

from pipecat_circuit_breaker.fleet import Fleet, FleetParams
from pipecat_circuit_breaker.fleet.memory import MemoryStore
from pipecat_circuit_breaker.fleet.sharing import service_name
from pipecat_circuit_breaker.fleet.store import Report, StoreUnavailable
from tests.failover.failover_parts import FAIL, Bot, Scripted, passed, words
from tests.failover.stt_parts import Soniox, Whisper, calling, whole

pytestmark = pytest.mark.releases

GOOD = words("I am here.")
HEARD = "I am here."
WAIT = 5.0


def now():
    return asyncio.get_running_loop().time()


class Cloud:
    """The store of a fleet, and what an outage is reported by from elsewhere."""

    def __init__(self):
        self.store = MemoryStore(clock=now)
        self.leases = []
        lease = self.store.lease

        async def counted(*args):
            answer = await lease(*args)
            self.leases.append(answer.did)
            return answer

        self.store.lease = counted

    def fleet(self, **params):
        return Fleet(store=self.store, params=FleetParams(min_instances=1, **params), clock=now)

    async def report(self, service, *, wait=WAIT, label="", kind="ConnectionError"):
        key = f"{service_name(service, label)}: {kind}"
        answer = await self.store.report(
            Report(
                key=key,
                instance="elsewhere",
                token="elsewhere",
                votes=True,
                failures=5,
                bots=("somebody",),
                age_secs=0.0,
                waits=(wait,),
            ),
            min_instances=1,
            vote_secs=10.0,
            hold_secs=600.0,
        )
        assert answer.did
        return key

    async def open_keys(self):
        return [outage.key for outage in (await self.store.read()).outages if outage.is_open]


class Broken(MemoryStore):
    """A store that nobody can ask any more."""

    async def read(self, token=""):
        raise StoreUnavailable("gone")


class First(Scripted):
    """The service that is out."""


class Second(Scripted):
    pass


@asynccontextmanager
async def talking(cloud, *scripts, bots=1, label="", **settings):
    """Bots with a failover each, of a service that other bots have found to be out."""
    async with AsyncExitStack() as stack:
        fleet = cloud.fleet(label=lambda service: label)
        stack.push_async_callback(fleet.close)
        made = []
        for _ in range(bots):
            first, second = First("first", *scripts), Second("second", GOOD)
            made.append(Bot(first, second, fleet=fleet, **settings))
            await stack.enter_async_context(made[-1].talking())
        # As an application does at the beginning of a call.
        await fleet.outage(made[0].llms[0])
        yield made


async def test__known_to_be_out__second_is_asked_at_once_and_nothing_fails():
    cloud = Cloud()
    async with talking(cloud, [FAIL]) as (bot,):
        await cloud.report(bot.llms[0], wait=600.0)
        await passed(0.1)
        await bot.ask()

        first, second = bot.llms
        assert bot.answers == [HEARD]
        assert first.asked == [] and len(second.asked) == 1
        assert bot.told == [] and bot.breaker.incidents == ()


async def test__known_to_be_out_under_another_label__is_asked():
    cloud = Cloud()
    async with talking(cloud, GOOD, label="eu") as (bot,):
        await cloud.report(bot.llms[0], wait=600.0, label="us")
        await passed(0.1)
        await bot.ask()

        assert len(bot.llms[0].asked) == 1


async def test__all_known_to_be_out__are_asked_in_order():
    cloud = Cloud()
    async with talking(cloud, GOOD) as (bot,):
        for llm in bot.llms:
            await cloud.report(llm, wait=600.0)
        await passed(0.1)
        await bot.ask()

        assert len(bot.llms[0].asked) == 1 and bot.llms[1].asked == []


async def test__known_to_be_out__application_chooses_it__is_asked():
    cloud = Cloud()
    async with talking(cloud, GOOD) as (bot,):
        await bot.worker.queue_frame(ManuallySwitchServiceFrame(service=bot.llms[1]))
        await passed(0.1)
        await bot.ask()
        await cloud.report(bot.llms[0], wait=600.0)
        await bot.worker.queue_frame(ManuallySwitchServiceFrame(service=bot.llms[0]))
        await passed(0.1)
        await bot.ask()

        assert len(bot.llms[0].asked) == 1
        assert bot.answers == [HEARD] * 2


async def test__wait_is_over__one_bot_of_all_looks__and_all_ask_it_again():
    cloud = Cloud()
    async with talking(cloud, GOOD, bots=3) as bots:
        await cloud.report(bots[0].llms[0])
        await passed(WAIT + 0.1)
        await asyncio.gather(*(bot.ask() for bot in bots))

        assert sum(len(bot.llms[0].asked) for bot in bots) == 1, "the shadow request of one"
        assert cloud.leases.count(True) == 1
        assert await cloud.open_keys() == []

        await asyncio.gather(*(bot.ask() for bot in bots))
        assert sum(len(bot.llms[0].asked) for bot in bots) == 1 + len(bots)
        assert all(bot.answers == [HEARD] * 2 for bot in bots)


async def test__it_still_fails__the_next_wait_is_taken():
    cloud = Cloud()
    async with talking(cloud, [FAIL], bots=2) as bots:
        (key,) = [await cloud.report(bots[0].llms[0], wait=WAIT)]
        await passed(WAIT + 0.1)
        await asyncio.gather(*(bot.ask(secs=0.5) for bot in bots))
        await asyncio.gather(*(bot.ask(secs=0.1) for bot in bots))

        assert sum(len(bot.llms[0].asked) for bot in bots) == 1
        assert await cloud.open_keys() == [key]
        assert all(bot.answers == [HEARD] * 2 for bot in bots)
        assert all(bot.errors == [] and bot.told == [] for bot in bots)


async def test__it_has_failed_here_too__another_bot_brings_it_back():
    cloud = Cloud()
    async with talking(cloud, [FAIL], GOOD, bots=2) as bots:
        await bots[0].ask(secs=0.5)
        assert len(bots[0].llms[0].asked) == 1, "its own failure"
        await cloud.report(bots[0].llms[0], wait=1.0)
        await passed(1.1)
        bots[1].llms[0].scripts = [GOOD]
        await bots[1].ask(secs=0.5)
        assert await cloud.open_keys() == []

        await bots[0].ask(secs=0.5)
        assert len(bots[0].llms[0].asked) == 2
        assert bots[0].told == ["failed first first failed: no answer True", "recovered first"]


async def test__store_is_gone__as_if_there_were_none():
    store = Broken(clock=now)
    fleet = Fleet(store=store, params=FleetParams(min_instances=1), clock=now)
    bot = Bot(First("first", [FAIL]), Second("second", GOOD), fleet=fleet)
    async with bot.talking():
        await bot.ask()

        assert bot.answers == [HEARD]
        assert len(bot.llms[0].asked) == 1
    await fleet.close()


async def test__fails_once__is_no_vote__fails_when_it_is_asked_again__is_one():
    cloud = Cloud()
    async with talking(cloud, [FAIL]) as (bot,):
        await bot.ask()
        assert await cloud.open_keys() == []
        await passed(2.0)
        await bot.ask()  # with a shadow request, which fails
        await passed(1.0)

        (key,) = await cloud.open_keys()
        assert key.startswith("First: ConnectionError")


#
# STT
#


async def test__stt_known_to_be_out__another_hears_from_the_beginning_of_the_utterance():
    cloud = Cloud()
    fleet = cloud.fleet(label=lambda service: "")
    async with calling(Soniox(), Whisper(), fleet=fleet) as call:
        await fleet.outage(call.services[0])
        await call.speak(1)
        await cloud.report(call.services[0], wait=600.0)
        await asyncio.sleep(0.1)
        await call.speak(2)

        assert call.said == [whole(1), whole(2)]
        assert call.active == "second"
        assert "2.2" not in call.servers[0].heard, "no more than the VAD needs to notice"
        assert call.errors == []
        call.check_sound()
    await fleet.close()


async def test__stt_known_to_be_out__wait_is_over__comes_back_with_its_first_answer():
    cloud = Cloud()
    fleet = cloud.fleet(label=lambda service: "")
    async with calling(Soniox(), Whisper(), fleet=fleet) as call:
        await fleet.outage(call.services[0])
        await call.speak(1)
        await cloud.report(call.services[0], wait=3.0)
        await asyncio.sleep(0.1)
        await call.speak(2)
        await asyncio.sleep(5.0)
        await call.speak(3)

        assert call.said == [whole(1), whole(2), whole(3)]
        assert call.active == "first"
        assert await cloud.open_keys() == []
    await fleet.close()
