"""Each utterance is transcribed exactly once, whoever hears it; its sound leaves once, in order."""

import pytest
from pipecat.frames.frames import (
    EndFrame,
    InputAudioRawFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.service_switcher import ServiceSwitcherStrategyFailover

from pipecat_circuit_breaker.testing import ended
from tests.failover.failover_parts import passed
from tests.failover.stt_parts import Soniox, Whisper, calling, err, kill, pair, piece, refuse, whole

pytestmark = pytest.mark.releases


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
