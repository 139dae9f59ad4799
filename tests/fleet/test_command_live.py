"""The command `fleet` in a real terminal and over a real server, which goes away and comes back."""

import asyncio
import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

pytest.importorskip("redis", reason="redis is not installed")

from pipecat_circuit_breaker.fleet import Fleet, FleetParams
from pipecat_circuit_breaker.fleet_console.app import fleet
from tests.fleet import servers

KEY = "Voice: by hand"

#: The command imports pipecat, which takes seconds on a busy machine.
LONGEST_SECS = 60.0


@pytest.fixture
def server():
    with servers.Server("redis7") as server:
        yield server


def run(server, *arguments):
    return CliRunner().invoke(fleet, [server.url, *arguments], env={"COLUMNS": "80"})


def test__opened_and_closed_by_hand__every_command_sees_it(server):
    assert run(server, "--once").exit_code == 0
    assert run(server, "open", KEY, "--who", "ann", "--why", "they move").exit_code == 0

    shown = run(server, "--json")
    assert shown.exit_code == 1
    [outage] = json.loads(shown.output)["outages"]
    assert (outage["key"], outage["opened_by"], outage["why"]) == (KEY, "ann", "they move")

    assert run(server, "close", "Voice", "--who", "bob", "--why", "moved").exit_code == 0
    shown = run(server, "--once")
    assert shown.exit_code == 0
    assert "closed by hand by bob" in shown.output and "moved" in shown.output


def test__mode_by_hand__is_shown_with_who_and_why(server):
    assert run(server, "mode", "disabled", "--who", "ann", "--why", "load test").exit_code == 0

    assert "DISABLED , set by ann 0 s ago: load test" in run(server, "--once").output


async def test__what_is_done_by_hand__a_bots_process_hears_of(server):
    other = Fleet(server.url, params=FleetParams(name="pipecat"))
    await other.start()
    try:
        result = await asyncio.to_thread(run, server, "open", KEY, "--why", "they move")
        assert result.exit_code == 0, result.output
        async with asyncio.timeout(LONGEST_SECS):
            while not other.outages:
                await asyncio.sleep(0.01)
        assert [outage.key for outage in other.outages] == [KEY]
    finally:
        await other.close()


@pytest.mark.parametrize("fault", ["kill", "stop"])
def test__no_server_or_a_hung_one__code_3_in_seconds(server, fault):
    getattr(server, fault)()
    began = time.monotonic()

    result = run(server, "--once")

    assert result.exit_code == 3
    assert "NO ANSWER" in result.output
    assert time.monotonic() - began < 10


def test__garbage_in_the_keys__is_not_shown(server):
    assert run(server, "open", KEY, "--why", "x").exit_code == 0
    with server.client() as client:
        [outages] = [key for key in client.keys("*") if key.endswith(b":outages")]
        client.hset(outages, "[red]other", b"\x1b[2Jgarbage")

    result = run(server, "--once")

    assert result.exit_code == 1
    assert KEY in result.output and "garbage" not in result.output


class Terminal:
    """The command in a terminal of 80 columns, and all that it has written there."""

    def __init__(self, url):
        self._mine, theirs = pty.openpty()
        self.text = ""
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "30"}
        command = [sys.executable, "-m", "pipecat_circuit_breaker_cli", "fleet", url]
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
        os.close(theirs)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()
        os.close(self._mine)

    def wait_for(self, *words):
        """Read on until each of the words is written from now on: a page comes in pieces."""
        self.text = ""
        deadline = time.monotonic() + LONGEST_SECS
        while not all(word in self.text for word in words):
            assert time.monotonic() < deadline, f"expected {words!r} in {self.text[-3000:]!r}"
            if select.select([self._mine], [], [], 0.5)[0]:
                self.text += os.read(self._mine, 65_536).decode("utf-8", "replace")


def test__terminal__follows_news__says_that_the_server_is_gone__and_is_back(server):
    with Terminal(server.url) as terminal:
        terminal.wait_for("nothing open")
        run(server, "open", KEY, "--why", "they move")
        terminal.wait_for("they move")

        server.kill()
        terminal.wait_for("NO ANSWER", KEY)

        server.start()
        terminal.wait_for("nothing open")
        run(server, "open", KEY, "--why", "they move again")
        terminal.wait_for("they move again")

        terminal.process.send_signal(2)
        assert terminal.process.wait(20) == 0
