"""Services that stand in for each other, as far as the core tells of them."""

import pytest

from pipecat_circuit_breaker._core.circuit import Circuit
from pipecat_circuit_breaker._core.news import Change
from pipecat_circuit_breaker._core.origin import Origin
from tests.core.core_parts import OPEN, PROBE_TIMEOUT, Bench, Processor, settings_for

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


def news(bench):
    told = []
    while bench.breaker.has_news:
        told.append(bench.breaker.take_news())
    return told


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
