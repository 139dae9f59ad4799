"""One log file for many processes: no line is lost, and the bound holds for all together."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import portalocker
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger

from pipecat_circuit_breaker import _shared_file
from pipecat_circuit_breaker._shared_file import SharedFile
from pipecat_circuit_breaker.logs import add_log_file

WRITER = Path(__file__).with_name("log_writer.py")
SRC = Path(__file__).parents[2] / "src"


def parts(path):
    """The files of a log, oldest first."""
    return [*sorted(path.parent.glob(f"{path.stem}.[0-9]*{path.suffix}")), path]


def kept(path):
    return [line for part in parts(path) for line in part.read_text().splitlines()]


def taken(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


# Processes.


@contextlib.contextmanager
def writers(count, lines, **options):
    """Processes that log as fast as they can, all from the same moment on."""
    command = [sys.executable, str(WRITER)]
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    processes = [
        subprocess.Popen(
            [*command, f"process-{n}", str(lines), json.dumps(options)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def wait(processes, folder, max_bytes):
    """Wait for them, and look at the disk meanwhile, at instants in which nobody moves a file."""
    looks, are_running = 0, True
    while are_running:
        are_running = any(process.poll() is None for process in processes)
        with portalocker.Lock(folder / "bot.log.lock", "ab", timeout=60, check_interval=0.001):
            assert taken(folder) <= max_bytes
        looks += 1
        time.sleep(0.005)
    return looks


def numbers(lines, process):
    return [int(line.split()[1]) for line in lines if line.startswith(f"process-{process} ")]


@pytest.mark.parametrize("enqueue", [False, True])
def test__four_processes__one_path__no_line_is_lost(tmp_path, enqueue):
    path, count = tmp_path / "bot.log", 3_000
    options = {"path": str(path), "max_bytes": 1_000_000, "files": 40, "enqueue": enqueue}
    with writers(4, count, **options) as processes:
        wait(processes, tmp_path, 1_000_000)
        errors = [process.stderr.read() for process in processes]

    lines = kept(path)
    assert len(lines) == 4 * count
    for n in range(4):
        assert numbers(lines, n) == [*range(count)]
    assert len(parts(path)) > 5
    assert [process.returncode for process in processes] == [0] * 4
    assert not any("Logging error" in error for error in errors)


def test__four_processes__more_than_there_is_room_for__the_newest_are_kept(tmp_path):
    path, count = tmp_path / "bot.log", 3_000
    with writers(4, count, path=str(path), max_bytes=50_000, files=4) as processes:
        assert wait(processes, tmp_path, 50_000) > 10

    lines = kept(path)
    assert taken(tmp_path) > 50_000 * 3 // 5
    for n in range(4):
        # No gap: what is missing is the oldest.
        own = numbers(lines, n)
        assert own == [*range(count)][count - len(own) :]


def test__one_of_four_is_killed__the_others_go_on(tmp_path):
    path, count = tmp_path / "bot.log", 3_000
    options = {"path": str(path), "max_bytes": 1_000_000, "files": 40, "enqueue": False}
    with writers(4, count, **options) as processes:
        while not path.exists() or not numbers(path.read_text().splitlines(), 0):
            pass
        processes[0].kill()
        wait(processes, tmp_path, 1_000_000)

    lines = kept(path)
    own = numbers(lines, 0)
    assert own == [*range(len(own))]
    for n in (1, 2, 3):
        assert numbers(lines, n) == [*range(count)]


def in_a_fork(step):
    """Run a step in a process of its own, and return how it ended."""
    pid = os.fork()
    if pid == 0:
        try:
            step()
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def after(method):
    def run(*args, **kwargs):
        method(*args, **kwargs)
        die()

    return run


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("owner", "name", "how"),
    [
        (os, "listdir", die),
        (Path, "unlink", die),
        (Path, "unlink", after(Path.unlink)),
        (Path, "rename", die),
        (Path, "rename", after(Path.rename)),
        (SharedFile, "_append", die),
        (SharedFile, "_append", after(SharedFile._append)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test__killed_with_the_lock__next_process_goes_on(tmp_path, owner, name, how, monkeypatch):
    path = tmp_path / "bot.log"
    file = SharedFile(path, max_bytes=10_000, files=3)
    written = [f"line {n:04}" for n in range(995)]
    for line in written:
        file.write(f"{line}\n")

    def be_killed():
        setattr(owner, name, how)
        for _ in range(300):
            file.write("line 0995\n")

    assert os.WTERMSIG(in_a_fork(be_killed)) == signal.SIGKILL
    # Nobody waits for the lock.
    monkeypatch.setattr(_shared_file, "_WAIT_SECS", 0.0)
    more = [f"line {n:04}" for n in range(1000, 1600)]
    for line in more:
        file.write(f"{line}\n")
        assert taken(tmp_path) <= 10_000

    lines = kept(path)
    assert lines[-len(more) :] == more
    before = [line for line in lines if line in written]
    assert before == written[len(written) - len(before) :]
    assert len(lines) >= 750


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test__forked_process__shares_the_file(tmp_path):
    path = tmp_path / "bot.log"
    sink = add_log_file(path, enqueue=False, format="{message}", max_bytes=100_000, files=100)

    def log():
        for n in range(500):
            logger.info(f"child {n}")
        os._exit(0)

    pid = os.fork()
    if pid == 0:
        log()
    for n in range(500):
        logger.info(f"parent {n}")
    assert os.waitpid(pid, 0)[1] == 0
    logger.remove(sink)

    assert sorted(kept(path)) == sorted(
        f"{who} {n}" for n in range(500) for who in ("child", "parent")
    )


def test__lock_is_not_let_go__line_is_given_up_and_loguru_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_shared_file, "_WAIT_SECS", 0.0)
    sink = add_log_file(tmp_path / "bot.log", enqueue=False, format="{message}")
    with portalocker.Lock(tmp_path / "bot.log.lock", "ab"):
        logger.error("lost")
    logger.error("written")
    logger.remove(sink)

    assert kept(tmp_path / "bot.log") == ["written"]
    assert capsys.readouterr().err.count("--- Logging error in Loguru Handler") == 1


# The bound.


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 700), max_size=80), st.integers(1, 6))
def test__any_lines__newest_are_kept_in_order_within_the_bound(lengths, files):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bot.log"
        file = SharedFile(path, max_bytes=1_000, files=files)
        written = []
        for n, length in enumerate(lengths):
            line = f"{n}:".ljust(length, "x")
            written.append(line)
            file.write(f"{line}\n")

            assert taken(Path(folder)) <= 1_000
            lines = kept(path)
            assert lines == written[len(written) - len(lines) :]
            assert lines


def test__short_lines__as_many_files_as_were_asked_for(tmp_path):
    file = SharedFile(tmp_path / "bot.log", max_bytes=10_000, files=4)
    for n in range(2_000):
        file.write(f"line {n}\n")
        assert len(parts(tmp_path / "bot.log")) <= 1 + 4

    assert len(parts(tmp_path / "bot.log")) == 1 + 4
    assert taken(tmp_path) > 8_000


def test__line_longer_than_the_bound__is_written_alone(tmp_path):
    path = tmp_path / "bot.log"
    file = SharedFile(path, max_bytes=1_000, files=1)
    for _ in range(2):
        file.write("x" * 5_000 + "\n")
        assert kept(path) == ["x" * 5_000]
    file.write("short\n")

    assert kept(path) == ["short"]
    assert parts(path) == [path]


def test__smaller_bound_after_a_restart__is_reached_at_once(tmp_path):
    path = tmp_path / "bot.log"
    file = SharedFile(path, max_bytes=100_000, files=4)
    for n in range(10_000):
        file.write(f"line {n}\n")
    assert taken(tmp_path) > 50_000
    file = SharedFile(path, max_bytes=10_000, files=4)
    file.write("smaller\n")

    assert taken(tmp_path) <= 10_000
    assert kept(path)[-1] == "smaller"


def test__other_files_in_the_folder__stay(tmp_path):
    others = [tmp_path / name for name in ("bot.errors.log", "bot.1.log", "bot.log.gz", "a.log")]
    for other in others:
        other.write_text("not ours")
    file = SharedFile(tmp_path / "bot.log", max_bytes=1_000, files=1)
    for n in range(500):
        file.write(f"line {n}\n")

    assert [other.read_text() for other in others] == ["not ours"] * len(others)


@pytest.mark.parametrize("name", ["bot.log", "bot", "bot[1].log", "b+t.2026.log", ".log"])
def test__any_name__is_moved_and_found_again(tmp_path, name):
    file = SharedFile(tmp_path / name, max_bytes=1_000, files=3)
    for n in range(500):
        file.write(f"line {n}\n")

    assert taken(tmp_path) <= 1_000
    assert len([*tmp_path.iterdir()]) == 1 + 3 + 1
    assert (tmp_path / name).read_text().endswith("line 499\n")


def test__file_is_taken_away__begins_anew(tmp_path):
    path = tmp_path / "bot.log"
    file = SharedFile(path, max_bytes=1_000, files=1)
    file.write("before\n")
    path.unlink()
    file.write("x" * 600 + "\n")
    file.write("after\n")

    assert kept(path) == ["after"]


def test__process_changes_its_folder__file_stays_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = SharedFile(Path("bot.log"), max_bytes=1_000, files=1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file.write("here\n")

    assert (tmp_path / "bot.log").read_text() == "here\n"


def test__file_that_cannot_be_written__is_told_at_once(tmp_path):
    (tmp_path / "bot.log").mkdir()

    with pytest.raises(OSError):
        add_log_file(tmp_path / "bot.log")


def test__write_fails_halfway__next_line_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "bot.log"
    file = SharedFile(path, max_bytes=1_000, files=1)
    file.write("before\n")
    append = SharedFile._append

    def fail(self, line):
        append(self, line[:3])
        raise OSError("no space left")

    monkeypatch.setattr(SharedFile, "_append", fail)
    with pytest.raises(OSError, match="no space left"):
        file.write("lost\n")
    monkeypatch.setattr(SharedFile, "_append", append)
    file.write("after\n")

    assert path.read_text() == "before\nafter\n"
