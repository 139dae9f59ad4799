"""The arithmetic of the benchmarks; what they measure is measured by `python -m benchmarks`."""

from collections import Counter

import pytest

from benchmarks.result import Row, Value, bootstrap, interleaved, slope


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test__slope__power_law__its_exponent(exponent):
    sizes = [1, 10, 100, 1_000]

    assert slope(sizes, [3.0 * size**exponent for size in sizes]) == pytest.approx(exponent)


def test__interleaved__each_name_once_per_round_in_changing_order():
    rounds = 20
    names = list(interleaved("abcd", rounds))

    orders = {tuple(names[n : n + 4]) for n in range(0, len(names), 4)}
    assert len(names) == 4 * rounds
    assert all(sorted(order) == ["a", "b", "c", "d"] for order in orders)
    assert len(orders) > 1


def test__bootstrap__rounds_drawn_as_a_whole():
    # The two differ by 1 in each round, however far apart the rounds are.
    value = bootstrap(lambda a, b: (a - b).mean(), [1.0, 101.0, 1001.0], [0.0, 100.0, 1000.0])

    assert value == Value(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("value", "at_most", "met"),
    [
        (Value(0.5), 0.5, True),
        (Value(0.51), 0.5, False),
        (None, 0.5, False),
        (Value(9.0), None, None),
        (Value(0.2, 0.1, 0.3), 0.5, True),
        (Value(0.2, -0.1, 0.7), 0.5, False),
        (Value(-0.2, -0.3, 0.1), 0.5, False),
        (Value(0, 0, 0), 0.5, True),
    ],
)
def test__row__goal__met_up_to_the_bound_by_what_stands_out_from_noise(value, at_most, met):
    assert Row("cost", value, "×", at_most).is_met is met


def test__page__written__figures_read_back(tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks.folders import Folders
    from benchmarks.machine import Machine
    from benchmarks.report import read, write
    from benchmarks.result import Section

    plot = {"circuits": {"sizes": [1.0, 10.0], "costs": [2.0, 2.1]}}
    rows = [Row("slope", Value(0.02), "", 0.1, "flat"), Row("memory", Value(9.0, 8.0, 10.0), "B")]
    section = Section("growth", "Growth", "Counted.", rows, plot, 1.5)

    # Once: another reading has another load average, and now and then another date.
    machine = Machine.here()

    page = write(Folders.both(tmp_path), machine, [section])

    assert read(tmp_path / "benchmarks.json") == (machine, [section])
    assert "| slope | 0.02 |  | ≤ 0.1 | ✓ | flat |" in page.read_text()
    assert "| memory | 9 B | 8 to 10 |  |  |  |" in page.read_text()
    assert (tmp_path / "images" / "benchmark-growth.png").stat().st_size > 1_000


def test__failover__told__median_wait_and_events_of_ours_a_line_per_fault():
    pytest.importorskip("rich")
    from benchmarks.failover import told
    from pipecat_circuit_breaker.demo.failover.call import Call, Turn
    from pipecat_circuit_breaker.demo.failover.report import Report

    ours = Call([Turn(0, 0.5), Turn(), Turn(1, 0.7), Turn(1, 5.9)], told=Counter(request_lost=1))
    others = [Call([Turn(0, 9.0)] * 4)] * 2
    report = Report({"hang": [*others, ours], "http-401": [*others, Call()]}, turns=4, speed=1.0)

    assert told(report) == [
        "hangs, the client times out at 10 s: median wait 0.7 s; told: request_lost 1",
        "401: median wait -; told: nothing",
    ]
