"""Who has a vote is the machine or pod, not the bot; and who probes may die of it."""

import time

import pytest

from pipecat_circuit_breaker import CircuitBreakerParams
from pipecat_circuit_breaker.fleet import Outage
from pipecat_circuit_breaker.fleet.record import RECORD_VERSION
from tests.fleet import pod_bots, servers

pytestmark = servers.once

#: Seconds in which everybody has to know: reports go at once, or after one and a half.
SOON_SECS = 8.0

#: Seconds after which what has not become known will not: a vote more than that long ago counts
#: no more than one that has just been made.
QUIET_SECS = 2.5

#: A lease of a probe, in seconds: as long as a process may take that dies of it.
LEASE_SECS = 3.0

HISTORY = f"{{pcb:test}}:{RECORD_VERSION}:history"

MAX_ERRORS = CircuitBreakerParams().max_errors


@pytest.fixture
def processes():
    processes = pod_bots.Processes(6)
    yield processes
    processes.kill()


@pytest.fixture
def server():
    with servers.Server("redis7") as server:
        yield server


def told(looks, event):
    """What all were told of it: of which one has to be the first."""
    return [told for look in looks for told in look["told"] if told[0] == event]


def history(server):
    with server.client() as client:
        return [Outage.read(text) for text in client.lrange(HISTORY, 0, -1)]


def test__one_sick_pod_of_four_processes_and_fifty_bots__opens_nothing_elsewhere(processes, server):
    sick, well = processes[:4], processes[4:]
    sick.start(server.url, 13, ["sick"] * 4, ticks=False)
    well.start(server.url, 5, ["well-1", "well-2"], ticks=False)
    processes.until(lambda look: look["connected"], SOON_SECS)
    sick.tell("provider", True)
    sick.tell("ask")
    sick.until(lambda look: look["open"] == 13, SOON_SECS)
    time.sleep(QUIET_SECS)

    # Elsewhere a request that fails is one of the five that it takes, and no vote.
    well.tell("provider", True)
    well.tell("ask", 1)
    time.sleep(0.5)

    looks = processes.tell("look")
    assert [look["outages"] for look in looks] == [0] * 6
    assert [look["open"] for look in looks[4:]] == [0, 0]
    assert told(looks, "outage_opened") == []


def test__three_sick_pods__a_bot_elsewhere_opens_at_its_first_failure(processes, server):
    sick, well = processes[:5], processes[5:]
    sick.start(server.url, 5, ["pod-1", "pod-1", "pod-2", "pod-2", "pod-3"], ticks=False)
    well.start(server.url, 5, ["pod-4"], ticks=False)
    processes.until(lambda look: look["connected"], SOON_SECS)
    sick.tell("provider", True)
    sick.tell("ask")
    _, looks = processes.until(lambda look: told([look], "outage_opened"), SOON_SECS)
    assert told(looks, "outage_opened").count(("outage_opened", True)) == 1
    well.tell("provider", True)
    well.tell("ask", 1)
    _, (look,) = well.until(lambda look: look["open"] == 5, SOON_SECS)
    assert look["triggers"] == [["fleet"]] * 5

    # One answer to one bot ends it for all of them.
    processes.tell("provider", False)

    def is_over(look):
        return look["outages"] == look["open"] == 0 and told([look], "outage_closed")

    _, looks = processes.until(is_over, SOON_SECS)
    closed = told(looks, "outage_closed")
    assert len(closed) == 6 and closed.count(("outage_closed", True)) == 1


def test__holder_of_the_lease_is_killed__another_takes_over(processes, server):
    holder, others = processes[:1], processes[1:]
    instances = [f"pod-{n}" for n in range(6)]
    processes.start(server.url, 5, instances, ticks=False, lease_secs=LEASE_SECS)
    processes.until(lambda look: look["connected"], SOON_SECS)
    processes.tell("provider", True)
    # Each bot opens by its own evidence, and nobody asks any more, so that nobody else probes.
    processes.tell("ask", MAX_ERRORS)
    processes.until(lambda look: look["outages"] == 1, SOON_SECS)
    holder.tell("hold")
    granted_at = time.monotonic()
    holder.kill()

    others.tell("provider", False)
    others.tell("ask")
    time.sleep(LEASE_SECS / 2)
    assert [look["outages"] for look in others.tell("look")] == [1] * 5
    others.until(lambda look: look["outages"] == 0, SOON_SECS)
    assert time.monotonic() - granted_at > LEASE_SECS - 0.5
    (outage,) = history(server)
    assert (outage.ending, outage.lost_probes, outage.openings) == ("recovered", 1, 1)
