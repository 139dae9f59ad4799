"""The latest failures, as far as they are not too old."""

import pytest

from pipecat_circuit_breaker._core.window import Window


@pytest.fixture
def window():
    return Window(3, 10.0)


def test__new__nothing_was_added__is_empty(window):
    assert (window.count(0.0), window.is_full, window.span_secs) == (0, False, 0.0)
    assert window.clear() == ()


def test__add__one_less_than_its_size__is_not_full(window):
    assert [window.add(1.0), window.add(2.0)] == [False, False]
    assert not window.is_full


def test__add__as_many_as_its_size__is_full(window):
    assert [window.add(t) for t in (1.0, 2.0, 4.0)] == [False, False, True]
    assert window.is_full
    assert window.span_secs == 3.0


def test__add__more_than_its_size__keeps_the_latest(window):
    assert [window.add(float(t)) for t in range(5)] == [False, False, True, True, True]
    assert window.clear() == (2.0, 3.0, 4.0)


def test__add__the_oldest_is_exactly_as_old_as_the_window__it_does_not_count(window):
    window.add(0.0)
    window.add(0.0)
    assert not window.add(10.0)
    assert window.count(10.0) == 1


def test__add__the_oldest_is_one_tick_younger__it_counts(window):
    window.add(0.0)
    window.add(0.0)
    assert window.add(9.999)


def test__count__an_hour_later__is_zero(window):
    window.add(0.0)
    window.add(5.0)
    assert window.count(10.0) == 1
    assert window.count(3600.0) == 0


def test__clear__of_some__returns_and_forgets_them(window):
    window.add(1.0)
    window.add(2.0)
    assert window.clear() == (1.0, 2.0)
    assert window.count(2.0) == 0


def test__restore__others_have_come_since__are_behind_what_was_forgotten(window):
    window.add(1.0)
    forgotten = window.clear()
    window.add(3.0)
    window.restore(forgotten)
    assert window.clear() == (1.0, 3.0)


def test__restore__more_than_its_size__keeps_the_latest(window):
    window.add(3.0)
    window.add(4.0)
    window.restore((1.0, 2.0))
    assert window.is_full
    assert window.clear() == (2.0, 3.0, 4.0)


def test__restore__what_is_too_old_by_now__does_not_count(window):
    window.restore((1.0, 2.0))
    assert not window.add(11.5)
    assert window.count(11.5) == 2
