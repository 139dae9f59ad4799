"""What breaks failover between TTS services."""

import asyncio

from failover_parts import FAIL, HANG, passed
from pipecat.frames.frames import (
    ErrorFrame,
    MetricsFrame,
    StopFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
)
from tenacity import wait_fixed
from test_failover_tts import WELL, Bot, Speaks

from bot import running


class Metered(Speaks):
    """Counts what it costs, as pipecat's own services over HTTP do."""

    def can_generate_metrics(self):
        return True

    async def run_tts(self, text, context_id):
        async for frame in super().run_tts(text, context_id):
            if not isinstance(frame, ErrorFrame):
                await self.start_tts_usage_metrics(text)
                await self.stop_ttfb_metrics()
            yield frame


class PushesText(Speaks):
    """Pushes a frame by itself while it speaks (Inworld's over HTTP does)."""

    async def run_tts(self, text, context_id):
        async for frame in super().run_tts(text, context_id):
            if isinstance(frame, TTSAudioRawFrame):
                await self.push_frame(frame)
            else:
                yield frame


async def test__shadow__its_frames_are_not_heard():
    first, second = PushesText("first", FAIL, WELL), Speaks("second")
    bot = Bot(first, second, cooldown=wait_fixed(1))
    async with running(*bot.line) as worker:
        await bot.say(worker, "One.")
        await bot.say(worker, "Two.")
        assert len(first.asked) == 2
        assert bot.sound == "One.Two."


async def test__hangs_after_its_sound_began__the_next_sentence_is_spoken():
    class Stalls(Speaks):
        async def run_tts(self, text, context_id):
            if len(self.asked) == 1:
                self.asked.append(text)
                yield TTSAudioRawFrame("st".encode("utf-16-le"), 16000, 1, context_id=context_id)
                await asyncio.Event().wait()
            async for frame in super().run_tts(text, context_id):
                yield frame

    first, second = Stalls("first"), Speaks("second")
    bot = Bot(first, second)
    async with running(*bot.line) as worker:
        await bot.say(worker, "One.")
        await bot.say(worker, "Two.", secs=60)
        await bot.say(worker, "Three.", secs=60)
        assert bot.sound.endswith("Three."), bot.sound


async def test__stop_frame_while_a_shadow_hangs__no_task_is_left():
    first, second = Speaks("first", FAIL, HANG), Speaks("second")
    bot = Bot(first, second, attempt_timeout_secs=30, cooldown=wait_fixed(1))
    async with running(*bot.line) as worker:
        await bot.say(worker, "One.")
        await bot.say(worker, "Two.")
        assert first.running == 1
        await worker.queue_frame(StopFrame())
        await passed(2)
        assert first.running == 0


async def test__client_times_out_by_itself__the_error_says_so():
    class TimesOut(Speaks):
        async def run_tts(self, text, context_id):
            raise TimeoutError("connection timed out")
            yield

    bot = Bot(TimesOut("first"), TimesOut("second"))
    async with running(*bot.line) as worker:
        await bot.say(worker, "One.")
        assert not any("within 5 s" in e for e in bot.errors), bot.errors


async def test__announcement_line_for_speech__is_refused():
    import pytest

    with pytest.raises((TypeError, ValueError)):
        Bot(Speaks("first"), Speaks("second"), announcement="Wait.")


async def test__twenty_sentences_and_a_speak_frame__in_order():
    first, second = Speaks("first", WELL, FAIL, WELL, FAIL, HANG, WELL), Speaks("second")
    bot = Bot(first, second, cooldown=wait_fixed(0.01))
    async with running(*bot.line) as worker:
        said = [f"Sentence {n}." for n in range(20)]
        await bot.say(worker, *said, secs=0.1)
        await worker.queue_frame(TTSSpeakFrame("End."))
        await passed(60)
        assert bot.sound == "".join(said) + "End."


async def test__usage_metrics_of_a_shadow__are_not_pushed():
    first, second = Metered("first", FAIL, WELL), Metered("second")
    bot = Bot(first, second, cooldown=wait_fixed(1))
    from pipecat.pipeline.worker import PipelineParams

    async with running(
        *bot.line, params=PipelineParams(enable_metrics=True, enable_usage_metrics=True)
    ) as worker:
        await bot.say(worker, "One.")
        await bot.say(worker, "Two.")
        names = {
            d.processor
            for f in bot.ear.frames(MetricsFrame)
            for d in f.data
            if "Usage" in type(d).__name__
        }
        assert names == {"second"}, names
