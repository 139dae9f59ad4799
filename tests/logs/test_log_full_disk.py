"""A full disk: every frame goes on, and lines are written again when there is room."""

import contextlib
import os
import subprocess

import pytest
from loguru import logger

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.demo.chains import CHAINS, FLOOD_CHUNKS, SOUND_CHUNKS
from pipecat_circuit_breaker.demo.run import run_chain, sends, settled
from pipecat_circuit_breaker.logs import add_log_file


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
