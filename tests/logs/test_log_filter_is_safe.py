"""The filter never raises and never waits, and it refuses bad settings."""

import contextlib
import signal
from collections import Counter

import pytest
from loguru import logger

from pipecat_circuit_breaker.logs import StormFilter, add_log_file
from tests.logs.sink_parts import Sink, fail

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
