"""Recovery over a real WebSocket server that is killed and started again, ten times in a row."""

import asyncio
import json

from tenacity import wait_fixed
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor, CircuitState
from pipecat_circuit_breaker.testing import Output, running
from tests.support.parts import app_message, of_type, settle

COOLDOWN = 5.0
MAX_ERRORS = CircuitBreakerParams().max_errors
KILLS = 10


class Server:
    """A WebSocket server on loopback that can be killed, and started again on its port."""

    def __init__(self):
        self.received = []
        self.port = 0
        self._server = None

    async def start(self):
        self._server = await serve(self._listen, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self):
        for connection in [*self._server.connections]:
            connection.transport.abort()
        self._server.close(close_connections=False)
        await self._server.wait_closed()

    def has(self, number):
        return number in [m["n"] for m in of_type(self.received, "app")]

    async def _listen(self, connection):
        async for message in connection:
            self.received.append(json.loads(message))


class Connected(Output):
    """Sends each message over one connection, and connects anew where it has lost it."""

    def __init__(self, server):
        super().__init__()
        self._server = server
        self._connection = None
        self.under_way = 0

    async def send_message(self, frame):
        self.under_way += 1
        try:
            if self._connection is None:
                url = f"ws://127.0.0.1:{self._server.port}"
                self._connection = await connect(url, open_timeout=5, proxy=None)
            await self._connection.send(json.dumps(frame.message))
        except Exception as e:
            self.failed.append(frame.message)
            self._connection = None
            raise ConnectionError(type(e).__name__) from e
        finally:
            self.under_way -= 1
        self.sent.append(frame.message)

    async def lost(self):
        await self._connection.wait_closed()


async def until(condition):
    """Turn the loop until the sockets have done what they have to do."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


async def offer(worker, output, messages):
    """Queue messages, and wait until each has been sent, has failed, or was held back."""
    await worker.queue_frames(messages)
    await settle(50)
    while output.under_way:  # a failing send takes a few turns over a real socket
        await until(lambda: not output.under_way)
        await settle(50)


async def test__server_killed_ten_times__messages_flow_again_within_one_cooldown(clock):
    server = Server()
    await server.start()
    output = Connected(server)
    breaker = CircuitBreakerProcessor(
        params=CircuitBreakerParams(clock=clock, cooldown=wait_fixed(COOLDOWN))
    )
    number = iter(range(10**6))

    def messages(count):
        return [app_message(next(number)) for _ in range(count)]

    healthy = []
    async with running(breaker, output) as worker:
        for kill in range(KILLS):
            batch = messages(20)
            healthy += [frame.message["n"] for frame in batch]
            await offer(worker, output, batch)
            await until(lambda last=healthy[-1]: server.has(last))

            await server.kill()
            await output.lost()
            failed = len(output.failed)
            cooldowns = kill % 3
            for _ in range(cooldowns + 1):
                for message in messages(30):
                    await offer(worker, output, [message])
                clock.advance(COOLDOWN)
            assert len(output.failed) - failed <= MAX_ERRORS + cooldowns

            await server.start()
            batch = messages(1)  # the probe
            healthy += [frame.message["n"] for frame in batch]
            await offer(worker, output, batch)
            await until(lambda last=healthy[-1]: server.has(last))
            assert {c.state for c in breaker.circuits} == {CircuitState.CLOSED}

    received = [m["n"] for m in of_type(server.received, "app")]
    assert len(received) == len(set(received)), "none is sent twice"
    assert [n for n in received if n in set(healthy)] == healthy, "none is lost after recovery"
    await server.kill()


async def test__no_breaker__server_killed_once__sends_fail_without_end(clock):
    server = Server()
    await server.start()
    output = Connected(server)
    async with running(output) as worker:
        await offer(worker, output, [app_message()])
        await until(lambda: server.received)
        await server.kill()
        await output.lost()
        await worker.queue_frame(app_message())
        await until(lambda: len(output.failed) > 10 * MAX_ERRORS)
