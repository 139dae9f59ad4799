"""What a failover costs a frame of sound, counted."""

import pytest
from pipecat.frames.frames import InputAudioRawFrame
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.pipeline.service_switcher import ServiceSwitcher
from pipecat.services.stt_service import STTService

from pipecat_circuit_breaker import CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import running
from tests.failover.failover_parts import Scripted, words
from tests.support.parts import Tap, settle

pytest.importorskip("pipecat.pipeline.worker", reason="what counts calls is written for 1.3")
from benchmarks.calls import CallCounter

pytestmark = pytest.mark.releases

FRAMES = 50

# One call of a function of ours at the switcher, and one where it leaves the active service; the
# others are calls of built-in functions.
CALLS, OWN = 12, 2

# One at the switcher, one that keeps the sound, and one where it leaves the active service; one
# more where the ring is full and the oldest has to make room.
STT_CALLS, STT_OWN, STT_OWN_FULL = 12, 3, 4


class Deaf(STTService):
    async def run_stt(self, audio):
        yield None


def llms():
    return LLMSwitcher([Scripted("first", words("Yes.")), Scripted("second", words("Yes."))])


def stts():
    return ServiceSwitcher([Deaf(), Deaf()])


async def calls(switcher, has_failover, **settings):
    tap = Tap()
    if has_failover:
        CircuitBreakerProcessor().failover(switcher, **settings)
    counts = []
    async with running(switcher, tap) as worker:
        for _ in range(2):
            frames = [InputAudioRawFrame(b"\0\0" * 320, 16000, 1) for _ in range(FRAMES)]
            with CallCounter() as counter:
                for frame in frames:
                    await worker.queue_frame(frame)
                await settle(60)
            counts.append((counter.calls / FRAMES, counter.own / FRAMES))
    assert len(tap.frames(InputAudioRawFrame)) == 2 * FRAMES
    return min(counts)


async def test__frame_of_sound__two_calls_of_its_own_and_a_handful_of_others():
    alone, with_failover = await calls(llms(), False), await calls(llms(), True)

    assert alone[1] == 0
    assert with_failover[1] == pytest.approx(OWN)
    assert with_failover[0] - alone[0] <= CALLS


async def test__frame_of_sound_to_stt_services__three_calls_of_its_own_four_where_the_ring_is_full():
    alone, with_failover = await calls(stts(), False), await calls(stts(), True)
    full = await calls(stts(), True, replay_secs=0.1)

    assert alone[1] == 0
    assert with_failover[1] == pytest.approx(STT_OWN)
    assert full[1] == pytest.approx(STT_OWN_FULL, abs=0.3)
    assert full[0] - alone[0] <= STT_CALLS
