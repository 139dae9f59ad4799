"""Metrics and spans, read in memory: what OpenTelemetry is told is what the breaker counted."""

import asyncio
import gc
import os
import threading
from weakref import ref

import pytest
from pipecat.frames.frames import LLMContextFrame, StopFrame, TextFrame
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.filters.identity_filter import IdentityFilter
from pipecat.services.llm_service import LLMService
from pipecat.services.settings import LLMSettings
from tenacity import wait_fixed

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Sum
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from pipecat.utils.tracing.service_decorators import traced_llm

from pipecat_circuit_breaker import (
    CircuitBreakerParams,
    CircuitBreakerProcessor,
    Origin,
    Totals,
)
from pipecat_circuit_breaker.instrumentation import counts, instrument
from pipecat_circuit_breaker.instrumentation import opentelemetry as backend
from pipecat_circuit_breaker.testing import Output, ended, running
from tests.support.parts import Failing, app_message, dead, settle

NAME = "pipecat.circuit_breaker"
COOLDOWN = 5.0


class Telemetry:
    """Providers of a test's own, and what they were told."""

    def __init__(self):
        self._reader = InMemoryMetricReader()
        self._exporter = InMemorySpanExporter()
        self.meters = MeterProvider(metric_readers=[self._reader])
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))

    def instrument(self, *breakers):
        for breaker in breakers:
            instrument(breaker, meter_provider=self.meters, tracer_provider=self.tracers)

    def metrics(self):
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        [resource] = data.resource_metrics
        [scope] = resource.scope_metrics
        assert scope.scope.name == "pipecat_circuit_breaker"
        return {metric.name: metric for metric in scope.metrics}

    def values(self, name):
        metric = self.metrics().get(f"{NAME}.{name}")
        if metric is None:
            return {}
        return {
            tuple(value for _, value in sorted(point.attributes.items())): point.value
            for point in metric.data.data_points
        }

    def spans(self):
        return [*self._exporter.get_finished_spans()]


@pytest.fixture
def telemetry():
    return Telemetry()


def new_breaker(clock, **params):
    return CircuitBreakerProcessor(
        params=CircuitBreakerParams(clock=clock, cooldown=wait_fixed(COOLDOWN), **params)
    )


async def send(worker, count=1):
    for _ in range(count):
        await worker.queue_frame(app_message())
        await settle()


def counted(telemetry):
    """What the metrics say, in the form in which the breaker says it."""
    held, probes = telemetry.values("held_frames"), telemetry.values("probes")
    return {
        name: Totals(
            origin=name,
            incidents=telemetry.values("incidents")[name,],
            failures=failures,
            openings=telemetry.values("openings")[name,],
            closings=telemetry.values("closings")[name,],
            held_errors=held["error", name],
            held_messages=held["message", name],
            probes_passed=probes[name, "passed"],
            probes_failed=probes[name, "failed"],
            probes_timed_out=probes[name, "timed_out"],
        )
        for (name,), failures in telemetry.values("failures").items()
    }


def totals_of(*breakers):
    sums = {}
    for breaker in breakers:
        for totals in breaker.totals:
            known = sums.setdefault(totals.origin, dict.fromkeys(totals.model_fields_set, 0))
            for name, value in totals:
                known[name] = value if name == "origin" else known[name] + value
    return {name: Totals(**values) for name, values in sums.items()}


ORIGIN = "Output: ConnectionError"
CHANNEL = "Output: channel down"


async def test__storm_and_recovery__every_metric__what_the_breaker_counted(clock, telemetry):
    breaker, output = new_breaker(clock), Output(fails=dead)
    telemetry.instrument(breaker)
    async with running(breaker, output) as worker:
        await send(worker, 20)
        clock.advance(COOLDOWN)
        await send(worker, 2)  # the probe fails
        clock.advance(COOLDOWN)
        output.fails = lambda message: None
        await send(worker, 2)  # this one arrives
        assert counted(telemetry) == totals_of(breaker)
        totals = totals_of(breaker)
        assert {*totals} == {ORIGIN, CHANNEL}
        assert (totals[ORIGIN].failures, totals[ORIGIN].openings) == (5, 2)
        channel = totals[CHANNEL]
        assert (channel.failures, channel.openings, channel.closings) == (6, 2, 1)
        assert (channel.probes_failed, channel.probes_passed) == (1, 1)
        assert channel.held_messages + totals[ORIGIN].held_messages > 15
        assert telemetry.values("circuits") == {
            (state, origin): int(state == "closed")
            for state in ("closed", "open", "half_open")
            for origin in (ORIGIN, CHANNEL)
        }


async def test__each_state__circuits__one_series_for_each_state(clock, telemetry):
    held_up = asyncio.Event()

    class Slow(Output):
        async def send_message(self, frame):
            if not self.failed or len(self.failed) < 5:
                await super().send_message(frame)
            else:
                await held_up.wait()

    breaker = new_breaker(clock)
    telemetry.instrument(breaker)
    name = "Slow: channel down"
    states = [("closed", name), ("half_open", name), ("open", name)]

    def now():
        values = telemetry.values("circuits")
        return [values.get(state) for state in states]

    async with running(breaker, Slow(fails=dead)) as worker:
        assert now() == [None, None, None], "nothing has failed"
        await send(worker, 1)
        assert now() == [0, 0, 1]
        clock.advance(COOLDOWN)
        await send(worker)
        assert now() == [0, 1, 0]
        await breaker.close_circuits()
        await settle()
        assert now() == [1, 0, 0]
        held_up.set()
    assert now() == [0, 0, 0], "its pipeline is over"


async def test__metrics__names_units_and_kinds(clock, telemetry):
    breaker = new_breaker(clock)
    telemetry.instrument(breaker)
    async with running(breaker, Output(fails=dead)) as worker:
        await send(worker)
        metrics = telemetry.metrics()
    assert {name.removeprefix(f"{NAME}."): metric.unit for name, metric in metrics.items()} == {
        "circuits": "{circuit}",
        "incidents": "{incident}",
        "failures": "{failure}",
        "openings": "{opening}",
        "closings": "{closing}",
        "held_frames": "{frame}",
        "observed_frames": "{frame}",
        "unsent_messages": "{frame}",
        "failover_requests": "{request}",
        "probes": "{probe}",
    }
    for name, metric in metrics.items():
        assert metric.description
        assert isinstance(metric.data, Sum)
        assert metric.data.is_monotonic is (name != f"{NAME}.circuits")


async def test__breakers_of_two_pipelines__sums_of_both__also_when_they_are_gone(clock, telemetry):
    async def call():
        breaker = new_breaker(clock)
        telemetry.instrument(breaker)
        async with running(breaker, Output(fails=dead)) as worker:
            await send(worker, 10)
            return breaker, totals_of(breaker)

    first, in_first = await call()
    second, in_second = await call()
    in_both = totals_of(first, second)
    assert counted(telemetry) == in_both
    assert in_both[ORIGIN].failures == 10
    guards = [ref(first.guard), ref(second.guard)]
    del first, second
    await settle()
    gc.collect()
    assert [guard() for guard in guards] == [None, None], "nothing here holds a pipeline"
    assert counted(telemetry) == in_both

    third, _ = await call()
    assert counted(telemetry)[ORIGIN].failures == 15


async def test__pipeline_gone_before_anybody_looked__its_counts__are_there(clock, telemetry):
    async def call():
        breaker = new_breaker(clock)
        telemetry.instrument(breaker)
        async with running(breaker, Output(fails=dead)) as worker:
            await send(worker, 10)
        return totals_of(breaker)

    expected = await call()
    await settle()
    gc.collect()
    assert counted(telemetry) == expected


async def test__two_breakers_in_one_pipeline__counted_once__one_span(clock, telemetry):
    breakers = [new_breaker(clock), new_breaker(clock)]
    telemetry.instrument(*breakers, breakers[0])
    output = Output(fails=dead)
    async with running(breakers[0], IdentityFilter(), breakers[1], output) as worker:
        await send(worker, 10)
        assert counted(telemetry) == totals_of(breakers[0])
        assert sum(telemetry.values("circuits").values()) == 2, "the errors' and the channel's"
        await breakers[1].close_circuits()
        await settle()
    assert [span.name for span in telemetry.spans()] == ["circuit open"]


async def test__pipeline_stopped_and_run_again__sums_stay__states_begin_anew(clock, telemetry):
    breaker, output = new_breaker(clock), Output(fails=dead)
    telemetry.instrument(breaker)
    async with running(breaker, output) as worker:
        await send(worker, 10)
        await worker.queue_frame(StopFrame())
        await settle()
        before = totals_of(breaker)
    async with running(breaker, output) as worker:
        assert breaker.totals == ()
        assert counted(telemetry) == before
        assert sum(telemetry.values("circuits").values()) == 0, "those were of the first run"
        await send(worker, 10)
        assert counted(telemetry)[ORIGIN].failures == before[ORIGIN].failures + 5
        await worker.queue_frame(StopFrame())
        await settle()


async def test__instrumented_in_mid_incident__state_and_totals__are_there(clock, telemetry):
    breaker = new_breaker(clock)
    async with running(breaker, Output(fails=dead)) as worker:
        await send(worker, 10)
        telemetry.instrument(breaker)
        assert counted(telemetry) == totals_of(breaker)
        assert telemetry.values("circuits")["open", ORIGIN] == 1


async def test__more_origins_than_are_told_apart__the_rest__is_one(clock, telemetry, monkeypatch):
    monkeypatch.setattr(counts, "_MAX_ORIGINS", 2)
    letters = "abcd"
    failing = Failing(TextFrame, lambda n: {"error_msg": f"fails in way {letters[n - 1]}"})
    breaker = new_breaker(clock)
    telemetry.instrument(breaker)
    async with running(breaker, failing, Output()) as worker:
        for _ in letters:
            await worker.queue_frame(TextFrame("x"))
            await settle()
        assert {name: totals.failures for name, totals in counted(telemetry).items()} == {
            "Failing: fails in way a": 1,
            "Failing: fails in way b": 1,
            "other": 2,
        }
        assert telemetry.values("circuits")["closed", "other"] == 1


async def test__read_from_another_thread_in_a_storm__values__never_go_down(clock, telemetry):
    breaker, output = new_breaker(clock), Output(fails=dead)
    telemetry.instrument(breaker)
    seen, done = [], threading.Event()

    def scrape():
        while not done.is_set() and len(seen) < 10_000:
            seen.append(sum(telemetry.values("held_frames").values()))

    scraper = threading.Thread(target=scrape)
    async with running(breaker, output) as worker:
        scraper.start()
        await send(worker, 100)
        done.set()
        scraper.join(10)
        last = sum(telemetry.values("held_frames").values())
        assert last == sum(t.held_errors + t.held_messages for t in breaker.totals)
    assert seen == sorted(seen)
    assert seen[-1] <= last


async def test__incident__span__from_opening_to_closing(clock, telemetry):
    opened, told = [], []
    breaker, output = new_breaker(clock), Output(fails=dead)
    breaker.add_event_handler("on_circuit_opened", lambda _, incident: opened.append(incident))
    breaker.add_event_handler("on_circuit_closed", lambda _, incident: told.append(incident))
    telemetry.instrument(breaker)
    async with running(breaker, output) as worker:
        await send(worker, 10)
        clock.advance(COOLDOWN)
        await send(worker)
        clock.advance(COOLDOWN)
        output.fails = lambda message: None
        await send(worker)
        assert telemetry.spans() and len(told) == 1
    [span], [incident] = telemetry.spans(), told
    assert span.name == "circuit open"
    assert span.status.status_code is StatusCode.ERROR
    assert span.start_time / 1e9 == pytest.approx(incident.opened_at.timestamp(), abs=1e-5)
    assert span.end_time / 1e9 == pytest.approx(incident.ended_at.timestamp(), abs=1e-5)
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(2 * COOLDOWN, abs=1e-3)
    assert {name.removeprefix(f"{NAME}."): value for name, value in span.attributes.items()} == {
        "origin": ORIGIN,
        "processor": output.name,
        "incident.id": incident.id,
        "trigger": "errors",
        "advice": incident.advice.kind.value,
        "error.type": "ConnectionError",
        "failures": 5,
        "openings": 2,
        "held_errors": incident.held_errors,
        "held_messages": incident.held_messages,
        "observed_errors": 0,
        "observed_messages": 0,
        "mode": "guard",
        "pipeline": incident.call.pipeline,
        "host.name": incident.call.host,
        "process.pid": os.getpid(),
        "ending": "recovered",
    }
    causes = [event for event in span.events if event.name == f"{NAME}.cause"]
    assert [
        (
            event.attributes[f"{NAME}.hop"],
            event.attributes[f"{NAME}.frame.class"],
            event.attributes[f"{NAME}.processor"],
            event.attributes[f"{NAME}.text"],
        )
        for event in causes
    ] == [(step.hop, step.frame, step.processor, step.text) for step in opened[0].chain]
    probes = [event for event in span.events if event.name == f"{NAME}.probe"]
    assert [event.attributes[f"{NAME}.probe.outcome"] for event in probes] == ["failed", "passed"]
    assert len(causes) + len(probes) == len(span.events)


async def test__message_content__is_in_no_span(clock, telemetry):
    breaker = new_breaker(clock)
    telemetry.instrument(breaker)
    async with running(breaker, Output(fails=dead)) as worker:
        message = app_message()
        message.message["secret"] = "hunter2"
        await worker.queue_frame(message)
        await settle()
        await breaker.close_circuits()
        await settle()
    [span] = telemetry.spans()
    assert "hunter2" not in span.to_json()


async def test__pipeline_over_while_open__span__ends_with_it(clock, telemetry):
    breaker, output = new_breaker(clock), Output(fails=dead)
    telemetry.instrument(breaker)
    async with running(breaker, output) as worker:
        await send(worker)
        assert telemetry.spans() == []
        await ended(worker)
    [span] = telemetry.spans()
    assert span.attributes[f"{NAME}.ending"] == "pipeline_over"
    assert span.status.status_code is StatusCode.ERROR


async def test__span_under_way__circuit_opens__it_gets_an_event_and_a_child(clock, telemetry):
    tracer = telemetry.tracers.get_tracer("a service")

    class Traced(Failing):
        async def process_frame(self, frame, direction):
            with tracer.start_as_current_span("tts") as span:
                span.set_attribute("frame", type(frame).__name__)
                await super().process_frame(frame, direction)

    breaker = new_breaker(clock, max_errors=2)
    telemetry.instrument(breaker)
    failing = Traced(TextFrame, lambda n: {"error_msg": "quota exceeded"})
    async with running(breaker, failing, Output()) as worker:
        for _ in range(2):
            await worker.queue_frame(TextFrame("x"))
            await settle()
        await breaker.close_circuits()
        await settle()
    [incident] = [span for span in telemetry.spans() if span.name == "circuit open"]
    [outer] = [span for span in telemetry.spans() if span.name == "tts" and span.events]
    assert [event.name for event in outer.events] == [f"{NAME}.opened"]
    assert outer.events[0].attributes[f"{NAME}.origin"] == "Traced: quota exceeded"
    assert incident.parent.span_id == outer.context.span_id


async def test__pipecats_tracing__model_fails__its_span_gets_the_event(
    clock, telemetry, monkeypatch
):
    # pipecat asks for the global tracer, which can be set only once in a process.
    tracer = telemetry.tracers.get_tracer("pipecat")
    monkeypatch.setattr(trace, "get_tracer", lambda *args, **kwargs: tracer)

    class Model(LLMService):
        async def process_frame(self, frame, direction):
            await super().process_frame(frame, direction)
            if isinstance(frame, LLMContextFrame):
                await self._process_context(frame.context)
            else:
                await self.push_frame(frame, direction)

        @traced_llm
        async def _process_context(self, context):
            await self.push_error("quota exceeded")

    breaker = new_breaker(clock, max_errors=2)
    telemetry.instrument(breaker)
    model = Model(settings=LLMSettings(model="none"))
    async with running(breaker, model, Output(), enable_tracing=True) as worker:
        for _ in range(3):
            await worker.queue_frame(LLMContextFrame(LLMContext()))
            await settle()
    opened = [span for span in telemetry.spans() if span.name == "llm" and span.events]
    assert [event.name for span in opened for event in span.events] == [f"{NAME}.opened"]
    [incident] = [span for span in telemetry.spans() if span.name == "circuit open"]
    assert incident.parent.span_id == opened[0].context.span_id


async def test__no_span_under_way__circuit_opens__span_is_a_root(clock, telemetry):
    breaker = new_breaker(clock)
    telemetry.instrument(breaker)
    async with running(breaker, Output(fails=dead)) as worker:
        await send(worker)
    [span] = telemetry.spans()
    assert span.parent is None
    assert not trace.get_current_span().is_recording()


async def test__global_providers__instrument_without_any__does_nothing_and_harms_nothing(clock):
    breaker, output = new_breaker(clock), Output(fails=dead)
    instrument(breaker)
    async with running(breaker, output) as worker:
        await send(worker, 10)
    assert len(output.failed) == 5


async def test__instrumentation_raises__pipeline__does_what_it_does_without(
    clock, telemetry, monkeypatch
):
    def fail(*args):
        raise ZeroDivisionError

    breaker, output = new_breaker(clock), Output(fails=dead)
    telemetry.instrument(breaker)
    monkeypatch.setattr(counts.Counts, "note", fail)
    monkeypatch.setattr(counts.Counts, "leave", fail)
    monkeypatch.setattr(counts.Counts, "_read", fail)
    async with running(breaker, output) as worker:
        await send(worker, 10)
        assert telemetry.metrics() == {}
        clock.advance(COOLDOWN)
        output.fails = lambda message: None
        await send(worker)
        await ended(worker)
    assert len(output.failed) == 5
    assert len(output.sent) >= 1


async def test__bots_come_and_go_and_nobody_looks__sources__do_not_pile_up(clock, telemetry):
    async def call():
        breaker = new_breaker(clock)
        telemetry.instrument(breaker)
        async with running(breaker, Output(fails=dead)) as worker:
            await send(worker)

    sums = []
    for _ in range(5):
        await call()
        gc.collect()
        sums.append(sum(isinstance(o, counts._Source) for o in gc.get_objects()))
    assert sums[-1] <= sums[0] + 1


async def test__more_incidents_than_spans_may_be_open__the_oldest_span__ends(
    clock, telemetry, monkeypatch
):
    monkeypatch.setattr(backend, "_MAX_SPANS", 1)
    breaker = new_breaker(clock)
    telemetry.instrument(breaker)
    async with running(breaker, Output()):
        for kind in ("one", "two"):
            await breaker.open_circuits(Origin.of(Output(), kind))
            await settle()
        assert [s.attributes[f"{NAME}.origin"] for s in telemetry.spans()] == ["Output: one"]
        await breaker.close_circuits()
        await settle()
    assert len(telemetry.spans()) == 2


def test__new_origin_is_counted_while_totals_are_read__they_are_read_again():
    class Guard:
        reads = 0
        open_circuits = ()

        @property
        def totals(self):
            self.reads += 1
            if self.reads % 3:
                raise RuntimeError("dictionary changed size during iteration")
            return (Totals(origin="Output: gone", failures=self.reads),)

    class Breaker:
        guard = Guard()
        incidents = ()

    breaker, sums = Breaker(), counts.Counts()
    sums.add(breaker)
    assert [totals.failures for totals in sums.totals] == [6]


def test__guard_with_the_id_of_one_that_is_gone__counts_of_both__add_up():
    class Guard:
        open_circuits = ()
        totals = (Totals(origin="Output: gone", failures=2),)

    class Breaker:
        guard = Guard()
        incidents = ()

    gone, sums, breaker = Guard(), counts.Counts(), Breaker()
    before = counts._Source(ref(gone), totals=(Totals(origin="Output: gone", failures=3),))
    sums._sources[id(breaker.guard)] = before
    del gone
    sums.add(breaker)
    assert [totals.failures for totals in sums.totals] == [5]
