"""Links: what is known of a frame, and of the chain that led to it."""

import copy
import gc

import pytest

from pipecat_circuit_breaker._core.causality import Causality, descend
from pipecat_circuit_breaker._core.origin import Origin
from tests.core.core_parts import MAX_TEXT, WINDOW, Notice
from tests.support.core import Frame, Processor

A, B, C = Processor("A"), Processor("B"), Processor("C")


class Births:
    """Frames that are alive for the length of a test."""

    def __init__(self):
        self.links = Causality(window_secs=WINDOW, max_text=MAX_TEXT)
        self.frames = []

    def message(self, cause=None, processor=C, text="t"):
        return self.birth(Frame(), processor, cause, text=text)

    def error(self, cause=None, processor=A, kind="E", **more):
        return self.birth(Frame(), processor, cause, origin=Origin.of(processor, kind), **more)

    def birth(self, frame, processor=C, cause=None, *, text="t", at=0.0, **more):
        self.frames.append(frame)
        return self.links.born(frame, processor, cause, at=at, text=text, **more)


@pytest.fixture
def births():
    return Births()


#
# One link
#


def test__born__message__says_who_pushed_what_and_when(births):
    link = births.birth(Notice(), A, at=7.0, text="one\ntwo", handled="Frame")
    assert (link.frame, link.processor, link.text, link.at) == ("Notice", "A", "one two", 7.0)
    assert (link.hop, link.cause, link.root) == (0, None, None)
    assert (link.origin, link.first, link.origins) == (None, None, frozenset())
    assert (link.failures, link.failed_at, link.echoes) == (0, {}, 0)
    assert (link.handled, link.category) == ("Frame", None)
    assert (link.doors, link.passes) == (0, None)
    assert link.told_by == frozenset()
    assert link.undelivered_by == link.queued_at == frozenset()
    assert link.pipeline is births.links
    assert not link.is_error


def test__born__error__is_the_first_failure_of_its_chain(births):
    link = births.error(category="server", handled="Frame")
    origin = Origin.of(A, "E")
    assert (link.origin, link.first, link.origins) == (origin, origin, {origin})
    assert (link.failures, link.failed_at) == (1, {A.id: 1})
    assert (link.handled, link.category) == ("Frame", "server")
    assert link.is_error


def test__born__long_text__is_cut(births):
    assert births.message(text="x" * 100).text == "x" * (MAX_TEXT - 1) + "…"


#
# Failures on the way
#


def test__message_set_off_by_an_error__inherits_its_failures(births):
    error = births.error()
    message = births.message(error)
    assert (message.failures, message.first, message.origins) == (1, error.origin, error.origins)
    assert message.failed_at == {A.id: 1}
    assert not message.is_error


def test__message_set_off_by_a_message__has_no_failures_however_long_the_chain(births):
    link = births.message()
    for _ in range(100):
        link = births.message(link)
    assert (link.hop, link.failures, link.first) == (100, 0, None)


def test__error_set_off_by_a_message__is_the_first_failure(births):
    root = births.message()
    error = births.error(root)
    assert (error.hop, error.cause, error.root) == (1, root, root)
    assert (error.failures, error.first) == (1, error.origin)


def test__chain_of_failures__counts_them_and_not_the_frames_between(births):
    first = births.error()
    second = births.error(births.message(births.message(first)), B, "F")
    third = births.error(births.message(second))
    assert (second.failures, third.failures) == (2, 3)
    assert (third.hop, third.root) == (5, first)
    assert third.first == first.origin
    assert third.origins == {first.origin, second.origin}
    assert second.failed_at == {A.id: 1, B.id: 1}
    assert third.failed_at == {A.id: 2, B.id: 1}
    assert first.failed_at == {A.id: 1}, "what led to it is not changed by what follows"


def test__error_that_only_reports_again__is_no_failure_more(births):
    first = births.error()
    again = births.error(first, B, "F", repeats=True)
    assert (again.failures, again.failed_at, again.origins) == (1, {A.id: 1}, first.origins)
    assert again.first == first.origin
    assert again.origin == Origin.of(B, "F")


def test__those_who_reported_again__are_known_further_down(births):
    first = births.error()
    first.told_by = frozenset({B.id})
    assert births.message(first).told_by == {B.id}


def test__error_that_reports_again_what_was_no_failure__is_the_first(births):
    again = births.error(births.message(), repeats=True)
    assert (again.failures, again.first) == (1, again.origin)


def test__chain_of_many_origins__keeps_the_first_sixteen(births):
    link = births.error(kind="0")
    for n in range(1, 100):
        link = births.error(link, kind=str(n))
    assert link.origins == {Origin.of(A, str(n)) for n in range(16)}
    assert link.first == Origin.of(A, "0")
    assert (link.failures, link.failed_at) == (100, {A.id: 100})


def test__chain_of_many_processors__counts_the_first_sixteen_of_them(births):
    processors = [Processor(f"P{n}") for n in range(20)]
    link = None
    for _ in range(2):
        for processor in processors:
            link = births.error(link, processor)
    assert link.failures == 40
    assert link.failed_at == {processor.id: 2 for processor in processors[:16]}


def test__echoes__are_inherited(births):
    echo = births.message()
    echo.echoes = 2
    reply = births.message(echo)
    assert reply.echoes == 2
    descend(one := births.message(), reply)
    assert (one.echoes, one.cause, one.root, one.hop) == (2, reply, echo, 2)


def test__descend__error_behind_an_error__is_one_failure_more(births):
    first, second = births.error(), births.error(kind="F")
    descend(second, first)
    assert (second.failures, second.first) == (2, first.origin)


#
# Chains are bounded
#


def test__chain__of_a_root__is_itself(births):
    root = births.message()
    assert root.chain() == (root,)


def test__chain__short__is_all_of_it_with_the_root_first(births):
    links = [births.message()]
    for _ in range(100):
        links.append(births.message(links[-1]))
    assert links[-1].chain() == tuple(links)


def test__chain__longer_than_is_kept__is_its_root_and_the_latest(births):
    links = [births.message()]
    for _ in range(127):
        links.append(births.message(links[-1]))
    assert links[127].chain() == tuple(links)
    links.append(births.message(links[-1]))
    assert links[128].chain() == (links[0], *links[66:])
    links.append(births.message(links[-1]))
    assert links[129].chain() == (links[0], *links[67:])
    assert links[129].hop == 129


def test__chain__however_long__keeps_no_more_than_so_many_alive(births):
    link = births.message()
    for _ in range(1000):
        link = births.message(link)
        births.frames.clear()
        kept, at = 0, link
        while at is not None:
            kept, at = kept + 1, at.cause
        assert kept <= 128


#
# Frames
#


def test__link_of__frame_without_one__is_none(births):
    assert births.links.link_of(Frame()) is None
    assert births.links.peer_of(Frame()) is None
    assert not births.links.arrives(Frame())


def test__link_of__copy_with_the_same_id__is_none(births):
    frame = Frame(id=7)
    link = births.birth(frame)
    twin = copy.copy(frame)
    assert twin == frame
    assert births.links.link_of(frame) is link
    assert births.links.link_of(twin) is None


def test__link_of__frame_pushed_again__is_of_the_latest_push(births):
    frame = Frame()
    births.birth(frame)
    second = births.birth(frame)
    assert births.links.link_of(frame) is second
    assert len(births.links) == 1


def test__frames_that_are_gone__leave_nothing_behind(births):
    for _ in range(1000):
        births.message()
        births.frames.clear()
    gc.collect()
    assert len(births.links) == 0


def test__frame_at_the_address_of_one_that_is_gone__has_no_link(births):
    addresses = set()
    for _ in range(100):
        frame = Frame()
        assert births.links.link_of(frame) is None
        births.links.born(frame, A, None, at=0.0, text="t")
        addresses.add(id(frame))
        del frame
    assert len(addresses) < 100, "no address was used again"


def test__carried__untracked_frame__carries_its_cause(births):
    cause, frame = births.message(), Frame()
    births.links.carry(frame, cause)
    assert births.links.link_of(frame) is cause
    assert births.links.peer_of(frame) is None
    assert not births.links.arrives(frame)


def test__carried__on_nobodys_account__has_no_link(births):
    frame = Frame()
    births.birth(frame)
    births.links.carry(frame, None)
    assert births.links.link_of(frame) is None


def test__carried__arrives_anew__is_said_once(births):
    cause, frame = births.message(), Frame()
    births.links.carry(frame, cause, arrives=True, peer="another worker")
    assert births.links.peer_of(frame) == "another worker"
    assert births.links.arrives(frame) is True
    assert births.links.arrives(frame) is False
    assert births.links.link_of(frame) is cause


def test__carried__pushed_again_meanwhile__no_longer_arrives(births):
    cause, frame = births.message(), Frame()
    births.links.carry(frame, cause, arrives=True, peer="another worker")
    births.birth(frame)
    assert births.links.arrives(frame) is False
    assert births.links.peer_of(frame) == "another worker"


def test__carried__again_without_a_peer__has_none(births):
    frame = Frame()
    births.links.carry(frame, None, arrives=True, peer="another worker")
    births.links.carry(frame, None)
    assert births.links.peer_of(frame) is None
    assert births.links.arrives(frame) is False


def test__carried__copy_of_the_frame__carries_nothing(births):
    frame = Frame(id=7)
    births.links.carry(frame, births.message(), arrives=True, peer="another worker")
    twin = copy.copy(frame)
    assert births.links.peer_of(twin) is None
    assert not births.links.arrives(twin)
    assert births.links.link_of(twin) is None
