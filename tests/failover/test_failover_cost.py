"""What a failover costs a frame of sound, counted."""

import pytest
from failover_parts import Scripted, words
from pipecat.frames.frames import InputAudioRawFrame
from pipecat.pipeline.llm_switcher import LLMSwitcher

from bot import Tap, running, settle
from pipecat_circuit_breaker import CircuitBreakerProcessor

pytest.importorskip("pipecat.pipeline.worker", reason="what counts calls is written for 1.3")
from benchmarks.calls import CallCounter

pytestmark = pytest.mark.releases

FRAMES = 50

# One call of a function of ours at the switcher, and one where it leaves the active service; the
# others are calls of built-in functions.
CALLS, OWN = 12, 2


async def calls(has_failover):
    llms = [Scripted("first", words("Yes.")), Scripted("second", words("Yes."))]
    switcher, tap = LLMSwitcher(llms), Tap()
    if has_failover:
        CircuitBreakerProcessor().failover(switcher)
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
    alone, with_failover = await calls(False), await calls(True)

    assert alone[1] == 0
    assert with_failover[1] == pytest.approx(OWN)
    assert with_failover[0] - alone[0] <= CALLS
