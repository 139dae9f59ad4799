"""Which lines of a storm pass: the first of each kind, and every healthy one."""

import pickle
import random
import uuid
from collections import Counter

import pytest
from loguru import logger

from pipecat_circuit_breaker.logs import StormFilter
from tests.logs.sink_parts import Sink, fail

# What passes.


def test__repeated_line__within_the_interval__first_lines_pass(sink):
    for _ in range(10):
        fail("the client is gone")

    assert sink.lines == ["the client is gone"] * 3
    assert sink.summaries == []


VARIED = {
    "processor": lambda n, rng: f"STT#{n}",
    "number": lambda n, rng: f"{n}",
    "uuid": lambda n, rng: f"{uuid.UUID(int=rng.getrandbits(128))}",
    "hex": lambda n, rng: f"{rng.getrandbits(24):06x}",
    "address": lambda n, rng: f"<Session at 0x{rng.getrandbits(48):x}>",
    "token": lambda n, rng: "".join(rng.choices("abcdefghijkXYZ0123456789", k=40)),
    "letters": lambda n, rng: "".join(rng.choices("ghijklmnopqrstuvwxyz", k=30)),
    "time": lambda n, rng: f"{rng.choice(['Mon', 'Tue'])} {rng.choice(['Jan', 'May'])} {n} 12:00",
    "peer": lambda n, rng: f"10.0.{rng.randrange(256)}.1:{rng.randrange(65536)}",
}


@pytest.mark.parametrize("name", [*VARIED])
def test__varied_lines__of_one_place__are_one_kind(sink, storm, name):
    rng = random.Random(7)
    for n in range(2000):
        fail(f"Output#0 exception (base.py:413): request {VARIED[name](n, rng)} refused")

    assert len(sink.lines) == 3
    assert storm.pending == 1997


@pytest.mark.parametrize(
    "texts",
    [
        [
            f"{who}#0 error: {what}"
            for who in ("STT", "TTS", "LLM")
            for what in ("quota", "timeout")
        ],
        ["Output#0 error: ConnectionError('gone')", "Output#0 error: TimeoutError('gone')"],
        ["STT#0 exception (/x/a.py:7): gone", "TTS#0 exception (/x/a.py:7): gone"],
        ['{"code":500,"message":"quota"}', '{"code":500,"message":"refused"}'],
        ["quota exceeded for model a", "quota exceeded for model b"],
        ["接続が切れました", "認証に失敗しました"],
    ],
)
def test__different_failures__of_one_place__each_get_their_first_lines(sink, texts):
    for _ in range(10):
        for text in texts:
            fail(text)

    assert Counter(sink.lines) == dict.fromkeys(texts, 3)


def test__levels_and_places__are_kinds_of_their_own(sink):
    for _ in range(10):
        fail("gone", "WARNING")
        fail("gone", "CRITICAL")
        logger.error("gone")
        logger.error("gone")

    assert len(sink.lines) == 4 * 3


def test__error_with_an_exception__is_held_back_as_any_other(sink):
    for n in range(10):
        try:
            raise ConnectionError(f"gone {n}")
        except ConnectionError:
            logger.exception("sending failed")

    assert len(sink.lines) == 3


# Levels.


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "SUCCESS", 29])
def test__healthy_lines__repeated__all_pass(sink, storm, level):
    for n in range(100):
        fail(f"{n}: Bot started speaking", level)
    storm.flush()

    assert len(sink.lines) == 100
    assert sink.summaries == []


@pytest.mark.parametrize("level", ["WARNING", "ERROR", "CRITICAL", 30])
def test__warnings_and_errors__are_held_back(sink, level):
    for _ in range(100):
        fail("gone", level)

    assert len(sink.lines) == 3


@pytest.mark.parametrize(
    ("level", "held"),
    [("DEBUG", 3), (0, 4), ("ERROR", 1), (20, 2), (41, 0)],
)
def test__level_that_was_asked_for__holds_back_from_there(clock, level, held):
    storm = StormFilter(first=1, level=level, clock=clock)
    sink = Sink(storm, level=0)
    for of_line in ("TRACE", "DEBUG", "INFO", "ERROR"):
        for _ in range(2):
            fail("again", of_line)

    assert len(sink.lines) == 8 - held
    assert pickle.loads(pickle.dumps(storm))._level == storm._level


def test__many_healthy_lines__push_out_no_kind(clock):
    storm = StormFilter(first=1, max_kinds=2, clock=clock)
    sink = Sink(storm)
    fail("gone")
    for word in "alpha beta gamma delta".split():
        fail(word, "INFO")
    fail("gone")

    assert sink.lines.count("gone") == 1
