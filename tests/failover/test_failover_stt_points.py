"""An interruption, an EndFrame, a CancelFrame at every point of a failure, a replay, a failback.

A point is a step of the event loop after the last sound of an utterance was queued in which the
service fails, or after a failed service may be asked again. The servers run in the same loop, so
the steps go through their side too. At each point: nothing wedged, nothing transcribed twice, no
sound twice or out of order, no task left.
"""

import asyncio
import os

import pytest
from pipecat.frames.frames import (
    EndFrame,
    InputAudioRawFrame,
    InterruptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)

from pipecat_circuit_breaker.testing import ended
from tests.failover.failover_parts import passed
from tests.failover.stt_parts import Soniox, Whisper, calling, piece, whole
from tests.support.parts import settle

pytestmark = pytest.mark.releases

#: FAILOVER_STRIDE=1 in the environment takes every step; it takes ten minutes.
STEPS, STRIDE = 100, int(os.environ.get("FAILOVER_STRIDE", "19"))


def kills(first, second):
    first.kills_at = "2.5"


def errs(first, second):
    first.errs_at = "2.5"


def refuses(first, second):
    kills(first, second)
    first.refuses = True


def both_err(first, second):
    first.errs_at = second.errs_at = "2.5"


#: Services, what happens to them, and whether the points begin where the first may come back.
SCENES = {
    "socket is killed": (Soniox, Soniox, kills, False),
    "socket reports an error": (Soniox, Soniox, errs, False),
    "socket is killed, request": (Soniox, Whisper, kills, False),
    "request fails": (Whisper, Whisper, errs, False),
    "request fails, socket": (Whisper, Soniox, errs, False),
    "both fail": (Whisper, Soniox, both_err, False),
    "failback to a socket": (Soniox, Soniox, kills, True),
    "failback that is refused": (Soniox, Whisper, refuses, True),
    "failback to requests": (Whisper, Whisper, errs, True),
}
POINTS = [(scene, steps) for scene in SCENES for steps in range(0, STEPS, STRIDE)]


async def at_once(call, utterance):
    """Say something without a pause in which anybody could answer."""
    frames = [
        *(InputAudioRawFrame(piece(utterance, n), 16000, 1) for n in range(2)),
        VADUserStartedSpeakingFrame(),
        *(InputAudioRawFrame(piece(utterance, n), 16000, 1) for n in range(2, 10)),
        VADUserStoppedSpeakingFrame(),
    ]
    call.sent += frames
    for frame in frames:
        await call.worker.queue_frame(frame)


async def reach(call, fault, comes_back, steps):
    await call.speak(1)
    fault(*call.servers)
    if comes_back:
        await call.speak(2)
        # Half of the steps are those in which it comes back, the others are those with a voice.
        await asyncio.sleep(call.failover._roster.due_in_secs(0))
        for _ in range(steps // 2):
            await asyncio.sleep(0)
        await at_once(call, 3)
    else:
        await at_once(call, 2)
    for _ in range(steps):
        await asyncio.sleep(0)


def check(call):
    for said in call.said:
        assert call.said.count(said) == 1
        assert said in [whole(n) for n in (1, 2, 3, 4)]
    call.check_sound()


def tasks():
    # pipecat 1.7 leaves a service's keepalive by itself, where a connection is lost while the
    # call is cancelled, with and without failover.
    return {
        task
        for task in asyncio.all_tasks()
        if task is not asyncio.current_task() and not task.get_name().endswith("::keepalive")
    }


@pytest.mark.parametrize(("scene", "steps"), POINTS)
async def test__interruption__every_utterance_is_transcribed_once(scene, steps):
    first, second, fault, comes_back = SCENES[scene]
    async with calling(first(), second()) as call:
        await reach(call, fault, comes_back, steps)
        await call.worker.queue_frame(InterruptionFrame())
        await passed(3)
        await call.speak(4)
        await passed(20)

        check(call)
        lost = {whole(2)} if fault is both_err else set()
        assert {whole(1), whole(2), whole(4)} - {*call.said} == lost
        if comes_back:
            assert whole(3) in call.said
    assert tasks() == set()


@pytest.mark.parametrize(("scene", "steps"), POINTS)
async def test__end_frame__the_call_ends_and_nothing_is_transcribed_twice(scene, steps):
    first, second, fault, comes_back = SCENES[scene]
    async with calling(first(), second()) as call:
        await reach(call, fault, comes_back, steps)
        await asyncio.wait_for(ended(call.worker), 30)

        check(call)
        assert len(call.ear.frames(EndFrame)) == 1
        assert call.failover._shadows == {}
    assert tasks() == set()


@pytest.mark.parametrize(("scene", "steps"), POINTS)
async def test__cancelled__at_once_and_nothing_goes_on(scene, steps):
    first, second, fault, comes_back = SCENES[scene]
    async with calling(first(), second()) as call:
        await reach(call, fault, comes_back, steps)
        await call.worker.cancel()
        await settle()

        assert len({*call.said}) == len(call.said)
        assert call.failover._shadows == {}
    assert tasks() == set()
