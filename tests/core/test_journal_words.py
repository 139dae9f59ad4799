"""What an operator reads: the remark of an error, the line and the fields of the log."""

import pytest

from pipecat_circuit_breaker._core.circuit import Reason
from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.news import Change, News, log_fields, log_level, log_line
from pipecat_circuit_breaker.incident import Ending, Trigger
from tests.core.core_parts import COOLDOWN, WINDOW

#
# Remarks
#


@pytest.mark.parametrize(
    ("trigger", "why"),
    [
        (Trigger.ERRORS, "3 related errors"),
        (Trigger.RECURSION, "errors and messages set each other off"),
        (Trigger.TOO_MANY, "too many errors of one processor"),
    ],
)
def test__opening_remark__says_why(pages, trigger, why):
    guarded = pages.circuit()
    pages.open(guarded, trigger)
    assert pages.journal.opening_remark(guarded) == (
        f"circuit open, {why}: more like it are held back until it recovers"
    )


def test__probe_remark__says_how_many_errors_were_held_back(pages):
    guarded = pages.circuit()
    assert pages.journal.probe_remark(guarded) == "circuit probed, 0 more like it were held back"
    pages.open(guarded)
    for _ in range(4):
        pages.journal.held_error(guarded)
    pages.journal.held_message(guarded, "chat")
    assert pages.journal.probe_remark(guarded) == "circuit probed, 4 more like it were held back"


def test__remarks__nothing_is_open__say_nothing_wrong(pages):
    assert pages.journal.opening_remark(pages.circuit()).startswith(
        "circuit open, 0 related errors"
    )


#
# The log
#


def told(pages):
    """The latest piece of news."""
    return pages.take()[-1]


def test__log_line__opening__says_why_when_it_probes_and_what_to_do(pages):
    pages.open(pages.circuit())
    news = told(pages)
    assert log_line(news) == (
        "circuit open: TTS: E (errors, 3 failures, opening 1), next probe in 5.0 s. "
        + news.incident.advice.text
    )


def test__log_line__opening_by_hand_that_gives_up__says_so(pages):
    guarded = pages.circuit()
    pages.write(guarded, guarded.circuit.isolate())
    pages.journal.gave_up(guarded)
    news = told(pages)
    assert log_line(news) == (
        "circuit open: TTS: E (manual, 0 failures, opening 1), no probe, giving up. "
        + news.incident.advice.text
    )


def test__log_line__it_was_given_up_before__does_not_say_so_again(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.journal.gave_up(guarded)
    pages.take()
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    pages.settle(guarded, success=False)
    news = told(pages)
    assert news.incident.gave_up
    assert "giving up" not in log_line(news)


def held(pages):
    """An open circuit that has held one error and two messages back."""
    guarded = pages.circuit()
    pages.open(guarded)
    pages.journal.held_error(guarded)
    pages.journal.held_message(guarded, "a")
    pages.journal.held_message(guarded, "b")
    pages.clock.advance(COOLDOWN)
    return guarded


def test__log_line__half_open__says_what_was_held_back(pages):
    pages.probe(held(pages))
    assert log_line(told(pages)) == (
        "circuit half-open: TTS: E, 1 error was held back, 2 messages were held back, probing"
    )


@pytest.mark.parametrize(
    ("reason", "ending"),
    [
        (Reason.PASSED, "recovered"),
        (Reason.QUIET, "quiet"),
        (Reason.BY_HAND, "by_hand"),
        (Reason.OVER, "pipeline_over"),
    ],
)
def test__log_line__closed__says_how_and_what_was_held_back(pages, reason, ending):
    pages.close(held(pages), reason)
    assert log_line(told(pages)) == (
        f"circuit closed ({ending}): TTS: E, 1 error was held back, 2 messages were held back in "
        "5.0 s"
    )


def test__log_line__closed_copy_without_an_ending__says_the_rest(pages):
    # A copy that somebody has kept and reads again may lack it.
    pages.close(held(pages))
    incident = told(pages).incident.model_copy(update={"ending": None})
    assert log_line(News(Change.CLOSED, incident)).startswith("circuit closed: TTS: E, 1 error")


def test__log_line__observing__says_so_and_that_nothing_was_held_back(pages):
    pages.mode = Mode.OBSERVE
    guarded = pages.circuit()
    pages.open(guarded)
    lines = [log_line(told(pages))]
    pages.journal.held_error(guarded, observed=True)
    for _ in range(2):
        pages.journal.held_message(guarded, "a", observed=True)
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    lines.append(log_line(told(pages)))
    pages.settle(guarded, success=True)
    lines.append(log_line(told(pages)))
    counts = (
        "TTS: E, 1 error would have been held back (observing: nothing was), 2 messages would have "
        "been held back (observing: nothing was)"
    )
    assert lines[0].startswith("observing: circuit open: TTS: E (errors")
    assert lines[1] == f"observing: circuit half-open: {counts}, probing"
    assert lines[2] == f"observing: circuit closed (recovered): {counts} in 5.0 s"


def test__log_line__long_origin__is_cut(pages):
    pages.open(pages.circuit("k" * 250))
    assert log_line(told(pages)).startswith("circuit open: TTS: " + "k" * 194 + "… (errors")


def test__log_fields__are_plain(pages):
    guarded = pages.circuit()
    guarded.mode = Mode.OBSERVE
    pages.open(guarded)
    pages.journal.held_error(guarded, observed=True)
    for observed in (True, False, True):
        pages.journal.held_error(guarded)
        pages.journal.held_message(guarded, "a", observed=observed)
    (incident,) = pages.news()
    assert log_fields(incident) == {
        "circuit_origin": "TTS: E",
        "circuit_state": "open",
        "circuit_mode": "observe",
        "circuit_trigger": "errors",
        "circuit_incident": incident.id,
        "circuit_advice": "processor_fails",
        "circuit_held_errors": 4,
        "circuit_held_messages": 3,
        "circuit_observed_errors": 1,
        "circuit_observed_messages": 2,
    }


def test__quiet__closes__is_told_as_such(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.clock.advance(COOLDOWN)
    guarded.circuit.use()
    pages.clock.advance(WINDOW)
    pages.write(guarded, guarded.circuit.look())
    assert [i.ending for i in pages.news()] == [None, Ending.QUIET]


def test__log_level__an_opening_warns_and_what_follows_informs(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    pages.settle(guarded, success=True)
    assert [log_level(news) for news in pages.take()] == ["WARNING", "INFO", "INFO"]
