"""Each utterance is transcribed exactly once, whoever hears it; its sound leaves once, in order."""

import asyncio

import pytest
from stt_parts import Call, Soniox, Whisper, calling, whole

SORTS = {"sockets": (Soniox, Soniox), "http": (Whisper, Whisper),
         "socket, http": (Soniox, Whisper), "http, socket": (Whisper, Soniox)}


def kill(server):
    server.kills_at = "2.5"


def err(server):
    server.errs_at = "2.5"


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
    first, second = (kind() for kind in SORTS[sort])
    async with calling(first, second) as call:
        fault(first)
        for utterance in range(1, 5):
            await call.speak(utterance)
        assert call.said == [whole(n) for n in range(1, 5)]
        call.check_sound()
        assert call.told[0] == "failed first True"
        assert not call.errors
