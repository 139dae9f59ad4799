"""Each sentence is spoken whole and once, and is once in the context, whoever speaks it."""

import asyncio

import pytest
from failover_parts import EVENTS, FAIL, HANG, passed
from pipecat.frames.frames import (
    BotStoppedSpeakingFrame,
    ErrorFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.service_switcher import ServiceSwitcher
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TTSService

from bot import Tap, ended, running, settle
from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor, Mode

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


class Bot:
    def __init__(self, *voices, **settings):
        self.voices = voices
        self.front, self.ear = Tap(), Tap()
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
