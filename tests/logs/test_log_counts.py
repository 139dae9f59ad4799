"""Counts add up: over sinks, threads, processes and random histories, within bounds."""

import json
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import threading
import weakref
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger

from checks import log_storm
from pipecat_circuit_breaker.logs import StormFilter
from tests.logs.sink_parts import Sink, fail

SRC = Path(__file__).parents[2] / "src"


# Sinks.


def test__one_filter_for_two_sinks__both_get_the_same__counted_once(storm):
    one, other = Sink(storm), Sink(storm)
    for _ in range(10):
        fail("gone")
    storm.flush()

    assert one.texts == other.texts
    assert one.told == 7


def test__two_filters__each_tells_its_own_sink_alone(clock):
    one, other = Sink(StormFilter(first=2, clock=clock)), Sink(StormFilter(first=4, clock=clock))
    for _ in range(10):
        fail("gone")
    clock.advance(60)
    fail("gone")

    assert (one.told, len(one.summaries)) == (8, 1)
    assert (other.told, len(other.summaries)) == (6, 1)


def test__sink_without_a_filter__gets_every_line_unchanged(sink, storm):
    plain = Sink()
    for _ in range(10):
        fail("gone")
    storm.flush()

    assert plain.lines == ["gone"] * 10
    assert sink.lines == ["gone"] * 3


@pytest.mark.parametrize(
    "log",
    [
        lambda: logger.bind(a=1).error("gone"),
        lambda: logger.opt(exception=ValueError("x")).error("gone"),
        lambda: logger.opt(colors=True).error("<red>gone</red>"),
        lambda: logger.opt(raw=True).error("gone\n"),
        lambda: logger.opt(lazy=True).error("gone {}", lambda: 1),
        lambda: logger.opt(record=True).error("gone {record[line]}"),
        lambda: logger.patch(lambda r: r["extra"].update(b=2)).error("gone"),
        lambda: logger.error("gone {who}", who="ann"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"enqueue": True}, {"serialize": True}])
def test__every_way_to_log__counts_add_up(storm, tmp_path, capsys, log, options):
    path = tmp_path / "bot.log"
    sink = logger.add(path, filter=storm, format="{extra} {message}", **options)
    for _ in range(10):
        log()
    storm.flush()
    logger.remove(sink)

    text = path.read_text()
    assert "and 7 more in 0.0 s: gone" in text
    assert "Logging error" not in capsys.readouterr().err
    if "serialize" in options:
        records = [json.loads(line)["record"] for line in text.splitlines()]
        assert [r["extra"].get("suppressed") for r in records] == [None, None, None, 7]


async def test__async_sink__counts_add_up(storm):
    texts = []

    async def write(message):
        texts.append(message.record["message"])

    logger.add(write, filter=storm)
    for _ in range(10):
        fail("gone")
    storm.flush()
    await logger.complete()

    assert texts == ["gone"] * 3 + ["and 7 more in 0.0 s: gone"]


def test__threads__counts_add_up(clock):
    storm = StormFilter(first=2, interval_secs=1, max_kinds=3, clock=clock)
    sink = Sink(storm)
    words = "quota timeout refused gone denied".split()

    def log():
        for n in range(2000):
            fail(f"{words[n % 5]} {n}")
            clock.advance(0.001)

    threads = [threading.Thread(target=log) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    storm.flush()

    assert len(sink.lines) + sink.told == 4 * 2000


# Bounds.


def test__too_many_kinds__the_oldest_is_told_and_begins_anew(clock):
    storm = StormFilter(first=1, max_kinds=2, clock=clock)
    sink = Sink(storm)
    for text in ("one", "one", "two", "two", "three"):
        fail(text)

    assert sink.texts == ["one", "two", "and 1 more in 0.0 s: one", "three"]
    fail("one")
    assert sink.texts[-2:] == ["and 1 more in 0.0 s: two", "one"]


def test__endless_kinds__memory_is_bounded(clock):
    storm = StormFilter(first=1, max_kinds=10, clock=clock)
    Sink(storm)
    rng = random.Random(7)
    for _ in range(2000):
        fail(" ".join(rng.choices("alpha beta gamma delta omega".split(), k=6)))
        assert len(storm._kinds) <= 10
        assert len(storm._sketches) <= 42


@pytest.mark.parametrize("lines", [1, 5])
def test__interval_over__nothing_of_the_line_is_kept(sink, clock, lines):
    class Session:
        pass

    session = Session()
    kept = weakref.ref(session)
    for _ in range(lines):
        logger.bind(session=session).error("gone")
    sink.records.clear()
    clock.advance(60)
    logger.info("a new call")
    sink.records.clear()

    del session
    assert kept() is None


# What is owed is not lost.


def test__package_disabled__count_is_owed_until_it_is_enabled(sink, storm, clock):
    logger.disable("pipecat_circuit_breaker")
    try:
        for _ in range(10):
            fail("gone")
        storm.flush()
        assert (sink.told, storm.pending) == (0, 7)
    finally:
        logger.enable("pipecat_circuit_breaker")
    storm.flush()

    assert (sink.told, storm.pending) == (7, 0)


def test__nobody_takes_summaries__what_is_owed_is_bounded(clock):
    storm = StormFilter(first=1, max_kinds=2, clock=clock)
    Sink(storm)
    logger.disable("pipecat_circuit_breaker")
    try:
        for text in ("one", "two", "three", "four", "five"):
            fail(text)
            fail(text)
        storm.flush()
        assert storm.pending == 5
        assert len(storm._untold) <= 2
    finally:
        logger.enable("pipecat_circuit_breaker")


def test__another_sink_raises__count_is_owed(clock):
    storm = StormFilter(first=1, clock=clock)
    is_broken = False

    def broken(message):
        if is_broken:
            raise OSError("no")

    logger.add(broken, catch=False)
    sink = Sink(storm)
    for _ in range(3):
        fail("gone")
    is_broken = True
    storm.flush()
    assert storm.pending == 2
    is_broken = False
    storm.flush()

    assert (sink.told, storm.pending) == (2, 0)


def test__exit__tells_what_is_owed(tmp_path):
    script = (
        "from loguru import logger\n"
        "from pipecat_circuit_breaker.logs import add_log_file\n"
        "logger.remove()\n"
        f"add_log_file({str(tmp_path / 'bot.log')!r})\n"
        "for n in range(1000): logger.error(f'message {n} was not sent')\n"
    )
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    subprocess.run([sys.executable, "-c", script], check=True, env=env, timeout=60)

    lines = (tmp_path / "bot.log").read_text().splitlines()
    assert len(lines) == 6
    assert "and 995 more in" in lines[-1]


def test__forked_process__begins_anew(storm):
    sink = Sink(storm)
    for _ in range(10):
        fail("gone")
    context = multiprocessing.get_context("fork")
    pending = context.SimpleQueue()
    with storm._lock:  # As another thread of the parent may.
        process = context.Process(target=lambda: pending.put(storm.pending))
        process.start()
    process.join(20)

    assert (process.exitcode, pending.get()) == (0, 0)
    storm.flush()
    assert sink.told == 7


def test__pickled_filter__has_the_settings_and_no_counts():
    storm = StormFilter(first=2, interval_secs=7, max_kinds=3)
    sink = Sink(storm)
    for _ in range(10):
        fail("gone")
    again = pickle.loads(pickle.dumps(storm))
    logger.remove(sink.id)
    sink = Sink(again)
    for _ in range(10):
        fail("gone")

    assert again.pending == 8
    assert (again._interval_secs, again._max_kinds) == (7.0, 3)


@pytest.mark.parametrize("name", [*log_storm.LINES])
def test__storm__short_benchmark__counts_add_up(tmp_path, name):
    out = log_storm.storm(log_storm.LINES[name], 20_000, tmp_path)

    assert out.lines + out.told == 20_000
    assert out.lines == log_storm.FIRST
    assert out.most_bytes < 10_000


# Random histories.


KINDS = [f"{who}#{{}} error: {what}" for who in ("STT", "TTS", "LLM") for what in "abc"]


steps = st.one_of(
    st.tuples(st.just("log"), st.integers(0, len(KINDS) - 1), st.integers(1, 12)),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.1, 1.0, 9.9, 10.0, 1000.0])),
    st.tuples(st.just("flush")),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(steps, max_size=30), st.integers(1, 4), st.sampled_from([1, 2, 5, 100]))
def test__any_history__passed_and_told_and_pending_are_what_was_offered(history, first, max_kinds):
    now = 0.0
    storm = StormFilter(first=first, interval_secs=10, max_kinds=max_kinds, clock=lambda: now)
    logger.remove()
    sink = Sink(storm)
    offered = Counter()
    in_interval: dict[int, SimpleNamespace] = {}
    due = Counter()
    for step in history:
        if step[0] == "wait":
            now += step[1]
        elif step[0] == "flush":
            storm.flush()
            in_interval.clear()
            assert storm.pending == 0
        else:
            _, kind, times = step
            for _ in range(times):
                fail(KINDS[kind].format(offered.total()))
                offered[kind] += 1
                # The model: with room for all kinds, each passes so often an interval.
                seen = in_interval.get(kind)
                if seen is None or now >= seen.begin + 10:
                    seen = in_interval[kind] = SimpleNamespace(begin=now, count=0)
                due[kind] += seen.count < first
                seen.count += 1
        passed = Counter(
            next(i for i, k in enumerate(KINDS) if line[:3] == k[:3] and line[-1] == k[-1])
            for line in sink.lines
        )
        assert len(sink.lines) + sink.told + storm.pending == offered.total()
        assert len(storm._kinds) <= max_kinds
        assert len(storm._sketches) <= 4 * max_kinds + 1
        for kind, count in due.items():
            # With less room kinds are forgotten early, and more passes.
            assert passed[kind] >= count
            assert passed[kind] == count or max_kinds < len(KINDS)
    storm.flush()
    assert len(sink.lines) + sink.told == offered.total()
