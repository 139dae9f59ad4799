"""What is kept of the sound since the last transcription, and what makes room."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecat_circuit_breaker.failover.audio_ring import AudioRing, Mark

pytestmark = pytest.mark.releases

START, STOP = Mark.STARTED, Mark.STOPPED


def ring_of(*items, limit_secs=100.0):
    """Sound of 1 s for each number, marks for `<n` and `n>`."""
    ring = AudioRing(limit_secs)
    for item in items:
        if isinstance(item, str):
            ring.mark(item, START if item.startswith("<") else STOP)
        else:
            ring.add(item, 1.0)
    return ring


def kept(ring):
    return ring.after(0)[0]


def test__full__the_oldest_makes_room():
    assert kept(ring_of(1, 2, 3, 4, limit_secs=3.0)) == [2, 3, 4]


def test__beginning_made_room__the_mark_that_began_it_stays():
    ring = ring_of("<a", 1, 2, 3, 4, limit_secs=3.0)

    assert kept(ring) == ["<a", 2, 3, 4]
    assert ring.is_speaking


def test__end_made_room_too__no_mark_stays():
    assert kept(ring_of("<a", 1, "a>", 2, 3, limit_secs=1.0)) == [3]


def test__after__each_item_once_also_where_more_came():
    ring = ring_of(1, 2)
    first, position = ring.after(0)
    ring.add(3, 1.0)
    second, position = ring.after(position)

    assert (first, second) == ([1, 2], [3])
    assert ring.after(position)[0] == []


def test__cut__everything_was_answered():
    ring = ring_of(0, "<a", 1, "a>", 2)
    ring.cut()

    assert kept(ring) == []
    assert not ring.has_speech


def test__cut_in_mid_utterance__the_rest_still_has_its_beginning():
    ring = ring_of("<a", 1)
    ring.cut()
    ring.add(2, 1.0)

    assert kept(ring) == ["<a", 2]


def test__cut_while_the_next_is_spoken__that_one_stays_whole():
    ring = ring_of("<a", 1, "a>", 2, "<b", 3)
    ring.cut()

    assert kept(ring) == [2, "<b", 3]


def test__cut_utterance__the_first_that_is_over():
    ring = ring_of("<a", 1, "a>", 2, "<b", 3, "b>")
    ring.cut_utterance()

    assert kept(ring) == [2, "<b", 3, "b>"]


def test__cut_utterance_that_is_not_over__nothing_goes():
    ring = ring_of("<a", 1)
    ring.cut_utterance()

    assert kept(ring) == ["<a", 1]


def test__clear__only_that_the_user_is_speaking():
    ring = ring_of("<a", 1, "a>", "<b", 2)
    ring.clear()

    assert kept(ring) == ["<b"]
    assert ring.is_speaking
    assert ring.stops == 0


@given(st.lists(st.sampled_from(["sound", "start", "stop", "cut", "cut_utterance", "clear"])))
def test__whatever_comes__in_order_bounded_and_never_a_stop_without_a_start(steps):
    ring = AudioRing(3.0)
    speaks = False
    for n, step in enumerate(steps):
        if step == "sound":
            ring.add((n, "sound"), 1.0)
        elif step == "start" and not speaks:
            ring.mark((n, "start"), START)
            speaks = True
        elif step == "stop" and speaks:
            ring.mark((n, "stop"), STOP)
            speaks = False
        elif step in ("cut", "cut_utterance", "clear"):
            getattr(ring, step)()
        items = kept(ring)
        assert items == sorted(items)
        assert sum(kind == "sound" for _, kind in items) <= 3
        assert ring.is_speaking == speaks
        marks = [kind for _, kind in items if kind != "sound"]
        assert marks == ["start", "stop"] * (len(marks) // 2) + ["start"] * (len(marks) % 2)
        assert ring.stops == marks.count("stop")
