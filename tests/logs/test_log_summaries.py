"""Summaries of what was held back: when they come, and what they say."""

from loguru import logger

from tests.logs.sink_parts import Sink, fail


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
