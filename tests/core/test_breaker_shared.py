"""What a bot makes of what others know: it opens at its own first failure, and never without one."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.news import Change
from pipecat_circuit_breaker._core.origin import CHANNEL_DOWN, Origin
from pipecat_circuit_breaker.incident import Ending, Trigger
from pipecat_circuit_breaker.testing import Clock
from tests.core.core_parts import (
    CHANNEL_COOLDOWN,
    CLOSED,
    COOLDOWN,
    MAX_ERRORS,
    OPEN,
    OUT,
    TTS,
    WINDOW,
    Bench,
)

WAIT = 20.0
E = Origin.of(TTS, "E")


@dataclass
class Fleet:
    """What other bots know, and what they are told."""

    out: dict[Origin, float] = field(default_factory=dict)
    asked: list[Origin] = field(default_factory=list)
    told: list[tuple[Origin, bool]] = field(default_factory=list)

    def knows(self, origin):
        self.asked.append(origin)
        return self.out.get(origin)

    def failed(self, origin, *, votes):
        self.told.append((origin, votes))


@pytest.fixture
def fleet(bench):
    bench.breaker.shared = Fleet()
    return bench.breaker.shared


def test__known_outage__first_error__opens_and_goes_on_once(bench, fleet):
    fleet.out[E] = WAIT

    _, verdict = bench.error()

    assert verdict.passes and verdict.remark.startswith("circuit open, the fleet knows")
    assert bench.errors(3) == [False] * 3
    (incident,) = bench.told()
    assert (incident.trigger, incident.failures) == (Trigger.FLEET, 1)
    assert incident.probe_in_secs == WAIT
    assert "Other bots of the fleet" in incident.advice.text


def test__known_outage__of_another_kind_or_processor__changes_nothing(bench, fleet):
    fleet.out[Origin.of(TTS, "F")] = fleet.out[Origin.of(OUT, "E")] = WAIT
    assert bench.errors(MAX_ERRORS - 1) == [True] * (MAX_ERRORS - 1)
    assert bench.state() is CLOSED


def test__nothing_fails__nobody_is_asked(bench, fleet):
    fleet.out[Origin.of(OUT, CHANNEL_DOWN)] = WAIT
    assert bench.sends(20, ok=True) == [True] * 20
    assert fleet.asked == [] and fleet.told == []


def test__own_evidence__votes_at_the_opening_and_at_each_failure_after_it(bench, fleet):
    bench.errors(MAX_ERRORS - 1)
    assert fleet.told == [(E, False)] * (MAX_ERRORS - 1)
    fleet.told.clear()
    bench.errors(3)
    assert fleet.told == [(E, True)] * 3


def test__opened_by_the_fleet__is_told_and_does_not_vote(bench, fleet):
    fleet.out[E] = WAIT
    bench.errors(3)
    assert fleet.told == [(E, False)] * 3


def test__opened_by_the_fleet_and_closed__own_evidence_votes_again(bench, fleet):
    fleet.out[E] = WAIT
    bench.error()
    del fleet.out[E]
    bench.breaker.over_in_fleet([E])
    fleet.told.clear()
    bench.errors(MAX_ERRORS)
    assert fleet.told == [(E, False)] * (MAX_ERRORS - 1) + [(E, True)]


def test__opened_by_the_fleet__is_no_reason_to_give_up__a_failed_probe_is(clock):
    bench = Bench(clock, gives_up=lambda openings, secs: True)
    fleet = bench.breaker.shared = Fleet({E: COOLDOWN})
    bench.error()
    assert [news.gives_up for news in bench.take()] == [False]
    bench.clock.advance(COOLDOWN)
    bench.error()
    assert [news.gives_up for news in bench.take()] == [False, True]
    assert fleet.told == [(E, False)] * 2


@pytest.mark.parametrize("by_fleet", [True, False])
def test__known_outage__cooldown_over__no_error_goes_on_as_a_probe(bench, fleet, by_fleet):
    if by_fleet:
        fleet.out[E] = COOLDOWN
    bench.errors(MAX_ERRORS)
    fleet.out[E] = WAIT
    bench.take()
    bench.clock.advance(COOLDOWN)

    assert bench.errors(2) == [False] * 2, "one bot of all looks whether it is over"
    assert [news.change for news in bench.take()] == [Change.PROBED, Change.REOPENED]


def test__fleet_no_longer_known__cooldown_over__the_bot_probes_by_itself(bench, fleet):
    fleet.out[E] = COOLDOWN
    bench.error()
    del fleet.out[E]
    bench.clock.advance(COOLDOWN)
    _, verdict = bench.error()
    assert verdict.passes and verdict.remark.startswith("circuit probed")


def test__fleet_no_longer_known__own_probe_fails__own_evidence_votes(bench, fleet):
    fleet.out[E] = COOLDOWN
    bench.error()
    bench.clock.advance(COOLDOWN)
    bench.errors(2)
    assert fleet.told == [(E, False)] * 3, "as long as the fleet knows, it is no evidence"
    del fleet.out[E]
    bench.clock.advance(2 * COOLDOWN)
    bench.errors(3)
    assert [votes for _, votes in fleet.told] == [False] * 5 + [True]


def test__over_in_the_fleet__closes_at_once(bench, fleet):
    fleet.out[E] = WAIT
    bench.error()
    bench.take()
    del fleet.out[E]

    bench.breaker.over_in_fleet([E])

    assert bench.state() is CLOSED
    assert [incident.ending for incident in bench.told()] == [Ending.RECOVERED]
    assert bench.errors(MAX_ERRORS - 1) == [True] * (MAX_ERRORS - 1)


def test__over_in_the_fleet_again_and_again__once_in_a_window_before_its_cooldown(bench, fleet):
    heard = 0
    fleet.out[E] = 60.0
    for _ in range(100):
        heard += sum(bench.errors(3))
        bench.breaker.over_in_fleet([E])
        bench.clock.advance(WINDOW / 50)
    assert heard == 3, "at the start, after the first closing, and a window later"


def test__opened_by_hand__the_fleet_does_not_close_it(bench, fleet):
    bench.breaker.open(E)
    bench.breaker.over_in_fleet([E])
    assert bench.state() is OPEN


def test__disabled__asks_and_tells_nobody(bench, fleet):
    fleet.out[E] = WAIT
    bench.breaker.mode = Mode.DISABLED
    bench.errors(5)
    assert fleet.asked == [] and fleet.told == []


#
# Channels
#

DOWN = Origin.of(OUT, CHANNEL_DOWN)


def send(bench, *, ok, shared=True, kind="app"):
    delivery = bench.begin(kind)
    if delivery is None:
        return None
    delivery.is_shared = shared
    if ok:
        delivery.succeeded()
    else:
        delivery.failed()
    return ok


def test__channel_known_to_be_down__first_failure__opens_with_its_own_short_cooldown(bench, fleet):
    fleet.out[DOWN] = WAIT

    assert send(bench, ok=False) is False
    assert send(bench, ok=True) is None
    (incident,) = bench.told()
    assert (incident.trigger, incident.probe_in_secs) == (Trigger.FLEET, CHANNEL_COOLDOWN)

    bench.clock.advance(CHANNEL_COOLDOWN)
    assert send(bench, ok=True) is True, "its own probe, whatever the fleet says"
    assert bench.channel_state() is CLOSED


def test__channel_known_to_be_down__message_that_is_no_concern_of_the_fleet__fails_alone(
    bench, fleet
):
    fleet.out[DOWN] = WAIT
    assert send(bench, ok=False, shared=False) is False
    assert send(bench, ok=True) is True
    assert fleet.told == []


def test__channel_known_to_be_down__it_has_delivered_before__is_no_reason_to_open(bench, fleet):
    fleet.out[DOWN] = WAIT
    send(bench, ok=True)
    assert send(bench, ok=False) is False
    assert send(bench, ok=True) is True


def test__channel_known_to_be_down__message_of_another_kind__is_still_tried(bench, fleet):
    fleet.out[DOWN] = WAIT
    send(bench, ok=False)
    assert send(bench, ok=True, kind="other") is True
    assert bench.channel_state() is CLOSED


def test__channel_opened_as_the_fleet_knew__its_failure_is_no_evidence_of_its_own(bench, fleet):
    fleet.out[DOWN] = WAIT
    send(bench, ok=False)
    assert fleet.told == [(DOWN, False)]


def test__over_in_fleet__one_of_them_has_no_circuit_here__the_others_close(bench, fleet):
    bench.errors(MAX_ERRORS)
    assert bench.state() is OPEN
    bench.breaker.over_in_fleet([Origin.of(TTS, "never failed"), E])
    assert bench.state() is CLOSED
    assert [each.ending for each in bench.told() if each.ending] == [Ending.RECOVERED]


def test__channel_down_by_own_evidence__votes(bench, fleet):
    for _ in range(MAX_ERRORS):
        send(bench, ok=False)
    assert fleet.told == [(DOWN, True)]


#
# Whatever a store says
#


class Hostile:
    """Says whatever is drawn, whenever it is asked."""

    def __init__(self, data):
        self.data = data

    def knows(self, origin):
        return self.data.draw(st.none() | st.floats(1.0, 60.0))

    def failed(self, origin, *, votes):
        pass


steps = st.lists(
    st.tuples(st.sampled_from(["error", "message", "over"]), st.floats(0.0, 30.0)),
    max_size=60,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(steps, st.data())
def test__hostile_store__channel_that_works__loses_no_message(steps, data):
    bench = Bench(Clock())
    bench.breaker.shared = Hostile(data)
    for step, secs in steps:
        match step:
            case "error":
                bench.error()
                bench.error("SendError", OUT)
            case "message":
                assert send(bench, ok=True) is True
            case "over":
                bench.breaker.over_in_fleet([E, DOWN, Origin.of(OUT, "SendError")])
        bench.clock.advance(secs)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.booleans(), max_size=200), st.data())
def test__hostile_store__what_feeds_itself__ends(overs, data):
    clock = Clock()
    bench = Bench(clock, cooldown=lambda openings: 60.0)
    bench.breaker.shared = Hostile(data)
    cause, heard = None, 0
    for over in overs:
        link, verdict = bench.error(cause=cause)
        heard += verdict.passes
        cause = bench.message(link)
        if over:
            bench.breaker.over_in_fleet([E])
    assert heard <= 2 * MAX_ERRORS, "no time passes, so at most one closing is believed"
