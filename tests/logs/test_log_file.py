"""The log file: a storm in few lines, under a bound."""

import asyncio
import json
import random

import portalocker
import pytest
from loguru import logger

from pipecat_circuit_breaker.demo.chains import CHAINS
from pipecat_circuit_breaker.demo.run import run_chain, sends
from pipecat_circuit_breaker.logs import StormFilter, add_log_file
from tests.logs.sink_parts import fail


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


@pytest.mark.parametrize("name", ["rotation", "retention", "compression"])
def test__log_file__option_of_loguru_files__is_refused_and_says_what_to_give(tmp_path, name):
    with pytest.raises(TypeError, match=f"{name}: .* expected max_bytes .* and files .*'1 MB'"):
        add_log_file(tmp_path / "bot.log", **{name: "1 MB"})
    assert [*tmp_path.iterdir()] == []
