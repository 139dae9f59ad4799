"""What makes two errors the same failure: who failed, how, and where."""

from types import TracebackType

import pytest

from pipecat_circuit_breaker._core.origin import (
    ANY_KIND,
    Origin,
    kind_of_failure,
    place_of_failure,
)
from pipecat_circuit_breaker._core.remarks import opened
from tests.core.core_parts import OUT, TTS
from tests.support.core import Processor


class Odd(Exception):
    pass


def raised(function, *args):
    try:
        function(*args)
    except Exception as e:
        return e


#
# How
#


def test__kind__exception__wins_over_category_and_text():
    assert kind_of_failure(ValueError("x"), "server", "boom") == "ValueError"


def test__kind__exception_of_a_package__says_which():
    assert kind_of_failure(Odd(), None, "") == f"{__name__}.Odd"


def test__kind__category__wins_over_text():
    assert kind_of_failure(None, "server", "boom") == "server"


def test__kind__text_alone__is_its_template():
    assert kind_of_failure(None, None, "boom 17") == "boom #"


def test__kind__text_with_a_remark_of_a_breaker__is_the_same_without():
    assert kind_of_failure(None, None, f"boom 17 ({opened('5 related errors')})") == "boom #"


#
# Where
#


def test__place__of_no_exception_or_one_that_was_never_raised__is_empty():
    assert place_of_failure(None) == ""
    assert place_of_failure(ValueError("x")) == ""


def fail_here():
    raise ValueError("here")


def fail_there():
    int("there")
    raise ValueError("there")


class Reader:
    def read(self):
        fail_here()

    def parse(self):
        raise ValueError("it")


def test__place__is_module_and_function_of_the_innermost_frame():
    assert place_of_failure(raised(Reader().read)) == f"{__name__}:fail_here"
    assert place_of_failure(raised(Reader().parse)) == f"{__name__}:Reader.parse"
    assert place_of_failure(raised(fail_there)) == f"{__name__}:fail_there"


def test__place__traceback_of_a_thousand_frames__is_found_and_of_one_more_is_not():
    # One exception object that is raised again and again grows its traceback each time.
    error = ValueError("again")
    for _ in range(500):
        error = raised(_raise, error)
    assert place_of_failure(error) == f"{__name__}:_raise"
    longer = TracebackType(error.__traceback__, error.__traceback__.tb_frame, 0, 1)
    assert place_of_failure(error.with_traceback(longer)) == ""


def _raise(error):
    raise error


def test__place__of_a_module_with_a_long_name__is_bounded():
    code = compile("def " + "f" * 300 + "():\n raise ValueError\n", "made", "exec")
    names = {"__name__": "m" * 300}
    exec(code, names)
    place = place_of_failure(raised(names["f" * 300]))
    assert place == "m" * 99 + "…:" + "f" * 99 + "…"


def test__place__module_without_a_name__is_told_all_the_same():
    names = {"__name__": None}
    exec("def f():\n raise ValueError\n", names)
    assert place_of_failure(raised(names["f"])) == "None:f"


#
# Who
#


def test__origin__processors_with_equal_names__differ():
    assert Origin(1, "TTS#0", "TTS", "E") != Origin(2, "TTS#0", "TTS", "E")


@pytest.mark.parametrize(
    "other",
    [
        Origin.of(OUT, "E", "ann", "m:f"),
        Origin.of(TTS, "F", "ann", "m:f"),
        Origin.of(TTS, "E", "bob", "m:f"),
        Origin.of(TTS, "E", None, "m:f"),
        Origin.of(TTS, "E", "ann", "m:g"),
    ],
)
def test__origin__one_thing_differs__is_another_failure(other):
    origin = Origin.of(TTS, "E", "ann", "m:f")
    assert origin == Origin.of(TTS, "E", "ann", "m:f")
    assert hash(origin) == hash(Origin.of(TTS, "E", "ann", "m:f"))
    assert origin != other


def test__origin__of_a_processor__says_all_of_it():
    assert Origin.of(TTS, "E", "ann", "m:f") == Origin(
        TTS.id, "TTS", "Processor", "E", "ann", "m:f"
    )
    assert Origin.of(TTS, "E") == Origin(TTS.id, "TTS", "Processor", "E", None, "")


def test__origin__long_and_broken_texts__are_cut_to_one_line():
    sender = Processor("Sender\n#0" + "x" * 200, 7)
    origin = Origin.of(sender, "E\nF" + "y" * 400, "a\nn" + "n" * 200)
    assert origin.processor == "Sender #0" + "x" * 91
    assert origin.kind == "E F" + "y" * 253
    assert origin.destination == "a n" + "n" * 97


def test__origin__class_with_a_long_name__is_cut():
    long_class = type("L" * 200, (), {"id": 7, "name": "n"})
    assert Origin.of(long_class(), "E").processor_class == "L" * 99 + "…"


def test__origin__text__says_who_how_where_and_to_whom():
    assert str(Origin(1, "TTS#0", "TTS", "E")) == "TTS#0: E"
    assert str(Origin(1, "Out#0", "Out", "E", "ann")) == "Out#0: E to ann"
    assert str(Origin(1, "Out#0", "Out", "E", "ann", "m:f")) == "Out#0: E in m:f to ann"


def test__shared_name__has_no_counters():
    assert Origin(1, "TTS#17", "TTS", "E", "ann", "m:f").shared_name == "TTS: E"


def test__with_kind__is_the_processors_own_whomever_and_wherever():
    assert Origin.of(TTS, "E", "ann", "m:f").with_kind(ANY_KIND) == Origin.of(TTS, ANY_KIND)
