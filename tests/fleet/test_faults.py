"""Six processes of five real bots each, and everything that may become of their server.

Whether a frame waits for it is measured: sound goes through every bot each 20 ms, and a
request for the server that held it up would hold it up for a second.
"""

import time

import pytest

from pipecat_circuit_breaker.fleet import Outage
from pipecat_circuit_breaker.fleet.record import RECORD_VERSION
from tests.fleet import pod_bots, servers

pytestmark = servers.once

PROCESSES, BOTS = 6, 5

#: Seconds in which all have to be alone, and back: two, and what a busy machine takes.
ALONE_SECS, BACK_SECS = 8.0, 5.0

#: Seconds for which a fault lasts: several attempts to reach the server.
FAULT_SECS = 1.5

#: Seconds that a frame may be later than a thread which waits for nothing but the machine:
#: less than the second for which a request waits for a server.
LATE_SECS = 0.7

RECORDS = f"{{pcb:test}}:{RECORD_VERSION}:outages"


@pytest.fixture(scope="module")
def processes():
    processes = pod_bots.Processes(PROCESSES)
    yield processes
    processes.kill()


@pytest.fixture
def fleet(processes, request):
    """Bots, and their server, which may not be there yet."""
    with servers.Server("redis7") as server:
        permit(server)
        if getattr(request, "param", None) == "absent":
            server.kill()
        fleet = Fleet(server, processes)
        fleet.start()
        yield fleet
        fleet.stop()


class Fleet:
    def __init__(self, server, processes):
        self.server, self.processes = server, processes

    def start(self):
        instances = [f"pod-{n}" for n in range(PROCESSES)]
        self.processes.start(f"unix://bot:secret@{self.server.socket}", BOTS, instances)

    def until_connected(self, secs=BACK_SECS):
        return self.processes.until(lambda look: look["connected"], secs)

    def provider_dies(self):
        self.processes.tell("provider", True)

    def all_fail(self):
        """From now on all bots ask a provider that is gone."""
        self.provider_dies()
        self.processes.tell("ask")

    def until_all_know(self):
        return self.processes.until(lambda look: look["outages"] == 1, BACK_SECS)

    def until_written_down(self):
        end = time.monotonic() + 12.0
        while time.monotonic() < end:
            with self.server.client() as client:
                outages = [Outage.read(text) for text in client.hvals(RECORDS)]
            if any(outage and outage.is_open for outage in outages):
                return
            time.sleep(0.05)
        raise AssertionError(outages)

    def no_frame_was_late(self):
        # Each process's own thread says how late anybody was there.
        for frame, thread in self.processes.tell("late"):
            assert frame < thread + LATE_SECS

    def stop(self):
        """End all bots: every frame has arrived."""
        for sent, lost in self.processes.tell("stop"):
            assert sent > 20 and lost == [0] * BOTS

    def told(self):
        """How often each process has said that it is alone, and that it is back: logged and by event."""
        looks = self.processes.tell("look")
        assert not any(look["errors"] for look in looks)
        for look in looks:
            events = [look["told"].count((event,)) for event in ("alone", "connected")]
            assert events == [look["alone"], look["back"]]
        return [(look["alone"], look["back"]) for look in looks]

    def was_told_once(self, before):
        """Since then each has said once that it is alone, and once that it is back."""
        assert self.told() == [(alone + 1, back + 1) for alone, back in before]


def permit(server):
    server.allow("bot", "secret", "~*", "&*", "+@all")


def refuse(server):
    server.allow("bot", "secret")


def start(server):
    server.start()
    permit(server)


def another_type(server):
    with server.client() as client:
        client.flushall()
        client.set(RECORDS, "somebody else's")


def garbage(server):
    with server.client() as client:
        for name in client.hkeys(RECORDS):
            client.hset(RECORDS, name, b'{"version":1,"state":"open","key":"\xff')
        client.hset(RECORDS, "x", "[" * 10_000)


FAULTS = {
    "killed": (servers.Server.kill, start),
    "hung": (servers.Server.stop, servers.Server.go_on),
    "full": (servers.Server.fill, servers.Server.empty),
    "failed over": (servers.Server.become_replica, servers.Server.become_master),
    "another type": (another_type, servers.Server.flush),
    "no permission": (refuse, permit),
}


@pytest.mark.parametrize("fault", FAULTS)
def test__server_fails__bots_go_on_alone_say_so_once_and_are_back(fleet, fault):
    break_, mend = FAULTS[fault]
    fleet.until_connected()
    fleet.all_fail()
    fleet.until_all_know()
    fleet.no_frame_was_late()
    told = fleet.told()

    break_(fleet.server)
    fleet.processes.until(lambda look: not look["connected"], ALONE_SECS)
    time.sleep(FAULT_SECS)
    assert not any(look["connected"] for look in fleet.processes.tell("look"))
    fleet.no_frame_was_late()

    mend(fleet.server)
    fleet.until_connected()
    fleet.until_all_know()
    fleet.no_frame_was_late()
    fleet.was_told_once(told)


@pytest.mark.parametrize("fleet", ["absent"], indirect=True)
def test__server_absent_at_start__bots_work_alone_and_find_it(fleet):
    fleet.all_fail()
    _, looks = fleet.processes.until(lambda look: look["alone"] == 1, ALONE_SECS)
    # Each bot opens by its own evidence, as without a fleet.
    _, looks = fleet.processes.until(lambda look: look["open"] == BOTS, BACK_SECS)
    assert all(look["triggers"] == [["errors"]] * BOTS for look in looks)
    fleet.no_frame_was_late()

    start(fleet.server)
    fleet.until_connected()
    fleet.until_all_know()
    fleet.no_frame_was_late()
    assert fleet.told() == [(1, 1)] * PROCESSES


def test__server_loses_what_it_knew__it_is_told_again_and_nobody_is_alone(fleet):
    fleet.until_connected()
    fleet.all_fail()
    told = fleet.told()
    for fault in (servers.Server.flush_scripts, servers.Server.flush, garbage):
        fleet.until_all_know()
        fault(fleet.server)
        # Each tells again what fails within 7.5 s.
        fleet.until_written_down()
        fleet.no_frame_was_late()
    assert fleet.told() == told
