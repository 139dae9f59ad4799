"""What an incident says of itself, for people."""

import pytest

from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker.incident import Incident, held_in_words


@pytest.mark.parametrize(
    ("held", "observed", "said"),
    [
        (0, 0, "0 errors were held back"),
        (1, 0, "1 error was held back"),
        (2, 0, "2 errors were held back"),
        (9491, 0, "9,491 errors were held back"),
        (1, 1, "1 error would have been held back (observing: nothing was)"),
        (9491, 9491, "9,491 errors would have been held back (observing: nothing was)"),
        (2, 1, "1 error was held back, 1 error would have been held back while only observing"),
        (
            3003,
            1001,
            "2,002 errors were held back, 1,001 errors would have been held back while only "
            "observing",
        ),
    ],
)
def test__held_in_words__what_was_and_what_would_have_been__are_told_apart(held, observed, said):
    assert held_in_words(held, observed, "error") == said


def test__held_in_words__names_what_they_are():
    assert held_in_words(2, 0, "message") == "2 messages were held back"


@pytest.fixture
def incident(pages):
    """An incident that has held two messages of one kind back, and one of another."""
    guarded = pages.circuit()
    pages.open(guarded)
    for kind in ("chat", "chat", "metrics"):
        pages.journal.held_message(guarded, kind)
    return pages.news()[0]


def test__noticed__messages_were_held_back__says_how_many_of_which_kind(incident):
    assert incident.noticed == (
        "3 messages were held back (2 chat, 1 metrics). Sound was not touched."
    )


def test__noticed__messages_would_have_been_held_back__says_that_nothing_was(incident):
    incident = incident.model_copy(update={"observed_messages": 3})
    assert incident.noticed == (
        "3 messages would have been held back (observing: nothing was) (2 chat, 1 metrics). Sound "
        "was not touched."
    )


def test__noticed__no_message_was_held_back__says_so(incident):
    incident = incident.model_copy(update={"held_messages": 0, "held_kinds": {}})
    assert incident.noticed == ("Nothing was held back from the client. Sound was not touched.")


def test__incident__from_before_modes__reads_as_one_of_a_breaker_that_guards(incident):
    # A file that an earlier release has kept.
    plain = incident.model_dump()
    for name in ("mode", "observed_errors", "observed_messages", "call"):
        del plain[name]
    del plain["advice"]["is_guess"]
    read = Incident.model_validate(plain)
    assert (read.mode, read.observed_errors, read.observed_messages) == (Mode.GUARD, 0, 0)
    assert (read.call, read.advice.is_guess) == (None, False)
    assert read == incident
