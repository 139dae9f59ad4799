"""What is known of a channel, and of the output that it belongs to."""

import pytest

from pipecat_circuit_breaker._core.advice import ChannelFacts
from pipecat_circuit_breaker._core.channel import Channel, Output
from tests.core.core_parts import OUT, guarded_for


@pytest.fixture
def channel():
    return Channel("ann", most_kinds=3)


@pytest.fixture
def output():
    return Output(OUT.id, max_errors=12, most_kinds=3, window_secs=10.0, most=3)


def test__new_channel__nothing_was_sent__nothing_is_known_against_it(channel):
    assert channel.destination == "ann"
    assert (channel.guarded, channel.kinds, channel.successes) == (
        None,
        set(),
        0,
    )
    assert not channel.has_failed
    assert not channel.has_delivered


def test__tries__nothing_has_failed__is_not_asked(channel):
    assert not channel.tries("app")


def test__tries__one_kind_fails__another_kind_may_still_get_through(channel):
    for _ in range(10):
        channel.failed("bad")
    assert channel.has_failed
    assert channel.tries("good")
    assert not channel.tries("bad")


def test__tries__few_kinds_fail__each_that_has_not_may_still_get_through(channel):
    channel.failed("app")
    channel.failed("error")
    assert channel.tries("other")
    assert not channel.tries("app")
    assert not channel.tries("error")


def test__tries__as_many_kinds_fail_as_speak_against_the_channel__none(channel):
    for kind in ("app", "error", "chat", "app"):
        channel.failed(kind)
    assert not channel.tries("other")
    assert not channel.tries("app")


def test__failed__kinds_without_end__few_are_kept(channel):
    for n in range(100):
        channel.failed(str(n))
    assert len(channel.kinds) == 3


def test__tries__a_success_between__the_row_begins_anew(channel):
    channel.failed("app")
    channel.delivered()
    channel.failed("error")
    assert channel.tries("app")
    assert not channel.tries("error")


def test__delivered__notes_how_many_and_ends_the_failures(channel):
    channel.failed("app")
    channel.delivered()
    channel.delivered()
    assert channel.has_delivered
    assert not channel.has_failed
    assert channel.kinds == set()
    assert channel.successes == 2


def test__failed__after_a_success__it_has_delivered_all_the_same(channel):
    channel.delivered()
    channel.failed("app")
    assert channel.has_delivered


def test__new_output__nobody_knows_who_is_there__and_it_has_not_ended(output):
    assert output.id == OUT.id
    assert output.is_connected is None
    assert output.has_ended is False
    assert output.is_reachable
    assert output.unreached == 0
    assert output.whole.destination is None


def test__new_output__nothing_was_sent__its_facts_say_nothing(output):
    assert output.is_watched is False
    assert output.facts == ChannelFacts((), 0, None)


def test__new_output__nobody_has_been_missed(output):
    assert (output.absence.since, output.absence.messages, output.absence.is_told) == (
        None,
        0,
        False,
    )


@pytest.mark.parametrize(
    "is_connected",
    [True, False, None],
)
def test__facts__whether_somebody_is_connected__is_what_was_said(output, is_connected):
    output.is_watched, output.is_connected = True, is_connected
    assert output.facts.is_connected is is_connected


@pytest.mark.parametrize(
    ("is_connected", "has_ended", "is_reachable"),
    [
        (True, False, True),
        (None, False, True),
        (True, True, False),
        (None, True, False),
        (False, False, False),
        (False, True, False),
    ],
)
def test__reachable__nobody_has_gone_and_it_has_not_ended__is_both(
    output, is_connected, has_ended, is_reachable
):
    output.is_connected, output.has_ended = is_connected, has_ended
    assert output.is_reachable is is_reachable


def test__whole__failures_of_all_destinations__counts_so_many_within_the_window(output):
    assert [output.whole_failures.add(0.0) for _ in range(12)] == [False] * 11 + [True]
    assert output.whole_failures.count(9.999) == 12
    assert output.whole_failures.count(10.0) == 0


def test__channel__of_a_destination__is_the_same_each_time(output):
    assert output.channel("ann") is output.channel("ann")
    assert output.channel("ann") is not output.channel("bob")
    assert output.channel("ann").destination == "ann"
    assert output.channel(None) is output.channel(None)
    assert output.channel(None).destination is None
    assert output.channel(None) is not output.whole


def test__channels__as_many_as_are_kept__none_goes(output):
    ann, bob = output.channel("ann"), output.channel("bob")
    assert output.channel("ann") is ann
    assert output.channel("bob") is bob


def test__channels__more_than_are_kept__the_one_longest_without_news_goes(output):
    ann, bob, cyd = output.channel("ann"), output.channel("bob"), output.channel("cyd")
    output.channel("ann")
    output.channel("dan")
    assert output.channel("ann") is ann
    assert output.channel("cyd") is cyd
    assert output.channel("bob") is not bob


def test__channels__more_destinations_than_are_kept__the_one_to_all_stays_while_it_is_used(output):
    everybody = output.channel(None)
    for n in range(10):
        output.channel(str(n))
        assert output.channel(None) is everybody


def test__failing_kinds__are_told_with_the_latest_last(output):
    for kind in ("a", "b", "c", "a"):
        output.failed(kind)
    assert output.facts.failing_kinds == ("b", "c", "a")


def test__failing_kinds__one_gets_through__it_fails_no_longer(output):
    output.failed("a")
    output.failed("b")
    output.delivered("a")
    output.delivered("never failed")
    assert output.facts.failing_kinds == ("b",)


def test__failing_kinds__without_end__the_latest_64_are_kept(output):
    for n in range(65):
        output.failed(str(n))
    assert output.facts.failing_kinds == tuple(str(n) for n in range(1, 65))


def test__delivered__while_a_kind_fails__is_counted_from_its_first_failure(output):
    output.delivered("good")
    output.failed("bad")
    output.delivered("good")
    output.failed("bad")
    output.delivered("other")
    assert output.facts == ChannelFacts(("bad",), 2)


def test__delivered__the_failing_kind_arrives__is_one_of_what_got_through(output):
    output.failed("bad")
    output.failed("worse")
    output.delivered("bad")
    assert output.facts == ChannelFacts(("worse",), 1)


def test__delivered__the_kind_that_failed_first_arrives__is_counted_from_the_next(output):
    output.failed("bad")
    output.delivered("good")
    output.failed("worse")
    output.delivered("good")
    output.delivered("good")
    output.delivered("bad")
    assert output.facts == ChannelFacts(("worse",), 3)


def test__delivered__nothing_fails__is_counted_from_no_failure(output):
    output.delivered("good")
    assert output.facts == ChannelFacts((), 0)


def test__delivered__is_taken_back__is_as_if_it_had_never_been(output):
    output.failed("bad")
    output.delivered("good")
    success = output.delivered("bad")
    output.take_back("bad", success)
    output.failed("bad")
    assert output.facts == ChannelFacts(("bad",), 1)


def test__delivered__is_taken_back_where_nothing_failed_before__is_not_counted(output):
    output.failed("bad")
    success = output.delivered("good")
    output.take_back("good", success)
    output.failed("good")
    assert output.facts == ChannelFacts(("bad", "good"), 0)


def test__delivered__is_taken_back_after_it_failed_again__it_has_failed_all_along(output):
    output.failed("bad")
    success = output.delivered("bad")
    output.failed("bad")
    output.delivered("good")
    output.take_back("bad", success)
    assert output.facts == ChannelFacts(("bad",), 1)


def test__delivered__is_taken_back__what_began_to_fail_after_it_is_counted_as_before(output):
    success = output.delivered("bad")
    output.failed("worse")
    output.delivered("good")
    output.take_back("bad", success)
    assert output.facts == ChannelFacts(("worse",), 1)


def test__delivered__nothing_fails_any_more__the_next_failure_begins_anew(output):
    output.failed("bad")
    output.delivered("good")
    output.delivered("bad")
    output.failed("bad")
    assert output.facts == ChannelFacts(("bad",), 0)


def test__let_go__a_circuit_is_no_more__its_channels_begin_anew(output, clock):
    gone, other = guarded_for(clock, "gone"), guarded_for(clock, "other")
    output.whole.guarded = output.channel("ann").guarded = gone
    output.channel(None).guarded = gone
    output.channel("bob").guarded = other
    output.let_go(gone)
    assert output.whole.guarded is None
    assert output.channel("ann").guarded is None
    assert output.channel(None).guarded is None
    assert output.channel("bob").guarded is other


def test__unreached__counts_those_that_were_tried_and_never_reached(output):
    output.channel("ann").failed("app")
    assert output.unreached == 1
    output.channel("bob").failed("app")
    assert output.unreached == 2
    output.channel("ann").delivered()
    output.channel("ann").failed("app")
    assert output.unreached == 1
