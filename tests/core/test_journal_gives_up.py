"""Giving up: known until it closes, and told once."""

from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.news import Change
from tests.core.core_parts import COOLDOWN, HALF_OPEN, OPEN, OUT


def test__gave_up__where_nothing_is_open__is_not_told(pages):
    guarded = pages.circuit()
    pages.journal.gave_up(guarded)
    assert not pages.journal.has_news
    assert not pages.journal.has_given_up(guarded)


def test__gave_up__is_known_until_it_closes(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    assert not pages.journal.has_given_up(guarded)
    pages.journal.gave_up(guarded)
    assert pages.journal.has_given_up(guarded)
    pages.close(guarded)
    assert not pages.journal.has_given_up(guarded)


def test__gave_up__at_the_opening__is_one_piece_of_news_with_it(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.journal.gave_up(guarded)
    (news,) = pages.take()
    assert (news.change, news.gives_up, news.incident.gave_up) == (Change.OPENED, True, True)


def test__gave_up__at_a_reopening__is_one_piece_of_news_with_it(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    pages.settle(guarded, success=False)
    pages.journal.gave_up(guarded)
    assert [(n.change, n.gives_up) for n in pages.take()] == [
        (Change.OPENED, False),
        (Change.PROBED, False),
        (Change.REOPENED, True),
    ]


def test__gave_up__the_opening_has_been_told__is_news_of_its_own(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.take()
    pages.journal.gave_up(guarded)
    (news,) = pages.take()
    assert (news.change, news.gives_up) == (Change.GAVE_UP, True)
    assert (news.incident.state, news.incident.gave_up) == (OPEN, True)


def test__gave_up__a_probe_was_the_latest__is_news_of_its_own(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    pages.journal.gave_up(guarded)
    assert [(n.change, n.gives_up, n.incident.state) for n in pages.take()] == [
        (Change.OPENED, False, OPEN),
        (Change.PROBED, False, HALF_OPEN),
        (Change.GAVE_UP, True, OPEN),
    ]


def test__gave_up__another_incident_was_the_latest__is_news_of_its_own(pages):
    one, other = pages.circuit("E"), pages.circuit("F")
    pages.open(one)
    pages.open(other)
    pages.journal.gave_up(one)
    assert [(n.incident.origin.kind, n.change, n.gives_up) for n in pages.take()] == [
        ("E", Change.OPENED, False),
        ("F", Change.OPENED, False),
        ("E", Change.GAVE_UP, True),
    ]


def test__gave_up__all_copies_since__say_so_and_only_one_gives_up(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.take()
    pages.journal.gave_up(guarded)
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    pages.settle(guarded, success=False)
    assert pages.journal.open_incidents(Mode.GUARD)[0].gave_up
    pages.close(guarded)
    news = pages.take()
    assert [n.incident.gave_up for n in news] == [True] * 4
    assert [n.gives_up for n in news] == [True, False, False, False]


def test__gave_up__another_circuit_joins_before_it_is_told__it_is_still_told(pages):
    channel, errors = pages.channel(), pages.circuit("SendError", OUT)
    pages.open(channel)
    pages.journal.gave_up(channel)
    pages.open(errors)
    assert [(n.change, n.gives_up) for n in pages.take()] == [(Change.OPENED, True)]


def test__gave_up__another_circuit_of_it_reopens_before_it_is_told__it_is_still_told(pages):
    ann, bob = pages.channel("ann"), pages.channel("bob")
    pages.open(ann)
    pages.open(bob)
    pages.clock.advance(COOLDOWN)
    for channel in (ann, bob):
        pages.probe(channel)
    pages.take()
    pages.settle(ann, success=False)
    pages.journal.gave_up(ann)
    pages.settle(bob, success=False)
    assert [(n.change, n.gives_up) for n in pages.take()] == [(Change.REOPENED, True)]


def test__secs_open__count_from_the_first_opening(pages):
    guarded = pages.circuit()
    assert pages.journal.secs_open(guarded) == 0.0
    pages.open(guarded)
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    pages.settle(guarded, success=False)
    pages.clock.advance(2.0)
    assert pages.journal.secs_open(guarded) == 7.0
