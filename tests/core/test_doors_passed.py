"""A message that passes the doors of a pipeline: each once, and nobody has to look at it again."""

import pytest

from pipecat_circuit_breaker._core.causality import Causality
from tests.core.core_parts import MAX_TEXT, WINDOW
from tests.support.core import Frame, Processor

A = Processor("A")


@pytest.fixture
def links():
    return Causality(window_secs=WINDOW, max_text=MAX_TEXT)


def test__passes__a_known_frame__each_door_once(links):
    frame = Frame()
    links.born(frame, A, None, at=0.0, text="message")

    assert [links.passes(frame, door) for door in (1, 2, 4)] == [True] * 3
    assert not links.passes(frame, 2)


def test__passes__frame_without_a_link_or_another_at_its_address__does_not(links):
    frame = Frame()
    assert not links.passes(frame, 1)
    links.carry(frame, None)
    assert not links.passes(frame, 1)


def test__passes__comes_anew_through_a_queue__does_not(links):
    frame = Frame()
    link = links.born(frame, A, None, at=0.0, text="message")
    links.carry(frame, link, arrives=True)

    assert not links.passes(frame, 1)
    assert links.arrives(frame)
    assert links.passes(frame, 1)
