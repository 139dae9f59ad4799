"""A hundred calls that end as calls do raise no alarm; one real outage among them raises one.

Over pipecat's own transports, with RTVI, messages and sound on their way at the moment of it. What
counts as an alarm is in `calls.call.Alarms`: incidents, `on_circuit_opened`, openings, spans, and
lines at WARNING. What Prometheus makes of the same calls is in `test_alerts.py`.
"""

import asyncio
import os
from functools import partial
from itertools import cycle

import pytest
from tenacity import wait_fixed

from pipecat_circuit_breaker import CircuitBreakerParams
from tests.calls.call import Alarms, Call, eventually
from tests.calls.lines import (
    LINES,
    WAYS,
    FastAPILine,
    RaisingLine,
    both_at_once,
    client_comes_back,
    client_vanishes,
    make_call,
)

pytestmark = pytest.mark.skipif(
    "NORMAL_CALLS" not in os.environ,
    reason="run by hand with `nox -s normal_calls`: it takes minutes on a busy machine",
)

#: Of each line and way at once; with those that nobody watches, and so on, a hundred.
CALLS_EACH = 2

NONE = {"incidents": 0, "on_circuit_opened": 0, "openings": 0, "spans": 0, "warnings": 0}

#: Nothing is probed while a test runs, however slow the machine.
PATIENT = CircuitBreakerParams(cooldown=wait_fixed(600), channel_cooldown=wait_fixed(600))

each_line = pytest.mark.parametrize("line_type", LINES, ids=lambda line: line.__name__)
each_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


@pytest.fixture
def alarms():
    return Alarms()


@each_way
@each_line
async def test__normal_calls__no_alarm(alarms, line_type, way):
    answer = partial(Call, alarms=alarms)
    await asyncio.gather(*(make_call(line_type, way, answer) for _ in range(CALLS_EACH)))

    assert alarms.raised == NONE
    assert alarms.failures == 0
    if way in (client_vanishes, client_comes_back):
        assert alarms.unsent >= CALLS_EACH, "the bot went on"


@each_way
@each_line
async def test__normal_calls__nobody_watches__no_alarm(alarms, line_type, way):
    await make_call(line_type, way, partial(Call, alarms=alarms, watched=False))

    assert alarms.raised == NONE


@each_way
@each_line
async def test__normal_calls__log_lines_go_to_the_client__no_alarm(alarms, line_type, way):
    await make_call(line_type, way, partial(Call, alarms=alarms, system_logs=True))

    assert alarms.raised == NONE


#: Where both hang up in the same moment, FastAPI's transport does not say that its client has gone.
HEARD_OF = [way for way in WAYS if way is not both_at_once]


@pytest.mark.parametrize("way", HEARD_OF, ids=lambda way: way.__name__)
async def test__normal_calls__transport_raises__no_alarm(alarms, way):
    # Between the hang-up and the transport's event, sends fail by the dozen.
    answer = partial(Call, alarms=alarms)
    await asyncio.gather(*(make_call(RaisingLine, way, answer) for _ in range(CALLS_EACH)))

    assert alarms.raised == NONE


async def test__normal_call__transport_raises_and_nobody_watches__is_an_outage(alarms):
    # Why the docs say to watch.
    await make_call(
        RaisingLine, client_vanishes, partial(Call, alarms=alarms, watched=False, params=PATIENT)
    )

    assert alarms.raised["incidents"] == alarms.raised["on_circuit_opened"] == 1


async def provider_refuses(line):
    line.call.recognition.refused = True
    await eventually(lambda: line.call.breaker.incidents)
    await line.call.end()


async def network_is_down(line):
    line.broken = True
    await eventually(lambda: line.call.breaker.incidents)
    await line.call.end()


@pytest.mark.parametrize(
    ("line_type", "outage", "openings"),
    [
        (FastAPILine, provider_refuses, 1),
        # The channel's circuit, and that of the errors of its sends.
        (RaisingLine, network_is_down, 2),
    ],
    ids=["provider", "network"],
)
async def test__one_outage_among_normal_calls__exactly_one_of_each(
    alarms, line_type, outage, openings
):
    answer = partial(Call, alarms=alarms, params=PATIENT)
    normal = [make_call(line, way, answer) for line, way in zip(cycle(LINES), WAYS)]
    await asyncio.gather(*normal, make_call(line_type, outage, answer))

    assert alarms.raised == {**dict.fromkeys(NONE, 1), "openings": openings}
