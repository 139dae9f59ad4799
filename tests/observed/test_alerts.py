"""The alert rules: what each fires at, with promtool and with a real Prometheus over real bots."""

import asyncio
import json
import re
import shutil
import subprocess
import time
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

import pytest

pytest.importorskip(
    "opentelemetry.exporter.prometheus", reason="opentelemetry-exporter-prometheus is not installed"
)
if shutil.which("prometheus") is None or shutil.which("promtool") is None:
    pytest.skip("no `prometheus` and `promtool` on the PATH", allow_module_level=True)

from aiohttp import web
from pipecat.frames.frames import EndFrame
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.processors.aggregators.llm_context import LLMContext

from pictures.prometheus import Prometheus
from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.demo.chains import CHAINS
from pipecat_circuit_breaker.demo.run import run_chain, settled
from pipecat_circuit_breaker.demo.tally import Tally
from pipecat_circuit_breaker.fleet import Fleet, FleetParams
from pipecat_circuit_breaker.fleet.memory import MemoryStore
from pipecat_circuit_breaker.fleet.store import Report
from pipecat_circuit_breaker.instrumentation import instrument, instrument_fleet
from pipecat_circuit_breaker.testing import Output, Transport, running
from tests.observed.test_prometheus import exposed
from tests.support.parts import app_message, dead, settle
from tests.support.tool_bot import Model, aggregators, llm_at, says, until

RULES = files("pipecat_circuit_breaker") / "instrumentation" / "alerts.yml"
NAME = "pipecat_circuit_breaker"
ORIGIN = f'{NAME}_origin="Output: ConnectionError"'

OF_SERVICE = f'{NAME}_origin="LLM: service down"'
OF_SWITCHER = f'{NAME}_origin="LLMSwitcher: nobody answers"'

#: Normal calls, of which none may fire anything.
CALLS = 100


def promtool(*arguments):
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test__rules__promtool__takes_them():
    promtool("check", "rules", str(RULES))


def test__rules__each_alert__is_on_the_page():
    page = (Path(__file__).parents[2] / "docs/how-to/alert.md").read_text()
    names = re.findall(r"- alert: (\w+)", RULES.read_text())

    assert len(names) == 9
    assert [name for name in names if f"`{name}`" not in page] == []


#
# Made-up series
#


def series(name, labels, values):
    return {"series": f"{NAME}_{name}{{{labels}}}", "values": values}


def firing(minute, alert, *labels):
    return {
        "eval_time": minute,
        "alertname": alert,
        "exp_alerts": [{"exp_labels": each} for each in labels],
    }


def at(severity, origin=None):
    labels = {"severity": severity}
    return {**labels, f"{NAME}_origin": origin} if origin else labels


OF_OUTPUT = "Output: ConnectionError"

OF_FLEET = f'{NAME}_fleet_name="production",{NAME}_fleet_key="Output: ConnectionError in m:f"'
PROCESSES = [f'instance="{n}"' for n in range(50)]


def of_fleet(severity, **labels):
    known = {"severity": severity, f"{NAME}_fleet_name": "production"}
    return {**known, **{f"{NAME}_fleet_{name}": value for name, value in labels.items()}}


CASES = {
    "an outage of the fleet, in fifty processes that all tell of it": (
        [
            series(name, f"{labels},{process}", values)
            for process in PROCESSES
            for name, labels, values in (
                ("fleet_outages", f"{OF_FLEET},{ORIGIN}", "0x9 1x10 0x40"),
                ("incidents_total", ORIGIN, "0x9 200x60"),
                ("circuits", f'{ORIGIN},{NAME}_circuit_state="open"', "0x9 200x10 0x40"),
            )
        ],
        [
            firing("9m", "PipecatFleetOutage"),
            *(
                firing(
                    f"{minute}m",
                    "PipecatFleetOutage",
                    of_fleet("page", key="Output: ConnectionError in m:f"),
                )
                for minute in (11, 19)
            ),
            firing("21m", "PipecatFleetOutage"),
            # None of these 10,000 incidents is an alert of its own.
            *(
                firing(f"{minute}m", alert)
                for minute in (11, 16, 19, 21, 30)
                for alert in ("PipecatOutage", "PipecatOutageLasts", "PipecatManyOutages")
            ),
        ],
    ),
    "something else fails during an outage of the fleet": (
        [
            series("fleet_outages", f"{OF_FLEET},{ORIGIN}", "0x9 1x60"),
            series("incidents_total", f'{NAME}_origin="STT: TimeoutError"', "0x9 12x60"),
            series(
                "circuits",
                f'{NAME}_origin="STT: TimeoutError",{NAME}_circuit_state="open"',
                "0x9 1x60",
            ),
        ],
        [
            firing("12m", "PipecatOutage", at("ticket", "STT: TimeoutError")),
            firing("12m", "PipecatManyOutages", at("page")),
            firing("16m", "PipecatOutageLasts", at("page")),
        ],
    ),
    "bots are alone": (
        [
            series("fleet_connected", f'{NAME}_fleet_name="production",{process}', "1x9 0x20 1x40")
            for process in PROCESSES
        ],
        [
            firing("12m", "PipecatFleetAlone"),
            firing("16m", "PipecatFleetAlone", of_fleet("ticket")),
            firing("31m", "PipecatFleetAlone"),
        ],
    ),
    "nothing happens": (
        [
            series("incidents_total", ORIGIN, "0x60"),
            series("circuits", f'{ORIGIN},{NAME}_circuit_state="open"', "0x60"),
            series("unsent_messages_total", ORIGIN, "0+3x60"),
        ],
        [
            firing(f"{minute}m", alert)
            for minute in (1, 20, 59)
            for alert in (
                "PipecatOutage",
                "PipecatOutageLasts",
                "PipecatManyOutages",
                "PipecatMessagesLost",
                "PipecatSendsToNobody",
                "PipecatNobodyAnswers",
                "PipecatServiceDown",
                "PipecatFleetOutage",
                "PipecatFleetAlone",
            )
        ],
    ),
    "an outage that brings its series about": (
        [series("incidents_total", ORIGIN, "_x4 1x60")],
        [
            firing("3m", "PipecatOutage"),
            firing("6m", "PipecatOutage", at("ticket", OF_OUTPUT)),
            firing("13m", "PipecatOutage", at("ticket", OF_OUTPUT)),
            firing("17m", "PipecatOutage"),
        ],
    ),
    "one more outage": (
        [series("incidents_total", ORIGIN, "4x29 5x60")],
        [
            firing("29m", "PipecatOutage"),
            firing("31m", "PipecatOutage", at("ticket", OF_OUTPUT)),
            firing("41m", "PipecatOutage"),
        ],
    ),
    "it lasts": (
        [
            series("circuits", f'{ORIGIN},{NAME}_circuit_state="open"', "0x4 1x20 0x20"),
            series("circuits", f'{ORIGIN},{NAME}_circuit_state="closed"', "1x60"),
        ],
        [
            firing("9m", "PipecatOutageLasts"),
            firing("11m", "PipecatOutageLasts", at("page")),
            firing("26m", "PipecatOutageLasts"),
        ],
    ),
    "a service fails, another answers": (
        [
            series("incidents_total", OF_SERVICE, "0x4 1x60"),
            series("circuits", f'{OF_SERVICE},{NAME}_circuit_state="open"', "0x4 1x60"),
        ],
        [
            firing("6m", "PipecatServiceDown", at("ticket", "LLM: service down")),
            firing("30m", "PipecatServiceDown"),
            *(
                firing(f"{minute}m", alert)
                for minute in (6, 30)
                for alert in ("PipecatOutage", "PipecatOutageLasts", "PipecatNobodyAnswers")
            ),
        ],
    ),
    "no service answers": (
        [
            series("incidents_total", OF_SERVICE, "0x4 1x60"),
            series("incidents_total", OF_SWITCHER, "0x4 1x60"),
            series("circuits", f'{OF_SERVICE},{NAME}_circuit_state="open"', "0x4 1x60"),
            series("circuits", f'{OF_SWITCHER},{NAME}_circuit_state="open"', "0x4 1x4 0x60"),
        ],
        [
            firing("6m", "PipecatOutage", at("ticket", "LLMSwitcher: nobody answers")),
            firing("7m", "PipecatNobodyAnswers", at("page", "LLMSwitcher: nobody answers")),
            firing("20m", "PipecatNobodyAnswers"),
            firing("20m", "PipecatOutageLasts"),
        ],
    ),
    "many services fail": (
        [series("incidents_total", f'{OF_SERVICE},instance="{n}"', "0x9 1x60") for n in range(10)],
        [firing("12m", "PipecatManyOutages")],
    ),
    "many at once": (
        [series("incidents_total", f'{ORIGIN},instance="{n}"', "0x9 1x60") for n in range(10)],
        [
            firing("9m", "PipecatManyOutages"),
            firing("12m", "PipecatManyOutages", at("page")),
            firing("30m", "PipecatManyOutages"),
        ],
    ),
    "messages are lost": (
        [
            series("held_frames_total", f'{ORIGIN},{NAME}_frame_kind="message"', "0x9 120x60"),
            series("held_frames_total", f'{ORIGIN},{NAME}_frame_kind="error"', "0x9 9000x60"),
        ],
        [
            firing("9m", "PipecatMessagesLost"),
            firing("12m", "PipecatMessagesLost", at("ticket", OF_OUTPUT)),
        ],
    ),
    "a bot goes on sending to nobody": (
        [series("unsent_messages_total", ORIGIN, "0+240x60")],
        [
            firing("8m", "PipecatSendsToNobody"),
            firing("25m", "PipecatSendsToNobody", at("ticket", OF_OUTPUT)),
        ],
    ),
}


def without_annotations():
    """The rules without what is for people, which promtool would compare word by word."""
    return re.sub(
        r"\n {8}annotations:\n(?: {10}.*\n(?: {12}.*\n)*)+", "\n", f"{RULES.read_text()}\n"
    )


@pytest.mark.parametrize("case", CASES)
def test__rules__made_up_series__fire_what_they_should(case, tmp_path):
    given, expected = CASES[case]
    (tmp_path / "alerts.yml").write_text(without_annotations())
    test = {
        "rule_files": ["alerts.yml"],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": given, "alert_rule_test": expected}],
    }
    # JSON is YAML.
    (tmp_path / "test.yml").write_text(json.dumps(test))

    promtool("test", "rules", str(tmp_path / "test.yml"))


#
# Real bots, and a real Prometheus. Minutes are seconds here: the rules are the same otherwise.
#


def hurried(folder):
    rules = Path(folder, "alerts.yml")
    rules.write_text(re.sub(r"\b(\d+)m\b", r"\1s", RULES.read_text()))
    return rules


class Watched:
    """A Prometheus that scrapes this process, and the alerts that have fired so far."""

    def __init__(self, prometheus, provider):
        self.prometheus = prometheus
        self.provider = provider

    async def alerts(self):
        """How often each alert fires now, once it has scraped what there is."""
        await asyncio.to_thread(self.prometheus.wait_for_scrape_after, time.time())
        # Rules are evaluated once a second too, after the scrape or before.
        await asyncio.to_thread(self.prometheus.wait_for_scrape_after, time.time() + 1)
        found = await asyncio.to_thread(self.prometheus.query, 'ALERTS{alertstate="firing"}')
        names = [alert["metric"]["alertname"] for alert in found]
        return {name: names.count(name) for name in names}

    def breaker(self, **params):
        breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(**params))
        instrument(breaker, meter_provider=self.provider)
        return breaker


@pytest.fixture
def watched(tmp_path):
    rules = hurried(tmp_path)
    with (
        exposed() as (provider, port),
        Prometheus.scraping(port, rules=rules) as prometheus,
    ):
        yield Watched(prometheus, provider)


async def test__hundred_normal_calls__nothing_fires__one_outage_among_them__one_alert(
    watched, clock
):
    async def call(n):
        breaker, transport = watched.breaker(clock=clock), Transport()
        breaker.watch(transport)
        output = transport.output()
        async with running(breaker, transport.input(), output) as worker:
            await transport.connect()
            await worker.queue_frames([app_message(n) for n in range(5)])
            await settle(60)
            if n % 2:
                # The client hangs up, in the middle of what is sent.
                output.fail(ConnectionError("gone"))
                await transport.disconnect()
            await worker.queue_frames([app_message(n) for n in range(5)])
            await settle(60)
            await worker.queue_frame(EndFrame())
            await settle(60)

    for n in range(CALLS // 2):
        await call(n)
    assert await watched.alerts() == {}

    breaker, output = watched.breaker(clock=clock), Output(dead)
    async with running(breaker, output) as worker:
        for n in range(10):
            await worker.queue_frame(app_message(n))
            await settle(30)
        assert len(breaker.incidents) == 1
    for n in range(CALLS // 2):
        await call(n)

    assert await watched.alerts() == {"PipecatOutage": 1}


def refuses(request):
    raise web.HTTPInternalServerError


async def test__a_service_fails_in_many_calls__one_ticket__nobody_answers__a_page(
    watched, monkeypatch
):
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    @asynccontextmanager
    async def call(second):
        async with Model(refuses).serving() as down, Model(second).serving() as other:
            llms = [llm_at(model) for model in (down, other)]
            for llm in llms:
                llm._client = llm._client.with_options(max_retries=0)
            breaker, switcher = watched.breaker(), LLMSwitcher(llms)
            breaker.failover(switcher)
            user, assistant = aggregators(LLMContext())
            async with running(breaker, user, switcher, assistant) as worker:
                await worker.queue_frame(says("hello"))
                await until(lambda: breaker.health()["status"] in ("degraded", "out"))
                await until(
                    lambda: (
                        breaker.health()["failovers"][switcher.name]["answers"] or second is refuses
                    )
                )
                yield

    for _ in range(12):
        async with call(lambda request: "Yes."):
            pass
    assert await watched.alerts() == {"PipecatServiceDown": 1}

    async with call(refuses):
        await asyncio.sleep(3)
        names = await watched.alerts()
    assert names["PipecatNobodyAnswers"] == 1 and names["PipecatOutage"] == 1
    assert "PipecatOutageLasts" not in names and "PipecatManyOutages" not in names


async def test__an_outage_of_a_fleet__one_page__and_no_alert_for_its_bots(watched, clock):
    store = MemoryStore()
    fleet = Fleet(store=store, params=FleetParams(name="production"))
    instrument_fleet(fleet, watched.provider)
    await fleet.start()
    for n in range(3):
        report = Report(f"{OF_OUTPUT} in bot:dead", f"pod-{n}", "t", True, 5, (), 0.0, (60.0,))
        await store.report(report, min_instances=3, vote_secs=10.0, hold_secs=600.0)
    async with asyncio.timeout(10):
        while not fleet.outages:
            await asyncio.sleep(0.01)
    # Its bots are scraped no earlier than it is.
    await watched.alerts()

    # As many as would be PipecatManyOutages, and fewer messages than PipecatMessagesLost takes.
    for _ in range(10):
        breaker, output = watched.breaker(clock=clock), Output(dead)
        async with running(breaker, output) as worker:
            for n in range(8):
                await worker.queue_frame(app_message(n))
                await settle(30)
            assert len(breaker.incidents) == 1

    assert await watched.alerts() == {"PipecatFleetOutage": 1}
    await fleet.close()


async def test__each_storm_of_the_demo__one_alert(watched, clock):
    begun = 0
    for name, chain in CHAINS.items():
        breaker = watched.breaker(clock=clock)
        outcome = await run_chain(chain, breaker=breaker, until=settled(), tally=Tally(limit=300))
        assert len(outcome.incidents) >= 1, name
        begun += len(outcome.incidents)

    names = await watched.alerts()
    counted = await asyncio.to_thread(watched.prometheus.query, f"sum({NAME}_incidents_total)")
    assert int(counted[0]["value"][1]) == begun
    assert names["PipecatOutage"] >= 1
    assert names["PipecatManyOutages"] == 1
