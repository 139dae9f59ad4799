"""Nobody answers: each utterance is told as lost once, and whoever is back is asked."""

import pytest
from pipecat.frames.frames import TTSSpeakFrame
from tenacity import wait_fixed

from tests.failover.failover_parts import passed
from tests.failover.stt_parts import SORTS, Soniox, Whisper, calling, err, kill, pair, whole

pytestmark = pytest.mark.releases


@pytest.mark.parametrize("sort", SORTS)
async def test__nobody_answers__one_outage_each_utterance_told_and_over_with_the_next(sort):
    first, second = pair(sort)
    async with calling(first, second, announcement="One moment, please.") as call:
        await call.speak(1)
        for server in (first, second):
            server.break_down()
        for utterance in (2, 3):
            await call.begin(utterance)
            await call.stop()
            await passed(4)
        assert call.failover.is_out
        assert call.told.count("outage") == 1
        assert call.told.count("lost") == 2
        assert call.told.count("failed first False") + call.told.count("failed first True") == 1
        assert [f.text for f in call.ear.frames(TTSSpeakFrame)] == ["One moment, please."]
        assert call.errors
        second.refuses = False
        await call.speak(4)

        assert call.said == [whole(1), whole(4)]
        assert call.told[-1] == "outage over"
        assert "recovered second" in call.told
        call.check_sound()


@pytest.mark.parametrize("has_vad", [True, False])
async def test__nobody_answered__whoever_is_back_is_asked_and_may_fail_again(has_vad):
    first, second = Soniox(), Soniox()
    first.ends_at = {f"{n}.9" for n in range(1, 6)}
    second.ends_at = {*first.ends_at}
    async with calling(first, second) as call:
        call.has_vad = has_vad
        await call.begin(1, pieces=5)
        first.break_down()
        second.break_down()
        await call.until(lambda: "outage" in call.told)
        second.refuses = False
        if has_vad:
            await call.stop()
        await passed(30)
        assert call.active == "second"
        await call.begin(2)
        await call.until(lambda: whole(2) in call.said)
        first.refuses = False
        second.break_down()
        await passed(1)
        await call.begin(3)
        await call.until(lambda: whole(3) in call.said)

        assert call.said == [whole(2), whole(3)]
        assert call.told.count("lost") == 1


async def test__nobody_answered__the_next_utterance_goes_to_whoever_is_back_before_its_time():
    first, second = Soniox(), Soniox()
    async with calling(first, second) as call:
        await call.begin(1)
        first.break_down()
        second.break_down()
        await call.stop()
        # Until pipecat has given up to connect, and long waits between our own tries.
        await passed(240)
        second.refuses = False
        await call.begin(2)
        await call.stop()
        await passed(3)

        assert call.said == [whole(2)]


async def test__nobody_answered__works_again_and_fails_without_a_vad__the_second_is_asked():
    first, second = Soniox(), Soniox()
    first.ends_at = second.ends_at = {f"{n}.9" for n in range(1, 6)}
    async with calling(first, second, cooldown=wait_fixed(1000)) as call:
        call.has_vad = False
        err(first, "1.5")
        err(second, "1.5")
        await call.begin(1)
        await call.until(lambda: "outage" in call.told)
        await call.begin(2)
        await call.until(lambda: "2.9" in "".join(call.said))
        asked, other = (first, second) if call.active == "first" else (second, first)
        err(asked, "3.5")
        await call.begin(3)
        await call.until(lambda: whole(3) in call.said)

        assert call.said[-1] == whole(3)
        assert "3.0" in other.heard


async def test__nobody_answered__a_cough_later_nothing_is_asked_again():
    first, second = Whisper(), Whisper()
    async with calling(first, second) as call:
        err(first, "1.5")
        err(second, "1.5")
        await call.begin(1)
        await call.stop()
        await call.until(lambda: "outage" in call.told)
        await call.cough()
        await call.speak(2)
        err(first, "3.5")
        await call.speak(3)

        assert call.said == [whole(2), whole(3)]


async def test__lost_utterance__more_errors_of_it_are_no_more_losses():
    first, second = Soniox(), Soniox()
    async with calling(first, second) as call:
        await call.begin(1)
        first.break_down()
        second.break_down()
        await call.until(lambda: "outage" in call.told)
        lost, heard = call.told.count("lost"), len(call.errors)
        for _ in range(5):
            asked = call.switcher.strategy.active_service
            await asked.push_error("still broken")
            await passed(0)

        assert call.told.count("lost") == lost
        assert len(call.errors) == heard + 5


async def test__second_does_not_connect__lost_within_the_limit():
    first, second = Soniox(), Soniox()
    async with calling(first, second) as call:
        second.lets_in.clear()
        second.kill_all()
        await passed(1)
        kill(first)
        await call.begin(2)
        await call.stop()
        await passed(6)

        assert "outage" in call.told
        call.check_sound()
        second.lets_in.set()
