"""pipecat's real transports: the storm or the peace that each release shows, and the breaker."""

import pytest

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from tests.releases.room import RELEASE, STORM, Outage
from tests.releases.storms import MESSAGES, SCENARIOS

pytestmark = [
    pytest.mark.releases,
    # The older names are what runs on every release.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

MAX_ERRORS = CircuitBreakerParams().max_errors
NEVER = (99,)

#: What feeds itself, and the first release in which pipecat ends it by itself.
STORMS = {
    "daily, signalling dead": (1, 13, 0),
    "daily, client gone": (1, 14, 0),
    "daily, half torn down": (1, 2, 0),
    "livekit, publishing fails, logs to client": NEVER,
    "websocket client, serializer raises": NEVER,
    "websocket server, serializer raises, logs to client": NEVER,
}

#: Nothing reports an error here: it takes a few turns more to know them for a loop.
SILENT = [name for name in STORMS if "logs to client" in name]

#: What never feeds itself, and how many log lines it makes on any release, at most.
PEACE = {
    "daily, after EndFrame": 0,
    "livekit, publishing fails": MESSAGES,
    "livekit, room says it is gone": 0,
    "websocket client, server closes": 0,
    "websocket client, connection breaks": 0,
    # Each message before the transport knows, and each log line about one, fails once.
    "websocket server, client vanishes": MESSAGES + 10,
    "websocket server, serializer raises": MESSAGES,
}


@pytest.fixture
def breaker(clock):
    """A breaker whose cooldowns never end, however slow the machine: no probe is to be counted."""
    return CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))


def test__scenarios__all_have_an_expectation():
    assert {*STORMS} | {*PEACE} == {*SCENARIOS}


@pytest.mark.parametrize("name", STORMS)
async def test__no_breaker__outage__storms_until_the_release_that_ends_it(name, monkeypatch):
    seen = await SCENARIOS[name](monkeypatch, Outage())

    if RELEASE < STORMS[name]:
        assert seen.failed_sends >= STORM
        assert seen.log_lines >= STORM
    else:
        assert seen.failed_sends <= 2
        assert seen.log_lines <= 2


@pytest.mark.parametrize("name", STORMS)
async def test__breaker__outage__ends(name, monkeypatch, breaker):
    seen = await SCENARIOS[name](monkeypatch, Outage(), breaker)

    assert seen.failed_sends <= (4 * MAX_ERRORS if name in SILENT else MAX_ERRORS)
    assert seen.log_lines <= 60
    if RELEASE < STORMS[name]:
        # The pipeline is over, and with it what was open.
        assert breaker.incidents


@pytest.mark.parametrize("name", PEACE)
async def test__no_breaker__outage__peace(name, monkeypatch):
    seen = await SCENARIOS[name](monkeypatch, Outage())

    assert seen.failed_sends <= MESSAGES
    assert seen.log_lines <= PEACE[name]


@pytest.mark.parametrize("name", PEACE)
async def test__breaker__peace__is_left_alone(name, monkeypatch, breaker):
    seen = await SCENARIOS[name](monkeypatch, Outage(), breaker)

    assert seen.failed_sends <= MESSAGES
    assert seen.log_lines <= PEACE[name]
    assert breaker.incidents == ()


async def test__no_breaker__daily_after_end_frame__kept_for_ever_before_1_13(monkeypatch):
    seen = await SCENARIOS["daily, after EndFrame"](monkeypatch, Outage())

    assert seen.kept == (MESSAGES if RELEASE < (1, 13, 0) else 0)


async def test__breaker__daily_after_end_frame__nothing_is_kept(monkeypatch, breaker):
    seen = await SCENARIOS["daily, after EndFrame"](monkeypatch, Outage(), breaker)

    assert seen.kept == 0
