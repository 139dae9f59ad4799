"""What the breaker adds to an error's text comes off again."""

import pytest

from pipecat_circuit_breaker._core import remarks


def test__opened__says_why_and_what_follows():
    assert remarks.opened("5 related errors") == (
        "circuit open, 5 related errors: more like it are held back until it recovers"
    )


def test__probed__says_how_many():
    assert remarks.probed(7) == "circuit probed, 7 more like it were held back"


@pytest.mark.parametrize("remark", [remarks.opened("5 related errors"), remarks.probed(7)])
def test__without__text_with_a_remark__is_the_text(remark):
    assert remarks.without(f"TTS failed ({remark})") == "TTS failed"


def test__without__a_remote_breaker_added_its_own__takes_off_both():
    text = f"TTS failed ({remarks.opened('3 related errors')}) ({remarks.probed(2)})"
    assert remarks.without(text) == "TTS failed"


def test__without__remark_in_the_middle__keeps_the_rest():
    assert remarks.without(f"Error (by X): TTS failed ({remarks.probed(2)}) again") == (
        "Error (by X): TTS failed again"
    )


def test__without__remark_that_was_cut__takes_it_off_as_well():
    assert remarks.without("TTS failed (circuit open, 5 related err") == "TTS failed"


@pytest.mark.parametrize(
    "text",
    ["TTS failed", "TTS failed (timeout)", "the (circuit breaker) of the house", "(circuit open"],
)
def test__without__no_remark__is_the_text(text):
    assert remarks.without(text) == text
