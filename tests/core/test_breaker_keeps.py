"""What a breaker tells, what it keeps, and when it gives up."""

import gc
import tracemalloc
from datetime import UTC, datetime

import pytest

from pipecat_circuit_breaker._core.breaker import Breaker
from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.news import Change
from pipecat_circuit_breaker._core.origin import CHANNEL_DOWN, Origin
from pipecat_circuit_breaker.incident import AdviceKind, Call, Ending
from tests.core.core_parts import (
    CHANNEL_COOLDOWN,
    COOLDOWN,
    MAX_CIRCUITS,
    OPEN,
    OUT,
    RTVI,
    TTS,
    WINDOW,
    Bench,
    down,
)
from tests.support.core import Processor

#
# Giving up
#


def test__gives_up__is_asked_with_openings_and_seconds_and_told_once_until_it_closes(clock):
    asked = []
    bench = Bench(clock, max_errors=1, gives_up=lambda n, secs: asked.append((n, secs)) or n >= 2)
    for _ in range(3):
        bench.errors(2)
        clock.advance(COOLDOWN)
    assert asked == [(1, 0.0), (2, 5.0)]
    bench.breaker.close(None)
    bench.error()
    assert asked[2:] == [(1, 0.0)]
    assert [n.gives_up for n in bench.take() if n.incident.state is OPEN] == [
        False,
        True,
        False,
        False,
    ]


def test__gives_up__a_channel_that_is_tried_often__is_not_asked(clock):
    asked = []
    bench = Bench(clock, gives_up=lambda n, secs: asked.append(n) or True)
    down(bench)
    for _ in range(5):
        clock.advance(CHANNEL_COOLDOWN)
        bench.send(ok=False)
    assert asked == []


def test__gives_up__opened_by_hand__is_not_asked(clock):
    asked = []
    bench = Bench(clock, gives_up=lambda n, secs: asked.append(n) or True)
    bench.breaker.open(Origin.of(TTS, "E"))
    assert asked == []


def test__gives_up__a_probe_goes_or_it_closes__is_not_asked(clock):
    asked = []
    bench = Bench(clock, gives_up=lambda n, secs: asked.append(n))
    bench.errors(3)
    clock.advance(COOLDOWN)
    bench.error()
    bench.breaker.close(None)
    assert asked == [1]


#
# What it tells
#


def test__changes__of_a_whole_outage__are_told_in_order(clock):
    bench = Bench(clock, gives_up=lambda n, secs: n >= 2)
    bench.errors(3)
    for _ in range(2):
        clock.advance(COOLDOWN)
        bench.errors(2)
    bench.breaker.close(None)
    news = bench.take()
    assert [n.change for n in news] == [
        Change.OPENED,
        Change.PROBED,
        Change.REOPENED,
        Change.PROBED,
        Change.REOPENED,
        Change.CLOSED,
    ]
    assert [n.gives_up for n in news] == [False, False, True, False, False, False]
    assert len({n.incident.id for n in news}) == 1


def test__call__is_in_each_incident(clock):
    call = Call(pipeline="worker#0", process=7, host="here", pipecat="1.9.0", version="0.1.0")
    bench = Bench(clock, call=lambda: call)
    bench.errors(3)
    assert [i.call for i in bench.told()] == [call]


def test__call__nobody_knows_it__is_none(bench):
    bench.errors(3)
    assert [i.call for i in bench.told()] == [None]


def test__channels__each_output__is_told_with_whether_anybody_is_there(bench):
    other = bench.breaker.output(Processor("Other"))
    other.is_watched, other.is_connected = True, False
    bench.sends(2, "bad", ok=False)
    bench.send("good", ok=True)
    bench.sends(3, output=other, ok=True)
    assert bench.breaker.channels == (
        ("Output", None, 0),
        ("Other", False, 3),
    )


#
# What it keeps
#


def test__circuits__are_told_with_the_latest_news_last(bench):
    for kind in ("E", "F", "E"):
        bench.error(kind)
    assert [c.origin.kind for c in bench.breaker.circuits] == ["F", "E"]


def test__circuits__as_many_as_are_kept__none_goes(bench):
    for n in range(MAX_CIRCUITS):
        bench.error(f"F{n}")
    assert len(bench.breaker.circuits) == MAX_CIRCUITS
    assert bench.breaker.circuits[0].origin.kind == "F0"


def test__circuits__more_than_are_kept__the_closed_one_longest_without_news_goes(bench):
    for n in range(5):
        bench.error(f"F{n}")
        bench.error(f"F{n}", OUT)
    bench.error("F0")
    bench.error("G")
    kept = {(c.origin.processor, c.origin.kind) for c in bench.breaker.circuits}
    assert len(kept) == MAX_CIRCUITS
    assert ("TTS", "F0") in kept
    assert ("Output", "F0") not in kept
    assert bench.told() == []


def test__circuits__one_is_open__closed_ones_go_first(bench):
    # Registries of other breakers never let go.
    bench.errors(3)
    for n in range(11):
        bench.error(f"F{n}")
    assert bench.state("E") is OPEN
    assert len(bench.breaker.circuits) == MAX_CIRCUITS


def test__circuits__all_are_open__the_oldest_is_forgotten_and_holds_nothing(clock):
    bench = Bench(clock, max_errors=1)
    processors = [Processor(f"P{n}") for n in range(11)]
    for processor in processors:
        bench.error("E", processor)
    assert len(bench.breaker.circuits) == MAX_CIRCUITS
    assert not bench.breaker.has_open_at(processors[0].id)
    endings = [(i.origin.processor, i.ending) for i in bench.told() if i.ending]
    assert endings == [("P0", Ending.FORGOTTEN)]
    assert bench.error("E", processors[0])[1].passes, "it begins anew"


def test__circuits__of_errors_without_end__push_no_channel_out(clock):
    bench = Bench(clock, max_errors=1)
    bench.send("app", ok=False)
    for n in range(10):
        bench.error("E", Processor(f"P{n}"))
    assert bench.channel_state() is OPEN


@pytest.mark.parametrize(("others", "is_known"), [(39, True), (40, False)])
def test__circuits__of_destinations_without_end__four_times_as_many_are_kept(
    clock, others, is_known
):
    bench = Bench(clock)
    bench.send(to="first", ok=False)
    bench.error()
    for n in range(others):
        bench.send("x", to=str(n), ok=False)
        bench.send("x", to=str(n), ok=True)
    kept = {(c.origin.kind, c.origin.destination) for c in bench.breaker.circuits}
    assert ((CHANNEL_DOWN, "first") in kept) is is_known
    assert ("E", None) in kept, "those of errors are kept apart"


def test__totals__of_more_names_than_circuits__are_under_other(bench):
    for n in range(12):
        bench.error(f"F{n}")
    totals = {t.origin: t.failures for t in bench.breaker.totals}
    assert len(totals) == MAX_CIRCUITS + 1
    assert totals["other"] == 2


def test__ten_thousand_origins__stay_within_the_bound(clock):
    bench = Bench(clock, max_circuits=100)

    def offer(numbers):
        for n in numbers:
            bench.error(f"F{n}")
            bench.frames.clear()
        bench.told()
        gc.collect()

    tracemalloc.start()
    try:
        offer(range(1000))
        before = tracemalloc.get_traced_memory()[0]
        offer(range(1000, 10_000))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(bench.breaker.circuits) <= 100
    assert grown < 100_000


def test__calendar__by_default__is_the_time_by_the_calendar(clock):
    breaker = Breaker(
        max_errors=1,
        window_secs=WINDOW,
        probe_timeout_secs=1.0,
        max_circuits=1,
        cooldown=lambda n: 1.0,
        channel_cooldown=lambda n: 1.0,
        gives_up=lambda n, secs: False,
        clock=clock,
        mode=Mode.GUARD,
    )
    before = datetime.now(UTC)
    breaker.open(Origin.of(TTS, "E"))
    assert before <= breaker.take_news().incident.opened_at <= datetime.now(UTC)


def test__snapshot__says_what_happened_and_when_the_next_probe_may_go(bench):
    down(bench)
    bench.clock.advance(0.25)
    (circuit,) = bench.breaker.circuits
    assert (circuit.state, circuit.openings, circuit.probe_in_secs) == (OPEN, 1, 0.75)


def test__has_open_at__errors_or_a_channel__is_so_of_their_processor(bench):
    bench.errors(3)
    assert bench.breaker.has_open_at(TTS.id)
    assert not bench.breaker.has_open_at(OUT.id)
    down(bench)
    assert bench.breaker.has_open_at(OUT.id)
    bench.breaker.close(None)
    assert not bench.breaker.has_open_at(TTS.id)


def test__look__nothing_is_due__tells_nothing(bench):
    bench.errors(3)
    bench.told()
    bench.breaker.look()
    assert not bench.breaker.has_news


def test__what_was_queued_on_account_of_an_error__is_forgotten_with_the_incident(bench):
    error, _ = bench.error()
    bench.breaker.note_queued(error, "TTSSpeakFrame")
    bench.breaker.note_queued(bench.error("F", RTVI)[0], "TextFrame")
    bench.errors(2)
    bench.breaker.close(None)
    bench.errors(3)
    opened = [i.advice.kind for i in bench.told() if i.state is OPEN]
    assert opened == [AdviceKind.APPLICATION_ANSWERS_ERRORS, AdviceKind.PROCESSOR_FAILS]
