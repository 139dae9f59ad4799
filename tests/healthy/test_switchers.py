"""Failover: a strategy hears every error of its services, however many there are."""

from pipecat.frames.frames import TextFrame
from pipecat.pipeline.service_switcher import (
    ServiceSwitcher,
    ServiceSwitcherStrategyFailover,
    ServiceSwitcherStrategyManual,
)

from pipecat_circuit_breaker.testing import Output, running
from tests.healthy.healthy_parts import Service, queue
from tests.support.guard import MAX_ERRORS
from tests.support.parts import Tap


class CountsTen(ServiceSwitcherStrategyManual):
    """Bears nine errors of a service, and switches to the next at the tenth."""

    def __init__(self, services):
        super().__init__(services)
        self.heard = 0

    async def handle_error(self, error):
        self.heard += 1
        if self.heard % 10:
            return None
        return await self._set_active_if_available(next_of(self))


class OnlyListens(ServiceSwitcherStrategyManual):
    """Hears of each error, and leaves it at that."""

    def __init__(self, services):
        super().__init__(services)
        self.heard = 0

    async def handle_error(self, error):
        self.heard += 1


class AtAnyError(ServiceSwitcherStrategyManual):
    """What pipecat's own failover did until 1.7: whatever the error is, on to the next."""

    async def handle_error(self, error):
        return await self._set_active_if_available(next_of(self))


def next_of(strategy):
    services = strategy.services
    return services[(services.index(strategy.active_service) + 1) % len(services)]


def always(n):
    return True


async def served(guard, turns, strategy, *services, secs=0.1):
    """Which turns were answered, and by whom."""
    tap = Tap()
    switcher = ServiceSwitcher([*services], strategy)
    async with running(*guard.line(switcher, tap, Output())) as worker:
        for n in range(turns):
            await queue(worker, TextFrame(str(n)))
            guard.clock.advance(secs)
    return [frame.text for frame in tap.frames(TextFrame)]


async def test__strategy_counts_ten_errors__primary_is_dead__backup_serves_the_rest(guard):
    primary, backup = Service("primary", always), Service("backup")

    texts = await served(guard, 202, CountsTen, primary, backup)

    assert texts == [f"backup: {n}" for n in range(10, 202)]
    assert (primary.asked, backup.asked) == (10, 192)


async def test__strategy_counts_ten_errors__both_fail_in_turn__as_without(guard):
    # Each time round ten errors more of a service whose circuit is open.
    first, second = Service("first", always), Service("second", lambda n: n % 30 >= 20)

    texts = await served(guard, 200, CountsTen, first, second)

    # Ten are lost at the first, twenty served by the second, ten lost there.
    expected = [f"second: {n}" for n in range(200) if 10 <= n % 40 < 30]
    assert texts == expected


async def test__switches_at_any_error__one_dead_and_one_at_times__as_without(guard):
    dead, hiccups = Service("dead", always), Service("hiccups", lambda n: n % 4 == 3)

    texts = await served(guard, 55, AtAnyError, dead, hiccups)

    # One is lost at the dead one, three served, one lost, and so on.
    assert texts == [f"hiccups: {n}" for n in range(55) if 1 <= n % 5 <= 3]


async def test__switches_at_any_error__switcher_in_a_switcher__as_without(guard):
    inner = ServiceSwitcher(
        [Service("dead", always), Service("hiccups", lambda n: n % 4 == 3)], AtAnyError
    )
    tap = Tap()
    outer = ServiceSwitcher([inner, Service("unused")], ServiceSwitcherStrategyFailover)
    async with running(*guard.line(outer, tap, Output())) as worker:
        for n in range(55):
            await queue(worker, TextFrame(str(n)))
            guard.clock.advance(0.1)

    texts = [frame.text for frame in tap.frames(TextFrame)]
    assert texts == [f"hiccups: {n}" for n in range(55) if 1 <= n % 5 <= 3]


async def test__switcher_reports_what_it_cannot_absorb__heard_a_handful_of_times(guarded):
    # Inside nothing is held; where the errors leave the switcher, the circuit holds.
    heard = []
    switcher = ServiceSwitcher([Service("primary", always), Service("backup")], OnlyListens)
    async with running(*guarded.line(switcher, Output())) as worker:
        worker.add_event_handler("on_pipeline_error", lambda _, error: heard.append(error))
        for n in range(30):
            await queue(worker, TextFrame(str(n)))

    assert switcher.strategy.heard == 30
    assert 1 <= len(heard) <= MAX_ERRORS
