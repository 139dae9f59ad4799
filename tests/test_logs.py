"""A log that a storm cannot fill, and whose counts are exact."""

import asyncio
import contextlib
import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import uuid
import weakref
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import log_storm
import portalocker
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.demo.chains import CHAINS, FLOOD_CHUNKS, SOUND_CHUNKS
from pipecat_circuit_breaker.demo.run import run_chain, sends, settled
from pipecat_circuit_breaker.logs import StormFilter, add_log_file

SRC = Path(__file__).parent.parent / "src"


class Sink:
    """Keeps what it is given: lines, and the counts of summaries."""

    def __init__(self, storm_filter=None, **options):
        self.records = []
        self.texts = []
        self.id = logger.add(self._write, filter=storm_filter, format="{message}", **options)

    def _write(self, message):
        self.records.append(message.record)
        self.texts.append(str(message).rstrip("\n"))

    @property
    def lines(self):
        return [r["message"] for r in self.records if "suppressed" not in r["extra"]]

    @property
    def summaries(self):
        return [r for r in self.records if "suppressed" in r["extra"]]

    @property
    def told(self):
        return sum(r["extra"]["suppressed"] for r in self.summaries)


def fail(text, level="ERROR"):
    """Log from one place, as pipecat does every processor's error."""
    logger.log(level, text)


@pytest.fixture
def storm(clock):
    return StormFilter(first=3, interval_secs=60, clock=clock)


@pytest.fixture
def sink(storm):
    return Sink(storm)


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


# Summaries.


def test__storm_goes_on__interval_over__summary_comes_before_its_next_line(sink, clock):
    for _ in range(1000):
        fail("gone")
    clock.advance(59.9)
    fail("gone")
    assert sink.summaries == []
    clock.advance(0.1)
    fail("gone")

    assert sink.texts == ["gone"] * 3 + ["and 998 more in 59.9 s: gone", "gone"]
    assert sink.told == 998


def test__storm_is_over__any_line__brings_the_summary(sink, clock):
    for n in range(1000):
        fail(f"message {n} was not sent")
        clock.advance(0.02)
    clock.advance(3600)
    logger.info("a new call")

    # It says how long the storm took, not how long nobody logged.
    assert sink.texts[-2:] == ["and 997 more in 20.0 s: message 0 was not sent", "a new call"]


def test__a_suppressed_line__brings_the_summary_of_another_kind(sink, clock):
    for _ in range(4):
        fail("one")
    clock.advance(30)
    for _ in range(4):
        fail("two")
    clock.advance(30)
    fail("two")

    assert sink.texts[-1] == "and 1 more in 0.0 s: one"


def test__nothing_suppressed__no_summary(sink, storm, clock):
    for _ in range(10):
        fail("now and then")
        clock.advance(30)
    storm.flush()

    assert len(sink.lines) == 10
    assert sink.summaries == []


def test__a_year_of_storm__six_lines_a_minute(sink, clock):
    for _ in range(3_000):
        clock.advance(1)
        fail("gone")

    assert len(sink.lines) == 3 * 50
    assert len(sink.summaries) == 49


def test__flush__tells_what_is_owed_once(sink, storm):
    for _ in range(10):
        fail("gone")
    assert storm.pending == 7
    storm.flush()
    storm.flush()

    assert sink.told == 7
    assert len(sink.summaries) == 1
    assert storm.pending == 0


def test__summary__has_place_level_and_extra_of_its_kind(sink, storm):
    def first():
        for _ in range(5):
            logger.bind(call="c1").warning("gone")

    first()
    logger.info("something else")
    storm.flush()

    (summary,) = sink.summaries
    line = sink.records[0]
    for key in ("file", "function", "level", "line", "module", "name"):
        assert summary[key] == line[key]
    assert summary["extra"] == {"call": "c1", "suppressed": 2, "suppressed_secs": 0.0}
    assert summary["exception"] is None


def test__format_with_a_bound_key__summary_is_written(storm, capsys):
    texts = []
    logger.add(texts.append, filter=storm, format="{extra[call]} {message}")
    for _ in range(5):
        logger.bind(call="c1").error("gone")
    storm.flush()

    assert texts[-1] == "c1 and 2 more in 0.0 s: gone\n"
    assert "Logging error" not in capsys.readouterr().err


def test__summary_of_a_level_without_a_name__has_its_number(sink, storm):
    for _ in range(5):
        fail("gone", 37)
    storm.flush()

    assert sink.summaries[0]["level"].no == 37


def test__summary_of_a_long_line__is_short_and_one_line(sink, storm):
    for _ in range(5):
        fail("gone\n" + "x y " * 100_000)
    storm.flush()

    assert len(sink.texts[-1]) < 250
    assert "\n" not in sink.texts[-1]


def test__braces_and_markup__are_taken_literally(storm):
    sink = Sink(storm, colorize=True)
    for _ in range(5):
        logger.error('{"a": {b}} <red>x</red> {}')
    storm.flush()

    assert sink.texts[-1].endswith('{"a": {b}} <red>x</red> {}')


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


# It never raises.


def test__clock_breaks__lines_pass_and_it_says_so_once(clock):
    def broken():
        raise OSError("no clock")

    sink = Sink(StormFilter(first=1, clock=broken))
    for _ in range(5):
        fail("gone")

    assert sink.lines.count("gone") == 5
    assert sum("storm filter failed" in line for line in sink.lines) == 1


@pytest.mark.parametrize("record", [{}, {"message": None}, {"message": "x", "name": "y"}, None])
def test__record_that_is_none__passes(storm, record):
    assert storm(record) is True


@pytest.mark.parametrize("text", ["", "\ud800", "\0", "é" * 1000, "a" * 10_000, "{", "٣"])
def test__any_text__is_held_back(sink, storm, text):
    for _ in range(5):
        fail(text)
    storm.flush()

    assert (len(sink.lines), sink.told) == (3, 2)


def test__clock_that_logs__no_deadlock(capsys):
    inside = False

    def clock():
        nonlocal inside
        if not inside:
            inside = True
            logger.warning("tick")
            inside = False
        return 0.0

    sink = Sink(StormFilter(first=1, clock=clock))
    for _ in range(5):
        fail("gone")

    assert sorted(sink.lines) == ["gone", "tick"]


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs POSIX signals")
def test__signal_handler_that_logs__no_deadlock(clock):
    storm = StormFilter(first=1, clock=clock)
    seen = Counter()
    logger.add(lambda message: None, filter=storm, catch=True)

    def handle(*_):
        # In a sink loguru refuses it; in the filter it is to be taken.
        with contextlib.suppress(RuntimeError):
            logger.error("signalled")
        seen["signals"] += 1

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        n = 0
        while seen["signals"] < 50:
            fail(f"gone {n}")
            n += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert storm.pending >= n - 1


# Settings.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("first", value) for value in (0, -1, 10_001, 1.5, "5", True, None)],
        *[("interval_secs", value) for value in (0, -1, float("nan"), float("inf"), "60", True)],
        *[("level", value) for value in ("LOUD", "warning", -1, 30.0, True, None)],
        *[("max_kinds", value) for value in (0, 100_001, 2.0)],
        ("clock", 5),
    ],
)
def test__bad_setting__is_refused_with_its_value(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected .*, got ") as caught:
        StormFilter(**{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_bytes", 9_999),
        ("max_bytes", 1e8),
        ("max_bytes", True),
        ("files", 0),
        ("files", 1_001),
        ("path", "{time}.log"),
    ],
)
def test__bad_log_file__is_refused_with_its_value(tmp_path, name, value):
    arguments = {"path": tmp_path / "bot.log", name: value}
    with pytest.raises(ValueError, match=f"^{name}: expected .*, got ") as caught:
        add_log_file(**arguments)
    assert repr(value) in str(caught.value)
    assert not (tmp_path / "bot.log").exists()


# The file.


def sizes(folder, pattern="*"):
    # Another thread moves files, but for as long as somebody else has the lock.
    with portalocker.Lock(folder / "bot.log.lock", "ab", check_interval=0.001):
        return [path.stat().st_size for path in folder.glob(pattern)]


@pytest.mark.parametrize("enqueue", [False, True])
def test__log_file__lines_without_end__stays_under_its_bound(tmp_path, enqueue):
    sink = add_log_file(
        tmp_path / "bot.log",
        max_bytes=50_000,
        files=3,
        enqueue=enqueue,
        storm_filter=StormFilter(first=10_000),
    )
    for n in range(1500):
        logger.error(f"message {n}: 接続 {random.random()}")
        if n % 7 == 0:
            assert sum(sizes(tmp_path)) <= 50_000
            # Each is a part of what they take together.
            assert max(sizes(tmp_path, "*.log"), default=0) <= 50_000 // (3 + 1)
    logger.remove(sink)

    assert 30_000 <= sum(sizes(tmp_path)) <= 50_000


@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
def test__log_file__storm_of_healthy_lines__all_pass_and_it_stays_under_its_bound(tmp_path, level):
    sink = add_log_file(tmp_path / "bot.log", max_bytes=50_000, format="{message}", enqueue=False)
    for n in range(5_000):
        fail(f"{n}: Bot started speaking", level)
        if n % 50 == 0:
            assert sum(sizes(tmp_path)) <= 50_000
    logger.remove(sink)

    kept = [line for part in sorted(tmp_path.glob("bot.0*.log")) for line in part.open()]
    kept += (tmp_path / "bot.log").open()
    # The newest, with no gap: none was held back, the oldest were deleted.
    assert kept == [f"{n}: Bot started speaking\n" for n in range(5_000 - len(kept), 5_000)]
    assert 40_000 <= sum(sizes(tmp_path)) <= 50_000


def test__log_file__storm__six_lines(tmp_path):
    storm = StormFilter()
    sink = add_log_file(tmp_path / "bot.log", storm_filter=storm)
    for n in range(1000):
        logger.error(f"message {n} was not sent")
    storm.flush()
    logger.remove(sink)

    assert len((tmp_path / "bot.log").read_text().splitlines()) == 6


def test__log_file__text_that_is_no_unicode__is_written(tmp_path):
    sink = add_log_file(tmp_path / "bot.log", format="{message}")
    logger.error("caf\ud800")
    logger.remove(sink)

    assert (tmp_path / "bot.log").read_text() == "caf\\ud800\n"


def test__log_file__options__go_to_loguru(tmp_path):
    sink = add_log_file(tmp_path / "bot.log", level="ERROR", serialize=True)
    logger.warning("no")
    logger.error("yes")
    logger.remove(sink)

    (line,) = (tmp_path / "bot.log").read_text().splitlines()
    assert json.loads(line)["record"]["message"] == "yes"


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


# A full disk.


@pytest.fixture
def full_disk(tmp_path):
    """A disk of 256 KiB with no byte left."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        made = subprocess.run(["mount", *options], capture_output=True, text=True, timeout=10)
        reason = made.stderr.strip() if made.returncode else None
    except OSError as e:
        reason = str(e)
    if reason is not None:
        pytest.skip(f"cannot mount a small tmpfs (it needs root): {reason}")
    try:
        yield folder
    finally:
        logger.remove()
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=10)


def fill(folder):
    with contextlib.suppress(OSError), open(folder / "ballast", "wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))
    assert os.statvfs(folder).f_bavail == 0


@pytest.mark.parametrize("enqueue", [False, True])
async def test__full_disk__storm__pipeline_ends_and_stderr_is_no_storm(full_disk, capsys, enqueue):
    sink = add_log_file(full_disk / "bot.log", enqueue=enqueue)
    fill(full_disk)

    outcome = await run_chain(CHAINS["send-raises"], breaker=None, until=sends(500))
    logger.remove(sink)

    assert outcome.figures.sends >= 500
    assert outcome.end_frame_ms is not None
    reports = capsys.readouterr().err.count("--- Logging error in Loguru Handler")
    # One for each line that passes, and the storm is held back.
    assert 0 < reports < 200


@pytest.mark.parametrize("enqueue", [False, True])
async def test__full_disk__flood__every_frame_goes_on(full_disk, capsys, enqueue):
    sink = add_log_file(full_disk / "bot.log", enqueue=enqueue)
    fill(full_disk)

    outcome = await run_chain(CHAINS["stt-flood"], breaker=None, until=settled())
    logger.remove(sink)

    assert outcome.figures.errors == FLOOD_CHUNKS
    assert "No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("enqueue", [False, True])
async def test__full_disk__breaker__sound_goes_on(full_disk, clock, capsys, enqueue):
    sink = add_log_file(full_disk / "bot.log", enqueue=enqueue)
    fill(full_disk)
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))

    outcome = await run_chain(CHAINS["queued-message"], breaker=breaker, until=settled())
    logger.remove(sink)

    assert outcome.figures.audio_chunks_after == SOUND_CHUNKS
    assert "No space left on device" in capsys.readouterr().err


def test__full_disk__room_again__lines_are_written_again(full_disk, capsys):
    sink = add_log_file(full_disk / "bot.log", enqueue=False)
    fill(full_disk)
    for n in range(100):
        logger.error(f"message {n} was not sent")
    (full_disk / "ballast").unlink()
    logger.error("there is room again")
    logger.remove(sink)

    assert "there is room again" in (full_disk / "bot.log").read_text()


def test__full_disk__half_a_line__is_taken_back(full_disk, capsys):
    sink = add_log_file(full_disk / "bot.log", enqueue=False, format="{message}")
    logger.info("before")
    fill(full_disk)
    logger.info("x" * 10_000)
    (full_disk / "ballast").unlink()
    logger.info("after")
    logger.remove(sink)

    assert (full_disk / "bot.log").read_text() == "before\nafter\n"


async def test__storm_in_a_pipeline__file_holds_a_few_lines(tmp_path):
    storm = StormFilter()
    sink = add_log_file(tmp_path / "bot.log", level="WARNING", storm_filter=storm, serialize=True)

    outcome = await run_chain(CHAINS["send-raises"], breaker=None, until=sends(500))
    await asyncio.sleep(0)
    storm.flush()
    logger.remove(sink)

    records = [json.loads(t)["record"] for t in (tmp_path / "bot.log").read_text().splitlines()]
    told = sum(r["extra"].get("suppressed", 0) for r in records)
    assert outcome.figures.sends >= 500
    assert told >= 500
    assert len(records) < 40
