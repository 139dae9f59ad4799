"""docs/how-to/deploy.md does what it says: its blocks run in processes of their own, through an outage."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from loguru import logger

from pipecat_circuit_breaker import CircuitBreakerProcessor, Ending, Incident, processor
from pipecat_circuit_breaker.logs import StormFilter
from pipecat_circuit_breaker.testing import Output, running
from tests.support.parts import app_message, dead, settle

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/deploy.md").read_text()
#: Each block, by the name that is told last before it.
BLOCKS = {
    re.findall(r"`(\w+\.py)`", PAGE[: block.start()])[-1]: block[1]
    for block in re.finditer(r"```python\n(.*?)```", PAGE, re.DOTALL)
}

#: What the page leaves to its reader: a transport. In a call "dies…" its client is gone.
MY_TRANSPORT = """
import asyncio

from pipecat.frames.frames import OutputTransportMessageUrgentFrame
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import BaseTransport, TransportParams


class Input(BaseInputTransport):
    async def start(self, frame):
        await super().start(frame)
        await self.set_transport_ready(frame)
        self.talk = self.create_task(self.talks())

    async def talks(self):
        while True:
            message = OutputTransportMessageUrgentFrame(message={"type": "subtitle"})
            await self.push_frame(message)
            await asyncio.sleep(0.01)

    async def cancel(self, frame):
        await super().cancel(frame)
        await self.cancel_task(self.talk)


class Output(BaseOutputTransport):
    def __init__(self, params, is_gone):
        super().__init__(params)
        self.is_gone = is_gone

    async def start(self, frame):
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def send_message(self, frame):
        if self.is_gone:
            raise ConnectionError("the client is gone")


class Transport(BaseTransport):
    def __init__(self, is_gone):
        super().__init__()
        self.parts = Input(TransportParams()), Output(TransportParams(), is_gone)

    def input(self):
        return self.parts[0]

    def output(self):
        return self.parts[1]


def make_transport(call_id):
    return Transport(call_id.startswith("dies"))
"""


@pytest.fixture
def folder(tmp_path):
    for name, code in {**BLOCKS, "my_transport.py": MY_TRANSPORT}.items():
        (tmp_path / name).write_text(code)
    return tmp_path


class Process:
    """A process of the page, and what it has written."""

    def __init__(self, folder, *command):
        self.out, self.err = (
            folder / f"{'-'.join(command[-2:])}.{name}" for name in ("out", "err")
        )
        env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
        with self.out.open("w") as out, self.err.open("w") as err:
            self._process = subprocess.Popen(
                [sys.executable, *command], cwd=folder, env=env, stdout=out, stderr=err
            )

    def wait_for(self, text, where="out"):
        """Wait until it has written a text, and return all that it has written."""
        written = getattr(self, where)
        deadline = time.monotonic() + 60
        while text not in written.read_text():
            assert self._process.poll() is None, self.err.read_text()
            assert time.monotonic() < deadline, written.read_text()
            time.sleep(0.02)
        return written.read_text()

    def end(self, with_signal=None):
        if with_signal is not None:
            self._process.send_signal(with_signal)
        return self._process.wait(60)

    def kill(self):
        self._process.kill()
        self._process.wait(30)


@pytest.fixture
def start(folder):
    started = []

    def start(*command):
        started.append(Process(folder, *command))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def incidents(folder):
    """The newest copy of each incident that was kept."""
    lines = (folder / "logs" / "incidents.jsonl").read_text().splitlines()
    return [*{i.id: i for i in map(Incident.model_validate_json, lines)}.values()]


def test__every_block_of_the_page__is_one_of_these():
    assert PAGE.count("```python") == len(BLOCKS)
    assert {*BLOCKS} == {"bot.py", "runner_bot.py", "one_call.py", "server.py"}


# One process per call.


def test__sigterm_in_an_outage__incident_is_over_and_kept(folder, start):
    call = start("one_call.py", "dies-1")
    call.wait_for("circuit open")
    assert call.end(signal.SIGTERM) == 0

    (incident,) = incidents(folder)
    assert incident.ending is Ending.PIPELINE_OVER
    assert incident.ended_at is not None
    lines = call.out.read_text().splitlines()
    (end,) = [line for line in lines if "circuit closed" in line]
    assert f"{incident.held_messages} messages" in end
    assert " dies-1 " in end
    assert (folder / "logs" / "bot.log").read_text().splitlines() == lines
    # Before the logs are set up Pipecat greets; after it nothing comes here.
    assert "ERROR" not in call.err.read_text()
    assert "circuit" not in call.err.read_text()


def test__sigterm_in_a_healthy_call__no_incident(folder, start):
    call = start("one_call.py", "call-1")
    call.wait_for("StartFrame")
    assert call.end(signal.SIGTERM) == 0

    assert not (folder / "logs" / "incidents.jsonl").exists()
    assert "circuit" not in call.out.read_text()


def test__sigterm_that_nobody_handles__incident_has_no_end(folder, start):
    one_call = folder / "one_call.py"
    one_call.write_text(one_call.read_text().replace("handle_signals=True", "handle_signals=False"))
    call = start("one_call.py", "dies-1")
    # Handlers of the opening have had their turn when the first probe goes out.
    call.wait_for("circuit half-open")
    assert call.end(signal.SIGTERM) == -signal.SIGTERM

    assert [incident.ending for incident in incidents(folder)] == [None]


def test__sigkill__what_was_written_is_there_and_the_next_process_goes_on(folder, start):
    call = start("one_call.py", "dies-1")
    call.wait_for("circuit half-open")
    assert call.end(signal.SIGKILL) == -signal.SIGKILL
    following = start("one_call.py", "dies-2")
    following.wait_for("circuit open")
    assert following.end(signal.SIGTERM) == 0

    assert [i.ending for i in incidents(folder)] == [None, Ending.PIPELINE_OVER]
    log = (folder / "logs" / "bot.log").read_text()
    assert " dies-1 " in log
    assert following.out.read_text() in log


def test__calls_in_processes_at_once__one_log_one_file_of_incidents(folder, start):
    names = ["dies-1", "dies-2", "call-3"]
    calls = [start("one_call.py", name) for name in names]
    for call in calls[:2]:
        call.wait_for("circuit open")
    calls[2].wait_for("StartFrame")
    assert [call.end(signal.SIGTERM) for call in calls] == [0, 0, 0]

    assert [i.ending for i in incidents(folder)] == [Ending.PIPELINE_OVER] * 2
    log = (folder / "logs" / "bot.log").read_text().splitlines()
    written = [line for call in calls for line in call.out.read_text().splitlines()]
    assert sorted(log) == sorted(written)
    for name, call in zip(names, calls, strict=True):
        assert [line for line in log if f" {name} " in line] == [
            line for line in call.out.read_text().splitlines() if f" {name} " in line
        ]


# Many calls in one process.


def post(url):
    without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with without_proxy.open(urllib.request.Request(url, method="POST"), timeout=30) as answer:
        assert answer.status == 200


def test__server__each_call_has_a_breaker_and_sigterm_ends_all(folder, start):
    server = start("-m", "uvicorn", "server:app", "--port", "0")
    running = server.wait_for("Uvicorn running on", "err")
    url = re.search(r"http://\S+", running)[0]
    for name in ("call-1", "dies-2", "dies-3"):
        post(f"{url}/calls/{name}")
    for name in ("dies-2", "dies-3"):
        server.wait_for(f" {name} pipecat_circuit_breaker._pipeline.guard")
    assert server.end(signal.SIGTERM) in (0, -signal.SIGTERM)

    assert [i.ending for i in incidents(folder)] == [Ending.PIPELINE_OVER] * 2
    lines = server.out.read_text().splitlines()
    ends = [line for line in lines if "circuit closed" in line]
    assert sorted(re.search(r" (dies-\d) ", line)[1] for line in ends) == ["dies-2", "dies-3"]
    assert not [line for line in lines if " call-1 " in line and "circuit" in line]
    assert "Traceback" not in server.err.read_text()


# Pipecat's development runner.


def test__development_runner__logs_are_set_up_after_it_and_once(
    folder, monkeypatch, capsys, tmp_path
):
    run = pytest.importorskip("pipecat.runner.run")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for name in ("bot", "my_transport", "runner_bot"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import runner_bot

    calls = []

    async def no_call(*args, **kwargs):
        calls.append(args)

    def serve(*args, **kwargs):
        logger.error("before the first call")
        for _ in range(2):
            asyncio.run(runner_bot.bot(None))
        for n in range(100):
            logger.error(f"message {n} was not sent")

    monkeypatch.setattr(runner_bot, "run_call", no_call)
    monkeypatch.setattr(runner_bot, "make_transport", lambda call_id: None)
    monkeypatch.setattr(run, "_configure_server_app", lambda args: None)
    monkeypatch.setattr(run.uvicorn, "run", serve)
    monkeypatch.setattr(sys, "argv", ["runner_bot.py"])
    logger.add(sys.stdout, filter=StormFilter())
    run.main()
    logger.remove()

    written = capsys.readouterr()
    assert len(calls) == 2
    assert "before the first call" in written.err
    assert "before the first call" not in written.out
    assert "was not sent" not in written.err
    assert written.out.count("was not sent") == 5
    assert (tmp_path / "logs" / "bot.log").read_text().count("was not sent") == 5
    for name in ("bot", "my_transport", "runner_bot"):
        monkeypatch.delitem(sys.modules, name)


# README.


def snippet(text):
    (block,) = [
        b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "add_log_file(" in b
    ]
    return block


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/logs.md"])
def test__log_snippet__storm__no_sink_is_left_that_a_storm_fills(folder, start, page):
    storm = "for n in range(1000): logger.error(f'message {n} was not sent')\n"
    (folder / "storm.py").write_text(f"{snippet((ROOT / page).read_text())}\n{storm}")
    process = start("storm.py")
    assert process.end() == 0

    assert "was not sent" not in process.err.read_text()
    for written in (process.out, folder / "logs" / "bot.log"):
        lines = [line for line in written.read_text().splitlines() if "was not sent" in line]
        assert len(lines) == 6
        assert "and 995 more" in lines[-1]


# Handlers of the last event.


async def storm(breaker, handler):
    breaker.add_event_handler("on_circuit_closed", handler)
    async with running(breaker, Output(fails=dead)) as worker:
        for _ in range(10):
            await worker.queue_frame(app_message())
        await settle()
        assert breaker.incidents


async def test__pipeline_over__slow_handler__is_waited_for():
    endings = []

    async def slow(breaker, incident):
        await settle(1_000)
        endings.append(incident.ending)

    await storm(CircuitBreakerProcessor(), slow)

    assert endings == [Ending.PIPELINE_OVER]


async def test__pipeline_over__handler_hangs__pipeline_ends_all_the_same(monkeypatch):
    monkeypatch.setattr(processor, "_LAST_HANDLERS_SECS", 0.0)
    hangs = asyncio.Event()

    async def hang(breaker, incident):
        hangs.set()
        await asyncio.Event().wait()

    await asyncio.wait_for(storm(CircuitBreakerProcessor(), hang), 30)

    assert hangs.is_set()
