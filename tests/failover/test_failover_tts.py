"""Each sentence is spoken whole and once, and is once in the context, whoever speaks it."""

import asyncio

import pytest
from pipecat.frames.frames import (
    BotStoppedSpeakingFrame,
    ErrorFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    MetricsFrame,
    OutputImageRawFrame,
    StopFrame,
    TextFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
)
from pipecat.pipeline.service_switcher import ServiceSwitcher
from pipecat.pipeline.task import PipelineParams
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TTSService
from tenacity import wait_fixed

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor, Mode
from pipecat_circuit_breaker.testing import ended, running
from tests.failover.failover_parts import EVENTS, FAIL, HANG, passed
from tests.support.parts import Tap, settle

pytestmark = pytest.mark.releases

#: What a script may be: all is well; an error that is yielded, reported, raised; none at all.
WELL, YIELDS, REPORTS, RAISES = None, "yields", "reports", "raises"
BREAKS = "breaks"


class Speaks(TTSService):
    """A service over HTTP: its sound is the text that it speaks."""

    def __init__(self, name, *scripts):
        super().__init__(
            name=name,
            push_start_frame=True,
            push_stop_frames=True,
            stop_frame_timeout_s=1.0,
            sample_rate=16000,
            settings=TTSSettings(model=None, voice=None, language=None),
        )
        self.scripts = list(scripts) or [WELL]
        self.asked = []
        self.running = 0

    async def run_tts(self, text, context_id):
        script = self.scripts[min(len(self.asked), len(self.scripts) - 1)]
        self.asked.append(text)
        self.running += 1
        try:
            sound = text.encode("utf-16-le")
            half = len(sound) // 4 * 2
            if script is HANG:
                await asyncio.Event().wait()
            if script == YIELDS:
                yield ErrorFrame("no voice", processor=self)
                return
            if script == REPORTS:
                await self.push_error("no voice", exception=ConnectionError("no voice"))
                return
            if script is FAIL or script == RAISES:
                raise ConnectionError("no voice")
            yield TTSAudioRawFrame(sound[:half], 16000, 1, context_id=context_id)
            if script == BREAKS:
                yield ErrorFrame("broken", processor=self)
                return
            await asyncio.sleep(0)
            yield TTSAudioRawFrame(sound[half:], 16000, 1, context_id=context_id)
        finally:
            self.running -= 1


class Ear(Tap):
    """Hears what is spoken, and tells as a transport does; older services pause until then."""

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSStoppedFrame):
            await self.push_frame(BotStoppedSpeakingFrame(), FrameDirection.UPSTREAM)


class Bot:
    def __init__(self, *voices, **settings):
        self.voices = voices
        self.front, self.ear = Tap(), Ear()
        self.switcher = ServiceSwitcher([*voices])
        breaker = self.breaker = CircuitBreakerProcessor(
            params=CircuitBreakerParams(clock=lambda: asyncio.get_event_loop().time())
        )
        self.failover = breaker.failover(self.switcher, **settings)
        self.context = LLMContext()
        assistant = LLMContextAggregatorPair(self.context).assistant()
        self.line = [breaker, self.front, self.switcher, self.ear, assistant]
        self.told = []
        for event, word in EVENTS.items():
            self.failover.add_event_handler(event, self._teller(word))

    def _teller(self, word):
        async def tell(failover, *args):
            shown = [str(a.error if isinstance(a, ErrorFrame) else a) for a in args]
            self.told.append(" ".join([word, *shown]).strip())

        return tell

    async def say(self, worker, *sentences, secs=4.0):
        await worker.queue_frame(LLMFullResponseStartFrame())
        for sentence in sentences:
            await worker.queue_frame(LLMTextFrame(f"{sentence} "))
        await worker.queue_frame(LLMFullResponseEndFrame())
        await passed(secs)
        # As a transport tells; older services take no more text until then.
        await self.ear.push_frame(BotStoppedSpeakingFrame(), FrameDirection.UPSTREAM)
        await settle()

    @property
    def sound(self):
        frames = self.ear.frames(TTSAudioRawFrame)
        return b"".join(frame.audio for frame in frames).decode("utf-16-le").replace("\0", "")

    @property
    def errors(self):
        return [frame.error for frame in self.front.frames(ErrorFrame)]

    @property
    def written(self):
        messages = self.context.get_messages()
        return " ".join(m["content"] for m in messages if m["role"] == "assistant")


@pytest.mark.parametrize("fault", [YIELDS, REPORTS, RAISES, HANG])
async def test__primary_dies__150_sentences_spoken_whole_and_once_and_once_in_the_context(fault):
    primary, backup = Speaks("primary", *[WELL] * 40, fault), Speaks("backup")
    bot = Bot(primary, backup)
    sentences = [f"This is sentence number {n}." for n in range(150)]
    async with running(*bot.line) as worker:
        for n in range(0, 150, 3):
            await bot.say(worker, *sentences[n : n + 3], secs=8.0)

        assert bot.sound == "".join(sentences)
        assert bot.written == " ".join(sentences)
        assert bot.errors == []
        assert [told.split()[0] for told in bot.told] == ["failed"]
        assert bot.told[0].endswith("True")
        # The growing cooldown: a shadow now and then.
        assert 2 <= len(primary.asked) - 41 <= 12


async def test__primary_is_back__speaks_again():
    primary, backup = Speaks("primary", YIELDS, WELL), Speaks("backup")
    bot = Bot(primary, backup)
    async with running(*bot.line) as worker:
        for n in range(4):
            await bot.say(worker, f"Sentence {n} is this.")

        assert bot.sound == "".join(f"Sentence {n} is this." for n in range(4))
        assert bot.told == ["failed primary no voice True", "recovered primary"]
        assert len(backup.asked) == 3  # two instead of it, and one beside its shadow


async def test__breaks_after_its_sound_has_begun__that_sentence_is_lost_and_told():
    primary, backup = Speaks("primary", BREAKS), Speaks("backup")
    bot = Bot(primary, backup)
    async with running(*bot.line) as worker:
        await bot.say(worker, "One is lost.", "Two is not.")

        assert bot.sound.endswith("Two is not.") and "lost." not in bot.sound
        assert bot.errors == ["broken"]
        assert bot.told == ["failed primary broken False", "lost One is lost."]


async def test__nobody_speaks__one_outage_and_the_error_of_each_text():
    bot = Bot(Speaks("primary", YIELDS, YIELDS, WELL), Speaks("backup", YIELDS))
    async with running(*bot.line) as worker:
        for n in range(3):
            await bot.say(worker, f"Sentence {n} is this.")

        assert bot.sound == "Sentence 2 is this."
        assert bot.errors.count("no voice") == 2
        assert [told.split()[0] for told in bot.told] == [
            *("failed", "failed", "lost", "outage", "lost", "recovered", "outage"),
        ]


@pytest.mark.parametrize("steps", range(0, 60, 6))
async def test__interrupted_while_the_backup_speaks__the_next_text_is_spoken(steps):
    primary, backup = Speaks("primary", YIELDS), Speaks("backup")
    bot = Bot(primary, backup)
    async with running(*bot.line) as worker:
        await worker.queue_frame(TTSSpeakFrame("This is interrupted."))
        await settle(steps)
        await bot.switcher.queue_frame(InterruptionFrame())
        await passed(2)
        before = len(bot.sound)
        await bot.say(worker, "And this is not.")

        assert bot.sound[before:] == "And this is not."
        assert primary.running == backup.running == 0


@pytest.mark.parametrize("cancels", [False, True])
async def test__call_ends_while_a_shadow_hangs__nothing_is_left(cancels):
    primary, backup = Speaks("primary", YIELDS, HANG), Speaks("backup")
    bot = Bot(primary, backup)
    async with running(*bot.line) as worker:
        await bot.say(worker, "The first one.", secs=6.0)
        await bot.say(worker, "The last one.", secs=1.0)
        assert primary.running == 1
        if cancels:
            await worker.cancel()
        else:
            await ended(worker)
        await settle()
        assert primary.running == 0 and bot.failover._shadows == {}


def test__leave__everything_is_as_it_was_and_another_may_come():
    breaker, voice = CircuitBreakerProcessor(), Speaks("a")
    switcher = ServiceSwitcher([voice])
    failover = breaker.failover(switcher)
    with pytest.raises(ValueError, match="already"):
        breaker.failover(switcher)
    failover.leave()

    assert not {"run_tts", "push_error_frame", "stop"} & vars(voice).keys()
    assert "process_frame" not in vars(switcher)
    breaker.failover(switcher)


#
# Told by the breaker
#


async def test__primary_dies__one_incident_counts_the_sentences_of_the_backup():
    bot = Bot(Speaks("primary", YIELDS), Speaks("backup"))
    changes = []
    async with running(*bot.line) as worker:
        for event in ("opened", "closed"):
            bot.breaker.add_event_handler(
                f"on_circuit_{event}", lambda _, incident: changes.append(incident)
            )
        await bot.say(worker, "This is one.", "This is two.", "This is three.", secs=1.0)

        [incident] = bot.breaker.incidents
        assert (incident.failover.took_over, incident.failover.saved) == ("backup", 3)
        assert incident.failover.lost == 0
        # Told at the first sound, and not again.
        assert [(i.failover.took_over, i.failover.saved) for i in changes] == [("backup", 0)]


async def test__sound_in_many_frames__what_failed_is_told_once(monkeypatch):
    bot = Bot(Speaks("primary", YIELDS), Speaks("backup"))
    told, tell = [], bot.failover._tell_failures

    async def count(*args, **kwargs):
        told.append(args)
        await tell(*args, **kwargs)

    monkeypatch.setattr(bot.failover, "_tell_failures", count)
    async with running(*bot.line) as worker:
        await bot.say(worker, "This is one.", secs=1.0)

        assert len(told) == 2  # at its first sound, and at the end of it


async def test__none_speaks__one_incident_and_one_outage():
    bot = Bot(Speaks("primary", RAISES), Speaks("backup", YIELDS))
    async with running(*bot.line) as worker:
        for n in range(6):
            await bot.say(worker, f"This is number {n}.", secs=0.5)

        [incident] = bot.breaker.incidents
        assert incident.failover.failed == ("primary", "backup")
        assert incident.failover.nobody_answers
        assert incident.failover.lost >= 3
        assert bot.told.count("outage") == 1
        assert bot.breaker.health()["status"] == "out"


@pytest.mark.parametrize("mode", [Mode.DISABLED, Mode.OBSERVE])
async def test__mode_is_not_to_guard__the_service_speaks_alone(mode):
    primary, backup = Speaks("primary", WELL, YIELDS), Speaks("backup")
    bot = Bot(primary, backup)
    async with running(*bot.line) as worker:
        await bot.breaker.set_mode(mode)
        await bot.say(worker, "This is one.")
        await bot.say(worker, "This is two.")

        assert bot.sound == "This is one."
        assert backup.asked == [] and bot.told == []
        assert bot.errors[0] == "no voice"  # from 1.8 on another says that there was no sound


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


@pytest.mark.parametrize("line", ["Wait.", TTSSpeakFrame("Wait.")])
def test__announcement_that_has_to_be_spoken__is_refused(line):
    with pytest.raises(TypeError, match="recorded announcement"):
        Bot(Speaks("first"), Speaks("second"), announcement=line)


async def test__task_that_is_born_while_a_text_is_spoken__its_later_errors_are_heard():
    class Receives(Speaks):
        async def run_tts(self, text, context_id):
            self.receiver = self.receiver or self.create_task(self.receive())
            async for frame in super().run_tts(text, context_id):
                yield frame

        async def receive(self):
            await asyncio.sleep(60)
            await self.push_error("the provider says good-bye")

        receiver = None

    bot = Bot(Receives("first"), Speaks("second"))
    async with running(*bot.line) as worker:
        await bot.say(worker, "One.", secs=70)
        assert bot.errors == ["the provider says good-bye"]


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
    params = PipelineParams(enable_metrics=True, enable_usage_metrics=True)
    async with running(*bot.line, params=params) as worker:
        await bot.say(worker, "One.")
        await bot.say(worker, "Two.")
        names = {
            d.processor
            for f in bot.ear.frames(MetricsFrame)
            for d in f.data
            if "Usage" in type(d).__name__
        }
        assert names == {"second"}, names


async def test__nothing_fails__frames_are_those_of_a_bot_without_failover():
    async def frames(has_failover):
        bot = Bot(Speaks("first"), Speaks("second"))
        if not has_failover:
            bot.failover.leave()
        async with running(*bot.line) as worker:
            await bot.say(worker, "One.", "Two and a half.")
            await worker.queue_frame(TTSSpeakFrame("Alone.", append_to_context=False))
            await passed(4)
            await bot.say(worker, "Three.")
        said = [(type(f).__name__, getattr(f, "text", getattr(f, "audio", ""))) for f in seen(bot)]
        return said, bot.context.get_messages()

    def seen(bot):
        return [frame for frame, _ in bot.ear.seen if not isinstance(frame, MetricsFrame)]

    assert await frames(True) == await frames(False)


async def test__silent_for_long_before_the_third_speaks__no_turn_is_called_silent():
    first, second = Speaks("first", HANG, WELL, HANG), Speaks("second", HANG)
    bot = Bot(first, second, Speaks("third"), cooldown=wait_fixed(1))
    async with running(*bot.line) as worker:
        for text in ("One.", "Two.", "Three."):
            await bot.say(worker, text, secs=30)

        assert bot.sound == "One.Two.Three."
        assert bot.errors == []


async def test__task_that_is_born_in_a_shadow__its_later_frames_are_heard():
    class Receives(Speaks):
        async def run_tts(self, text, context_id):
            if len(self.asked) == 1:
                self.receiver = self.create_task(self.receive())
            async for frame in super().run_tts(text, context_id):
                yield frame

        async def receive(self):
            await asyncio.sleep(1)
            await self.push_frame(TTSSpeakFrame("from the provider"))

    bot = Bot(Receives("first", FAIL, WELL), Speaks("second"), cooldown=wait_fixed(1))
    async with running(*bot.line) as worker:
        await bot.say(worker, "One.")
        await bot.say(worker, "Two.")

        assert [f.text for f in bot.ear.frames(TTSSpeakFrame)] == ["from the provider"]


async def test__active_voice_fails_to_stop__the_call_ends_all_the_same():
    class Fails(Speaks):
        async def stop(self, frame):
            await super().stop(frame)
            raise RuntimeError("cannot stop")

    bot = Bot(Fails("first"), Speaks("second"))
    async with running(*bot.line) as worker:
        await bot.say(worker, "One.")
        await asyncio.wait_for(ended(worker), 30)


class Refuses(Speaks):
    """Cannot speak, and says more of it than a text."""

    def __init__(self, name, **how):
        super().__init__(name)
        self.how = how

    async def run_tts(self, text, context_id):
        await self.push_error("no voice", **self.how)
        return
        yield


async def test__nobody_speaks_and_the_error_is_fatal__the_call_ends():
    bot = Bot(Refuses("first", fatal=True), Refuses("second", fatal=True))
    finished = asyncio.Event()
    async with running(*bot.line) as worker:
        worker.add_event_handler("on_pipeline_finished", lambda *_: finished.set())
        await worker.queue_frame(TTSSpeakFrame("Hello."))
        await passed(10)
        assert finished.is_set()


@pytest.mark.skipif(not hasattr(TTSService, "is_usable"), reason="pipecat before 1.8")
@pytest.mark.parametrize("whose", [0, 1])
async def test__nobody_speaks__what_the_active_one_says_of_itself_is_reported(whose):
    hows = [{}, {}]
    hows[whose] = {"force_treat_as_permanent": True}
    bot = Bot(*(Refuses(name, **how) for name, how in zip("ab", hows, strict=True)))
    async with running(*bot.line) as worker:
        await worker.queue_frame(TTSSpeakFrame("Hello."))
        await passed(10)
        assert bot.voices[0].is_usable == (whose == 1)


async def test__turn_has_no_end__what_is_behind_it_waits_no_longer_than_without_failover():
    async def behind(has_failover):
        bot = Bot(Speaks("first"), Speaks("second"))
        if not has_failover:
            bot.failover.leave()
        async with running(*bot.line) as worker:
            for text in ("Hello there. ", "What"):
                await worker.queue_frame(TextFrame(text))
            await passed(0.2)
            await worker.queue_frame(OutputImageRawFrame(b"1", (1, 1), "RGB"))
            for secs in range(60):
                if bot.ear.frames(OutputImageRawFrame):
                    return secs
                await passed(1)

    assert await behind(True) == await behind(False)
