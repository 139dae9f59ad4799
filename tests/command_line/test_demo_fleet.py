"""The demo of a fleet: real processes of bots, small, and what is made of what they tell."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from pipecat_circuit_breaker.demo.app import demo
from pipecat_circuit_breaker.demo.fleet import run, server
from pipecat_circuit_breaker.demo.fleet.board import Board, news_of
from pipecat_circuit_breaker.demo.fleet.events import Event, What
from pipecat_circuit_breaker.demo.fleet.pod import Plan
from pipecat_circuit_breaker.demo.fleet.report import Report
from pipecat_circuit_breaker.demo.fleet.server import FleetDemoError, find_server, running_server
from pipecat_circuit_breaker.demo.fleet.timeline import timelines
from pipecat_circuit_breaker.demo.fleet.trial import Request, Trial

ONCE = pytest.mark.skipif("FLEET_SERVERS" in os.environ, reason="nox runs it on one Python")
LINUX = pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes in /proc")


def redis_server():
    """The server's program, or the test is skipped; but never where CI has to have it."""
    program, reason = find_server()
    if program is None:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return program


def command(*options):
    return [sys.executable, "-m", "pipecat_circuit_breaker_cli", "demo", "--fleet", *options]


@pytest.fixture
def place():
    # Short, as the path of a socket has to be.
    with tempfile.TemporaryDirectory() as place:
        yield place


def processes_of(place):
    """Processes that have a path in this place on their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes()
        except OSError:
            continue
        if f"{place}/".encode() in line:
            found.append(line)
    return found


#
# Real bots
#


@ONCE
def test__redis__provider_dies__one_alarm_for_all_processes(place):
    redis_server()
    played = subprocess.run(
        command("--processes", "3", "--bots", "4", "--seconds", "4", "--json"),
        env={**os.environ, "TMPDIR": place},
        capture_output=True,
        text=True,
        timeout=180,
    )

    assert played.returncode == 0, played.stderr
    report = json.loads(played.stdout)
    assert report["server"].startswith(("redis-server", "valkey-server"))
    alone, fleet = report["runs"]
    # Each call with failover finds out at its first question, those that begin in the outage too.
    assert alone["alarms"] >= alone["new_calls"] == fleet["new_calls"] == 6
    assert set(alone["opened_at_failure"]) <= {"5"}
    assert fleet["alarms"] == 1
    assert fleet["new_calls_that_asked_first"] < alone["new_calls_that_asked_first"]
    assert "1" in fleet["opened_at_failure"]
    assert 1 <= fleet["probes"] < alone["probes"] + alone["alarms"]
    assert fleet["return_secs"] is not None
    for one in report["runs"]:
        before, outage, _ = one["phases"]
        assert before["heard"] == 0
        assert outage["unanswered"] == 0
        assert outage["requests"][0] > 0
    assert processes_of(place) == [] and os.listdir(place) == []


@ONCE
async def test__no_server__all_pods_in_one_process__and_it_says_so(monkeypatch):
    monkeypatch.setattr(run, "find_server", lambda: (None, "there is no redis-server here"))
    monkeypatch.setattr(run, "HEALTHY_SECS", 0.5)
    monkeypatch.setattr(run, "LONGEST_RETURN_SECS", 0.0)
    console = Console(file=StringIO(), width=80)

    report = await run.compare(console, processes=3, bots=4, seconds=4.0)

    said = console.file.getvalue()
    assert "there is no redis-server here, so: all pods in one process" in said
    alone, fleet = report.trials
    assert report.server is None
    assert alone.alarms >= 6 and fleet.alarms == 1
    assert {event.pod for event in fleet.events} == {"pod-1", "pod-2", "pod-3"}
    assert fleet.new_calls[0] < alone.new_calls[0]
    assert not fleet.is_alone


@contextmanager
def playing(place, **kwargs):
    """The demo, from when there are a shell, the server and three processes of bots."""
    played = subprocess.Popen(
        command("--processes", "3", "--bots", "1", "--json"),
        env={**os.environ, "TMPDIR": place},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )
    try:
        _until(lambda: len(processes_of(place)) >= 5)
        yield played
    finally:
        played.kill()
        played.wait()
        played.stderr.close()


@LINUX
def test__ctrl_c__ends_at_once_and_leaves_nothing(place):
    redis_server()
    # Where a shell runs this in the background, Ctrl-C is for nobody.
    listens = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with playing(place, preexec_fn=listens) as played:
        played.send_signal(signal.SIGINT)
        _, said = played.communicate(timeout=20)

    assert played.returncode == 1
    assert said.split()[-1] == "Aborted!"
    assert processes_of(place) == [] and os.listdir(place) == []


@LINUX
def test__killed__bots_and_server_end_by_themselves(place):
    redis_server()
    with playing(place):
        pass

    _until(lambda: processes_of(place) == [])
    _until(lambda: os.listdir(place) == [])


def _until(holds, secs=60.0):
    end = time.monotonic() + secs
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


async def test__bots_do_not_start__says_why_in_one_line(monkeypatch):
    fail = [sys.executable, "-c", "import sys; sys.exit('no bots today')"]
    monkeypatch.setattr(run, "find_server", lambda: (None, "there is none"))
    monkeypatch.setattr(Plan, "command", fail)

    with pytest.raises(FleetDemoError, match="^a process of bots has ended: no bots today$"):
        await run.compare(Console(file=StringIO()), processes=3, bots=1, seconds=1.0)


#
# The server
#


def test__find_server__none_on_the_machine__says_so(monkeypatch):
    monkeypatch.setattr(server.shutil, "which", lambda name: None)

    assert find_server() == (None, "there is no redis-server on this machine")


def test__find_server__without_redis_py__names_the_extra(monkeypatch):
    monkeypatch.setattr(server.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(server, "find_spec", lambda name: None)

    program, why = find_server()

    assert program is None
    assert "pip install 'pipecat-circuit-breaker[fleet]'" in why and "\n" not in why


@LINUX
async def test__server_does_not_start__says_so_and_is_gone(monkeypatch, place):
    monkeypatch.setattr(server, "_START_SECS", 0.2)
    monkeypatch.setattr(tempfile, "tempdir", place)

    with pytest.raises(FleetDemoError, match="the server has not started within 0.2 s"):
        async with running_server(shutil.which("true")):
            pass

    assert processes_of(place) == [] and os.listdir(place) == []


@LINUX
async def test__server__ends_by_itself(monkeypatch, place):
    monkeypatch.setattr(server, "_STOP_SECS", 20.0)
    monkeypatch.setattr(tempfile, "tempdir", place)

    async with running_server(redis_server()) as url:
        assert url.startswith(f"unix://{place}/")
        # The shell, and the server.
        assert len(processes_of(place)) == 2
        begun = time.monotonic()

    assert time.monotonic() - begun < 10
    assert processes_of(place) == [] and os.listdir(place) == []


@LINUX
async def test__server_does_not_end__killed(monkeypatch, place):
    # Makes the socket that is waited for, and lets no signal but one end it.
    stubborn = Path(place, "stubborn")
    stubborn.write_text('#!/bin/sh\ntrap "" TERM\n: > "$4"\nwhile :; do sleep 0.05; done\n')
    stubborn.chmod(0o700)
    monkeypatch.setattr(server, "_STOP_SECS", 0.2)
    monkeypatch.setattr(tempfile, "tempdir", place)

    async with running_server(str(stubborn)):
        assert processes_of(place) != []

    await asyncio.sleep(0.1)
    assert processes_of(place) == []


#
# Options
#


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fleet", "--failover"], "--failover, --fleet: one at a time"),
        (["--fleet", "--chain", "send-raises"], "--chain: only for the chains, not with --fleet"),
        (["--fleet", "--turns", "5"], "--turns: only for --failover, not with --fleet"),
        (["--failover", "--bots", "2"], "--bots: only for --fleet, not with --failover"),
        (["--failover", "--seconds", "2"], "--seconds: only for the chains"),
        (["--processes", "3", "--bots", "2"], "--processes, --bots: only with --fleet"),
        (["--fleet", "--processes", "2"], "2 is not in the range 3<=x<=32"),
        (["--fleet", "--seconds", "nan"], "nan is not a number of seconds"),
    ],
)
def test__options_that_change_nothing__refused_in_one_line(options, said):
    refused = CliRunner().invoke(demo, options)

    assert refused.exit_code == 2
    assert said in refused.stderr


@pytest.mark.parametrize(("options", "secs"), [([], 8.0), (["--seconds", "4"], 4.0)])
def test__options__as_given(monkeypatch, options, secs):
    asked = {}

    async def compare(console, **how):
        asked.update(how)
        return Report(6, 5, 8.0, None, [told(False), told(True)])

    monkeypatch.setattr(run, "compare", compare)
    shown = CliRunner().invoke(demo, ["--fleet", *options])

    assert asked == {"processes": 6, "bots": 5, "seconds": secs}
    assert shown.exit_code == 0
    assert "from its return until no circuit is open" in shown.stdout


def test__demo_fails__one_line(monkeypatch):
    async def compare(console, **how):
        raise FleetDemoError("no bots today")

    monkeypatch.setattr(run, "compare", compare)
    failed = CliRunner().invoke(demo, ["--fleet"])

    assert (failed.exit_code, failed.stderr) == (1, "Error: no bots today\n")


#
# What is made of it
#


class Teller:
    """Tells a run what happens, by the second."""

    def __init__(self, is_fleet):
        self.trial = Trial(is_fleet, 2, began_at=0.0, died_at=2.0, back_at=10.0, ended_at=15.0)

    def __call__(self, at, what, bot=0, pod="pod-1", **more):
        self.trial.note(Event(at, what, pod, bot, has_failover=bot == 1, **more))

    def asks(self, at, bot=0):
        is_refused = self.trial.died_at <= at < self.trial.back_at
        self.trial.requests.append(Request(at, bot == 1, is_refused))


def told(is_fleet):
    tell = Teller(is_fleet)
    for bot in (0, 1):
        tell(-0.5, What.CALL, bot)
        for at in range(1, 14):
            tell.asks(at + 0.1, bot)
    tell(3.0, What.OPENED, 1, failures=1)
    for at in range(3, 8):
        tell(at + 0.0, What.HEARD)
    if is_fleet:
        tell(4.0, What.FLEET_OPENED, -1, first=True, key="k")
        tell(4.0, What.FLEET_OPENED, -1, pod="pod-2", key="k")
        tell(4.0, What.FLEET_OPENED, -1, pod="pod-3", key="k")
        tell(5.0, What.FLEET_CHANGED, -1, key="k", probes=1)
        tell(5.0, What.FLEET_CHANGED, -1, pod="pod-2", key="k", probes=1)
        tell(12.0, What.FLEET_CLOSED, -1, first=True, key="k", probes=2)
        tell(12.0, What.FLEET_CLOSED, -1, pod="pod-2", key="k", probes=2)
    tell(7.0, What.OPENED, failures=3 if is_fleet else 5)
    tell(8.0, What.HUNG_UP)
    tell(8.1, What.CALL)
    tell(8.2, What.HUNG_UP, 1)
    tell(8.3, What.CALL, 1)
    if not is_fleet:
        tell(8.5, What.OPENED, 1, failures=1)
        tell(9.0, What.PROBED, 1)
    tell(9.5, What.OPENED, failures=1 if is_fleet else 5)
    tell(9.5, What.UNANSWERED)
    tell(9.6, What.UNANSWERED, 1)
    tell(12.5, What.CLOSED, 1)
    tell(13.0, What.CLOSED)
    # The pipelines are being ended.
    tell(15.5, What.OPENED)
    return tell.trial


def test__trial__each_alone__every_opening_is_an_alarm():
    trial = told(False)

    assert trial.alarms == 4
    assert trial.failures() == [5, 5]
    assert trial.failures(since=trial.died_at) == [5]
    assert trial.new_calls == (1, 1)
    assert trial.probes == 1
    assert trial.return_secs == 3.0


def test__trial__fleet__alarm_is_its_first_report_alone():
    trial = told(True)

    assert trial.alarms == 1
    assert trial.failures() == [3, 1]
    assert trial.failures(since=trial.died_at) == [1]
    assert trial.new_calls == (0, 1)
    assert trial.probes == 2
    assert not trial.is_alone


def test__trial__phases__what_happened_in_each():
    before, outage, after = told(False).phases

    assert [phase.name for phase in (before, outage, after)] == ["before", "outage", "after"]
    assert [phase.requests for phase in (before, outage, after)] == [(1, 1), (8, 8), (4, 4)]
    assert [phase.heard for phase in (before, outage, after)] == [0, 5, 0]
    assert outage.unanswered == 1
    assert (before.secs, outage.secs, after.secs) == (2.0, 8.0, 5.0)


def test__trial__circuit_still_open__nobody_says_that_all_know():
    trial = Teller(True)
    trial(3.0, What.OPENED)

    assert trial.trial.is_open("pod-1", 0)
    assert trial.trial.return_secs is None


def test__trial__hung_up__its_circuits_are_gone():
    tell = Teller(True)
    tell(3.0, What.OPENED)
    tell(4.0, What.OPENED)
    tell(5.0, What.HUNG_UP)

    assert not tell.trial.is_any_open


def test__trial__alone__known():
    tell = Teller(True)
    tell(3.0, What.ALONE, -1)

    assert tell.trial.is_alone


def test__event__to_json_and_back():
    event = Event(1.5, What.OPENED, "pod-1", 3, True, failures=2)

    assert Event.from_json(json.loads(json.dumps(event.as_json()))) == event


def printed(renderable):
    console = Console(file=StringIO(), width=80)
    console.print(renderable)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def report():
    return Report(6, 5, 8.0, "redis-server 7.0.15", [told(False), told(True)])


def test__timelines__80_columns__a_character_for_each_half_second():
    lines = printed(timelines(report().trials))

    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    provider = next(line for line in lines if "each bot alone" in line).split()[-1]
    assert provider == 4 * "─" + 16 * "×" + 10 * "─"
    heard = [line for line in lines if "errors heard" in line]
    assert [line.split()[-1] for line in heard] == ["5", "5"]
    assert all(line.count("█") == 5 for line in heard)
    vain = next(line for line in lines if "in vain" in line)
    assert vain.split()[-1] == "8"
    # Two bots from the 7th second on, till the first hangs up; then nobody, one, both.
    assert next(line for line in lines if "open circuit" in line).split()[-2:] == ["max", "2"]


def test__timelines__long_run__still_80_columns():
    trial = told(False)
    trial.ended_at = 300.0

    lines = printed(timelines([trial]))

    assert max(map(len, lines)) <= 80
    provider = next(line for line in lines if "alone" in line).split()[-1]
    assert (len(provider), provider.count("×")) == (42, 1)


def test__timelines__goes_on__until_now():
    trial = told(False)

    provider = next(line for line in printed(timelines([trial], 4.0)) if "alone" in line).split()[
        -1
    ]

    assert provider == 4 * "─" + 4 * "×"


def test__table__80_columns__nothing_is_cut_off():
    lines = printed(report().as_table())

    assert max(map(len, lines)) <= 80
    rows = {line[:45].strip(): line[45:].split() for line in lines}
    assert rows["errors that somebody hears"] == ["5", "5"]
    assert rows["failures until a circuit opens, on average"] == ["5.0", "2.0"]
    assert rows["circuits that open at the first failure"] == "0 of 2 1 of 2".split()
    assert rows["new calls that ask it first"] == "1 of 1 0 of 1".split()
    assert rows["alarms"] == ["4", "1"]
    assert rows["from its return until no circuit is open"] == "3.0 s 3.0 s".split()


def test__title_and_caption__fit_and_say_where_bots_are():
    assert max(map(len, (report().title, report().where))) <= 80
    assert "redis-server 7.0.15" in report().where
    assert "in one process" in Report(6, 5, 8.0, None).where
    assert "12 of the 30 have failover" in report().caption


def test__markdown__a_row_for_each_figure():
    lines = report().as_markdown().splitlines()

    assert "| alarms | 4 | 1 |" in lines
    assert "| **all bots** |  |  |" in lines
    assert {line.count("|") for line in lines[2:]} == {4}


def test__json__plain_values():
    runs = json.loads(json.dumps(report().as_json()))["runs"]

    assert [one["opened_at_failure"] for one in runs] == [{"5": 2}, {"1": 1, "3": 1}]
    assert [one["alarms"] for one in runs] == [4, 1]


def test__news__alarms_of_each_bot_or_one_of_the_fleet():
    alone = [text for _, text in news_of(told(False))]
    fleet = [text for _, text in news_of(told(True))]

    assert alone[0] == "the provider dies"
    assert alone[1] == "alarm 1: pod-1's bot 2 has failed once"
    assert alone[2] == "alarm 2: pod-1's bot 1 has failed 5 times"
    assert fleet == [
        "the provider dies",
        "alarm 1, by pod-1: an outage of the fleet",
        "probe 1, by one bot of all: still dead",
        "the provider is back",
        "probe 2, by pod-1: over, for every bot",
    ]


def test__board__while_it_runs__bots_and_the_latest_news():
    board = Board(["pod-1", "pod-2"], 2)
    assert "starting" in "".join(printed(board))

    trial = told(True)
    board.follow([trial])
    lines = printed(board)

    assert any(line.split() == ["pod-1", "●◆", "pod-2", "●◆"] for line in lines)
    assert lines[-1] == " 12.0 s  probe 2, by pod-1: over, for every bot"


def test__board__calls_begin__says_so():
    board = Board(["pod-1"], 2)
    board.follow([told(False), Trial(True, 2)])

    assert "with the fleet: calls begin" in printed(board)[-1]
