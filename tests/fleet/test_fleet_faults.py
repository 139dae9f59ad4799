"""Bots whose fleet is on a server that fails: alone, told once, and back by themselves."""

import asyncio
import contextlib

import pytest

from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.fleet import Fleet, FleetParams
from tests.fleet import servers
from tests.fleet.fleet_parts import KEY, Voice

#: Seconds in which all have to be alone: two requests that take too long, and a poll.
ALONE_SECS = 9.0

#: Seconds in which all have to be back: two, and what a busy machine takes.
BACK_SECS = 4.0

RECORDS = "{pcb:test}:1:outages"


class Bots:
    """Three processes' fleets, and a bot of each that fails all the time."""

    def __init__(self, url):
        self.service = Voice()
        self.origin = Origin.of(self.service, "ConnectError", where="here")
        self.fleets, self.views, self.told = [], [], []
        for number in range(3):
            params = FleetParams(
                name="test",
                instance=f"pod-{number}",
                min_instances=2,
                label=lambda p: "",
                share=lambda failure: True,
            )
            fleet = Fleet(url, params=params)
            told = []
            fleet.add_event_handler("on_fleet_alone", lambda f, r, t=told: t.append("alone"))
            fleet.add_event_handler("on_fleet_connected", lambda f, t=told: t.append("connected"))
            self.fleets.append(fleet)
            self.told.append(told)
        self.failing = None

    async def __aenter__(self):
        for fleet in self.fleets:
            view = fleet.join("bot", lambda: (), lambda origins: None)
            view.learn(self.origin, self.service, exception=OSError())
            self.views.append(view)
        return self

    async def __aexit__(self, *exc):
        if self.failing is not None:
            self.failing.cancel()
        await asyncio.gather(*(fleet.close() for fleet in self.fleets))

    def fail(self):
        self.failing = asyncio.create_task(self._fail())

    async def until(self, is_so, secs):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(secs):
                while not is_so():
                    await asyncio.sleep(0.01)
        assert is_so(), [fleet.status() for fleet in self.fleets]

    def are_connected(self):
        return all(fleet.is_connected for fleet in self.fleets)

    def are_alone(self):
        return not any(fleet.is_connected for fleet in self.fleets)

    def all_know(self):
        return all(view.knows(self.origin) for view in self.views)

    async def _fail(self):
        while True:
            for view in self.views:
                view.failed(self.origin, votes=True)
            await asyncio.sleep(0.02)


def refuse(server):
    server.allow("bot", "secret")


def spoil(server):
    with server.client() as client:
        client.flushall()
        client.set(RECORDS, "somebody else's")


def permit(server):
    server.allow("bot", "secret", "~*", "&*", "+@all")


def start(server):
    server.start()
    permit(server)


FAULTS = {
    "killed": (servers.Server.kill, start),
    "stopped": (servers.Server.stop, servers.Server.go_on),
    "full": (servers.Server.fill, servers.Server.empty),
    "failed over": (servers.Server.become_replica, servers.Server.become_master),
    "of another type": (spoil, servers.Server.flush),
    "without permission": (refuse, permit),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_bots_go_on_alone_say_so_once_and_are_back(fault):
    break_, mend = FAULTS[fault]
    with servers.Server("redis7") as server:
        permit(server)
        async with Bots(f"unix://bot:secret@{server.socket}") as bots:
            await bots.until(bots.are_connected, BACK_SECS)
            bots.fail()
            await bots.until(bots.all_know, BACK_SECS)
            break_(server)
            await bots.until(bots.are_alone, ALONE_SECS)
            assert not any(view.knows(bots.origin) for view in bots.views)
            # Long enough for several attempts.
            await asyncio.sleep(2)
            assert bots.are_alone()
            await bots.until(lambda: bots.told == [["connected", "alone"]] * 3, ALONE_SECS)

            mend(server)
            await bots.until(bots.are_connected, BACK_SECS)
            await bots.until(bots.all_know, BACK_SECS)
            # Handlers run in tasks of their own.
            both = [["connected", "alone", "connected"]] * 3
            await bots.until(lambda: bots.told == both, BACK_SECS)


async def test_a_server_that_comes_later_is_found():
    with servers.Server("redis7") as server:
        server.kill()
        async with Bots(server.url) as bots:
            bots.fail()
            await asyncio.sleep(1)
            assert await bots.fleets[0].outage(bots.service) is None
            assert bots.told == [["alone"]] * 3
            server.start()
            await bots.until(bots.are_connected, BACK_SECS)
            await bots.until(bots.all_know, BACK_SECS)
            assert (await bots.fleets[0].outage(bots.service)).key == KEY


@pytest.mark.parametrize("fault", [servers.Server.flush, servers.Server.flush_scripts])
async def test_a_server_that_was_flushed_is_told_again_and_nobody_is_alone(fault):
    with servers.Server("redis7") as server:
        async with Bots(server.url) as bots:
            bots.fail()
            await bots.until(bots.all_know, BACK_SECS)
            fault(server)
            # A report in 7.5 s at most tells it again.
            await asyncio.sleep(0.5)

            def is_written_down():
                with server.client() as client:
                    return bool(client.hlen(RECORDS))

            await bots.until(is_written_down, 9)
            await bots.until(bots.all_know, BACK_SECS)
            assert bots.told == [["connected"]] * 3
