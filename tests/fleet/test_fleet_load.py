"""Whether `python -m benchmarks fleet-load` measures what it says, in its quick mode."""

import json
from dataclasses import replace

import pytest

from tests.fleet import servers

redis = pytest.importorskip("redis")

from rich.console import Console  # noqa: E402

from benchmarks.fleet_load import run as command  # noqa: E402
from benchmarks.fleet_load.bots import Plan, Told  # noqa: E402
from benchmarks.fleet_load.report import Paper, problems, write  # noqa: E402
from benchmarks.fleet_load.server import Sample  # noqa: E402
from benchmarks.fleet_load.trial import Outcome, Phase, _overlaps, run  # noqa: E402
from benchmarks.folders import Folders  # noqa: E402
from benchmarks.machine import Machine  # noqa: E402

pytestmark = servers.once


@pytest.fixture(scope="module")
def outcome():
    servers.binary("redis7")
    return run(command.QUICK)


def test__quick__one_outage_one_probe_at_a_time_and_everybody_knows(outcome):
    plan = outcome.plan
    assert problems(outcome) == []
    (openings,) = outcome.openings
    assert outcome.probes == openings == 1 and outcome.overlaps == outcome.lost_probes == 0
    assert outcome.knew == plan.processes and outcome.affected == plan.bots
    assert outcome.still_open == 0
    assert outcome.asked["report, done"] == 1, "one report has opened it"
    assert outcome.asked["settle, done"] == outcome.asked["lease, done"] == outcome.probes
    # One bot in each of three processes has to fail twice, and few more do.
    assert outcome.at_first > 0.1 and outcome.heard < 3


def test__quick__commands_are_bounded(outcome):
    plan = outcome.plan
    assert outcome.outage.sockets <= 2 * plan.processes
    # A report a second at most, a look each 2.4 s, and a request for the lease at each probe.
    secs = plan.outage_secs + outcome.closed_secs + 2
    assert outcome.asked["report"] <= plan.processes * (secs + 2)
    assert outcome.asked["lease"] <= plan.processes * 2 * outcome.probes


def test__quick__page_written__figures_and_paper(outcome, tmp_path):
    page = write(Folders.both(tmp_path), Machine.here(), [outcome])
    text = page.read_text()
    assert "| bots | 200 |" in text and "## 100,000 bots, on paper" in text
    figures = json.loads((tmp_path / "fleet-load.json").read_text())
    assert figures["runs"][0]["probes"] == outcome.probes
    assert figures["paper"][0]["processes"] == 2_500


def test__no_server__says_so(monkeypatch):
    monkeypatch.setattr(command, "program", lambda: None)
    console = Console(record=True, quiet=True)
    assert command.measure(console, quick=True, folders=None) == 2


def sample(at, **fields):
    return Sample(
        **{
            "at": at,
            "requests": 0,
            "in_script": 0,
            "connections": 0,
            "sockets": 4,
            "cpu_secs": 0.0,
            "sent_bytes": 0,
            "memory_bytes": 1_000_000,
            **fields,
        }
    )


def test__phase__mean_and_worst_second():
    # 10 commands a second, and 50 more in one half of a second.
    samples = [sample(n / 2, requests=5 * n + 50 * (n > 5), cpu_secs=n / 20) for n in range(21)]
    phase = Phase.of(samples, 0.0, 10.0, own_cpu=0.02)
    assert phase.requests == pytest.approx(15)
    assert phase.peak == pytest.approx(60)
    assert phase.cpu == pytest.approx(0.08)


def an_outcome(**fields):
    phase = Phase(100, 200, 0, 0, 0.05, 0.1, 1e6, 2e6, 400, 5_000_000)
    values = {
        "plan": Plan(bots=10_000, processes=200, hosts=200),
        "before": 1_000_000,
        "idle": phase,
        "onset": phase,
        "outage": phase,
        "recovery": phase,
        "openings": (3,),
        "opened_secs": 0.5,
        "known_ms": (1.0,) * 101,
        "knew": 200,
        "probes": 3,
        "lost_probes": 0,
        "overlaps": 0,
        "closed_secs": 1.0,
        "closed_ms": (1.0,) * 101,
        "affected": 10_000,
        "at_first": 0.9,
        "heard": 1.4,
        "still_open": 0,
        "asked": {},
        "late_ms": 1.0,
    }
    return Outcome(**(values | fields))


def test__paper__so_many_times_the_run():
    paper = Paper.of(an_outcome(), 100_000)
    assert (paper.processes, paper.sockets) == (2_000, 4_000)
    assert (paper.idle, paper.onset, paper.outage) == (1_000, 2_000, 1_000)
    assert paper.memory_mb == pytest.approx(41)
    assert paper.cpu_outage == pytest.approx(0.5)
    assert paper.verdict == "with 1.0 s for the worst second"
    assert replace(paper, cpu_worst=0.9).verdict == "yes, as it is installed"
    assert replace(paper, cpu_worst=0.9, sockets=20_000).verdict == "with `maxclients` above 20,000"
    assert replace(paper, cpu_worst=0.9, sent_mb=250.0).verdict == "with 2.0 Gbit/s of network"
    assert replace(paper, cpu_outage=2.0).verdict.startswith("no: 2.0 cores")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, None),
        ({"openings": (1, 1, 1)}, "3 outages"),
        ({"knew": 199}, "1 processes have not heard"),
        ({"overlaps": 1}, "1 probes at the same time"),
        ({"lost_probes": 2}, "2 probes got lost"),
        ({"still_open": 3}, "3 circuits stay open"),
        ({"probes": 4}, "4 probes for (3,) openings"),
        ({"idle": Phase(300, 300, 0, 0, 0, 0, 0, 0, 0, 0)}, "1.5 commands a second of an idle"),
        ({"onset": Phase(300, 3000, 0, 0, 0, 0, 0, 0, 0, 0)}, "15.0 commands of a process"),
    ],
)
def test__problems__each_is_named(fields, problem):
    found = problems(an_outcome(**fields))
    if problem is None:
        assert found == []
    else:
        assert any(text.startswith(problem) for text in found)


def test__overlaps__lease_granted_before_the_outcome_of_the_one_before():
    one_after_the_other = Told(leases=[("a", 1.0), ("b", 3.0)], settled=[("a", 2.0), ("b", 4.0)])
    assert _overlaps(one_after_the_other) == 0
    at_once = Told(leases=[("b", 1.5), ("a", 1.0)], settled=[("a", 2.0), ("b", 4.0)])
    assert _overlaps(at_once) == 1


def test__told__added_up():
    told = Told(known=[1.0], affected=2, latest_secs=0.1)
    other = Told(known=[2.0], affected=3, latest_secs=0.3)
    other.asked["report"] = 4
    told.add(other)
    assert (told.known, told.affected, told.latest_secs) == ([1.0, 2.0], 5, 0.3)
    assert told.asked == {"report": 4}
