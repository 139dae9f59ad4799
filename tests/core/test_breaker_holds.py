"""What is held back, and what is not: nothing that gets through is ever held back."""

import pytest

from pipecat_circuit_breaker._core.advice import ChannelFacts
from pipecat_circuit_breaker._core.breaker import EVERYONE
from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.origin import ANY_KIND, CHANNEL_DOWN, Origin
from pipecat_circuit_breaker.incident import AdviceKind, Ending, Trigger
from tests.core.core_parts import (
    CLOSED,
    COOLDOWN,
    MAX_CIRCUITS,
    OPEN,
    OUT,
    RTVI,
    TTS,
    WINDOW,
    Bench,
)
from tests.support.core import Processor


@pytest.fixture
def loop(bench):
    """TTS fails at each `SpeakFrame` that somebody answers its errors with; its last error."""
    cause = None
    for _ in range(3):
        link, _ = bench.error("E", TTS, cause, handled="SpeakFrame")
        cause = bench.message(link)
    assert bench.state() is OPEN
    return link


#
# Errors
#


def test__errors__of_an_open_circuit__are_held_back_and_counted(bench):
    assert bench.errors(6) == [True] * 3 + [False] * 3
    (circuit,) = bench.breaker.circuits
    assert (circuit.held_errors, circuit.held_messages) == (3, 0)
    (totals,) = bench.breaker.totals
    assert (totals.failures, totals.held_errors, totals.openings) == (3, 3, 1)


def test__errors__held_back__say_nothing(bench):
    bench.errors(3)
    _, verdict = bench.error()
    assert (verdict.passes, verdict.remark) == (False, "")


def test__errors__of_other_origins__pass(bench):
    bench.errors(3)
    assert bench.errors(2, "F") == [True] * 2
    assert bench.errors(2, "E", OUT) == [True] * 2
    assert bench.errors(2, "E", where="module:function") == [True] * 2


def test__errors__of_any_kind_while_its_processor_fails_in_too_many_ways__are_held_back(bench):
    for n in range(12):
        bench.error(f"F{n}")
    assert bench.state(ANY_KIND) is OPEN
    assert bench.errors(2, "never heard of") == [False] * 2
    assert bench.errors(1, "E", OUT) == [True]
    held = {c.origin.kind: c.held_errors for c in bench.breaker.circuits}
    assert held[ANY_KIND] == 2


def test__errors__deep_in_a_lineage_that_an_open_circuit_began__are_held_back(bench):
    link, _ = bench.chain(3, kinds=("E", "F", "G"))
    assert bench.state("E") is OPEN
    _, verdict = bench.error("H", OUT, bench.message(link))
    assert not verdict.passes
    assert bench.state("H", OUT) is CLOSED


def test__errors__not_so_deep_in_such_a_lineage__pass(bench):
    first, _ = bench.error("E")
    bench.errors(2, "E")
    second, verdict = bench.error("F", OUT, bench.message(first))
    assert verdict.passes
    _, verdict = bench.error("G", OUT, bench.message(second))
    assert not verdict.passes


def test__error__held_by_its_own_circuit_too__is_counted_once(bench):
    link, _ = bench.chain(4, kinds=("E", "E", "E", "F"))
    bench.told()
    assert sum(t.held_errors for t in bench.breaker.totals) == 1
    for _ in range(12):
        bench.error("F", TTS, link)
    before = sum(t.held_errors for t in bench.breaker.totals)
    bench.error("E", TTS, link)
    assert sum(t.held_errors for t in bench.breaker.totals) == before + 1


def test__error__one_circuit_is_disabled__another_holds_it(bench):
    link, _ = bench.chain(3, kinds=("E", "F", "G"))
    for n in range(12):
        bench.error(f"F{n}", OUT)
    bench.breaker.set_mode(Mode.DISABLED, Origin.of(OUT, ANY_KIND))
    assert bench.errors(1, "H", OUT) == [True]
    assert bench.errors(1, "H", OUT, cause=link) == [False]


def test__error__one_circuit_has_just_closed_by_quiet__another_holds_it(bench):
    bench.errors(3, handled="SpeakFrame")
    for n in range(12):
        bench.error(f"F{n}", handled="TextFrame")
    bench.clock.advance(COOLDOWN)
    bench.breaker.used(TTS.id, "SpeakFrame")
    bench.breaker.open(Origin.of(TTS, ANY_KIND))
    bench.clock.advance(WINDOW)
    bench.told()
    assert bench.errors(1) == [False]
    assert [(i.origin.kind, i.ending) for i in bench.told()] == [("E", Ending.QUIET)]
    assert bench.state() is CLOSED


def test__error__deep_in_a_lineage_whose_circuit_is_open_and_disabled__says_nothing(bench):
    link, _ = bench.chain(3, kinds=("E", "F", "G"))
    bench.breaker.set_mode(Mode.DISABLED, Origin.of(TTS, "E"))
    _, verdict = bench.error("H", OUT, link)
    assert (verdict.passes, verdict.remark) == (True, "")


def test__error__pushed_again_by_its_origin__is_judged_anew(bench):
    # A verdict belongs to one push, and each push has a link of its own.
    bench.errors(3)
    link, verdict = bench.error()
    assert not verdict.passes
    bench.clock.advance(COOLDOWN)
    assert bench.breaker.judge_error(link).passes


#
# Messages that recur
#


def test__message__that_the_opening_error_sets_off__passes_where_no_failure_recurs(bench):
    bench.errors(2, handled="SpeakFrame")
    last, _ = bench.error(handled="SpeakFrame")
    notice = bench.message(last)
    assert notice.failed_at == {TTS.id: 1}
    assert bench.may_come(notice, handled="SpeakFrame")


def test__message__its_lineage_has_passed_failures_of_that_processor_twice__is_held_back(
    bench, loop
):
    again = bench.message(loop, text="apology")
    assert not bench.may_come(again, kind="apology", handled="SpeakFrame")
    assert bench.breaker.circuits[0].held_messages == 1
    (incident,) = bench.breaker.open_incidents
    assert incident.held_kinds == {"apology": 1}


def test__message__its_lineage_has_passed_exactly_two__is_held_back(bench):
    link, _ = bench.error("E", TTS, handled="SpeakFrame")
    second, _ = bench.error("E", TTS, bench.message(link), handled="SpeakFrame")
    bench.error("E", TTS)
    assert bench.state() is OPEN
    assert not bench.may_come(bench.message(second), handled="SpeakFrame")
    assert bench.may_come(bench.message(link), handled="SpeakFrame")


def test__message__comes_to_another_processor__passes(bench, loop):
    assert bench.may_come(bench.message(loop), OUT, handled="SpeakFrame")
    bench.errors(3, "E", OUT, handled="SpeakFrame")
    assert bench.may_come(bench.message(loop), OUT, handled="SpeakFrame")


def test__message__of_a_class_at_which_the_processor_does_not_fail__passes(bench, loop):
    assert bench.may_come(bench.message(loop), handled="TextFrame")


def test__message__has_no_such_lineage__passes(bench, loop):
    assert bench.may_come(bench.message(), handled="SpeakFrame")


def test__message__another_origin_of_that_processor_is_open__passes(bench):
    link, _ = bench.error("E", TTS, handled="SpeakFrame")
    link, _ = bench.error("E", TTS, bench.message(link), handled="SpeakFrame")
    bench.errors(3, "F", handled="SpeakFrame")
    assert bench.state("F") is OPEN
    assert bench.may_come(bench.message(link), handled="SpeakFrame")


def test__message__the_processor_fails_in_too_many_ways__is_held_back(bench):
    link, _ = bench.error("E", TTS, handled="SpeakFrame")
    link, _ = bench.error("F", TTS, bench.message(link), handled="SpeakFrame")
    for n in range(10):
        bench.error(f"F{n}", TTS, handled="SpeakFrame")
    assert bench.state(ANY_KIND) is OPEN
    assert not bench.may_come(bench.message(link), handled="SpeakFrame")


def test__message__the_circuit_is_closed_again__passes(bench, loop):
    bench.breaker.close(None)
    assert bench.may_come(bench.message(loop), handled="SpeakFrame")


def test__message__the_circuit_has_just_closed_by_quiet__passes(bench, loop):
    bench.clock.advance(COOLDOWN)
    bench.breaker.used(TTS.id, "SpeakFrame")
    bench.clock.advance(WINDOW)
    assert bench.may_come(bench.message(loop), handled="SpeakFrame")
    assert bench.told()[-1].state is CLOSED


@pytest.mark.parametrize("why", ["another class", "another origin", "closed", "disabled"])
def test__message__one_circuit_of_its_processor_says_nothing__another_holds_it(bench, why):
    first, _ = bench.error("E", TTS, handled="SpeakFrame")
    if why == "another class":
        bench.errors(3, "F", handled="TextFrame")
    elif why == "another origin":
        bench.errors(3, "F", handled="SpeakFrame")
    else:
        first, _ = bench.error("F", TTS, first, handled="SpeakFrame")
        bench.errors(2, "F", handled="SpeakFrame")
    assert bench.state("F") is OPEN
    if why == "closed":
        bench.clock.advance(COOLDOWN)
        bench.breaker.used(TTS.id, "SpeakFrame")
        bench.clock.advance(WINDOW)
    if why == "disabled":
        bench.breaker.set_mode(Mode.DISABLED, Origin.of(TTS, "F"))
    last = bench.link(TTS, first, origin=Origin.of(TTS, "E"))
    for _ in range(3):
        bench.error("E", TTS, handled="SpeakFrame")
    assert not bench.may_come(bench.message(last), handled="SpeakFrame")


def test__message__comes_to_an_output__recurs_there_as_well(bench):
    cause = None
    for _ in range(3):
        link, _ = bench.error("SendError", OUT, cause, handled="Message")
        cause = bench.message(link)
    assert bench.begin("chat", link=bench.message(link)) is None
    assert bench.breaker.open_incidents[0].held_kinds == {"chat": 1}
    assert bench.send(ok=True) is True


#
# Messages to a channel that is down
#


def test__channel_down__message__is_held_back_and_counted_by_kind(bench):
    bench.sends(2, "app", ok=False)
    bench.send("error", ok=False)
    assert [bench.send(kind, ok=True) for kind in ("app", "error", "app")] == [None] * 3
    (incident,) = bench.breaker.open_incidents
    assert incident.held_kinds == {"app": 2, "error": 1}
    (totals,) = bench.breaker.totals
    assert totals.held_messages == 3


def test__channel_down__another_circuit_of_its_output_is_disabled__is_held_back(bench):
    bench.breaker.open(Origin.of(OUT, "by hand"))
    bench.breaker.set_mode(Mode.DISABLED, Origin.of(OUT, "by hand"))
    bench.sends(2, "app", ok=False)
    bench.send("error", ok=False)
    assert bench.send(ok=True) is None


def test__channel_down__all_failures_were_of_one_kind__another_kind_is_still_tried(bench):
    bench.sends(3, "bad", ok=False)
    assert bench.send("bad", ok=False) is None
    assert bench.send("good", ok=True) is True
    assert bench.channel_state() is CLOSED


def test__channel_down__the_other_kind_fails_as_well__is_held_back_from_then_on(bench):
    bench.sends(3, "bad", ok=False)
    assert bench.sends(2, "good", ok=False) == [False, None]


def test__channel_down__three_kinds_have_failed__a_fourth_is_not_tried(bench):
    bench.sends(3, "bad", ok=False)
    assert [bench.send(kind, ok=False) for kind in ("good", "third")] == [False, False]
    assert bench.send("fourth", ok=True) is None


def test__channel_down__after_a_single_failure__another_kind_is_still_tried(clock):
    bench = Bench(clock, max_errors=1)
    bench.send("bad", ok=False)
    assert bench.channel_state() is OPEN
    assert bench.send("good", ok=True) is True
    assert bench.channel_state() is CLOSED


def test__channel__has_delivered_since__messages_of_a_failing_kind_are_not_held_back(bench):
    for _ in range(20):
        assert bench.send("bad", ok=False) is False
        assert bench.send("good", ok=True) is True


def test__output_down__its_failures_were_all_of_one_kind__another_kind_is_still_tried(bench):
    # Kinds can only release, for an output as for each of its channels.
    for n in range(12):
        bench.send("bad", to=str(n), ok=False)
    assert bench.channel_state(EVERYONE) is OPEN
    assert bench.send("bad", to="new", ok=True) is None
    assert bench.send("good", to="6", ok=True) is True


def test__output_down__by_several_kinds__every_destination_is_held_back(bench):
    for n in range(12):
        bench.send(f"kind {n % 3}", to=str(n), ok=False)
    assert bench.channel_state(EVERYONE) is OPEN
    assert bench.send("good", to="6", ok=True) is None
    held = {c.origin.destination: c.held_messages for c in bench.breaker.circuits}
    assert held[EVERYONE] == 1


def test__channel_down__to_all__stays_so_however_many_destinations_come(bench):
    bench.sends(2, "app", ok=False)
    bench.send("other", ok=False)
    for n in range(20):
        bench.send(to=str(n), ok=True)
        assert bench.send("app", ok=True) is None


def test__channel_down__its_destination_had_to_make_room__is_still_down_when_it_comes_back(bench):
    bench.sends(2, "app", to="ann", ok=False)
    bench.send("other", to="ann", ok=False)
    for n in range(4 * MAX_CIRCUITS):
        bench.send(to=str(n), ok=True)
    assert bench.send("app", to="ann", ok=True) is None
    assert bench.output.channel("ann").guarded.circuit.generation == 1


def test__channel__something_else_is_down__its_own_failures_count_on(bench):
    bench.sends(2, "app", to="ann", ok=False)
    bench.send("other", to="ann", ok=False)
    bench.send(to="bob", ok=False)
    bench.send(to="bob", ok=True)
    assert bench.sends(2, to="bob", ok=False) == [False, False]
    assert bench.channel_state("bob") is CLOSED


@pytest.mark.parametrize("mode", [Mode.GUARD, Mode.OBSERVE])
def test__two_channels_of_one_message__are_counted_one_each(bench, mode):
    for to in ("ann", "bob"):
        bench.sends(2, "app", to=to, ok=False)
        bench.send("other", to=to, ok=False)
    bench.breaker.set_mode(mode, None)
    link = bench.message()
    is_observed = mode is Mode.OBSERVE
    for to in ("ann", "bob"):
        assert (bench.begin(to=to, link=link) is not None) is is_observed
    (incident,) = bench.breaker.open_incidents
    assert (incident.held_messages, incident.observed_messages) == (2, 2 * is_observed)


def test__errors_of_an_output__hold_back_its_errors_and_no_message(bench):
    # The failing ones fail, and only their errors are held.
    bench.errors(3, "AudioError", OUT)
    assert bench.sends(10, ok=True) == [True] * 10
    assert bench.errors(1, "AudioError", OUT) == [False]


def test__failing_sends_of_one_kind__their_errors_are_held_and_the_others_arrive(bench):
    heard = []
    for _ in range(5):
        _, verdict = bench.send_with_error("bad")
        heard.append(verdict.passes)
        assert bench.send("good", ok=True) is True
    assert heard == [True] * 3 + [False] * 2


#
# What an incident knows of
#


def test__incident__of_a_channel__says_which_kinds_fail(bench):
    for kind in ("one", "other", "one"):
        bench.send_with_error(kind, failure="ValueError")
    (incident,) = bench.told()
    assert incident.trigger is Trigger.ERRORS
    assert incident.is_channel
    assert "(ValueError: boom): messages of 2 kinds (other, one); nothing" in incident.advice.text


def test__incident__kind_arrives_again__is_none_of_those_that_fail(bench):
    bench.send("gone", ok=False)
    bench.send("gone", ok=True)
    for kind in ("one", "other", "one"):
        bench.send_with_error(kind, failure="ValueError")
    assert "2 kinds (other, one)" in bench.told()[0].advice.text


def test__incident__of_errors_while_others_get_through__says_how_many_did(bench):
    bench.send("good", ok=True)
    for _ in range(3):
        bench.send_with_error("bad", failure="ConnectionError")
        bench.send("good", ok=True)
    (incident,) = bench.told()
    assert incident.advice.kind is AdviceKind.CHANNEL_FAILS
    assert "one kind (bad); 2 others got through meanwhile." in incident.advice.text


def test__incident__errors_take_successes_back__says_that_nothing_got_through(bench):
    # A transport that returns first and reports its failure then has sent nothing.
    for kind in ("one", "other", "one"):
        link = bench.message(text=kind)
        delivery = bench.begin(kind, link=link)
        delivery.succeeded()
        bench.error("ConnectionError", OUT, link, delivery=delivery)
    (incident,) = bench.told()
    assert incident.advice.kind is AdviceKind.CLIENT_GONE
    assert "2 kinds (other, one); nothing got through meanwhile." in incident.advice.text


def test__incident__an_error_takes_a_success_back__others_got_through_all_the_same(bench):
    bench.send("bad", ok=False)
    bench.sends(2, "good", ok=True)
    delivery = bench.begin("bad")
    delivery.succeeded()
    delivery.failed()
    assert bench.output.facts == ChannelFacts(("bad",), 2)


def test__incident__of_a_channel_whose_client_is_connected__is_no_guess_at_who_left(bench):
    bench.output.is_connected = True
    for kind in ("one", "other", "one"):
        bench.send_with_error(kind, failure="ConnectionError")
    (incident,) = bench.told()
    assert incident.advice.kind is AdviceKind.CHANNEL_FAILS
    assert "A client is connected." in incident.advice.text


def test__incident__of_a_processor_that_is_no_output__knows_of_no_channel(bench):
    bench.sends(2, "chat", ok=False)
    bench.errors(3, "ConnectionError")
    (incident,) = bench.told()
    assert not incident.is_channel
    assert incident.advice.kind is AdviceKind.PROCESSOR_FAILS


def test__incident__somebody_answers_the_errors_with_what_fails__is_named(clock):
    bench = Bench(clock)
    for n in range(3):
        error, _ = bench.send_with_error(("notice", "other")[n % 2])
        bench.breaker.note_answer(error, "Notifier", "notice")
    assert bench.told()[0].advice.processor == "Notifier"


def test__incident__somebody_queued_a_frame_on_account_of_a_later_error_of_the_chain__is_named(
    bench,
):
    first, _ = bench.error("E")
    second, _ = bench.error("F", OUT, bench.message(first))
    bench.breaker.note_queued(second, "TTSSpeakFrame")
    bench.error("G", RTVI, bench.message(second))
    assert "it queues TTSSpeakFrame" in bench.told()[0].advice.text


def test__outputs__each__is_known_by_its_own_name(bench):
    other = bench.breaker.output(Processor("Other"))
    bench.sends(3, output=other, ok=False)
    (incident,) = bench.told()
    assert (incident.origin.processor, incident.origin.kind) == ("Other", CHANNEL_DOWN)
    assert bench.breaker.has_open_at(other.id)
    assert not bench.breaker.has_open_at(OUT.id)
    assert bench.breaker.output(OUT) is bench.output
    assert incident.origin != Origin.of(OUT, CHANNEL_DOWN)
