"""A real Prometheus server scrapes a bot: what it has is what the breaker counted."""

import asyncio
import shutil
import time
from contextlib import contextmanager

import pytest
from pipecat.frames.frames import TextFrame
from tenacity import wait_fixed

pytest.importorskip(
    "opentelemetry.exporter.prometheus", reason="opentelemetry-exporter-prometheus is not installed"
)
if shutil.which("prometheus") is None:
    pytest.skip("no `prometheus` on the PATH", allow_module_level=True)

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, start_http_server

from pictures import dashboard
from pictures.prometheus import Prometheus
from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.instrumentation import instrument
from pipecat_circuit_breaker.testing import Output, running
from tests.support.parts import Failing, app_message, dead, settle

NAME = "pipecat_circuit_breaker"
COOLDOWN = 5.0


@contextmanager
def exposed():
    """A meter provider whose metrics are served on loopback, and the port."""
    registry = CollectorRegistry()
    provider = MeterProvider(metric_readers=[PrometheusMetricReader(registry=registry)])
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        yield provider, server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
        provider.shutdown()


def scraped(prometheus, name, *labels):
    """A metric's newest values, by the labels that matter."""
    return {
        tuple(found["metric"][f"{NAME}_{label}"] for label in labels): int(found["value"][1])
        for found in prometheus.query(f"{NAME}_{name}")
    }


def everything_scraped(prometheus):
    return {
        "failures": scraped(prometheus, "failures_total", "origin"),
        "openings": scraped(prometheus, "openings_total", "origin"),
        "closings": scraped(prometheus, "closings_total", "origin"),
        "held": scraped(prometheus, "held_frames_total", "origin", "frame_kind"),
        "probes": scraped(prometheus, "probes_total", "origin", "probe_outcome"),
        "circuits": scraped(prometheus, "circuits", "origin", "circuit_state"),
    }


def everything_counted(breaker):
    """What the breaker itself says, in the same form."""
    totals = breaker.totals
    states = {circuit.origin.shared_name: circuit.state for circuit in breaker.circuits}
    return {
        "failures": {(t.origin,): t.failures for t in totals},
        "openings": {(t.origin,): t.openings for t in totals},
        "closings": {(t.origin,): t.closings for t in totals},
        "held": {(t.origin, "error"): t.held_errors for t in totals}
        | {(t.origin, "message"): t.held_messages for t in totals},
        "probes": {(t.origin, "passed"): t.probes_passed for t in totals}
        | {(t.origin, "failed"): t.probes_failed for t in totals}
        | {(t.origin, "timed_out"): t.probes_timed_out for t in totals},
        "circuits": {
            (origin, other): int(state == other)
            for origin, state in states.items()
            for other in ("closed", "open", "half_open")
        },
    }


async def test__bot_in_a_storm__prometheus__has_what_the_breaker_counted(clock):
    breaker = CircuitBreakerProcessor(
        params=CircuitBreakerParams(clock=clock, cooldown=wait_fixed(COOLDOWN))
    )
    output = Output(fails=dead)
    failing = Failing(TextFrame, lambda n: {"error_msg": f"quota exceeded, request {n}"})
    with exposed() as (provider, port), Prometheus.scraping(port) as prometheus:
        instrument(breaker, meter_provider=provider)

        async def scrape():
            await asyncio.to_thread(prometheus.wait_for_scrape_after, time.time())
            return await asyncio.to_thread(everything_scraped, prometheus)

        async with running(breaker, failing, output) as worker:

            async def push(count):
                for _ in range(count):
                    await worker.queue_frames([app_message(), TextFrame("x")])
                    await settle()

            await push(50)
            clock.advance(COOLDOWN)
            await push(10)
            in_storm = everything_counted(breaker)
            assert await scrape() == in_storm
            assert sum(in_storm["held"].values()) > 100
            assert sum(in_storm["probes"].values()) > 1
            assert {s for (_, s), n in in_storm["circuits"].items() if n} & {"open", "half_open"}

            clock.advance(COOLDOWN)
            output.fails = lambda message: None
            await push(10)
            after = everything_counted(breaker)
            assert await scrape() == after
            assert after["closings"]["Output: ConnectionError",] == 1

        counters = {name: values for name, values in after.items() if name != "circuits"}
        over = await scrape()
        assert not any(over.pop("circuits").values()), "no pipeline runs"
        # The end of the pipeline closes what was open.
        assert over.pop("closings") and counters.pop("closings")
        assert over == counters, "what was counted stays"

        for panel in dashboard.panels():
            answers = await asyncio.to_thread(prometheus.query, dashboard.expression(panel))
            assert answers, f"{panel['title']}: expected an answer after a storm"
        with pytest.raises(ValueError, match="parse error"):
            prometheus.query("sum by (")


async def test__first_opening_of_an_origin__dashboard__shows_it(clock):
    # `increase` alone knows nothing of a counter that was not there before.
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    [openings] = [panel for panel in dashboard.panels() if panel["title"].startswith("Openings")]
    with exposed() as (provider, port), Prometheus.scraping(port) as prometheus:
        instrument(breaker, meter_provider=provider)
        async with running(breaker, Output(fails=dead)) as worker:
            await worker.queue_frame(app_message())
            await settle()
            await asyncio.to_thread(prometheus.wait_for_scrape_after, time.time())
            answers = await asyncio.to_thread(prometheus.query, dashboard.expression(openings))
    assert {answer["metric"][f"{NAME}_origin"] for answer in answers} == {
        "Output: ConnectionError",
        "Output: channel down",
    }
    assert all(float(answer["value"][1]) == 1 for answer in answers)
