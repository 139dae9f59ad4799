"""What is told of a failover: incidents, the log, totals, health; each once."""

import asyncio
from contextlib import contextmanager

import pytest
from loguru import logger
from pipecat.frames.frames import ErrorFrame, OutputAudioRawFrame
from pipecat.pipeline.service_switcher import ServiceSwitcherStrategyFailover
from pipecat.processors.frame_processor import FrameDirection

from pipecat_circuit_breaker import CircuitState, Ending, Mode, ProbeOutcome, Trigger
from pipecat_circuit_breaker.testing import running
from tests.failover.failover_parts import FAIL, HANG, Bot, Scripted, passed, words
from tests.support.parts import settle

pytestmark = pytest.mark.releases

HEARD = "I am here. What can I do for you today?"
GOOD = words(HEARD)


def first_fails(*scripts, second=(GOOD,)):
    return Scripted("first", *scripts), Scripted("second", *second)


class Heard:
    """What the breaker tells of one bot, and what the log says of it."""

    def __init__(self, bot):
        self.bot, self.events, self.lines = bot, [], []
        for event in ("opened", "half_opened", "reopened", "closed"):
            bot.breaker.add_event_handler(f"on_circuit_{event}", self._teller(event))

    def _teller(self, event):
        async def tell(breaker, incident):
            self.events.append((event, incident))

        return tell

    def incidents(self, event):
        return [incident for told, incident in self.events if told == event]

    def note(self, message):
        record = message.record
        # On some releases another one says once that data of a tokenizer are missing.
        if record["message"].startswith("circuit"):
            self.lines.append(f"{record['level'].name} {record['message']}")


@contextmanager
def listening(bot):
    heard = Heard(bot)
    sink = logger.add(heard.note, level="INFO")
    try:
        yield heard
    finally:
        logger.remove(sink)


@pytest.fixture
def hear():
    return listening


def totals(bot):
    """What was counted, without what is zero."""
    return {
        each.origin: {k: n for k, n in each.model_dump(exclude={"origin"}).items() if n}
        for each in bot.breaker.totals
    }


#
# A service fails, another answers
#


async def test__first_fails__an_incident_that_says_who_took_over(hear):
    bot = Bot(*first_fails([FAIL]))
    with hear(bot) as heard:
        async with bot.talking():
            await bot.ask(secs=1)

            [incident] = bot.breaker.incidents
            assert heard.incidents("opened")[0].id == incident.id
            assert incident.trigger is Trigger.FAILOVER
            assert incident.state is CircuitState.OPEN
            assert incident.origin.processor == "first"
            assert incident.origin.kind == "ConnectionError"
            assert incident.origin.where.endswith("Scripted.answer")
            assert [step.text for step in incident.chain] == ["first failed: no answer"]
            assert incident.failover.model_dump() == {
                "switcher": bot.switcher.name,
                "failed": ("first",),
                "took_over": "second",
                "saved": 1,
                "lost": 0,
                "nobody_answers": False,
            }
            assert incident.failures == 1
            assert 4 <= incident.probe_in_secs <= 5
        assert [line.split(" ")[0] for line in heard.lines] == ["WARNING", "INFO"]
        assert "circuit open: first: ConnectionError" in heard.lines[0]
        assert "; second took over. first failed (" in heard.lines[0]


async def test__it_comes_back__the_incident_ends_with_its_counts_and_one_line(hear):
    bot = Bot(*first_fails([FAIL], GOOD))
    with hear(bot) as heard:
        async with bot.talking():
            for _ in range(4):
                await bot.ask(secs=3)

            [incident] = bot.breaker.incidents
            assert incident.ending is Ending.RECOVERED
            assert (incident.failover.took_over, incident.failover.saved) == ("second", 2)
            assert incident.failover.lost == 0
            assert [probe.outcome for probe in incident.probes] == [ProbeOutcome.PASSED]
            assert heard.incidents("closed")[0].id == incident.id
            assert "INFO circuit closed (recovered): first: ConnectionError" in heard.lines[1]
            assert "second took over: 2 requests answered, in 6.0 s" in heard.lines[1]
            assert len(heard.lines) == 2
            assert totals(bot) == {
                "Scripted: service down": {
                    "incidents": 1,
                    "openings": 1,
                    "closings": 1,
                    "saved_requests": 2,
                    "probes_passed": 1,
                }
            }


async def test__shadow_requests_fail__no_line_each_is_in_the_incident(hear):
    bot = Bot(*first_fails([FAIL]))
    with hear(bot) as heard:
        async with bot.talking():
            for _ in range(10):
                await bot.ask(secs=3)

            [incident] = bot.breaker.incidents
            assert len(incident.probes) >= 2
            assert {probe.outcome for probe in incident.probes} == {ProbeOutcome.FAILED}
            assert incident.openings == 1 + len(incident.probes)
            assert len(heard.incidents("half_opened")) == len(incident.probes)
            assert len(heard.incidents("reopened")) == len(incident.probes)
            assert len(heard.lines) == 1
            assert totals(bot)["Scripted: service down"]["incidents"] == 1


async def test__a_hang__is_an_incident_too():
    async with Bot(*first_fails([HANG])).talking() as bot:
        await bot.ask(secs=6)

        [incident] = bot.breaker.incidents
        assert incident.origin.kind == "TimeoutError"
        assert incident.failover.took_over == "second"


async def test__the_pipeline_ends__so_does_the_incident_and_the_next_call_begins_anew(hear):
    bot = Bot(*first_fails([FAIL]))
    with hear(bot) as heard:
        async with bot.talking():
            await bot.ask()
        [incident] = heard.incidents("closed")
        assert incident.ending is Ending.PIPELINE_OVER
        assert incident.failover.saved == 1
        assert heard.lines[-1].startswith("INFO circuit closed (pipeline_over)")
        assert bot.breaker.health()["status"] == "over"


async def test__closed_by_hand__the_service_is_asked_again():
    first, second = first_fails([FAIL], GOOD)
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=1)
        [incident] = bot.breaker.incidents
        await bot.breaker.close_circuits(incident.origin)
        [incident] = bot.breaker.incidents
        assert incident.ending is Ending.BY_HAND
        await bot.ask(secs=1)

        assert len(first.asked) == 2 and len(second.asked) == 1
        assert bot.breaker.incidents[-1].id == incident.id


async def test__opened_by_hand__all_there_are__services_are_asked_as_before():
    async with Bot(*first_fails(GOOD)).talking() as bot:
        await bot.breaker.open_circuits()
        await bot.ask(secs=1)

        assert bot.answers == [HEARD]
        assert bot.breaker.incidents == ()


async def test__reset__the_service_is_asked_again_and_fails_again__the_next_incident():
    async with Bot(*first_fails([FAIL])).talking() as bot:
        await bot.ask(secs=1)
        await bot.breaker.reset_circuits()
        await bot.ask(secs=1)

        assert [i.ending for i in bot.breaker.incidents] == [Ending.BY_HAND, None]
        assert len([c for c in bot.breaker.circuits if c.origin.kind == "service down"]) == 2


async def test__breaks_off_after_its_first_sentence__lost_and_no_outage(hear):
    bot = Bot(*first_fails([*words("I am here. What can"), FAIL]))
    with hear(bot) as heard:
        async with bot.talking():
            await bot.ask(secs=1)
            await bot.ask(secs=1)

            [incident] = bot.breaker.incidents
            assert (incident.failover.saved, incident.failover.lost) == (1, 1)
            assert incident.failover.outcome == "second took over: 1 request answered, 1 lost"
            assert incident.noticed == "1 request got no answer, or not the whole of it."
            assert [line.split(" ")[0] for line in heard.lines] == ["WARNING"]
            counted = totals(bot)["Scripted: service down"]
            assert (counted["saved_requests"], counted["lost_requests"]) == (1, 1)


async def test__two_fail_one_after_the_other__each_is_an_incident_and_the_third_stands_in_for_both():
    first = Scripted("first", [FAIL])
    second = Scripted("second", GOOD, [FAIL])
    third = Scripted("third", GOOD)
    async with Bot(first, second, third).talking() as bot:
        for _ in range(3):
            await bot.ask(secs=1)

        one, two = bot.breaker.incidents
        assert (one.origin.processor, two.origin.processor) == ("first", "second")
        assert (one.failover.took_over, one.failover.saved) == ("third", 3)
        assert (two.failover.took_over, two.failover.saved) == ("third", 2)
        assert totals(bot)["Scripted: service down"]["saved_requests"] == 3


async def test__a_backup_is_down_and_the_first_answers__nobody_stood_in_for_it():
    first = Scripted("first", [FAIL], GOOD)
    second, third = Scripted("second", [FAIL]), Scripted("third", GOOD)
    async with Bot(first, second, third).talking() as bot:
        for _ in range(6):
            await bot.ask(secs=3)

        [incident] = bot.breaker.incidents
        assert incident.failover.failed == ("first", "second")
        assert incident.ending is None
        saved = incident.failover.saved
        await bot.ask(secs=1)
        assert bot.breaker.incidents[0].failover.saved == saved


#
# Nobody answers
#


async def test__all_fail_at_once__one_incident_one_outage_one_line_and_the_error_is_heard(hear):
    bot = Bot(*first_fails([FAIL], second=([FAIL],)))
    with hear(bot) as heard:
        async with bot.talking():
            for _ in range(3):
                await bot.ask(secs=1)

            [incident] = bot.breaker.incidents
            assert len(heard.incidents("opened")) == 1
            assert incident.failover.failed == ("first", "second")
            assert incident.failover.nobody_answers
            assert (incident.failover.saved, incident.failover.lost) == (0, 3)
            assert bot.told.count("outage") == 1
            assert len(bot.errors) == 3
            [line] = heard.lines
            assert line.startswith("ERROR circuit open: first: ConnectionError")
            assert f"and second; no service of {bot.switcher.name} answers." in line
            counted = totals(bot)
            assert counted["LLMSwitcher: nobody answers"] == {"incidents": 1, "openings": 1}
            assert counted["Scripted: service down"]["incidents"] == 1
            assert counted["Scripted: service down"]["lost_requests"] == 3


async def test__all_fail_and_come_back__a_line_when_one_answers_and_one_when_all_do(hear):
    bot = Bot(*first_fails([FAIL], GOOD, second=([FAIL], GOOD)))
    with hear(bot) as heard:
        async with bot.talking():
            await bot.ask(secs=1)
            assert bot.breaker.health()["status"] == "out"
            await bot.ask(secs=1)
            assert bot.breaker.health()["status"] == "degraded"
            for _ in range(4):
                await bot.ask(secs=4)

            [incident] = bot.breaker.incidents
            assert incident.ending is Ending.RECOVERED
            assert not incident.failover.nobody_answers
            assert [line.split(" ")[0] for line in heard.lines] == ["ERROR", "INFO", "INFO"]
            assert "nobody took over: 1 request lost, in 1.0 s" in heard.lines[1]
            assert "one of the services that failed is back" in heard.lines[1]
            assert "circuit closed (recovered)" in heard.lines[2]
            assert bot.told.count("outage over") == 1
            assert totals(bot)["LLMSwitcher: nobody answers"]["closings"] == 1
            assert bot.breaker.health()["status"] == "ok"


async def test__all_fail_until_the_end__the_end_is_no_recovery(hear):
    bot = Bot(*first_fails([FAIL], second=([FAIL],)))
    with hear(bot) as heard:
        async with bot.talking():
            await bot.ask(secs=1)
    assert [line.split(" ")[0] for line in heard.lines] == ["ERROR", "INFO"]
    assert "circuit closed (pipeline_over)" in heard.lines[1]


async def test__the_backup_fails_later__a_second_incident_and_one_outage(hear):
    bot = Bot(*first_fails([FAIL], second=(GOOD, [FAIL])))
    with hear(bot) as heard:
        async with bot.talking():
            for _ in range(3):
                await bot.ask(secs=1)

            one, two = bot.breaker.incidents
            assert (one.origin.processor, two.origin.processor) == ("first", "second")
            assert [i.failover.nobody_answers for i in (one, two)] == [True, True]
            assert (one.failover.took_over, one.failover.saved) == ("second", 1)
            assert [line.split(" ")[0] for line in heard.lines] == ["WARNING", "ERROR"]
            assert bot.told.count("outage") == 1
            assert totals(bot)["Scripted: service down"]["lost_requests"] == 2


async def test__no_service_is_new_to_fail__the_outage_has_its_line_all_the_same(hear):
    # The second breaks off, which is no outage yet; at the next request nobody answers.
    broken = [*words("I am here. What can"), FAIL]
    bot = Bot(*first_fails([FAIL], second=(broken, [FAIL])))
    with hear(bot) as heard:
        async with bot.talking():
            await bot.ask(secs=1)
            assert [line.split(" ")[0] for line in heard.lines] == ["WARNING"]
            await bot.ask(secs=1)
            await bot.ask(secs=1)

            assert [line.split(" ")[0] for line in heard.lines] == ["WARNING", "ERROR"]
            assert bot.told.count("outage") == 1
            assert len(bot.breaker.incidents) == 1


async def test__lost_requests_open_the_circuit_of_their_errors__the_same_incident(hear):
    bot = Bot(*first_fails([FAIL], second=([FAIL],)))
    with hear(bot) as heard:
        async with bot.talking():
            for _ in range(6):
                await bot.ask(secs=0.5)

            [incident] = bot.breaker.incidents
            open_now = {str(c.origin.kind) for c in bot.breaker.circuits if c.state != "closed"}
            assert open_now == {"service down", "ConnectionError"}
            assert len(heard.incidents("opened")) == 1 and len(heard.lines) == 1
            assert incident.held_errors == 1 and incident.failover.lost == 6
            assert incident.failures == 5
            assert sum(each.incidents for each in bot.breaker.totals) == 2  # it, and the outage


async def test__the_service_is_back__so_are_its_errors():
    llms = first_fails(*[[FAIL]] * 7, GOOD, second=(*[[FAIL]] * 7, GOOD))
    async with Bot(*llms).talking() as bot:
        for _ in range(12):
            await bot.ask(secs=1)
        for _ in range(4):
            await bot.ask(secs=20)

        assert {c.state for c in bot.breaker.circuits} == {CircuitState.CLOSED}
        assert bot.breaker.incidents[-1].ending is Ending.RECOVERED


async def test__other_errors_of_the_service__are_an_incident_of_their_own():
    first, second = first_fails([FAIL])
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=0.1)
        for _ in range(5):
            try:
                {}["x"]
            except KeyError as e:
                await second.push_error("another bug", exception=e)
            await settle()

        assert [i.trigger for i in bot.breaker.incidents] == [Trigger.FAILOVER, Trigger.ERRORS]


#
# A rejected key
#


def refuses(name):
    """A service whose provider says 401, as pipecat reports it."""
    errors = pytest.importorskip("pipecat.utils.errors", reason="pipecat before 1.8")

    class Refused(Scripted):
        async def answer(self, script, context):
            if script is not REFUSE:
                await super().answer(script, context)
                return
            error = PermissionError("Error code: 401")
            await self.push_error(
                "Error code: 401", exception=error, category=errors.ErrorCategory.AUTHENTICATION
            )

    return Refused(name, REFUSE)


REFUSE = [object()]


@pytest.mark.parametrize("answered", [True, False])
async def test__401__is_one_failure_in_all_that_is_told(hear, answered):
    first = refuses("first")
    second = Scripted("second", GOOD) if answered else refuses("second")
    bot = Bot(first, second, strategy=ServiceSwitcherStrategyFailover)
    with hear(bot) as heard:
        async with bot.talking():
            await bot.ask(secs=1)

            [incident] = bot.breaker.incidents
            assert incident.advice.kind == "credentials" and not incident.advice.is_guess
            assert len(heard.lines) == 1
            assert len(bot.errors) == (0 if answered else 1)
            counted = totals(bot)
            assert counted["Refused: service down"]["openings"] == (1 if answered else 2)
            # Whatever the switcher reports of it as its own is counted once.
            assert sum(c.get("failures", 0) for c in counted.values()) == len(bot.errors)
            failed = [line for line in bot.told if line.startswith("failed")]
            assert len(failed) == (1 if answered else 2)


async def test__401_of_all_again_and_again__the_switchers_errors_are_the_same_incident():
    bot = Bot(refuses("first"), refuses("second"))
    async with bot.talking():
        for _ in range(7):
            await bot.ask(secs=0.5)

        assert len(bot.breaker.incidents) == 1
        assert "Error code" in bot.errors[0].error


#
# Health, and the mode
#


async def test__health__says_who_answers_for_whom():
    async with Bot(*first_fails([FAIL], GOOD)).talking() as bot:
        name = bot.switcher.name
        assert bot.breaker.health()["failovers"][name] == {
            "status": "ok",
            "answers": None,
            "failing": [],
            "probe_in_secs": None,
        }
        await bot.ask(secs=1)
        health = bot.breaker.health()
        assert health["status"] == "degraded"
        assert health["processors"] == {}
        told = health["failovers"][name]
        assert (told["status"], told["answers"]) == ("degraded", "second")
        assert told["failing"] == ["first"] and 3 < told["probe_in_secs"] < 5


async def test__health__nobody_answers_any_more__names_nobody_who_does():
    async with Bot(*first_fails([FAIL], [FAIL], second=(GOOD, [FAIL]))).talking() as bot:
        await bot.ask(secs=1)
        before = bot.breaker.health()["failovers"][bot.switcher.name]
        await bot.ask(secs=1)
        after = bot.breaker.health()["failovers"][bot.switcher.name]

        assert (before["status"], before["answers"]) == ("degraded", "second")
        assert (after["status"], after["answers"]) == ("out", None)


@pytest.mark.parametrize("mode", [Mode.DISABLED, Mode.OBSERVE])
async def test__mode_is_not_to_guard__a_request_is_the_active_services_alone(mode):
    first, second = first_fails([FAIL], GOOD)
    async with Bot(first, second).talking() as bot:
        await bot.breaker.set_mode(mode)
        await bot.ask(secs=1)

        assert second.asked == [] and bot.told == []
        assert len(bot.errors) == 1 and bot.breaker.incidents == ()
        await bot.breaker.set_mode(Mode.GUARD)
        await bot.ask(secs=1)
        assert bot.answers[-1] == HEARD


async def test__telling_fails__the_request_is_answered_all_the_same(monkeypatch, hear):
    bot = Bot(*first_fails([FAIL], GOOD))
    with hear(bot) as heard:
        async with bot.talking():
            monkeypatch.setattr(type(bot.breaker.guard), "link_of_failure", None)
            await bot.ask(secs=1)
            await bot.ask(secs=10)

            assert bot.answers == [HEARD, HEARD]
            assert bot.told[0].startswith("failed first")
        [line] = [line for line in heard.lines if line.startswith("ERROR")]
        assert "circuit breaker failed while noting what becomes of a request" in line


async def test__error_that_names_no_processor__is_the_services():
    class Nameless(Scripted):
        async def answer(self, script, context):
            await self.push_frame(ErrorFrame("no answer"), FrameDirection.UPSTREAM)

    async with Bot(Nameless("first", [FAIL]), Scripted("second", GOOD)).talking() as bot:
        await bot.ask(secs=1)

        assert bot.breaker.incidents[0].origin.processor == "first"


async def test__another_failover_for_the_same_switcher__takes_the_place_of_the_first():
    bot = Bot(*first_fails([FAIL]))
    bot.failover.leave()
    bot.failover = bot.breaker.failover(bot.switcher)
    async with bot.talking():
        await bot.ask(secs=1)

        assert len(bot.breaker.circuits) == 2
        assert bot.breaker.health()["status"] == "degraded"


async def test__asked_for_while_the_pipeline_runs__is_told_too():
    bot = Bot(*first_fails([FAIL]))
    bot.failover.leave()
    async with bot.talking():
        bot.breaker.failover(bot.switcher)
        await bot.ask(secs=1)

        assert [i.failover.took_over for i in bot.breaker.incidents] == ["second"]


async def test__the_breaker_is_in_no_pipeline__failover_works_without_incidents():
    bot = Bot(*first_fails([FAIL]))
    async with running(bot.front, bot.switcher, bot.ear) as bot.worker:
        await bot.ask()

        assert bot.answers == [HEARD]
        assert bot.breaker.incidents == ()


async def test__nothing_fails__nothing_is_told(hear):
    bot = Bot(*first_fails(GOOD))
    with hear(bot) as heard:
        async with bot.talking():
            for _ in range(5):
                await bot.ask()
            await bot.worker.queue_frame(OutputAudioRawFrame(b"\0\0", 16000, 1))
            await passed(1)

            assert bot.breaker.incidents == () and bot.breaker.totals == ()
        assert heard.lines == [] and heard.events == []


async def test__interrupted_while_the_backup_answers__neither_saved_nor_lost():
    async with Bot(*first_fails([FAIL], second=([HANG],))).talking() as bot:
        await bot.ask(secs=1)
        await bot.interrupt()
        await asyncio.sleep(1)

        [incident] = bot.breaker.incidents
        assert (incident.failover.saved, incident.failover.lost) == (0, 0)
        assert incident.failover.outcome == "nobody took over"


async def test__opentelemetry__counts_requests_by_the_class_of_the_service():
    pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from pipecat_circuit_breaker.instrumentation import instrument

    reader, spans, tracers = InMemoryMetricReader(), InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    bot = Bot(*first_fails([FAIL], second=(GOOD, GOOD, [FAIL])))
    instrument(bot.breaker, MeterProvider(metric_readers=[reader]), tracers)

    def values(name):
        [resource] = reader.get_metrics_data().resource_metrics
        [metric] = [m for m in resource.scope_metrics[0].metrics if m.name.endswith(f".{name}")]
        return {
            tuple(point.attributes.values()): point.value
            for point in metric.data.data_points
            if point.value
        }

    service, switcher = "Scripted: service down", "LLMSwitcher: nobody answers"
    async with bot.talking():
        for _ in range(3):
            await bot.ask(secs=1)

        assert values("failover_requests") == {(service, "saved"): 2, (service, "lost"): 1}
        assert values("incidents") == {(service,): 2, (switcher,): 1}
        assert values("circuits")[switcher, "open"] == 1
        assert values("circuits")[service, "open"] == 1
    first, _ = spans.get_finished_spans()
    told = {
        name.rpartition(".")[2]: value
        for name, value in first.attributes.items()
        if ".failover." in name
    }
    assert told == {"took_over": "second", "saved": 2, "lost": 1}
