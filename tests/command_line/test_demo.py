"""The demo says what it awaits and what came of it, in one table, which pages show too."""

import json
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor, Ending, Mode
from pipecat_circuit_breaker.demo import contained
from pipecat_circuit_breaker.demo.app import demo, show_report
from pipecat_circuit_breaker.demo.board import Board
from pipecat_circuit_breaker.demo.chains import CHAINS, FLOOD_CHUNKS
from pipecat_circuit_breaker.demo.contained import Stage
from pipecat_circuit_breaker.demo.failover.call import Call, Turn, Variant
from pipecat_circuit_breaker.demo.failover.faults import FAULTS
from pipecat_circuit_breaker.demo.failover.report import Report as FailoverReport
from pipecat_circuit_breaker.demo.run import Outcome, run_chain, settled
from pipecat_circuit_breaker.demo.table import COLUMNS, Comparison, Report
from pipecat_circuit_breaker.demo.tally import Figures, Tally

ROOT = Path(__file__).parents[2]

#: As much as the table ever has to hold.
LARGEST = Figures(sends=999_999, failures=999_999, log_lines=999_999, log_bytes=1023 * 2**20)
WORST = Outcome(LARGEST, 4999.0, 1500.0)
KILLED = Outcome(LARGEST, None, 1500.0, killed="it no longer reacted")


def report_of(mode: Mode = Mode.GUARD, guarded: Outcome = WORST) -> Report:
    return Report([Comparison(name, KILLED, guarded) for name in CHAINS], mode, "first", 3.0)


def console_of(width: int) -> Console:
    return Console(file=StringIO(), width=width)


def printed(width: int, what: object) -> list[str]:
    console = console_of(width)
    console.print(what)
    return console.file.getvalue().splitlines()


#
# The table
#


@pytest.mark.parametrize("mode", [Mode.GUARD, Mode.OBSERVE])
def test__table__80_columns__nothing_is_cut_off(mode):
    lines = printed(80, report_of(mode).as_table(80))
    shown = "\n".join(lines)

    assert max(map(len, lines)) <= 80
    assert "…" not in shown
    for said in (*CHAINS, *COLUMNS, "999,999", "1023 MiB", "> 5 s †", "4999 ms"):
        assert said in shown


def test__table__120_columns__says_what_each_chain_is_about():
    lines = printed(120, report_of().as_table(120))
    shown = "\n".join(lines)

    assert max(map(len, lines)) <= 120
    assert "…" not in shown
    assert all(chain.title in shown for chain in CHAINS.values())


async def test__report__80_by_40__incident_before_the_table_that_stays_on_the_screen():
    guarded = await run_chain(
        CHAINS["send-raises"], breaker=CircuitBreakerProcessor(), until=settled()
    )
    console = console_of(80)

    show_report(console, report_of(guarded=guarded))

    lines = console.file.getvalue().splitlines()
    (heading,) = (n for n, line in enumerate(lines) if line.startswith("chain "))
    assert any("What to do" in line for line in lines[:heading])
    assert not any("What to do" in line for line in lines[heading:])
    # One line is left for the prompt.
    assert len(lines) - heading < 40


def _table_of(markdown: str) -> list[list[str]]:
    return [
        [cell.strip(" *`") for cell in line.strip("|").split("|")]
        for line in markdown.splitlines()
        if line.startswith("|")
    ]


def _written(page: str) -> str:
    """What a page says that the demo has printed."""
    text = (ROOT / page).read_text()
    (written,) = re.findall(r"<!-- demo -->\n(.*?)<!-- /demo -->", text, re.DOTALL)
    return written.strip()


def test__page_of_chains__table__columns_and_chains_are_the_demos():
    written, made = _written("docs/figures/chains.md"), report_of().as_markdown()

    assert [row[:2] for row in _table_of(written)] == [row[:2] for row in _table_of(made)]
    assert _table_of(written)[0] == [*COLUMNS]
    assert re.sub(r"\d+", "#", made.splitlines()[0]) == re.sub(r"\d+", "#", written.splitlines()[0])


def test__readme__table__is_a_part_of_the_page_of_chains():
    whole, part = _written("docs/figures/chains.md"), _written("README.md")
    chains = re.findall(r"^\| `([\w-]+)` \|", part, re.MULTILINE)
    made = Report([Comparison(name, KILLED, WORST) for name in chains], Mode.GUARD, "first", 3.0)

    assert set(part.splitlines()) <= set(whole.splitlines())
    assert [row[:2] for row in _table_of(part)] == [
        row[:2] for row in _table_of(made.as_markdown())
    ]
    assert len(chains) == 3


#
# While it runs
#


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (Stage.STARTING, "starting its process"),
        (Stage.RUNNING, "running for 3 s"),
        (Stage.ENDING, "waiting up to 5 s for the EndFrame"),
        (Stage.OVERDUE, "is killed within 2 s"),
    ],
)
def test__board__80_columns__how_far_it_is_and_what_is_awaited(stage, said):
    name = max(CHAINS, key=len)
    board = Board(console_of(80), runs=20, seconds=3.0)
    with board.run("send-raises", None):
        pass
    with board.run(name, Mode.OBSERVE) as follow:
        follow(stage, LARGEST)
        progress, run, counts, awaited = printed(80, board)

    assert "1/20" in progress and "0:00:00" in progress
    assert f"{name} observing" in run and "999,999 log lines" in counts
    assert said in awaited


@pytest.fixture
def silent_child():
    """A process that reports once, as one whose chain starves it, and has to be killed."""
    report = {"figures": {"sends": 7, "elapsed": 0.0}, "peak_rss_mib": 1.0}
    script = f"import time; print('''{json.dumps(report)}''', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    yield child
    child.kill()
    child.wait()


def test__contained__child_hangs__each_stage_is_told_until_it_is_given_up(
    silent_child, monkeypatch
):
    monkeypatch.setattr(contained, "SNAPSHOT_SECS", 0.02)
    monkeypatch.setattr(contained, "GRACE_SECS", 0.4)
    told = []

    outcome = contained._follow(silent_child, 0.4, 0.4, lambda *progress: told.append(progress))

    assert [*dict.fromkeys(stage for stage, _ in told)] == [*Stage]
    assert told[-1][1].sends == 7
    assert (outcome.figures.sends, outcome.killed) == (7, "it no longer reacted")


@pytest.mark.parametrize("mode", [Mode.GUARD, Mode.OBSERVE])
def test__demo__mode_and_json__incident_beside_what_the_transport_counted(mode):
    options = ["--chain", "send-raises", "--seconds", "2", "--mode", mode.value, "--json"]

    result = CliRunner().invoke(demo, options)

    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["mode"] == mode.value
    outcome = document["chains"][0]["with"]
    assert outcome["incidents"] and outcome["totals"]
    counted = outcome["figures_at_end"]
    # One may be under way when the figures are taken.
    assert counted["sends"] - counted["failed_sends"] - counted["delivered"] in (0, 1)
    assert {"offered", "errors", "log_lines"} <= {*counted}
    if mode is Mode.GUARD:
        assert counted["sends"] == 5
    else:
        # Nothing is held back; how many there are says how busy the machine is.
        assert counted["sends"] == counted["offered"] >= 20
    # The progress is not part of the document.
    assert "sends" in result.stderr


#
# What the breaker tells, and what an independent counter at the transport saw
#

#: Failures after which a storm that is only observed dies, so that all of it can be counted.
STORM = 300


async def _counted(name: str, mode: Mode, clock) -> Outcome:
    # The clock stands still: no probe goes, and nothing is forgotten.
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock, mode=mode))
    return await run_chain(CHAINS[name], breaker=breaker, until=settled(), tally=Tally(limit=STORM))


def _held_messages(outcome: Outcome) -> int:
    # Where the output has ended, a message is not sent, which is no part of an incident.
    return sum(incident.held_messages for incident in outcome.incidents) + _unsent(outcome)


def _held_errors(outcome: Outcome) -> int:
    return sum(incident.held_errors for incident in outcome.incidents)


@pytest.mark.parametrize("name", [*CHAINS])
async def test__guard__chain__incidents_tell_what_the_transport_and_the_application_missed(
    name, clock
):
    outcome = await _counted(name, Mode.GUARD, clock)
    seen = outcome.figures_at_end

    assert _held_messages(outcome) == seen.offered - seen.sends
    # A transport that only logs reports no error that could be held back.
    reported = 0 if name == "system-logs-silent" else seen.failures
    assert _held_errors(outcome) == reported - seen.errors
    assert {incident.ending for incident in outcome.incidents} == {Ending.PIPELINE_OVER}


@pytest.mark.parametrize("name", [*CHAINS])
async def test__observe__chain__storms_on_and_incidents_tell_the_errors_that_guard_holds_back(
    name, clock
):
    observed = await _counted(name, Mode.OBSERVE, clock)
    guarded = await _counted(name, Mode.GUARD, clock)
    seen = observed.figures_at_end

    assert seen.failures == (FLOOD_CHUNKS if name == "stt-flood" else STORM)
    assert seen.sends == seen.offered
    assert _held_errors(observed) == seen.errors - guarded.figures_at_end.errors
    assert {incident.ending for incident in observed.incidents} == {Ending.PIPELINE_OVER}


@pytest.mark.parametrize("name", [*CHAINS])
async def test__observe__chain__incidents_tell_the_messages_that_guard_holds_back(name, clock):
    observed = await _counted(name, Mode.OBSERVE, clock)
    guarded = await _counted(name, Mode.GUARD, clock)

    seen = observed.figures_at_end
    # Where it is not the output that fails, messages arrive, and none is held back. What a
    # guarded output does not send after its end is no part of an incident.
    more = seen.sends - guarded.figures_at_end.sends if seen.failed_sends else 0
    assert _held_messages(observed) == max(0, more - _unsent(guarded))


def _unsent(outcome: Outcome) -> int:
    return sum(totals.unsent_messages for totals in outcome.totals)


#
# Failover
#


def _demo(*options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pipecat_circuit_breaker_cli", "demo", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test__failover__six_turns__we_hear_each_and_pipecat_what_it_can():
    played = _demo(
        *("--failover", "--fault", "http-500", "--fault", "http-401"),
        # No faster: a provider that takes 5 s of the call to answer has failed.
        *("--turns", "6", "--speed", "6", "--json"),
    )

    assert played.returncode == 0, played.stderr
    calls = {
        fault["fault"]: {call["variant"]: call for call in fault["calls"]}
        for fault in json.loads(played.stdout)["faults"]
    }
    for fault in ("http-500", "http-401"):
        assert calls[fault]["no help"]["heard"] == 0
        assert calls[fault]["no help"]["requests"] == [6, 0]
        ours = calls[fault]["breaker.failover()"]
        assert ours["heard"] == 6
        assert [turn["answered_by"] for turn in ours["turns"]] == [1] * 6
        assert ours["requests"][1] == 6
        assert ours["switches"] == 1
    # By any release of pipecat: it asks nobody again, so the turn that fails is lost.
    assert calls["http-401"]["pipecat's failover"]["heard"] == 5
    assert "6 turns, about 4 s" in played.stderr
    assert "Deprecat" not in played.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--failover", "--chain", "send-raises"], "--chain: only for the chains, not with"),
        (
            ["--failover", "--mode", "observe", "--position", "last"],
            "--position, --mode: only for the chains, not with --failover",
        ),
        (["--fault", "all"], "--fault: only with --failover"),
    ],
)
def test__failover__options_of_the_chains__refused_in_one_line(options, said):
    refused = CliRunner().invoke(demo, options)

    assert refused.exit_code == 2
    assert said in refused.stderr


def _failover_report() -> FailoverReport:
    heard, late, saved = Turn(0, 0.5), Turn(0, 5.9), Turn(1, 0.6)
    calls = [
        Call([Turn()] * 50, (50, 0)),
        Call([heard, late, *[saved] * 48], (2, 48), 1),
        Call([Turn(1, 5.8), *[saved] * 49], (6, 50), 1),
    ]
    return FailoverReport(dict.fromkeys(FAULTS, calls), turns=50, speed=10.0)


def test__failover_picture__80_columns__a_row_per_turn():
    lines = printed(80, _failover_report().as_picture("hang"))

    assert max(map(len, lines)) <= 80
    assert len(lines) == 51
    assert lines[1].split() == "1 lost heard 0.5 s backup, late 5.8 s".split()
    assert lines[2].split() == "2 lost heard, late 5.9 s backup 0.6 s".split()
    assert lines[50].split() == "50 lost backup 0.6 s backup 0.6 s".split()


def test__failover_table__80_columns__nothing_is_cut_off():
    lines = printed(80, _failover_report().as_table())

    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    assert sum("50 + 0, 0, -" in line and "6 + 50, 1, 5.8 s" in line for line in lines) == len(
        FAULTS
    )


def test__failover_markdown__turns_then_requests_switches_and_the_longest_wait():
    rows = _table_of(_failover_report().as_markdown())

    assert rows[0] == ["fault of the first", *Variant]
    assert rows[2] == [
        "HTTP 500",
        "0 (50 + 0, 0, -)",
        "50 (2 + 48, 1, 5.9 s)",
        "50 (6 + 50, 1, 5.8 s)",
    ]
    assert [row[0] for row in rows[2:]] == [fault.title for fault in FAULTS.values()]
