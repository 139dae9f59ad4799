"""Every chain that really happens storms without a breaker, and ends with one."""

import pytest

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.demo.chains import CHAINS, FLOOD_CHUNKS, SOUND_CHUNKS
from pipecat_circuit_breaker.demo.run import run_chain, sends, settled

pytestmark = pytest.mark.releases

MAX_ERRORS = CircuitBreakerParams().max_errors

RECURSIVE = [
    "send-raises",
    "send-pushes-error",
    "websocket-serializer",
    "system-logs-raise",
    "two-dead-outputs",
    "second-notifier",
]


@pytest.mark.parametrize("name", [*RECURSIVE, "system-logs-silent"])
async def test__no_breaker__chain__storms(name):
    outcome = await run_chain(CHAINS[name], breaker=None, until=sends(300), end_limit=0.1)

    assert outcome.figures.sends >= 300


async def test__no_breaker__spoken_apology__storms():
    outcome = await run_chain(
        CHAINS["spoken-apology"], breaker=None, until=settled(cap=300), end_limit=0.1
    )

    assert outcome.figures.synthesis >= 300


async def test__no_breaker__stt_flood__client_hears_of_each_chunk():
    outcome = await run_chain(CHAINS["stt-flood"], breaker=None, until=settled())

    assert outcome.figures.sends >= FLOOD_CHUNKS
    assert outcome.figures.errors == FLOOD_CHUNKS


async def test__no_breaker__queued_message__sound_dies():
    outcome = await run_chain(CHAINS["queued-message"], breaker=None, until=settled(cap=300))

    assert outcome.figures.audio_chunks_after == 0


@pytest.fixture
def breaker(clock):
    """A breaker whose cooldowns never end, however slow the machine: no probe is to be counted."""
    return CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))


@pytest.fixture(params=["first", "last"])
def position(request):
    return request.param


@pytest.fixture(params=["end", "cancel"])
def ending(request):
    return request.param


@pytest.mark.parametrize("name", [*CHAINS])
async def test__breaker__chain__ends(name, breaker, position, ending):
    outcome = await run_chain(
        CHAINS[name],
        breaker=breaker,
        position=position,
        until=settled(),
        ending=ending,
    )
    figures = outcome.figures

    if name == "system-logs-silent":
        # The line that says "circuit open" goes to the client too, and is allowed its try. Nothing
        # of the start is among it, or the figures would differ from Python to Python.
        assert figures.sends == figures.failed_sends == MAX_ERRORS + 1
        assert figures.log_lines == figures.sends + 1
    else:
        assert all(n <= MAX_ERRORS for n in figures.failed_by_channel.values())
    # Where the application answers the one error that says "circuit open", it tries once more.
    assert figures.synthesis <= MAX_ERRORS + 1
    assert figures.errors <= MAX_ERRORS * max(1, len(figures.sends_by_channel))
    # pipecat writes a line per error before anybody can stop it.
    own_lines = FLOOD_CHUNKS if name == "stt-flood" else 0
    assert figures.log_lines - own_lines <= 60
    assert outcome.end_frame_ms is not None and outcome.end_frame_ms <= 100
    assert outcome.incidents


async def test__breaker__queued_message_behind_sound__held_back_and_sound_goes_on(
    breaker, position
):
    outcome = await run_chain(
        CHAINS["queued-message"],
        breaker=breaker,
        position=position,
        until=settled(),
    )

    assert outcome.figures.audio_chunks_after == SOUND_CHUNKS


async def test__breaker__stt_flood__client_hears_max_errors_times(breaker, position):
    outcome = await run_chain(
        CHAINS["stt-flood"],
        breaker=breaker,
        position=position,
        until=settled(),
    )

    assert outcome.figures.sends == MAX_ERRORS
    assert outcome.figures.errors == MAX_ERRORS
