"""A failover of STT services comes once, leaves no trace, and refuses a ring without a length."""

import pytest
from pipecat.pipeline.service_switcher import ServiceSwitcher

from pipecat_circuit_breaker import CircuitBreakerProcessor
from tests.failover.stt_parts import Call

pytestmark = pytest.mark.releases


def test__leave__everything_is_as_it_was_and_another_may_come():
    breaker = CircuitBreakerProcessor()
    call = Call([make_socket(), make_segmented()])
    with pytest.raises(ValueError, match="already"):
        breaker.failover(call.switcher)
    call.failover.leave()

    for service in call.services:
        assert not {"push_frame", "run_stt", "_reconnect_websocket"} & vars(service).keys()
    assert "process_frame" not in vars(call.switcher)
    breaker.failover(call.switcher)


def make_socket():
    from pipecat.services.soniox.stt import SonioxSTTService

    return SonioxSTTService(api_key="key")


def make_segmented():
    from pipecat.services.openai.stt import OpenAISTTService

    return OpenAISTTService(api_key="key")


@pytest.mark.parametrize("secs", [0, -1, float("inf"), float("nan")])
def test__ring_without_a_length__refused(secs):
    with pytest.raises(ValueError, match="replay_secs"):
        CircuitBreakerProcessor().failover(
            ServiceSwitcher([make_socket(), make_segmented()]), replay_secs=secs
        )
