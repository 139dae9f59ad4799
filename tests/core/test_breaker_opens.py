"""When a circuit opens: the six rules, each exactly where it begins."""

import pytest

from pipecat_circuit_breaker._core.breaker import EVERYONE
from pipecat_circuit_breaker._core.origin import ANY_KIND, CHANNEL_DOWN
from pipecat_circuit_breaker.incident import Trigger
from tests.core.core_parts import CLOSED, COOLDOWN, MAX_CIRCUITS, OPEN, OUT, TTS, WINDOW, Bench
from tests.support.core import Processor


def rotating(bench, n, *, secs=0.0, first=0, processor=TTS):
    """Errors that never say the same twice; the verdict of each."""
    verdicts = []
    for i in range(first, first + n):
        verdicts.append(bench.error(f"F{i}", processor)[1])
        bench.clock.advance(secs)
    return verdicts


#
# 1. Errors of one origin
#


def test__errors__as_many_of_one_origin_as_are_too_many__open_exactly_there(bench):
    verdicts = [bench.error()[1] for _ in range(2)]
    assert bench.state() is CLOSED
    verdicts.append(bench.error()[1])
    assert bench.state() is OPEN
    assert [(v.passes, v.remark) for v in verdicts] == [
        (True, ""),
        (True, ""),
        (True, "circuit open, 3 related errors: more like it are held back until it recovers"),
    ]
    assert [(i.trigger, i.failures) for i in bench.told()] == [(Trigger.ERRORS, 3)]


def test__errors__the_first_is_exactly_as_old_as_the_window__does_not_open(bench):
    bench.errors(2)
    bench.clock.advance(WINDOW)
    bench.error()
    assert bench.state() is CLOSED
    bench.clock.advance(WINDOW - 0.001)
    bench.errors(2)
    assert bench.state() is OPEN


def test__errors__of_several_kinds_or_places__do_not_add_up(bench):
    for _ in range(2):
        bench.error("E")
        bench.error("F")
        bench.error("E", where="module:function")
        bench.error("E", OUT)
    assert [c.state for c in bench.breaker.circuits] == [CLOSED] * 4
    assert [c.failures for c in bench.breaker.circuits] == [2] * 4


def test__errors__one_error_is_too_many__first_opens(clock):
    bench = Bench(clock, max_errors=1)
    assert bench.error()[1].remark.startswith("circuit open, 1 related errors")


def test__errors__one_fails_at_what_it_handled__is_known_of_the_circuit(bench):
    # That is what its quiet is measured with, see test_breaker_recovers_errors.py.
    bench.errors(3, handled="AudioFrame")
    bench.clock.advance(COOLDOWN)
    bench.breaker.used(TTS.id, "TextFrame")
    bench.clock.advance(WINDOW)
    assert bench.state() is OPEN


#
# 2. Too many of one processor
#


def test__too_many__four_times_as_many_of_whatever_origin__open_exactly_there(bench):
    verdicts = rotating(bench, 12)
    assert [v.passes for v in verdicts] == [True] * 12
    assert [v.remark for v in verdicts[:11]] == [""] * 11
    assert verdicts[11].remark == (
        "circuit open, too many errors of one processor: more like it are held back until it "
        "recovers"
    )
    assert bench.state(ANY_KIND) is OPEN
    (incident,) = bench.told()
    assert incident.trigger is Trigger.TOO_MANY
    assert [step.text for step in incident.chain] == ["boom"]
    assert not bench.error("F99")[1].passes


def test__too_many__one_less__stays_closed(bench):
    rotating(bench, 11)
    assert bench.state(ANY_KIND) is None
    assert bench.told() == []


@pytest.mark.parametrize(("secs", "state"), [(WINDOW, None), (WINDOW - 0.001, OPEN)])
def test__too_many__the_first_of_them__counts_for_one_window(bench, secs, state):
    rotating(bench, 11)
    bench.clock.advance(secs)
    bench.error("G")
    assert bench.state(ANY_KIND) is state


def test__too_many__of_two_processors__do_not_add_up(bench):
    for n in range(11):
        bench.error(f"F{n}", TTS)
        bench.error(f"F{n}", OUT)
    assert bench.told() == []


def test__too_many__those_that_nobody_heard__are_not_counted(bench):
    bench.errors(3 + 20)
    bench.told()
    rotating(bench, 8)
    assert bench.told() == []
    rotating(bench, 3, first=8)
    assert [i.trigger for i in bench.told()] == [Trigger.TOO_MANY]


@pytest.mark.parametrize(("others", "state"), [(MAX_CIRCUITS - 1, OPEN), (MAX_CIRCUITS, None)])
def test__too_many__processors_without_end__the_latest_are_counted(bench, others, state):
    rotating(bench, 10)
    processors = [Processor(f"P{n}") for n in range(others)]
    bench.error("E", processors[0])
    rotating(bench, 1, first=10)
    for processor in processors:
        bench.error("E", processor)
    rotating(bench, 1, first=11)
    assert bench.state(ANY_KIND) is state


def test__too_many__peers_of_one_processor_that_share_its_id__are_counted_apart(bench):
    # Each process counts ids from one: a bus brings errors of another's processor.
    peer = Processor("TTS of another worker", TTS.id)
    rotating(bench, 11)
    bench.error("F11", peer)
    assert bench.told() == []


#
# 3. Depth
#


@pytest.mark.parametrize("secs", [0.0, 3600.0])
def test__depth__failures_in_one_lineage_however_slowly__open_the_first_ones_circuit(bench, secs):
    link, verdict = bench.chain(2, secs=secs, kinds=("E", "F", "G"))
    assert not verdict.remark
    assert bench.told() == []
    link, verdict = bench.error("G", cause=bench.message(link))
    assert verdict.passes
    assert verdict.remark == (
        "circuit open, errors and messages set each other off: more like it are held back until "
        "it recovers"
    )
    assert [bench.state(kind) for kind in "EFG"] == [OPEN, CLOSED, CLOSED]
    (incident,) = bench.told()
    assert (incident.trigger, incident.origin.kind) == (Trigger.RECURSION, "E")
    assert [step.hop for step in incident.chain] == [0, 1, 2, 3, 4]


def test__depth__whatever_carried_it_and_whoever_failed__counts(bench):
    first, _ = bench.error("E", TTS)
    second, _ = bench.error("F", OUT, first)
    bench.error("G", Processor("LLM"), second)
    assert bench.state("E", TTS) is OPEN


def test__depth__chain_of_successes__is_no_loop_however_long(bench):
    link = bench.message()
    for _ in range(1000):
        link = bench.message(link)
        assert bench.may_come(link)
        delivery = bench.begin(link=link)
        delivery.succeeded()
    bench.error(cause=link)
    assert bench.told() == []


def test__depth__error_that_is_reported_again__is_one_failure(bench):
    first, _ = bench.error("E")
    second, _ = bench.error("F", OUT, first, repeats=True)
    bench.error("G", OUT, bench.message(second))
    assert bench.told() == []


def test__depth__branches_of_one_chain__do_not_add_up(bench):
    root, _ = bench.error("E")
    for n in range(5):
        bench.error(f"F{n}", cause=bench.message(root))
    assert bench.state("E") is CLOSED


#
# 4. A channel that is down
#


def test__channel__deliveries_in_a_row_fail__opens_exactly_there(bench):
    assert bench.sends(2, ok=False) == [False] * 2
    assert bench.channel_state() is CLOSED
    assert bench.sends(3, ok=False) == [False, None, None]
    assert bench.channel_state() is OPEN
    (incident,) = bench.told()
    assert (incident.trigger, incident.failures) == (Trigger.CHANNEL_DOWN, 3)
    assert incident.is_channel
    assert [step.text for step in incident.chain] == ["app"]


def test__channel__the_first_failure_is_exactly_as_old_as_the_window__stays_closed(bench):
    bench.sends(2, ok=False)
    bench.clock.advance(WINDOW)
    bench.send(ok=False)
    assert bench.channel_state() is CLOSED
    bench.clock.advance(WINDOW - 0.001)
    bench.sends(2, ok=False)
    assert bench.channel_state() is OPEN


def test__channel__a_success_in_between__ends_the_count(bench):
    for _ in range(10):
        bench.sends(2, ok=False)
        bench.send(ok=True)
    assert bench.channel_state() is CLOSED
    assert bench.told() == []


def test__channel__a_success_in_between_while_something_else_is_open__ends_the_count(bench):
    bench.errors(3)
    bench.sends(2, to="ann", ok=False)
    bench.send(to="ann", ok=True)
    bench.sends(2, to="ann", ok=False)
    assert bench.channel_state("ann") is CLOSED


def test__channel__deliveries_that_only_report_an_error__count_once_each(bench):
    for _ in range(2):
        _, verdict = bench.send_with_error()
        assert verdict.passes
    assert [c.failures for c in bench.breaker.circuits] == [2, 2]
    _, verdict = bench.send_with_error()
    assert verdict.remark.startswith("circuit open, 3 related errors")
    assert bench.channel_state() is OPEN
    assert bench.state("SendError", OUT) is OPEN
    assert len(bench.told()) == 1


def test__channel__error_takes_a_success_back__it_is_as_if_there_had_been_none(bench):
    bench.sends(2, ok=False)
    delivery = bench.begin()
    delivery.succeeded()
    delivery.failed()
    assert bench.channel_state() is OPEN


def test__channel__error_comes_after_another_success__takes_nothing_back(bench):
    bench.sends(2, ok=False)
    delivery = bench.begin()
    delivery.succeeded()
    bench.send(ok=True)
    delivery.failed()
    bench.sends(2, ok=False)
    assert bench.channel_state() is CLOSED
    bench.send(ok=False)
    assert bench.channel_state() is OPEN


def test__channel__outcome_is_reported_again__counts_once(bench):
    delivery = bench.begin()
    for _ in range(5):
        delivery.failed()
    delivery.succeeded()
    assert delivery.has_failed
    assert bench.breaker.circuits[0].failures == 1
    other = bench.begin()
    assert not other.has_failed
    other.succeeded()
    other.succeeded()
    assert not other.has_failed
    assert bench.output.channel(None).successes == 1


def test__channel__cut_off__decides_nothing(bench):
    bench.sends(2, ok=False)
    bench.begin()
    assert bench.channel_state() is CLOSED
    bench.send(ok=False)
    assert bench.channel_state() is OPEN


def test__channel__errors_that_no_delivery_made__say_nothing_of_it(bench):
    bench.errors(3, "AudioError", OUT)
    assert bench.send(ok=True) is True
    assert bench.channel_state() is None


def test__channel__of_one_destination__leaves_the_others_and_other_outputs(bench):
    other = bench.breaker.output(Processor("Other"))
    assert bench.sends(4, to="ann", ok=False) == [False] * 3 + [None]
    assert bench.send(to="bob", ok=True) is True
    assert bench.send(ok=True) is True
    assert bench.send(output=other, ok=True) is True
    assert bench.channel_state("ann") is OPEN


def test__output__four_times_as_many_fail_whomever_they_were_for__is_down_as_a_whole(bench):
    bench.sends(2, to="ann", ok=False)
    for n in range(4):
        bench.send(to=str(n), ok=False)
        bench.send("other", to=str(n), ok=False)
    assert bench.send("other", to="x", ok=False) is False
    assert bench.channel_state(EVERYONE) is None
    bench.told()
    assert bench.send("app", to="y", ok=False) is False
    assert bench.channel_state(EVERYONE) is OPEN
    assert bench.told() == [], "it is part of the outage that the first channel began"
    assert bench.send(to="z", ok=True) is None
    assert bench.send(ok=True) is True, "the one to all is a channel of its own"


def test__output__any_destination_was_reached__the_count_begins_anew(bench):
    for n in range(11):
        bench.send(to=str(n), ok=False)
    bench.send(to="somebody", ok=True)
    bench.send(to="x", ok=False)
    assert bench.channel_state(EVERYONE) is None


def test__output__failures_within_the_window__count(bench):
    for n in range(11):
        bench.send(to=str(n), ok=False)
    bench.clock.advance(WINDOW)
    bench.send(to="x", ok=False)
    assert bench.channel_state(EVERYONE) is None


def test__output__so_many_destinations_are_gone__a_new_one_is_so_at_its_first_failure(bench):
    for name in ("ann", "bob"):
        bench.sends(3, to=name, ok=False)
    bench.clock.advance(WINDOW)
    bench.send(to="cyd", ok=False)
    assert bench.channel_state("cyd") is CLOSED
    bench.sends(2, to="cyd", ok=False)
    bench.send(ok=False)
    assert bench.channel_state() is CLOSED, "it is no destination"
    bench.send(to="dan", ok=False)
    assert bench.channel_state("dan") is OPEN


def test__output__so_many_destinations_are_gone__one_that_was_reached_before_is_not(bench):
    bench.send(to="dan", ok=True)
    for name in ("ann", "bob", "cyd"):
        bench.sends(3, to=name, ok=False)
    bench.clock.advance(WINDOW)
    bench.send(to="dan", ok=False)
    assert bench.channel_state("dan") is CLOSED


def test__output__is_down_as_a_whole_before_any_channel__its_incident_says_why(bench):
    for n in range(12):
        bench.send(to=str(n), ok=True)
    for n in range(12):
        bench.send(f"kind {n}", to=str(n), ok=False)
    (incident,) = bench.told()
    assert (incident.origin.kind, incident.origin.destination) == (CHANNEL_DOWN, EVERYONE)
    assert incident.trigger is Trigger.CHANNEL_DOWN
    assert [step.text for step in incident.chain] == ["kind 11"]


def test__output__success_is_taken_back_after_another__the_count_goes_from_that_one(bench):
    for n in range(11):
        bench.send(to=str(n), ok=False)
    delivery = bench.begin(to="ann")
    delivery.succeeded()
    bench.send(to="bob", ok=True)
    delivery.failed()
    bench.send(to="0", ok=False)
    assert bench.channel_state(EVERYONE) is None


def test__output__errors_take_all_successes_back__it_is_down_as_if_there_had_been_none(bench):
    for n in range(12):
        delivery = bench.begin(f"kind {n % 3}", to=str(n))
        delivery.succeeded()
        delivery.failed()
    assert bench.channel_state(EVERYONE) is OPEN


#
# Nobody is connected: a state, and no failure
#


@pytest.mark.parametrize("why", ["nobody is connected", "the call is over"])
def test__nobody_connected__message_is_not_sent_and_counted_and_no_incident_begins(bench, why):
    if why == "nobody is connected":
        bench.output.is_connected = False
    else:
        bench.output.has_ended = True
    assert bench.sends(5, ok=False) == [None] * 5
    assert bench.told() == []
    assert bench.breaker.circuits == ()
    (totals,) = bench.breaker.totals
    assert (totals.origin, totals.unsent_messages) == ("Processor: nobody connected", 5)
    assert (totals.held_messages, totals.failures) == (0, 0)


def leave(bench, why):
    if why == "nobody is connected":
        bench.output.is_connected = False
    else:
        bench.output.has_ended = True


LEAVES = pytest.mark.parametrize("why", ["nobody is connected", "the call is over"])


def test__nobody_connected__what_is_not_sent__is_counted_since_the_first_of_it(bench):
    bench.output.is_connected = False
    bench.clock.advance(3.0)
    bench.send(ok=True)
    bench.clock.advance(2.0)
    bench.sends(2, ok=True)
    absence = bench.output.absence
    assert (absence.since, absence.messages, absence.is_told) == (1003.0, 3, False)


def test__connected__nothing_is_missed(bench):
    bench.sends(3, ok=True)
    bench.sends(4, ok=False)
    assert (bench.output.absence.since, bench.output.absence.messages) == (None, 0)


@LEAVES
def test__delivery__fails_after_its_client_has_gone__is_no_failure(bench, why):
    deliveries = [bench.begin() for _ in range(5)]
    leave(bench, why)
    for delivery in deliveries:
        delivery.failed()
    assert bench.breaker.circuits == ()
    assert bench.told() == []
    assert bench.breaker.totals == ()
    assert bench.output.facts.failing_kinds == ()


@LEAVES
def test__delivery__its_success_is_taken_back_after_its_client_has_gone__is_no_failure(bench, why):
    deliveries = [bench.begin() for _ in range(5)]
    for delivery in deliveries:
        delivery.succeeded()
    leave(bench, why)
    for delivery in deliveries:
        delivery.failed()
    assert bench.breaker.circuits == ()
    assert bench.told() == []


@LEAVES
@pytest.mark.parametrize("has_outcome", [True, False])
def test__error__of_a_delivery_whose_client_has_gone__passes_and_is_no_failure(
    bench, why, has_outcome
):
    deliveries = [bench.begin() for _ in range(5)]
    leave(bench, why)
    for delivery in deliveries:
        more = {"by_delivery": True} if has_outcome else {"delivery": delivery}
        _, verdict = bench.error("SendError", OUT, delivery.link, **more)
        assert (verdict.passes, verdict.remark) == (True, "")
    assert bench.breaker.circuits == ()
    assert bench.told() == []
    assert bench.breaker.totals == ()


def test__error__of_an_output_that_no_delivery_made__counts_whoever_is_there(bench):
    bench.output.has_ended = True
    bench.errors(3, "AudioError", OUT)
    assert bench.state("AudioError", OUT) is OPEN


def test__error__of_a_delivery_of_another_output__counts(bench):
    other = Processor("Other")
    bench.breaker.output(other).is_connected = False
    for _ in range(3):
        bench.send_with_error()
    assert bench.state("SendError", OUT) is OPEN


def test__error__by_delivery_of_a_processor_that_is_no_output__counts(bench):
    bench.output.is_connected = False
    bench.errors(3, by_delivery=True)
    assert bench.state() is OPEN


def test__outage__its_client_goes__the_errors_of_what_was_on_its_way_pass(bench):
    # The incident's own counts stay as they were: these are no part of it.
    for _ in range(3):
        bench.send_with_error("bad")
    delivery = bench.begin("good")
    bench.output.is_connected = False
    assert bench.error("SendError", OUT, delivery.link, delivery=delivery)[1].passes
    (incident,) = bench.breaker.open_incidents
    assert incident.held_errors == 0


def test__connected_again__message_is_sent(bench):
    bench.output.is_connected = False
    bench.send(ok=True)
    bench.output.is_connected = True
    assert bench.send(ok=True) is True
