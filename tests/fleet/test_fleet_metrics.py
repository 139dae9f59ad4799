"""What OpenTelemetry is told of a fleet: every process the same, and no more series than a few."""

import gc

import pytest

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from pipecat_circuit_breaker.fleet.store import StoreUnavailable
from pipecat_circuit_breaker.instrumentation import instrument_fleet
from pipecat_circuit_breaker.instrumentation.opentelemetry_fleet import _origin
from tests.fleet.fleet_parts import KEY, Process, outage

NAME = "pipecat.circuit_breaker.fleet"


class Told:
    """A fleet of this process, and what is told of it."""

    def __init__(self, store, time):
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider(metric_readers=[self._reader])
        self._store, self._time = store, time
        self.processes = []

    async def process(self, **params):
        process = Process(self._store, self._time, **{"name": "production", **params})
        instrument_fleet(process.fleet, self._provider)
        self.processes.append(process)
        process.join()
        await self._time.pass_(0)
        return process

    def points(self, metric):
        data = self._reader.get_metrics_data()
        metrics = [] if data is None else data.resource_metrics[0].scope_metrics[0].metrics
        return [
            (dict(point.attributes), point.value)
            for each in metrics
            if each.name == f"{NAME}.{metric}"
            for point in each.data.data_points
        ]

    def value(self, metric, **attributes):
        wanted = {f"{NAME}.{name.replace('_', '.')}": value for name, value in attributes.items()}
        return [value for told, value in self.points(metric) if wanted.items() <= told.items()]


@pytest.fixture
async def told(store, time):
    told = Told(store, time)
    yield told
    for process in told.processes:
        await process.fleet.close()


async def test__an_outage__is_open_then_closed__and_its_probes_are_counted(told, store, time):
    await told.process()
    steps = [
        outage(KEY, generation=1, openings=1),
        outage(KEY, generation=2, openings=2),
        outage(KEY, generation=3, openings=3, lost_probes=2),
    ]
    for step in steps:
        store.put(step)
        await time.pass_(0)
    [(attributes, value)] = told.points("outages")
    assert value == 1
    assert attributes == {
        f"{NAME}.name": "production",
        f"{NAME}.key": KEY,
        "pipecat.circuit_breaker.origin": "Voice: ConnectError",
    }

    ended = {"ending": "recovered", "openings": 3, "lost_probes": 2}
    store.put(outage(KEY, "closed", generation=4, **ended))
    await time.pass_(0)

    assert told.value("outages", key=KEY) == [0]
    assert told.value("outages_opened", key=KEY) == [1]
    assert told.value("outages_closed", key=KEY, ending="recovered") == [1]
    assert told.value("probes", probe_outcome="failed") == [2]
    assert told.value("probes", probe_outcome="lost") == [2]
    assert told.value("probes", probe_outcome="passed") == [1]


async def test__closed_by_hand__no_probe_has_passed(told, store, time):
    await told.process()
    store.put(outage(KEY, generation=1))
    await time.pass_(0)
    store.put(outage(KEY, "closed", generation=2, ending="by_hand"))
    await time.pass_(0)

    assert told.value("outages_closed", ending="by_hand") == [1]
    assert told.value("probes", probe_outcome="passed") == []


async def test__connected_and_alone(told, store, time):
    await told.process()
    assert told.value("connected", name="production") == [1]

    fault = StoreUnavailable("gone")
    store.faults = {"read": fault, "news": fault}
    store.drop_connections()
    await time.pass_(20)
    assert told.value("connected", name="production") == [0]

    store.faults.clear()
    await time.pass_(5)
    assert told.value("connected", name="production") == [1]


async def test__alone_and_without_bots__is_nothing_to_alert_on(told, store, time):
    process = await told.process()
    fault = StoreUnavailable("gone")
    store.faults = {"read": fault, "news": fault}
    store.drop_connections()
    await time.pass_(20)
    process.view.leave()
    await time.pass_(60)

    assert told.value("connected") == []


async def test__alone__tells_of_no_outage_that_it_cannot_know_of(told, store, time):
    await told.process()
    store.put(outage(KEY))
    await time.pass_(0)
    assert told.value("outages", key=KEY) == [1]

    fault = StoreUnavailable("gone")
    store.faults = {"read": fault, "news": fault}
    store.drop_connections()
    await time.pass_(20)

    assert told.value("outages", key=KEY) == [0]


async def test__many_keys__64_are_told_apart__the_rest_is_one(told, store, time):
    await told.process()
    for n in range(100):
        store.put(outage(f"Voice: {n}"))
        await time.pass_(0)

    keys = {attributes[f"{NAME}.key"] for attributes, _ in told.points("outages")}
    assert len(keys) == 65 and "other" in keys
    assert told.value("outages_opened", key="other") == [36]


async def test__two_fleets_of_one_name__tell_of_an_outage_once(told, store, time):
    await told.process()
    await told.process()
    store.put(outage(KEY))
    await time.pass_(0)

    assert told.value("outages", key=KEY) == [1]
    assert told.value("connected", name="production") == [1]


async def test__a_fleet_that_is_gone__is_not_held_and_has_nothing_open(told, store, time):
    await told.process()
    store.put(outage(KEY))
    await time.pass_(0)
    process = told.processes.pop()
    process.view.leave()
    await process.fleet.close()
    del process
    await time.pass_(100)
    gc.collect()

    assert told.value("outages", key=KEY) == [0]
    assert told.value("connected") == []


@pytest.mark.parametrize(
    ("key", "origin"),
    [
        ("Voice: ConnectError in here", "Voice: ConnectError"),
        ("OpenAILLMService[api.x.ai]: APIError in openai:request", "OpenAILLMService: APIError"),
        ("DailyOutputTransport: channel down", "DailyOutputTransport: channel down"),
        ("LLM: failed in the end in m:f", "LLM: failed in the end"),
        ("by hand", "by hand"),
    ],
)
def test__origin__is_the_one_under_which_bots_count(key, origin):
    assert _origin(key) == origin
