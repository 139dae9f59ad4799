"""Services that stand in for each other, as far as the core tells of them."""

import pytest

from pipecat_circuit_breaker._core.circuit import Circuit, Reason
from pipecat_circuit_breaker._core.news import Change, log_level, log_line
from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.incident import Trigger
from tests.core.core_parts import CLOSED, OPEN, PROBE_TIMEOUT, Bench, settings_for
from tests.support.core import Processor

SWITCHER, ONE, TWO = Processor("Switcher"), Processor("One"), Processor("Two")


@pytest.fixture
def bench(clock):
    return Bench(clock, gives_up=lambda openings, secs: True)


@pytest.fixture
def circuits(clock):
    return [Circuit(settings_for(clock, max_errors=1, quiet_secs=float("inf"))) for _ in range(2)]


@pytest.fixture
def services(bench, circuits):
    return bench.breaker.services(SWITCHER, zip((ONE, TWO), circuits, strict=True))


def fail(bench, services, circuits, which, kind="E"):
    link = bench.link((ONE, TWO)[which], origin=Origin.of((ONE, TWO)[which], kind))
    services.changed([(which, t) for t in circuits[which].fail()], {which: link})


def fail_both(bench, services, circuits):
    """Both fail at one request."""
    changes = [(which, t) for which in (0, 1) for t in circuits[which].fail()]
    links = {
        which: bench.link(service, origin=Origin.of(service, "E"))
        for which, service in enumerate((ONE, TWO))
    }
    services.changed(changes, links)


def close(services, circuits, which, reason=Reason.RECOVERED):
    services.changed([(which, t) for t in circuits[which].close(reason)])


def news(bench):
    return bench.take()


def incident(bench):
    """The one that goes on."""
    (found,) = bench.breaker.open_incidents
    return found


def totals(bench):
    return {each.origin: each for each in bench.breaker.totals}


def test__shadow_never_reports__the_breaker_sees_it_and_gives_nobody_up(
    bench, services, circuits, clock
):
    fail(bench, services, circuits, 0)
    clock.advance(5.0)
    services.changed([(0, t) for t in circuits[0].ask(quiet_closes=False)[1]])
    clock.advance(PROBE_TIMEOUT)
    bench.breaker.look()

    assert circuits[0].state is OPEN
    told = news(bench)
    assert [each.change for each in told] == [Change.OPENED, Change.PROBED, Change.REOPENED]
    assert not any(each.gives_up for each in told)


def test__it_is_back__how_it_had_failed_is_forgotten(bench, services, circuits):
    fail(bench, services, circuits, 0)
    assert len(services.circuits[0].failed_with) == 2  # its own, and the switcher's
    services.changed([(0, t) for t in circuits[0].close()])

    assert services.circuits[0].failed_with == set()


def test__ways_to_fail_without_end__are_bounded(bench, services, circuits):
    for n in range(100):
        fail(bench, services, circuits, 0, kind=f"E{n}")
    assert len(services.circuits[0].failed_with) == 16


def test__errors_of_it_are_probed__only_the_service_speaks_for_the_incident(
    bench, services, circuits, clock
):
    fail(bench, services, circuits, 0)
    for _ in range(3):
        bench.error("E", ONE)
    news(bench)
    clock.advance(5.0)
    bench.error("E", ONE)

    assert news(bench) == []
    assert len(bench.breaker.open_incidents) == 1


def test__service_fails__incident_says_which_of_which_switcher(bench, services, circuits):
    fail(bench, services, circuits, 0)
    (opened,) = news(bench)

    assert opened.incident.trigger is Trigger.FAILOVER
    assert opened.incident.failover.switcher == "Switcher"
    assert opened.incident.failover.failed == ("One",)
    assert str(opened.incident.origin) == "One: E"


def test__two_fail_at_one_request__one_incident_names_both(bench, services, circuits):
    fail_both(bench, services, circuits)
    (opened,) = news(bench)

    assert opened.incident.failover.failed == ("One", "Two")
    assert len(bench.breaker.open_incidents) == 1


def test__another_answers__incident_says_who_took_over(bench, services, circuits):
    fail(bench, services, circuits, 0)
    assert services.answers is None
    services.took_over(1, [0])

    assert services.answers == "Two"
    assert incident(bench).failover.took_over == "Two"
    assert incident(bench).failover.saved == 0


def test__requests_are_answered_in_its_place__each_is_counted(bench, services, circuits):
    fail(bench, services, circuits, 0)
    for _ in range(3):
        services.answered(1, [0])

    assert services.answers == "Two"
    assert incident(bench).failover.took_over == "Two"
    assert incident(bench).failover.saved == 3
    assert totals(bench)["Processor: service down"].saved_requests == 3


def test__first_answers_itself__nothing_was_saved(bench, services, circuits):
    fail(bench, services, circuits, 0)
    services.answered(0, [])

    assert services.answers == "One"
    assert incident(bench).failover.saved == 0
    assert incident(bench).failover.took_over is None


def test__requests_are_lost__each_is_counted_once_for_the_first_that_failed(
    bench, services, circuits
):
    fail_both(bench, services, circuits)
    for _ in range(2):
        services.lost([0, 1])

    assert incident(bench).failover.lost == 2
    assert totals(bench)["Processor: service down"].lost_requests == 2


def test__nobody_answers__is_told_and_counted_once_until_somebody_does(bench, services, circuits):
    fail(bench, services, circuits, 0)
    news(bench)
    for _ in range(2):
        services.went_out()

    (told,) = news(bench)
    assert told.change is Change.NOBODY_ANSWERS
    assert told.incident.failover.nobody_answers
    assert services.is_out
    assert ("Processor: nobody answers", OPEN) in bench.breaker.open_circuits
    counted = totals(bench)["Processor: nobody answers"]
    assert (counted.incidents, counted.openings, counted.closings) == (1, 1, 0)


def test__somebody_answers_again__is_counted_once_and_stands_in_the_incident(
    bench, services, circuits
):
    fail(bench, services, circuits, 0)
    services.went_out()
    for _ in range(2):
        services.came_back()

    assert not services.is_out
    assert not incident(bench).failover.nobody_answers
    assert totals(bench)["Processor: nobody answers"].closings == 1
    assert bench.breaker.open_circuits == (("Processor: service down", OPEN),)


def test__nobody_answers__without_an_outage__is_counted_and_not_told(bench, services):
    services.went_out()

    assert news(bench) == []
    assert totals(bench)["Processor: nobody answers"].incidents == 1


def test__nobody_answers__of_several_outages__the_latest_tells_it(bench, services, circuits, clock):
    fail(bench, services, circuits, 0)
    clock.advance(1.0)
    fail(bench, services, circuits, 1)
    news(bench)
    services.went_out()

    assert [str(told.incident.origin) for told in news(bench)] == ["Two: E"]
    assert all(each.failover.nobody_answers for each in bench.breaker.open_incidents)


def test__one_of_two_is_back__that_is_told_and_the_incident_goes_on(bench, services, circuits):
    fail_both(bench, services, circuits)
    news(bench)
    close(services, circuits, 0)

    assert [told.change for told in news(bench)] == [Change.EASED]
    assert len(bench.breaker.open_incidents) == 1
    close(services, circuits, 1)
    assert [told.change for told in news(bench)] == [Change.CLOSED]


def test__service_is_back__the_errors_of_its_requests_are_over_as_well(bench, services, circuits):
    fail(bench, services, circuits, 0)
    bench.errors(3, "E", ONE)
    bench.errors(3, "other", TWO)
    assert bench.state("E", ONE) is OPEN
    close(services, circuits, 0)

    assert bench.state("E", ONE) is CLOSED
    assert bench.state("other", TWO) is OPEN


def test__deep_chain__whose_errors_the_switcher_answers__opens_its_first_circuit(bench):
    link = None
    for n in range(3):
        link = bench.link(ONE, link, origin=Origin.of(ONE, f"E{n}"))
        bench.breaker.note_deep(link)
        assert (bench.state("E0", ONE) is OPEN) == (n == 2)

    (opened,) = news(bench)
    assert opened.incident.trigger is Trigger.RECURSION


def told_of(bench):
    return [(log_level(each), log_line(each)) for each in news(bench)]


def test__log__service_fails__warns_with_what_is_to_be_done(bench, services, circuits):
    fail(bench, services, circuits, 0)
    services.took_over(1, [0])
    ((level, line),) = told_of(bench)

    assert level == "WARNING"
    assert line.startswith("circuit open: One: E; Two took over. ")
    assert line.endswith(incident(bench).advice.text)


def test__log__two_fail_and_nobody_answers__is_an_error(bench, services, circuits):
    fail_both(bench, services, circuits)
    services.lost([0, 1])
    services.went_out()
    ((level, line),) = told_of(bench)

    assert level == "ERROR"
    assert line.startswith(
        "circuit open: One: E, and Two; no service of Switcher answers: 1 request lost. "
    )
    assert line.endswith(incident(bench).advice.text)


def test__log__shadow_request__is_silent(bench, services, circuits, clock):
    fail(bench, services, circuits, 0)
    news(bench)
    clock.advance(5.0)
    services.changed([(0, t) for t in circuits[0].ask(quiet_closes=False)[1]])
    services.changed([(0, t) for t in circuits[0].settle(2, success=False)])

    assert [level for level, _ in told_of(bench)] == [None, None]


def test__log__one_of_two_is_back__and_then_the_other(bench, services, circuits, clock):
    fail_both(bench, services, circuits)
    news(bench)
    clock.advance(2.0)
    close(services, circuits, 0)
    assert told_of(bench) == [
        (
            "INFO",
            "circuit open: One: E, and Two; nobody took over, in 2.0 s; "
            "one of the services that failed is back",
        )
    ]
    clock.advance(1.0)
    close(services, circuits, 1)
    assert told_of(bench) == [
        ("INFO", "circuit closed (recovered): One: E, and Two; nobody took over, in 3.0 s")
    ]


def test__log__names_without_end__are_bounded(bench, clock):
    names = [Processor("x" * 1000), Processor("y" * 1000)]
    circuits = [Circuit(settings_for(clock, max_errors=1)) for _ in names]
    services = bench.breaker.services(SWITCHER, zip(names, circuits, strict=True))
    changes = [(which, t) for which in (0, 1) for t in circuits[which].fail()]
    services.changed(changes, {0: bench.link(names[0], origin=Origin.of(names[0], "E" * 1000))})
    (each,) = news(bench)

    assert len(log_line(each)) < 1000
