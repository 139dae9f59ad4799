"""When a service that failed is asked again, and what becomes of the utterance if it fails again."""

import asyncio

import pytest
from pipecat.frames.frames import StopFrame

from pipecat_circuit_breaker import Mode
from pipecat_circuit_breaker.testing import running
from tests.failover.failover_parts import passed
from tests.failover.stt_parts import SORTS, calling, err, pair, whole
from tests.support.parts import settle

pytestmark = pytest.mark.releases


@pytest.mark.parametrize("mode", [Mode.DISABLED, Mode.OBSERVE])
@pytest.mark.parametrize("sort", ["http", "http, socket"])
async def test__breaker_does_not_act__nobody_else_is_asked_until_it_does(sort, mode):
    first, second = pair(sort)
    async with calling(first, second) as call:
        await call.breaker.set_mode(mode)
        err(first, at="1.5")
        await call.begin(1)
        await call.stop()
        await call.until(lambda: call.errors)
        await call.speak(2)

        assert call.said == [whole(2)] and len(call.errors) == 1
        assert call.told == [] and second.heard == []

        await call.breaker.set_mode(Mode.GUARD)
        err(first, at="3.5")
        await call.speak(3)

        assert call.said == [whole(2), whole(3)] and len(call.errors) == 1
        assert call.told == ["failed first True"]


@pytest.mark.parametrize("sort", SORTS)
async def test__cooldown_over__the_next_utterance_goes_to_the_first_again(sort):
    first, second = pair(sort)
    async with calling(first, second) as call:
        err(first)
        await call.speak(1)
        await call.speak(2)
        assert call.active == "second"
        await passed(5.5)
        assert call.active == "first"
        await call.speak(3)

        assert call.said == [whole(n) for n in (1, 2, 3)]
        assert call.told == ["failed first True", "recovered first"]
        call.check_sound()
        assert "3.0" not in second.heard


@pytest.mark.parametrize("sort", SORTS)
async def test__fails_again_when_asked_live__the_second_gets_the_whole_utterance(sort):
    first, second = pair(sort)
    async with calling(first, second) as call:
        err(first)
        await call.speak(1)
        await call.speak(2)
        assert call.active == "second"
        await passed(5.5)
        first.errs_at = "3.5"
        await call.speak(3)
        await call.speak(4)
        assert call.active == "second"

        assert call.said == [whole(n) for n in (1, 2, 3, 4)]
        assert call.told == ["failed first True"]
        assert "3.5" in first.heard
        # The next live request is further away.
        await passed(8)
        assert call.active == "second"
        await passed(3)
        assert call.active == "first"


@pytest.mark.parametrize("sort", SORTS)
async def test__breaker_does_not_act_when_the_first_is_due__asked_again_when_it_does(sort):
    first, second = pair(sort)
    async with calling(first, second) as call:
        err(first)
        await call.speak(1)
        await call.speak(2)
        await call.breaker.set_mode(Mode.DISABLED)
        await passed(20)
        assert call.active == "second"
        await call.breaker.set_mode(Mode.GUARD)
        await passed(2)

        assert call.active == "first"


@pytest.mark.parametrize("sort", SORTS)
async def test__stopped_while_the_first_is_away__nothing_is_left_and_it_comes_back_in_the_next_call(
    sort,
):
    first, second = pair(sort)
    async with calling(first, second) as call:
        err(first)
        await call.speak(1)
        await call.speak(2)
        stopped = asyncio.Event()
        call.worker.add_event_handler("on_pipeline_finished", lambda *_: stopped.set())
        await call.worker.queue_frame(StopFrame())
        await stopped.wait()
        await settle()
        assert call.failover._shadows == {}

        async with running(*call.line) as call.worker:
            await call.speak(3)
            await call.speak(4)

            assert call.active == "first"
        assert call.said == [whole(n) for n in range(1, 5)]
        assert call.told == ["failed first True"]


@pytest.mark.parametrize("sort", SORTS)
async def test__cooldown_over_in_mid_utterance__the_first_waits_for_a_pause(sort):
    first, second = pair(sort)
    async with calling(first, second) as call:
        err(first, "1.5")
        await call.speak(1)
        await call.begin(2)
        await passed(6)
        assert call.active == "second"
        await call.stop()
        await call.until(lambda: call.active == "first")
        await call.speak(3)

        assert call.said == [whole(n) for n in (1, 2, 3)]
