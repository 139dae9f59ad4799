"""What comes to be known of a channel while its outage goes on."""

import pytest

from pipecat_circuit_breaker._core.advice import ChannelFacts, Evidence
from pipecat_circuit_breaker._core.origin import CHANNEL_DOWN, Origin
from pipecat_circuit_breaker._core.outage import Outage
from pipecat_circuit_breaker.incident import Trigger
from tests.core.core_parts import NOON, OUT

OPENED = 1000.0


def outage(channel):
    return Outage(
        evidence=Evidence(
            origin=Origin.of(OUT, CHANNEL_DOWN),
            trigger=Trigger.CHANNEL_DOWN,
            chain=(),
            channel=channel,
            answers={},
            queued=None,
        ),
        steps_omitted=0,
        failures=3,
        rate=None,
        opened_at=NOON,
        opened_secs=OPENED,
        is_channel=True,
    )


def test__it_fails_again__kinds_add_up_and_what_got_through_is_the_latest():
    known = outage(ChannelFacts(("app", "error"), 1))
    known.learns(ChannelFacts(("error", "bot"), 7), has_failed=True)
    assert known.evidence.channel == ChannelFacts(("app", "error", "bot"), 7)


def test__it_works_again__what_gets_through_then_says_nothing_of_the_outage():
    known = outage(ChannelFacts(("app",), 1))
    known.learns(ChannelFacts((), 7), has_failed=False)
    assert known.evidence.channel == ChannelFacts(("app",), 1)


@pytest.mark.parametrize(
    ("facts", "has_gone"),
    [
        (ChannelFacts((), 0, True, OPENED), True),
        (ChannelFacts((), 0, True, OPENED - 1), False),
        (ChannelFacts((), 0, False, OPENED - 1), True),
        (ChannelFacts((), 0, True, None), False),
    ],
)
def test__client_goes_in_the_outage__and_may_be_back__the_incident_knows(facts, has_gone):
    known = outage(ChannelFacts(("app",), 0, True))
    known.learns(facts, has_failed=False)
    assert known.evidence.channel.is_connected is not has_gone


def test__output_of_which_nothing_was_known__stays_so():
    known = outage(None)
    known.learns(ChannelFacts((), 0, False, OPENED), has_failed=True)
    assert known.evidence.channel is None
