"""What a person has opened only a person closes."""

from pipecat.transports.base_transport import BaseTransport

from pipecat_circuit_breaker import CircuitState
from pipecat_circuit_breaker.testing import Output, running
from tests.healthy.healthy_parts import queue
from tests.support.guard import MAX_ERRORS
from tests.support.parts import app_message, settle


class Transport(BaseTransport):
    """A transport with clients, which a test lets come and go."""

    def __init__(self, output):
        super().__init__()
        self._output = output
        for event in ("on_client_connected", "on_client_disconnected"):
            self._register_event_handler(event)

    def input(self):
        raise NotImplementedError

    def output(self):
        return self._output

    async def come(self, client):
        await self._call_event_handler("on_client_connected", client)
        await settle()

    async def go(self, client):
        await self._call_event_handler("on_client_disconnected", client)
        await settle()


def refuses_ours(message):
    """The application's messages fail; RTVI's notices of that arrive, so it is no storm."""
    return ConnectionError("refused") if message["type"] == "app" else None


def state_of(breaker, origin):
    return next(circuit.state for circuit in breaker.circuits if circuit.origin == origin)


async def test__opened_by_hand__clients_come_and_go__stays_open_until_closed_by_hand(guarded):
    output, heard = Output(refuses_ours), []
    breaker, transport = guarded.breaker, Transport(output)
    breaker.watch(transport)
    async with running(*guarded.line(output)) as worker:
        worker.add_event_handler("on_pipeline_error", lambda _, error: heard.append(error))
        await transport.come("first")
        await queue(worker, app_message())
        assert len(heard) == 1
        origin = breaker.circuits[0].origin

        await breaker.open_circuits(origin)
        await transport.come("second")
        assert state_of(breaker, origin) is CircuitState.OPEN
        await transport.go("second")
        await transport.go("first")
        await transport.come("first")
        assert state_of(breaker, origin) is CircuitState.OPEN

        # Neither do hours close it: nothing of its origin is heard.
        heard.clear()
        for _ in range(2 * MAX_ERRORS):
            guarded.clock.advance(3600)
            await queue(worker, app_message())
        assert heard == []
        assert state_of(breaker, origin) is CircuitState.OPEN

        await breaker.close_circuits(origin)
        assert state_of(breaker, origin) is CircuitState.CLOSED


async def test__all_opened_by_hand__a_client_comes__all_stay_open(guarded):
    output = Output(refuses_ours)
    breaker, transport = guarded.breaker, Transport(output)
    breaker.watch(transport)
    async with running(*guarded.line(output)) as worker:
        await queue(worker, app_message())
        await breaker.open_circuits()
        opened = [circuit.origin for circuit in breaker.circuits]
        await transport.come("client")

        assert opened
        assert {state_of(breaker, origin) for origin in opened} == {CircuitState.OPEN}


async def test__opened_by_hand_while_nobody_is_there__a_client_comes__stays_open(guarded):
    output = Output(refuses_ours)
    breaker, transport = guarded.breaker, Transport(output)
    breaker.watch(transport)
    async with running(*guarded.line(output)) as worker:
        await transport.come("client")
        await queue(worker, app_message())
        origin = breaker.circuits[0].origin
        await transport.go("client")
        await breaker.open_circuits(origin)
        await transport.come("client")

        assert state_of(breaker, origin) is CircuitState.OPEN
