"""Texts from elsewhere are bounded, and comparable once what varies is out."""

import random
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecat_circuit_breaker._core.text import one_line, template


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
    ("text", "what_is_left"),
    [
        ("connection refused", "connection refused"),
        ("peer 10.0.0.7:443 gone at 12:01:07 (id 7f3a9c)", "peer # gone at # (id #)"),
        ("id deadbeef", "id #"),
        ("id dead", "id dead"),
        ("token abcdefabcdefabcdefabcdefghij", "token #"),
        ("x" * 24, "#"),
        ("x" * 23, "x" * 23),
        ("on Mon, Aug", "on #"),
        ("Monday", "Monday"),
        ("1 2 3", "#"),
        ("1, 2 and 3", "# and #"),
    ],
)
def test__template__text__is_what_does_not_vary(text, what_is_left):
    assert template(text) == what_is_left


def test__template__different_words__are_different_kinds():
    assert template("quota exceeded for model a") != template("quota exceeded for model b")


@given(st.text())
def test__template__anything__is_bounded(text):
    assert len(template(text)) <= 256


def test__template__long_text__is_of_its_first_256_characters():
    # Words, as a long run of letters would be taken for something random.
    assert template("ab " * 1000) == ("ab " * 86)[:255] + "…"


@pytest.mark.parametrize(
    ("text", "line"),
    [("x" * 16, "x" * 16), ("x" * 17, "x" * 15 + "…"), (17, "17"), (Ellipsis, "Ellipsis")],
)
def test__one_line__keeps_what_fits(text, line):
    assert one_line(text, 16) == line


def test__one_line__what_cannot_be_printed__is_a_space():
    assert one_line("a\nb\tc\x00d", 16) == "a b c d"
    assert one_line("\n" * 16, 16) == " " * 16


def test__one_line__lone_surrogates_newlines_and_megabytes__are_harmless():
    assert one_line("a\ud800\nb" + "x" * 10_000_000, 16) == "a? b" + "x" * 11 + "…"


class Unprintable:
    def __str__(self):
        raise RuntimeError("no")


def test__one_line__of_what_cannot_be_shown__is_its_type():
    assert one_line(Unprintable(), 16) == "<Unprintable>"


class Shouting(str):
    """A text whose `__str__` says something else."""

    def __str__(self):
        raise AssertionError("not asked")


def test__one_line__of_a_text__is_not_made_a_text_again():
    assert one_line(Shouting("a"), 16) == "a"


@given(st.one_of(st.text(), st.integers(), st.none(), st.just(Unprintable())), st.integers(16, 300))
def test__one_line__anything__is_one_bounded_printable_line(text, limit):
    line = one_line(text, limit)
    assert len(line) <= limit
    assert line.isprintable()
    line.encode("utf-8")
