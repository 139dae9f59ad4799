"""An incident names the true culprit, survives JSON, stays small, and keeps what is secret."""

from dataclasses import dataclass

import pytest
from pipecat.frames.frames import OutputTransportMessageUrgentFrame

from pipecat_circuit_breaker import (
    AdviceKind,
    CircuitBreakerParams,
    CircuitBreakerProcessor,
    Incident,
    Trigger,
)
from pipecat_circuit_breaker._core.advice import ChannelFacts, Evidence, advise
from pipecat_circuit_breaker._core.causality import Link
from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.demo.chains import CHAINS
from pipecat_circuit_breaker.demo.run import Outcome, run_chain, settled
from pipecat_circuit_breaker.testing import Output, running
from tests.incidents.incident_chains import MORE_CHAINS
from tests.support.parts import app_message, settle

ALL_CHAINS = {**CHAINS, **MORE_CHAINS}

MESSAGE, ERROR = "OutputTransportMessageUrgentFrame", "ErrorFrame"


@dataclass
class Case:
    """What an incident of a chain has to say; processors by their class."""

    failed: set[str]
    root: tuple[str, str]
    trigger: Trigger
    kind: AdviceKind
    look_at: str
    says: str


CASES = {
    "send-raises": Case(
        {"Output"},
        (MESSAGE, "PipelineWorker"),
        Trigger.ERRORS,
        AdviceKind.CLIENT_GONE,
        "Output",
        "the client is gone",
    ),
    "send-pushes-error": Case(
        {"Output"},
        (MESSAGE, "PipelineWorker"),
        Trigger.ERRORS,
        AdviceKind.CLIENT_GONE,
        "Output",
        "the client is gone",
    ),
    "websocket-serializer": Case(
        {"WebsocketClientOutputTransport"},
        (MESSAGE, "PipelineWorker"),
        Trigger.ERRORS,
        AdviceKind.CANNOT_SERIALIZE,
        "WebsocketClientOutputTransport",
        "app, rtvi-ai/error",
    ),
    "system-logs-raise": Case(
        {"Output"},
        (MESSAGE, "PipelineWorker"),
        Trigger.ERRORS,
        AdviceKind.LOG_FEEDS_ITSELF,
        "Output",
        "system_logs_enabled",
    ),
    "system-logs-silent": Case(
        {"Output"},
        (MESSAGE, "PipelineWorker"),
        Trigger.LOG_ECHO,
        AdviceKind.LOG_FEEDS_ITSELF,
        "Output",
        "system_logs_enabled",
    ),
    "spoken-apology": Case(
        {"BrokenTTS"},
        (ERROR, "BrokenTTS"),
        Trigger.ERRORS,
        AdviceKind.APPLICATION_ANSWERS_ERRORS,
        "BrokenTTS",
        "TTSSpeakFrame",
    ),
    "two-dead-outputs": Case(
        {"Output"},
        (MESSAGE, "PipelineWorker"),
        Trigger.ERRORS,
        AdviceKind.CLIENT_GONE,
        "Output",
        "the client is gone",
    ),
    "second-notifier": Case(
        {"Output"},
        (MESSAGE, "PipelineWorker"),
        Trigger.ERRORS,
        AdviceKind.PROCESSOR_ANSWERS_ERRORS,
        "ErrorNotifier",
        "sorry",
    ),
    "stt-flood": Case(
        {"BrokenSTT"},
        (ERROR, "BrokenSTT"),
        Trigger.ERRORS,
        AdviceKind.QUOTA,
        "BrokenSTT",
        "quota exceeded",
    ),
    "queued-message": Case(
        {"Output"},
        (MESSAGE, "PipelineWorker"),
        Trigger.ERRORS,
        AdviceKind.CLIENT_GONE,
        "Output",
        "the client is gone",
    ),
    "failing-tool": Case(
        {"ToolLLM"},
        (ERROR, "ToolLLM"),
        Trigger.ERRORS,
        AdviceKind.PROCESSOR_FAILS,
        "ToolLLM",
        "weather.example did not answer",
    ),
    # RTVI sends these from a queue of its own. The frames carry their causes through it.
    "server-messages": Case(
        {"Output"},
        (MESSAGE, "PipelineWorker"),
        Trigger.ERRORS,
        AdviceKind.CLIENT_GONE,
        "Output",
        "the client is gone",
    ),
    "one-kind": Case(
        {"Output"},
        (MESSAGE, "PipelineWorker"),
        Trigger.ERRORS,
        AdviceKind.CANNOT_SERIALIZE,
        "Output",
        "messages of one kind (picture)",
    ),
    "refused-key": Case(
        {"RefusedTTS"},
        (ERROR, "RefusedTTS"),
        Trigger.ERRORS,
        AdviceKind.CREDENTIALS,
        "RefusedTTS",
        "API key",
    ),
    "translated": Case(
        {"BrokenSTT"},
        (ERROR, "BrokenSTT"),
        Trigger.ERRORS,
        AdviceKind.QUOTA,
        "BrokenSTT",
        "quota exceeded",
    ),
    "polite": Case(
        {"BrokenSTT"},
        (ERROR, "BrokenSTT"),
        Trigger.ERRORS,
        AdviceKind.QUOTA,
        "BrokenSTT",
        "TTSSpeakFrame",
    ),
}


def _class_of(name: str) -> str:
    # The demo's chains run in what a worker was called before 1.3.0, and still may be.
    return name.partition("#")[0].replace("PipelineTask", "PipelineWorker")


async def _outcome(name: str, clock, position: str = "first") -> Outcome:
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    return await run_chain(
        ALL_CHAINS[name], breaker=breaker, position=position, until=settled(turns=150)
    )


def test__every_chain__has_an_expectation():
    assert {*CASES} == {*ALL_CHAINS}


@pytest.mark.parametrize("position", ["first", "last"])
@pytest.mark.parametrize("name", [*CASES])
async def test__chain__opens__incident_names_the_culprit(name, position, clock):
    case = CASES[name]

    incidents = (await _outcome(name, clock, position)).incidents

    assert {incident.origin.processor_class for incident in incidents} == case.failed
    for incident in incidents:
        root = incident.chain[0]
        assert (root.frame, _class_of(root.processor)) == case.root
        assert root.hop == 0
        assert incident.trigger is case.trigger
        assert incident.advice.kind is case.kind
        assert _class_of(incident.advice.processor) == case.look_at
        assert case.says in incident.advice.text
        if case.trigger is Trigger.ERRORS:
            # The frame that tripped it is an error of the one that failed.
            assert incident.chain[-1].frame == ERROR
            assert incident.chain[-1].processor == incident.origin.processor


async def test__chain__each_step__one_hop_after_the_last(clock):
    (incident,) = (await _outcome("send-raises", clock)).incidents

    assert [step.hop for step in incident.chain] == [*range(10)]
    assert {step.processor for step in incident.chain[1::2]} == {incident.origin.processor}
    assert {_class_of(step.processor) for step in incident.chain[2::2]} == {"RTVIProcessor"}


async def test__chain__told_again_later__as_at_the_opening(clock):
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    told = []
    async with running(breaker, Output(lambda _: ConnectionError("gone"))) as worker:
        breaker.add_event_handler("on_circuit_opened", lambda _, incident: told.append(incident))
        await worker.queue_frame(app_message())
        await settle(400)
        await breaker.close_circuits()

    assert breaker.incidents[0].chain == told[0].chain


#
# What the facts decide, and what is left to the text
#

STT = Origin(1, "STT#0", "STT", "Recognition failed")
OUTPUT = Origin(2, "Output#0", "Output", "OSError")


def _link(
    origin: Origin, text: str, *, category: str | None = None, cause: Link | None = None
) -> Link:
    hop = 0 if cause is None else cause.hop + 1
    return Link(
        frame=ERROR,
        processor=origin.processor,
        text=text,
        at=0.0,
        hop=hop,
        cause=cause,
        root=None,
        origin=origin,
        first=origin,
        origins=frozenset((origin,)),
        failures=1,
        failed_at={},
        category=category,
    )


def _evidence(origin: Origin, *chain: Link, **more) -> Evidence:
    channel = ChannelFacts(tuple(more.pop("failing_kinds", ())))
    known = {"channel": channel, "answers": {}, "queued": None, **more}
    return Evidence(origin=origin, trigger=Trigger.ERRORS, chain=chain, **known)


@pytest.mark.parametrize(
    "text",
    [
        "Error code: 401 - {'error': 'bad key'}",
        "server rejected WebSocket connection: HTTP 403",
        "Invalid API key",
        "401, message='Unauthorized'",
    ],
)
def test__advice__text_says_key_is_rejected__credentials(text):
    assert advise(_evidence(STT, _link(STT, text))).kind is AdviceKind.CREDENTIALS


@pytest.mark.parametrize("text", ["status: 429", "Rate limit reached", "Too Many Requests"])
def test__advice__text_says_limit_is_reached__quota(text):
    assert advise(_evidence(STT, _link(STT, text))).kind is AdviceKind.QUOTA


@pytest.mark.parametrize(
    "text",
    [
        "chunk 401 of 429 was lost",
        "timed out: https://api.example/v1?api_key=abc",
        "request 403: connection reset by peer",
    ],
)
def test__advice__number_or_url_only_looks_like_it__processor_fails(text):
    assert advise(_evidence(STT, _link(STT, text))).kind is AdviceKind.PROCESSOR_FAILS


def test__advice__category_is_known__text_does_not_matter():
    link = _link(STT, "Rate limit reached", category="authentication")

    assert advise(_evidence(STT, link)).kind is AdviceKind.CREDENTIALS


@pytest.mark.parametrize(
    ("category", "says"),
    [
        ("connectivity", "network"),
        ("server", "status"),
        ("invalid_request", "settings"),
        ("application", "tool"),
    ],
)
def test__advice__category_of_pipecat__says_where_to_look(category, says):
    advice = advise(_evidence(STT, _link(STT, "it broke", category=category)))

    assert (advice.kind, says in advice.text) == (AdviceKind.PROCESSOR_FAILS, True)


def test__advice__errors_of_another_in_other_words__the_other_is_to_blame():
    translator = Origin(3, "Translator#0", "Translator", "Sorry")
    first = _link(STT, "no audio for 3 s")

    advice = advise(_evidence(translator, first, _link(translator, "Sorry", cause=first)))

    assert advice.processor == "STT#0"
    assert "no audio for 3 s" in advice.text and "Translator#0" in advice.text


def test__advice__answer_arrives__whoever_answers_is_not_to_blame():
    evidence = _evidence(STT, _link(STT, "it broke"), answers={"ErrorNotifier#0": "sorry"})

    assert advise(evidence).processor == "STT#0"


def test__advice__answer_fails_too__whoever_answers_is_to_blame():
    evidence = _evidence(
        OUTPUT,
        _link(OUTPUT, "it broke"),
        answers={"RTVIProcessor#0": "rtvi-ai/error", "ErrorNotifier#0": "sorry"},
        failing_kinds=("app", "sorry"),
    )

    assert advise(evidence).processor == "ErrorNotifier#0"


def test__advice__channel_fails_with_words_nobody_knows__channel_fails():
    evidence = _evidence(OUTPUT, _link(OUTPUT, "it broke"), failing_kinds=("app",))

    assert advise(evidence).kind is AdviceKind.CHANNEL_FAILS


def test__advice__many_kinds_cannot_be_sent__names_some():
    origin = Origin(2, "Output#0", "Output", "TypeError")
    kinds = [f"kind-{n}" for n in range(64)]

    advice = advise(_evidence(origin, _link(origin, "bytes"), failing_kinds=kinds))

    assert "kind-63 and 56 more" in advice.text
    assert len(advice.text) < 500


#
# What it may hold
#


@pytest.mark.parametrize("name", ["send-raises", "system-logs-silent", "spoken-apology"])
async def test__incident__through_json__equal(name, clock):
    outcome = await _outcome(name, clock)

    for incident in outcome.incidents:
        assert Incident.model_validate_json(incident.model_dump_json()) == incident
    assert Outcome.from_json(outcome.as_json()) == outcome


async def test__incident__thousand_hops__root_and_latest_steps_are_kept(clock):
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock, max_errors=510))
    async with running(breaker, Output(lambda _: ConnectionError("gone"))) as worker:
        await worker.queue_frame(app_message())
        for _ in range(500):
            await settle(100)
            if breaker.incidents:
                break

    (incident,) = breaker.incidents
    assert len(incident.chain) == 64
    assert incident.chain[0].hop == 0
    assert incident.chain[1].hop == 1 + incident.chain_omitted
    assert len(incident.chain) + incident.chain_omitted > 1000
    assert len(incident.model_dump_json()) < 32_000


async def test__incident__texts_of_a_megabyte__small(clock):
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    output = Output(lambda _: ConnectionError("gone " * 200_000))
    async with running(breaker, output) as worker:
        await worker.queue_frame(app_message(kind="k" * 1_000_000))
        await settle(400)

    (incident,) = breaker.incidents
    assert len(incident.chain) == 10
    assert len(incident.model_dump_json()) < 8_000


async def test__incident__ten_thousand_kinds_held_back__small(clock):
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    async with running(breaker, Output(lambda _: ConnectionError("gone"))) as worker:
        await worker.queue_frame(app_message())
        await settle(400)
        for n in range(10_000):
            await worker.queue_frame(app_message(kind=f"kind {n} {'x' * 1000}"))
        await settle(40_000)
        await breaker.close_circuits()

    incident = breaker.incidents[0]
    # A few are sent: kinds that have not failed are tried.
    assert incident.held_messages >= 10_000 - CircuitBreakerParams().max_errors
    assert sum(incident.held_kinds.values()) == incident.held_messages
    assert len(incident.held_kinds) == 32
    assert len(incident.model_dump_json()) < 32_000


async def test__incident__secret_in_text_and_message__as_pipecat_left_it(
    clock,
):
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    errors: list[str] = []
    output = Output(lambda _: ConnectionError("https://api.example/v1?key=SECRET is gone"))
    secret = {"label": "app", "type": "card", "data": "CONTENT", "number": 4111}
    async with running(breaker, output) as worker:
        worker.add_event_handler("on_pipeline_error", lambda _, frame: errors.append(frame.error))
        await worker.queue_frame(OutputTransportMessageUrgentFrame(message=secret))
        await settle(400)

    (incident,) = breaker.incidents
    assert [step.text for step in incident.chain[1::2]][:4] == errors[:4]
    assert incident.chain[0].text == "app/card"
    assert "CONTENT" not in incident.model_dump_json()
    assert "4111" not in incident.model_dump_json()
