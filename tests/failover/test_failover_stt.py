"""Each utterance is transcribed exactly once, whoever hears it; its sound leaves once, in order."""

import asyncio

import pytest
from failover_parts import passed
from pipecat.frames.frames import (
    EndFrame,
    InputAudioRawFrame,
    StopFrame,
    STTMuteFrame,
    TranscriptionFrame,
    TTSSpeakFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.service_switcher import ServiceSwitcher, ServiceSwitcherStrategyFailover
from stt_parts import Call, Soniox, Whisper, calling, piece, whole
from tenacity import wait_fixed

from bot import ended, running, settle
from pipecat_circuit_breaker import CircuitBreakerProcessor, Mode

pytestmark = pytest.mark.releases

SORTS = {
    "sockets": (Soniox, Soniox),
    "http": (Whisper, Whisper),
    "socket, http": (Soniox, Whisper),
    "http, socket": (Whisper, Soniox),
}


def pair(sort):
    return [kind() for kind in SORTS[sort]]


def kill(server):
    server.kills_at = "2.5"


def err(server, at="2.5"):
    server.errs_at = at


def refuse(server):
    server.kills_at = "2.5"
    server.refuses = True


FAULTS = [
    *(("sockets", fault) for fault in (kill, err, refuse)),
    *(("socket, http", fault) for fault in (kill, err, refuse)),
    ("http", err),
    ("http, socket", err),
]


@pytest.mark.parametrize(("sort", "fault"), FAULTS)
async def test__four_utterances_with_a_failure_inside__each_transcribed_once(sort, fault):
    first, second = pair(sort)
    async with calling(first, second) as call:
        fault(first)
        for utterance in range(1, 5):
            await call.speak(utterance)

        assert call.said == [whole(n) for n in range(1, 5)]
        call.check_sound()
        assert call.told == ["failed first True"]
        assert call.active == "second"
        assert not call.errors


@pytest.mark.parametrize("sort", ["sockets", "http, socket"])
async def test__strategy_that_switches_by_itself__the_same(sort):
    first, second = pair(sort)
    async with calling(first, second, strategy=ServiceSwitcherStrategyFailover) as call:
        err(first)
        for utterance in range(1, 4):
            await call.speak(utterance)
        await passed(6)

        assert call.said == [whole(n) for n in range(1, 4)]
        assert call.active == "first"
        call.check_sound()


async def test__marks_from_a_vad_behind_the_switcher__replayed_in_their_direction():
    first, second = Soniox(), Whisper()
    async with calling(first, second) as call:
        for mark in (VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame):
            call.marks_from_behind.add(mark)
        err(first)
        for utterance in range(1, 4):
            await call.speak(utterance)

        assert call.said == [whole(n) for n in range(1, 4)]
        marks = [f for f in call.sent if not isinstance(f, InputAudioRawFrame)]
        upstream = [f for f, _ in call.front.seen if isinstance(f, (*call.marks_from_behind,))]
        assert [f.id for f in upstream] == [f.id for f in marks]


async def test__speaks_on_before_the_answer__both_transcribed_once():
    first, second = Whisper(), Whisper()
    async with calling(first, second) as call:
        first.delay_secs = 0.5
        first.errs_at = "1.5"
        await call.begin(1)
        await call.stop()
        await call.begin(2)
        await call.until(lambda: call.active == "second")
        await call.send(*(InputAudioRawFrame(piece(2, n), 16000, 1) for n in range(10, 60)))
        await call.stop()
        await call.until(lambda: len(call.said) == 2)

        assert call.said == [whole(1), whole(2, 60)]
        call.check_sound()
        await passed(6)
        await call.speak(3)
        # Nothing of the second utterance was left in the first service.
        assert call.said[2:] == [whole(3)]
        assert call.active == "first"


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


async def test__late_words_of_the_failed_service__dropped():
    first, second = Soniox(), Whisper()
    async with calling(first, second) as call:
        err(first)
        await call.begin(2)
        # It is not gone: it says what it has heard, and more than that.
        await call.until(lambda: call.active == "second")
        late = TranscriptionFrame("2.0 2.1 late", "", "")
        await call.services[0].push_frame(late)
        await call.stop()
        await call.until(lambda: call.said)

        assert call.said == [whole(2)]


async def test__a_stream_of_sound_while_the_second_connects__waits_behind_in_order():
    first, second = Soniox(), Soniox()
    async with calling(first, second) as call:
        second.lets_in.clear()
        second.kill_all()
        await passed(1)
        kill(first)
        await call.begin(2)
        assert call.active == "first"
        await call.stop()
        second.lets_in.set()
        await call.until(lambda: call.said)

        assert call.said == [whole(2)]
        call.check_sound()


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


async def test__longer_than_the_ring__its_end_is_saved():
    first, second = Soniox(), Whisper()
    async with calling(first, second, replay_secs=1.0) as call:
        first.kills_at = "1.99"
        await call.begin(1, pieces=100)
        await call.stop()
        await call.until(lambda: call.said)

        (said,) = call.said
        assert said.split()[-1] == "1.99"
        assert 45 <= len(said.split()) <= 50


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


@pytest.mark.parametrize("sort", ["http", "http, socket"])
async def test__call_ends_behind_a_request_that_fails__answered_before_it_ends(sort):
    first, second = pair(sort)
    async with calling(first, second) as call:
        first.errs_at = "1.5"
        first.delay_secs = 1.0
        await call.begin(1)
        await call.stop()
        await ended(call.worker)

        assert call.said == [whole(1)]
        assert len(call.ear.frames(EndFrame)) == 1


async def test__two_utterances_wait_for_answers__only_the_one_that_failed_is_asked_again():
    first, second = Whisper(), Whisper()
    async with calling(first, second) as call:
        first.delay_secs = 1.0
        first.errs_at = "2.5"
        for utterance in (1, 2):
            await call.begin(utterance)
            await call.stop()
        await call.until(lambda: len(call.said) == 2)

        assert call.said == [whole(1), whole(2)]
        assert not any(word.startswith("1.") for word in second.heard)


async def test__final_words_in_mid_utterance__only_the_rest_goes_to_the_second():
    first, second = Soniox(), Whisper()
    async with calling(first, second) as call:
        first.ends_at = {"2.3"}
        first.kills_at = "2.6"
        await call.begin(2)
        await call.stop()
        await call.until(lambda: len(call.said) == 2)

        assert " ".join(call.said) == whole(2)


async def test__without_a_vad__each_transcribed_once_and_back_at_a_final_transcription():
    first, second = Soniox(), Soniox()
    first.ends_at = {f"{n}.9" for n in range(1, 6)}
    second.ends_at = {*first.ends_at}
    async with calling(first, second) as call:
        call.has_vad = False
        kill(first)
        for utterance in range(1, 4):
            await call.begin(utterance)
            await call.until(lambda n=utterance: whole(n) in call.said)
        await passed(10)
        assert call.active == "second"
        for utterance in (4, 5):
            await call.begin(utterance)
            await call.until(lambda n=utterance: whole(n) in call.said)

        assert call.said == [whole(n) for n in range(1, 6)]
        assert call.told == ["failed first True", "recovered first"]
        assert call.active == "first"
        call.check_sound()


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


def test__leave__everything_is_as_it_was_and_another_may_come():
    breaker = CircuitBreakerProcessor()
    call = Call([make_socket(), make_segmented()])
    with pytest.raises(ValueError, match="already"):
        breaker.failover(call.switcher)
    call.failover.leave()

    for service in call.services:
        assert not {"push_frame", "run_stt", "_reconnect_websocket"} & vars(service).keys()
    assert "process_frame" not in vars(call.switcher)
    breaker.failover(call.switcher)


def make_socket():
    from pipecat.services.soniox.stt import SonioxSTTService

    return SonioxSTTService(api_key="key")


def make_segmented():
    from pipecat.services.openai.stt import OpenAISTTService

    return OpenAISTTService(api_key="key")


@pytest.mark.parametrize("secs", [0, -1, float("inf"), float("nan")])
def test__ring_without_a_length__refused(secs):
    with pytest.raises(ValueError, match="replay_secs"):
        CircuitBreakerProcessor().failover(
            ServiceSwitcher([make_socket(), make_segmented()]), replay_secs=secs
        )
