"""Outages of a fleet as incidents: kept in a file by each process, and shown to people."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from loguru import logger

from pipecat_circuit_breaker.fleet.incident import FleetIncident
from pipecat_circuit_breaker.fleet.memory import MemoryStore
from pipecat_circuit_breaker.logs import log_fleet
from pipecat_circuit_breaker.show.app import show
from pipecat_circuit_breaker.show.page import page
from pipecat_circuit_breaker.show.read import incidents_of
from tests.fleet.fleet_parts import KEY, Process, outage

OPENED = 1_790_000_000.0
ENDED = {
    "openings": 3,
    "failures": 1_200,
    "bots": 812,
    "instances": {"pod-1": OPENED, "pod-2": OPENED},
    "instance_count": 41,
    "lost_probes": 1,
    "opened_by": "pod-1",
    "closed_by": "pod-2",
    "ending": "recovered",
    "seen_at": OPENED + 100,
    "closed_at": OPENED + 120,
}


def of(**fields):
    return FleetIncident.of("production", outage(KEY, **{"at": OPENED, **fields}))


def told(*incidents):
    text = "\n".join(incident.model_dump_json() for incident in incidents)
    result = CliRunner().invoke(show, ["-"], input=text, env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    return result.output


async def told_in(path, store, time, instance):
    process = Process(store, time, instance)
    log_fleet(process.fleet, path)
    process.join()
    await time.pass_(0)
    return process


async def lines_of(path, count):

    for _ in range(500):
        lines = path.read_text().splitlines()
        if len(lines) >= count:
            return [json.loads(line) for line in lines]
        await asyncio.sleep(0.01)
    raise AssertionError(f"expected {count} lines, got {lines}")


async def test__two_processes_keep_one_outage__show_has_it_once_with_its_ending(
    store, time, tmp_path
):
    path = tmp_path / "incidents.jsonl"
    processes = [await told_in(path, store, time, f"pod-{n}") for n in range(2)]

    store.put(outage(KEY, at=OPENED))
    await time.pass_(0)
    lines = await lines_of(path, 2)
    assert {line["state"] for line in lines} == {"open"}
    store.put(outage(KEY, "closed", OPENED, **ENDED, generation=2))
    await time.pass_(0)
    lines = await lines_of(path, 4)

    assert len({line["id"] for line in lines}) == 1
    [incident] = incidents_of(path.read_text())
    assert (incident.state, incident.ending, incident.secs) == ("closed", "recovered", 120)
    for process in processes:
        await process.fleet.close()


async def test__file_cannot_be_written__said_at_once(store, time, tmp_path):
    process = Process(store, time)

    with pytest.raises(OSError):
        log_fleet(process.fleet, tmp_path)
    with pytest.raises(ValueError, match="max_bytes: expected a whole number from 10,000, got 5"):
        log_fleet(process.fleet, tmp_path / "incidents.jsonl", max_bytes=5)


def test__incident__survives_json_and_knows_its_times():
    incident = of(state="closed", **ENDED)

    assert FleetIncident.model_validate_json(incident.model_dump_json()) == incident
    assert incident.opened_at == datetime.fromtimestamp(OPENED, UTC)
    assert incident.ended_at - incident.opened_at == timedelta(seconds=120)
    assert incident.rate == 12.0


def test__incident__one_id_for_each_opening_of_each_fleet():
    ids = {
        of().id,
        of(at=OPENED + 1).id,
        FleetIncident.of("staging", outage(KEY, at=OPENED)).id,
        FleetIncident.of("production", outage("Voice: other", at=OPENED)).id,
    }

    assert len(ids) == 4 and of().id == of(failures=7, seen_at=OPENED + 50).id


def test__only_suspected__is_no_incident():
    assert FleetIncident.of("production", outage(KEY, "suspected")) is None


@pytest.mark.parametrize("secs", [-1e300, 1e300, 0.0])
def test__times_that_nobody_lives_in__are_dates(secs):
    assert of(at=secs, seen_at=secs).opened_at.tzinfo is UTC


def test__a_process_that_missed_the_end__does_not_outdo_those_that_heard_of_it():
    heard = of(state="closed", **ENDED)
    missed = of(state="closed", **{**ENDED, "ending": "forgotten", "closed_at": OPENED + 999})

    for copies in ([heard, missed], [missed, heard]):
        text = "\n".join(copy.model_dump_json() for copy in copies)
        assert incidents_of(text) == [heard]


async def test__a_fleet_without_a_server__has_times_that_people_live_in():
    store = MemoryStore()
    answer = await store.open(KEY, "ann", "they move", 60.0)

    incident = FleetIncident.of("production", answer.outage)

    assert abs(incident.opened_at - datetime.now(UTC)) < timedelta(minutes=1)


def test__show__tells_who_saw_it_and_who_ended_it():
    text = told(of(state="closed", **ENDED))

    for words in (
        f"CLOSED {KEY}",
        "outage of the fleet production",
        "lasted 2 min 0 s",
        "ended when a probe was answered",
        "41: pod-1, pod-2 and 39 more",
        "about 812",
        "1,200 reported, 12 a second",
        "2 failed, 1 lost with who was to probe, the last one was answered",
        "pod-2",
        "processes were killed",
    ):
        assert words in " ".join(text.split()), words


def test__show__one_that_goes_on__says_so_and_what_to_do():
    text = " ".join(told(of(seen_at=OPENED + 60, bots=3)).replace("│", "").split())

    assert "OPEN" in text and "not over after 60.0 s" in text
    assert "Every bot knows" in text and "while it went on" in text


def test__show__by_hand__who_and_why():
    text = told(of(is_by_hand=True, opened_by="ann", why="they move"))

    assert "ann by hand" in text and "they move" in text and "close it by hand" in text


def test__show__a_bots_and_a_fleets_in_one_file__in_the_order_in_which_they_began():
    from tests.command_line.test_show import OPENED as BOTS_OPENED
    from tests.command_line.test_show import incident_of

    before = of(at=BOTS_OPENED.timestamp() - 60, seen_at=BOTS_OPENED.timestamp())
    text = told(incident_of(), before)

    assert text.index(KEY) < text.index("Output#0")


def test__page__hostile_texts_are_text():
    hostile = "<script>alert(1)</script> [red]x\x1b[31m"
    incident = of(opened_by=hostile, why=hostile, is_by_hand=True)

    html = page([incident])

    assert html.startswith("<!doctype html>")
    assert "<script>" not in html and "\x1b" not in html and "&lt;script&gt;" in html
    assert "Who saw it" in html and "By whom" in html
    assert "[red]x" in told(incident)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": "ajar"}, "state: expected 'open' or 'closed', got \"ajar\""),
        ({"bots": -1}, "bots:"),
        ({"opened_at": "2026-01-01T00:00:00"}, "opened_at:"),
    ],
)
def test__show__unreadable_outage__one_line_and_code_2(change, said):
    text = json.dumps({**json.loads(of().model_dump_json()), **change})

    result = CliRunner().invoke(show, ["-"], input=text)

    assert result.exit_code == 2
    assert said in result.output and len(result.output.splitlines()) == 1


@pytest.fixture(autouse=True)
def _quiet():
    logger.remove()
