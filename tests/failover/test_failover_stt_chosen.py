"""A service that the application chooses gets the utterance, and hears nothing twice."""

import pytest

from tests.failover.failover_parts import passed
from tests.failover.stt_parts import SORTS, Soniox, Whisper, calling, err, pair, whole

pytestmark = pytest.mark.releases


async def test__chosen_by_the_application__gets_the_utterance_and_is_preferred():
    first, second = Soniox(), Soniox()
    async with calling(first, second) as call:
        await call.begin(1)
        await call.choose(1)
        await call.stop()
        await call.until(lambda: call.said)
        await passed(30)
        await call.speak(2)

        assert call.said == [whole(1), whole(2)]
        assert call.active == "second"
        call.check_sound()
        second.kills_at = "3.5"
        await call.speak(3)
        assert call.active == "first"
        await passed(10)
        assert call.active == "second"


@pytest.mark.parametrize("sort", SORTS)
async def test__chosen_away_and_back_in_mid_utterance__heard_whole_and_once(sort):
    first, second = pair(sort)
    async with calling(first, second) as call:
        await call.begin(1, pieces=5)
        await call.choose(1)
        await call.go_on(1, *range(5, 10))
        await call.choose(0)
        await call.go_on(1, *range(10, 15))
        await call.stop()
        await call.until(lambda: call.said)

        assert call.said == [whole(1, 15)]
        assert call.told == []
        call.check_sound()


@pytest.mark.parametrize("sort", ["http", "http, socket"])
async def test__chosen_away_and_back__a_cough_and_a_failure_later_nothing_is_asked_again(sort):
    first, second = pair(sort)
    async with calling(first, second) as call:
        await call.begin(1)
        await call.choose(1)
        await call.choose(0)
        await call.stop()
        await call.until(lambda: call.said)
        await call.cough()
        await call.speak(2)
        err(first, "3.5")
        await call.speak(3)

        assert call.said == [whole(1), whole(2), whole(3)]


@pytest.mark.parametrize("sort", SORTS)
async def test__chosen_though_it_is_active__hears_nothing_twice(sort):
    first, second = pair(sort)
    async with calling(first, second) as call:
        await call.begin(1)
        await call.choose(0)
        await call.stop()
        await call.until(lambda: call.said)

        assert call.said == [whole(1)]
        # One connection, or one request.
        assert first.requests == 1


async def test__chosen_while_another_is_looked_for__is_the_one_that_hears():
    first, second, third = Soniox(), Soniox(), Whisper()
    async with calling(first, second, third) as call:
        second.lets_in.clear()
        second.kill_all()
        await passed(1)
        await call.begin(1, pieces=5)
        first.break_down()
        await passed(0.2)
        await call.choose(2)
        second.lets_in.set()
        await call.go_on(1, *range(5, 10))
        await call.stop()
        await call.until(lambda: call.said)

        assert call.said == [whole(1)]
        assert call.active == "third"
