"""The registry of circuits: by origin, by processor, and which of them makes room."""

import pytest

from pipecat_circuit_breaker._core.circuits import Circuits
from pipecat_circuit_breaker._core.origin import ANY_KIND, CHANNEL_DOWN, LOG_ECHO, Origin
from tests.core.core_parts import COOLDOWN, OUT, TTS, guarded_for


@pytest.fixture
def circuits():
    return Circuits(3)


@pytest.fixture
def fill(circuits, clock):
    def fill(*kinds, processor=TTS):
        added = [guarded_for(clock, kind, processor) for kind in kinds]
        for guarded in added:
            circuits.add(guarded)
        return added

    return fill


def trip(circuits, *guarded):
    for each in guarded:
        each.circuit.trip()
        circuits.moved(each)


def close(circuits, *guarded):
    for each in guarded:
        each.circuit.close()
        circuits.moved(each)


def kinds(circuits):
    return [guarded.origin.kind for guarded in circuits]


def test__new__nothing_was_added__is_empty(circuits):
    assert [*circuits] == []
    assert not circuits.any_open
    assert circuits.get(Origin.of(TTS, "E")) is None
    assert circuits.touch(Origin.of(TTS, "E")) is None
    assert circuits.to_make_room() is None
    assert circuits.open_at(TTS.id) == {}


def test__get__known__is_the_one_of_that_origin(circuits, fill):
    one, other = fill("E", "F")
    assert circuits.get(Origin.of(TTS, "E")) is one
    assert circuits.get(Origin.of(TTS, "F")) is other
    assert circuits.get(Origin.of(OUT, "E")) is None


def test__get__known__is_no_news(circuits, fill):
    fill("E", "F")
    circuits.get(Origin.of(TTS, "E"))
    assert kinds(circuits) == ["E", "F"]


def test__touch__known__has_the_latest_news(circuits, fill):
    one, _ = fill("E", "F")
    assert circuits.touch(one.origin) is one
    assert kinds(circuits) == ["F", "E"]


def test__iteration__circuits_go_meanwhile__sees_those_that_there_were(circuits, fill):
    fill("E", "F")
    for guarded in circuits:
        circuits.remove(guarded)
    assert kinds(circuits) == []


def test__to_make_room__one_less_than_the_most__none_has_to_go(circuits, fill):
    fill("E", "F")
    assert circuits.to_make_room() is None


def test__to_make_room__full__is_the_one_longest_without_news(circuits, fill):
    one, other, _ = fill("E", "F", "G")
    assert circuits.to_make_room() is one
    circuits.touch(one.origin)
    assert circuits.to_make_room() is other


def test__to_make_room__closed_ones_go_before_older_open_ones(circuits, fill):
    one, other, third = fill("E", "F", "G")
    trip(circuits, one)
    assert circuits.to_make_room() is other
    trip(circuits, other)
    assert circuits.to_make_room() is third


def test__to_make_room__all_are_open__the_one_longest_without_news_goes(circuits, fill):
    one, other, third = fill("E", "F", "G")
    trip(circuits, third, other, one)
    assert circuits.to_make_room() is one
    circuits.touch(one.origin)
    assert circuits.to_make_room() is other


def test__to_make_room__closed_again__is_behind_those_that_were_closed_longer(circuits, fill):
    one, other, _ = fill("E", "F", "G")
    trip(circuits, one)
    close(circuits, one)
    assert circuits.to_make_room() is other


def test__remove__it_is_gone_and_there_is_room(circuits, fill):
    one, other, _ = fill("E", "F", "G")
    circuits.remove(one)
    assert circuits.get(one.origin) is None
    assert kinds(circuits) == ["F", "G"]
    assert circuits.to_make_room() is None
    fill("H")
    assert circuits.to_make_room() is other


def test__open_at__open_and_half_open_ones_of_that_processor_and_no_other(circuits, fill, clock):
    one, other = fill("E", "F")
    (elsewhere,) = fill("E", processor=OUT)
    trip(circuits, one, elsewhere)
    assert circuits.any_open
    assert circuits.open_at(TTS.id) == {one.origin: one}
    assert circuits.open_at(OUT.id) == {elsewhere.origin: elsewhere}
    clock.advance(COOLDOWN)
    one.circuit.ask(quiet_closes=True)
    circuits.moved(one)
    assert circuits.open_at(TTS.id) == {one.origin: one}
    trip(circuits, other)
    assert [*circuits.open_at(TTS.id)] == [one.origin, other.origin]


def test__open_at__closed_again__is_empty_and_nothing_stays_behind(circuits, fill):
    one, other = fill("E", "F")
    trip(circuits, one, other)
    close(circuits, one)
    assert circuits.any_open
    assert circuits.open_at(TTS.id) == {other.origin: other}
    close(circuits, other)
    assert not circuits.any_open
    assert circuits.open_at(TTS.id) == {}


def test__moved__closed_and_was_never_open__changes_nothing(circuits, fill):
    one, _ = fill("E", "F")
    circuits.moved(one)
    assert not circuits.any_open
    assert kinds(circuits) == ["E", "F"]


def test__guarded__kind__says_what_it_stands_for(clock):
    flags = {
        kind: (guarded.is_channel, guarded.is_any_kind)
        for kind in ("E", CHANNEL_DOWN, ANY_KIND, LOG_ECHO)
        if (guarded := guarded_for(clock, kind))
    }
    assert flags == {
        "E": (False, False),
        CHANNEL_DOWN: (True, False),
        ANY_KIND: (False, True),
        LOG_ECHO: (False, False),
    }


def test__guarded__new__is_by_delivery_until_a_failure_was_not(clock):
    guarded = guarded_for(clock)
    assert (guarded.mode, guarded.openings, guarded.fails_on) == (None, 0, set())
    assert guarded.by_delivery
    assert not guarded.works_again
    guarded.note_failure(None, by_delivery=True)
    assert guarded.by_delivery
    guarded.note_failure(None, by_delivery=False)
    guarded.note_failure(None, by_delivery=True)
    assert not guarded.by_delivery


def test__guarded__failure__notes_at_what_and_that_it_does_not_work(clock):
    guarded = guarded_for(clock)
    guarded.works_again = True
    guarded.note_failure("Audio", by_delivery=True)
    guarded.note_failure(None, by_delivery=True)
    assert not guarded.works_again
    assert guarded.fails_on == {"Audio"}


def test__guarded__failures_at_many_classes__are_bounded(clock):
    guarded = guarded_for(clock)
    for n in range(100):
        guarded.note_failure(f"Frame{n}", by_delivery=True)
    assert guarded.fails_on == {f"Frame{n}" for n in range(8)}


def test__guarded__forget__is_as_new(clock):
    guarded = guarded_for(clock)
    guarded.note_failure("Audio", by_delivery=False)
    guarded.works_again = True
    guarded.forget()
    assert guarded.fails_on == set()
    assert guarded.by_delivery
    assert not guarded.works_again
