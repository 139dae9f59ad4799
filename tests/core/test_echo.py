"""A message that quotes what was logged inside of a send is an echo of that send."""

import pytest

from pipecat_circuit_breaker._core.echo import Echoes, letters_of, texts_in
from tests.core.core_parts import WINDOW, Bench

LINE = "could not send to the client"


@pytest.fixture
def echoes():
    return Echoes(WINDOW)


@pytest.fixture
def link(bench: Bench):
    return bench.message()


def test__source__nothing_was_logged__is_none(echoes):
    assert echoes.source_of(LINE, now=0.0) is None


@pytest.mark.parametrize(
    "message",
    [
        LINE,
        f"12:00:01.123 | WARNING | {LINE}",
        {"type": "system-log", "data": {"text": f"2026 {LINE.upper()}!"}},
        {"lines": ["another line", ("deep", {f"<{LINE}>"})]},
        {"lines": frozenset([LINE])},
        b'{"text": "could not send to the \\"client\\""}',
        "c-o-u-l-d n_o_t s e n d to the 17 client",
    ],
)
def test__source__message_quotes_the_line_in_whatever_shape__is_that_send(echoes, link, message):
    echoes.note(LINE, link, {"text": "hello"}, now=0.0)
    assert echoes.source_of(message, now=1.0) is link


@pytest.mark.parametrize("message", ["", {}, None, 17, "could not send", {LINE: 1}, object()])
def test__source__message_does_not_quote_it__is_none(echoes, link, message):
    echoes.note(LINE, link, {"text": "hello"}, now=0.0)
    assert echoes.source_of(message, now=1.0) is None


def test__source__line_is_shortened_by_the_forwarder__its_beginning_is_enough(echoes, link):
    echoes.note("a" * 120 + "tail", link, None, now=0.0)
    assert echoes.source_of("a" * 120 + "…", now=1.0) is link
    assert echoes.source_of("a" * 119 + "…", now=1.0) is None


def test__source__two_sends_logged_the_line__is_the_latest(echoes, bench):
    first, second = bench.message(), bench.message()
    echoes.note(LINE, first, None, now=0.0)
    echoes.note(LINE, second, None, now=0.0)
    assert echoes.source_of(LINE, now=1.0) is second


def test__source__one_tick_before_the_window_is_over__is_remembered(echoes, link):
    echoes.note(LINE, link, None, now=0.0)
    assert echoes.source_of(LINE, now=WINDOW - 0.001) is link
    assert echoes.source_of(LINE, now=WINDOW) is None
    assert echoes.source_of(LINE, now=0.0) is None, "it is forgotten"


def test__source__only_the_older_of_two_is_too_old__the_other_is_remembered(echoes, bench):
    first, second = bench.message(), bench.message()
    echoes.note(LINE, first, None, now=0.0)
    echoes.note("it was not possible", second, None, now=1.0)
    assert echoes.source_of(LINE, now=WINDOW) is None
    assert echoes.source_of("it was not possible", now=WINDOW) is second


@pytest.mark.parametrize(("line", "is_kept"), [("seven 77 ab", False), ("eight 88 abc", True)])
def test__note__line_with_too_few_letters__says_nothing(echoes, link, line, is_kept):
    echoes.note(line, link, None, now=0.0)
    assert (echoes.source_of(line, now=0.0) is link) is is_kept


def test__note__transport_that_prints_what_it_sends__is_no_echo(echoes, link):
    echoes.note("sending: hello my dear client", link, "hello my dear client", now=0.0)
    assert echoes.source_of("hello my dear client", now=0.0) is None
    echoes.note("hello my dear", link, {"text": "Hello, my dear client!"}, now=0.0)
    assert echoes.source_of("hello my dear client", now=0.0) is None


def test__note__line_that_was_logged_before_it_was_a_message__is_remembered_again(echoes, bench):
    # The message quotes the line because it is its echo.
    first, second = bench.message(), bench.message()
    echoes.note(LINE, first, None, now=0.0)
    echoes.note("some other line", first, None, now=0.0)
    echoes.note(LINE, second, LINE, now=5.0)
    assert echoes.source_of(LINE, now=5.0) is second
    assert echoes.source_of(LINE, now=WINDOW + 4.0) is second


def test__lines__without_end__the_latest_64_are_remembered(echoes, bench):
    links = [bench.message() for _ in range(65)]
    lines = [f"line of a number {'i' * n}w" for n in range(65)]
    for line, link in zip(lines, links, strict=True):
        echoes.note(line, link, None, now=0.0)
    assert echoes.source_of(lines[0], now=0.0) is None
    assert echoes.source_of(lines[1], now=0.0) is links[1]
    assert echoes.source_of(lines[64], now=0.0) is links[64]


def test__letters__of_texts__are_theirs_in_a_row_and_lower_case():
    assert letters_of(["A b-1_c\n", "ÄSS", "ß"]) == "abcässss"


def test__letters__of_megabytes__are_bounded():
    assert len(letters_of(["a" * 1_000_000])) == 65_536
    assert len(letters_of(["a" * 65_536, "b"])) == 65_536


def test__texts__of_a_message__are_all_of_its_texts_and_no_keys():
    message = {"a": "one", "b": ["two", 3, None], "c": (b"four \xff", {"five"})}
    assert sorted(texts_in(message)) == ["five", "four \ufffd", "one", "two"]


def test__texts__of_a_huge_message__are_bounded_in_number_and_length():
    assert len([*texts_in(["a"] * 100_000)]) == 256
    assert len([*texts_in([["a"] * 200] * 3)]) == 256
    assert [*texts_in("a" * 100_000)] == ["a" * 65_536]
    assert [*texts_in(b"a" * 100_000)] == ["a" * 65_536]
    assert len([*texts_in(dict.fromkeys(range(100_000), "a"))]) == 256


def test__texts__behind_a_thousand_parts_that_are_none__are_not_found():
    nested = ["found"]
    for _ in range(1022):
        nested = [nested]
    assert [*texts_in(nested)] == ["found"]
    assert [*texts_in([nested])] == []


def test__texts__of_each_list_and_dict__only_so_many_parts_are_looked_at():
    assert [*texts_in([*[None] * 255, "found"])] == ["found"]
    assert [*texts_in([*[None] * 256, "not found"])] == []
    assert [*texts_in(dict.fromkeys(range(255)) | {"x": "found"})] == ["found"]
    assert [*texts_in(dict.fromkeys(range(256)) | {"x": "not found"})] == []


def test__texts__of_a_message_that_contains_itself__end():
    message = []
    message.append(message)
    assert [*texts_in(message)] == []
