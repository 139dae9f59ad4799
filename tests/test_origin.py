"""What makes two errors the same failure."""

import random
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecat_circuit_breaker.origin import Origin, kind_of_failure, one_line, template


def test__template__random_ids_times_and_addresses__are_one_kind():
    rng = random.Random(7)
    kinds = {
        template(
            f"request {uuid.UUID(int=rng.getrandbits(128))} to 10.{rng.randrange(256)}.0.7:"
            f"{rng.randrange(65536)} failed at 2026-08-0{rng.randrange(1, 9)}T12:"
            f"{rng.randrange(10, 60)}:07Z in <Session object at 0x{rng.getrandbits(48):012x}>, "
            f"[fe80::{rng.getrandbits(16):x}%eth0], user_{rng.randrange(10**9)}, "
            f"token {rng.getrandbits(64):x}, took {rng.random() * 100:.3f}s"
        )
        for _ in range(1000)
    }
    assert len(kinds) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("connection refused", "permission denied"),
        ("quota exceeded for model a", "quota exceeded for model b"),
    ],
)
def test__template__different_words__are_different_kinds(one, other):
    assert template(one) != template(other)


def test__kind__exception__wins_over_category_and_text():
    assert kind_of_failure(ValueError("x"), "server", "boom") == "ValueError"


def test__kind__exception_of_a_package__says_which():
    class Odd(Exception):
        pass

    assert kind_of_failure(Odd(), None, "").startswith(f"{__name__}.")


def test__kind__category__wins_over_text():
    assert kind_of_failure(None, "server", "boom") == "server"


def test__kind__text_alone__is_its_template():
    assert kind_of_failure(None, None, "boom 17") == "boom #"


def test__origin__processors_with_equal_names__differ():
    assert Origin(1, "TTS#0", "TTS", "E") != Origin(2, "TTS#0", "TTS", "E")


def test__origin__says_who_how_and_to_whom():
    class Sender:
        id, name = 7, "Sender\n#0" + "x" * 200

    origin = Origin.of(Sender(), "E\nF", "ann")
    assert (origin.processor_id, origin.processor_class) == (7, "Sender")
    assert origin.processor.startswith("Sender #0xxx")
    assert len(origin.processor) == 100
    assert str(Origin(1, "TTS#0", "TTS", "E")) == "TTS#0: E"
    assert str(Origin(1, "Out#0", "Out", "E", "ann")) == "Out#0: E to ann"
    assert origin.kind == "E F"


@pytest.mark.parametrize(
    ("text", "line"),
    [("x" * 16, "x" * 16), ("x" * 17, "x" * 15 + "…"), (17, "17"), (Ellipsis, "Ellipsis")],
)
def test__one_line__keeps_what_fits(text, line):
    assert one_line(text, 16) == line


def test__one_line__of_what_cannot_be_shown__is_its_type():
    assert one_line(Unprintable(), 16) == "<Unprintable>"


def test__origin__shared_name__has_no_counters():
    assert Origin(1, "TTS#17", "TTS", "E").shared_name == "TTS: E"


class Unprintable:
    def __str__(self):
        raise RuntimeError("no")


@given(st.one_of(st.text(), st.integers(), st.none(), st.just(Unprintable())), st.integers(16, 300))
def test__one_line__anything__is_one_bounded_printable_line(text, limit):
    line = one_line(text, limit)
    assert len(line) <= limit
    assert line.isprintable()
    line.encode("utf-8")


def test__one_line__lone_surrogates_newlines_and_megabytes__are_harmless():
    assert one_line("a\ud800\nb" + "x" * 10_000_000, 16) == "a? b" + "x" * 11 + "…"


@given(st.text())
def test__template__anything__is_bounded(text):
    assert len(template(text)) <= 300
