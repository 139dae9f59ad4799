"""What a service is blamed for, and what costs no utterance: coughs, connections, a mute, others' errors."""

import pytest
from pipecat.frames.frames import STTMuteFrame, VADUserStartedSpeakingFrame

from tests.failover.failover_parts import passed
from tests.failover.stt_parts import SORTS, Soniox, Whisper, calling, err, pair, refuse, whole

pytestmark = pytest.mark.releases


@pytest.mark.parametrize("sort", SORTS)
async def test__cough__blames_nobody(sort):
    first, second = pair(sort)
    async with calling(first, second) as call:
        await call.speak(1)
        await call.send(VADUserStartedSpeakingFrame())
        await call.stop()
        await passed(60)
        await call.speak(2)

        assert call.said == [whole(1), whole(2)]
        assert call.told == []
        assert second.heard == []


async def test__refused_reconnection__costs_no_utterance():
    first, second = Soniox(), Soniox()
    async with calling(first, second) as call:
        refuse(first)
        for utterance in range(1, 9):
            await call.speak(utterance)
            await passed(4)
        refused = first.requests
        first.refuses = False
        await passed(60)
        await call.speak(9)

        assert call.said == [whole(n) for n in range(1, 10)]
        assert call.told == ["failed first True", "recovered first"]
        assert refused > 2
        call.check_sound()


async def test__connection_lost_while_nothing_is_said__nothing_is_lost():
    first, second = Soniox(), Soniox()
    async with calling(first, second) as call:
        await call.speak(1)
        first.kill_all()
        await call.until(lambda: call.told)
        assert call.told == ["failed first True"]
        await call.speak(2)

        assert call.said == [whole(1), whole(2)]


async def test__first_refuses_from_the_beginning__the_second_hears_all():
    first, second = Soniox(), Soniox()
    first.refuses = True
    async with calling(first, second) as call:
        await call.speak(1)
        assert call.said == [whole(1)]
        call.check_sound()


async def test__muted__nobody_hears_it():
    first, second = Soniox(), Whisper()
    async with calling(first, second) as call:
        await call.send(STTMuteFrame(mute=True))
        await call.begin(1)
        first.kill_all()
        await call.until(lambda: call.active == "second")
        await call.silence()
        await call.stop()
        await passed(1)
        await call.send(STTMuteFrame(mute=False))
        await call.speak(2)

        assert call.said == [whole(2)]
        assert not any(word.startswith("1.") for word in second.heard)


async def test__cough_before_a_failure__not_asked_again():
    first, second = Whisper(), Whisper()
    async with calling(first, second) as call:
        await call.cough()
        err(first)
        await call.speak(2)

        assert call.said == [whole(2)]
        assert second.requests == 1


async def test__error_of_somebody_behind_the_switcher__blames_nobody_and_goes_on():
    async with calling(Soniox(), Soniox()) as call:
        await call.ear.push_error("not of the switcher")
        await passed(1)

        assert call.told == []
        assert [error.error for error in call.errors] == ["not of the switcher"]
