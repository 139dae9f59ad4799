"""Three services that fail at random: what is not told as lost is spoken, or understood, once and in order."""

import asyncio
import os
import random

import pytest

from tests.failover.failover_parts import HANG, passed
from tests.failover.stt_parts import Soniox, Whisper
from tests.failover.stt_parts import calling as listening
from tests.failover.test_failover_tts import RAISES, REPORTS, YIELDS, Speaks
from tests.failover.test_failover_tts_sockets import calling
from tests.failover.tts_provider import CLOSES, DROPS, EMPTY, ERROR, SILENT, WELL, Cartesia

pytestmark = pytest.mark.releases

SEEDS = range(int(os.environ.get("FAILOVER_SEEDS", "3")))
OFTEN = 0.3


@pytest.mark.parametrize("seed", SEEDS)
async def test__voices_fail_at_random__each_sentence_is_spoken_once_or_told_as_lost(seed):
    chance = random.Random(seed)

    def scripts(well, faults):
        return [chance.choice(faults) if chance.random() < OFTEN else well for _ in range(300)]

    sockets = [CLOSES, DROPS, SILENT, ERROR, EMPTY]
    voices = [
        Cartesia(*scripts(WELL, sockets)),
        Speaks("backup", *scripts(None, [YIELDS, REPORTS, RAISES, HANG])),
        Cartesia(*scripts(WELL, sockets)),
    ]
    chance.shuffle(voices)
    texts = [f"Sentence number {n} is this." for n in range(90)]
    async with calling(*voices) as bot:
        for n in range(0, len(texts), 3):
            await bot.say(bot.worker, *texts[n : n + 3], secs=70.0)

        lost = [told.removeprefix("lost ") for told in bot.told if told.startswith("lost")]
        # Some services put a space behind each text.
        spoken = "".join(text for text in texts if text not in lost).replace(" ", "")
        assert bot.sound.replace(" ", "") == spoken
        assert bot.written == " ".join(texts)
        assert len(bot.errors) == len(lost)


@pytest.mark.parametrize("seed", SEEDS)
async def test__hearing_fails_at_random__each_utterance_is_understood_once_or_told_as_lost(seed):
    chance = random.Random(seed)
    servers = [chance.choice([Soniox, Whisper])() for _ in range(3)]
    tasks = asyncio.all_tasks()
    async with listening(*servers) as call:
        for utterance in range(1, 41):
            for server in servers:
                break_at_random(server, utterance, chance)
            await call.begin(utterance)
            await call.stop()
            await passed(chance.choice([12, 15, 20, 32]))

        heard = " ".join(call.said).split()
        said = [f"{utterance}.{n}" for utterance in range(1, 41) for n in range(10)]
        assert heard == [word for word in said if word in heard]
        lost = {word.split(".")[0] for word in said if word not in heard}
        # Where each has failed, the one that is asked all the same may understand it after all.
        assert len(lost) <= sum(told.startswith("lost") for told in call.told) <= len(call.errors)
        call.check_sound()
    assert asyncio.all_tasks() == tasks


def break_at_random(server, utterance, chance):
    server.errs_at = server.kills_at = None
    server.refuses = chance.random() < OFTEN / 3
    if chance.random() < OFTEN:
        at = f"{utterance}.{chance.randrange(10)}"
        if isinstance(server, Soniox) and chance.random() < 0.5:
            server.kills_at = at
        else:
            server.errs_at = at
