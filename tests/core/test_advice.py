"""What an incident comes down to: facts decide first, and only then the text of an error."""

import pytest
from core_parts import OUT, RTVI, TTS

from pipecat_circuit_breaker._core.advice import ChannelFacts, Evidence, advise
from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.incident import AdviceKind, Trigger


@pytest.fixture
def ask(bench):
    """The advice on an error, or on what led to it."""

    def ask(
        text="boom",
        *,
        kind="E",
        processor=TTS,
        before=None,
        category=None,
        chain=None,
        trigger=Trigger.ERRORS,
        failing_kinds=(),
        delivered=0,
        is_connected=None,
        answers=None,
        queued=None,
    ):
        origin = Origin.of(processor, kind)
        if chain is None:
            last = bench.link(processor, before, origin=origin, text=text)
            last.category = category
            chain = last.chain()
        channel = ChannelFacts(tuple(failing_kinds), delivered, is_connected)
        return advise(Evidence(origin, trigger, chain, channel, answers or {}, queued))

    return ask


def told(advice):
    return (advice.kind, advice.processor, advice.text)


def test__by_hand__whatever_else_is_known__is_that(ask):
    assert told(ask("HTTP 401", trigger=Trigger.MANUAL)) == (
        AdviceKind.BY_HAND,
        "TTS",
        "Opened by hand: close_circuits() or reset_circuits() closes it again.",
    )


#
# The log
#


def test__log_echo__is_a_log_that_feeds_itself(bench, ask):
    chain = bench.message(text="log").chain()
    assert told(ask(processor=OUT, trigger=Trigger.LOG_ECHO, chain=chain)) == (
        AdviceKind.LOG_FEEDS_ITSELF,
        "Output",
        "Log lines go to the client, and Output writes log lines when it handles them. Turn off "
        "RTVIObserverParams.system_logs_enabled, or mend Output.",
    )


def test__system_log_in_the_chain__is_a_log_that_feeds_itself(bench, ask):
    advice = ask("gone", processor=OUT, before=bench.message(text="rtvi-ai/system-log"))
    assert advice.kind is AdviceKind.LOG_FEEDS_ITSELF
    assert "when it handles them (E: gone). Turn off" in advice.text


def test__system_log_answers_the_errors_and_fails__is_a_log_that_feeds_itself(ask):
    log = "rtvi-ai/system-log"
    assert ask(answers={"RTVI": log}, failing_kinds=(log,)).kind is AdviceKind.LOG_FEEDS_ITSELF
    assert ask(answers={"RTVI": log}).kind is AdviceKind.PROCESSOR_FAILS, "it does no harm"


#
# A provider that says no
#


@pytest.mark.parametrize(
    "text",
    [
        "Error code: 401 - {'error': 'bad key'}",
        "server rejected WebSocket connection: HTTP 403",
        "status 401",
        "Unauthorized",
        "unauthorised",
        "Forbidden",
        "invalid api key",
        "Permission denied",
        "permission-denied",
        "wrong api_key given",
        "bad credentials",
        "a credential is missing",
        "could not authenticate",
        "authorization failed",
        "authorisation failed",
    ],
)
def test__text_says_that_the_key_is_rejected__credentials(ask, text):
    assert told(ask(text)) == (
        AdviceKind.CREDENTIALS,
        "TTS",
        f"The provider of TTS rejects the credentials (E: {text}). Check its API key, and what "
        "the key is allowed to do; trying again will not help.",
    )


@pytest.mark.parametrize(
    "text",
    [
        "status: 429",
        "Rate limit reached",
        "rate-limit",
        "Too Many Requests",
        "RESOURCE_EXHAUSTED",
        "your quota is used up",
    ],
)
def test__text_says_that_a_limit_is_reached__quota(ask, text):
    assert told(ask(text)) == (
        AdviceKind.QUOTA,
        "TTS",
        f"A limit of TTS's provider is reached (E: {text}). Send less, wait, or raise the limit.",
    )


@pytest.mark.parametrize(
    "text",
    [
        "chunk 401 of 429 was lost",
        "timed out: https://api.example/v1?api_key=abc",
        "request 403: connection reset by peer",
        "error 4011",
        "status is fine and there is much to say, then 401",
    ],
)
def test__number_or_url_only_looks_like_it__processor_fails(ask, text):
    assert ask(text).kind is AdviceKind.PROCESSOR_FAILS


@pytest.mark.parametrize(
    ("category", "kind"),
    [
        ("authentication", AdviceKind.CREDENTIALS),
        ("authorization", AdviceKind.CREDENTIALS),
        ("quota", AdviceKind.QUOTA),
        ("rate_limit", AdviceKind.QUOTA),
    ],
)
def test__category_is_known__is_enough(ask, category, kind):
    assert ask("no", category=category).kind is kind


def test__category_and_text_differ__the_category_decides(ask):
    assert ask("Rate limit reached", category="authentication").kind is AdviceKind.CREDENTIALS


def test__exception_type_says_it__is_enough(ask):
    assert ask("no", kind="openai.AuthenticationError").kind is AdviceKind.CREDENTIALS
    assert ask("no", kind="openai.RateLimitError").kind is AdviceKind.QUOTA


@pytest.mark.parametrize("text", ["HTTP 401", "HTTP 429"])
def test__provider_says_no__and_each_is_answered__says_so(ask, text):
    assert ask(text, queued="TTSSpeakFrame").text.endswith(
        " Each failure is answered with TTSSpeakFrame, which makes more of it if it needs TTS."
    )


def test__provider_says_no__where_a_channel_fails__it_is_the_channel(ask):
    assert ask("HTTP 401", failing_kinds=("chat",)).kind is AdviceKind.CHANNEL_FAILS


def test__provider_says_no__the_last_is_no_error__says_nothing(bench, ask):
    error = bench.link(TTS, origin=Origin.of(TTS, "E"), text="HTTP 401")
    chain = bench.message(error, text="HTTP 401").chain()
    assert ask(chain=chain).kind is AdviceKind.PROCESSOR_FAILS


#
# Somebody who answers
#


def test__application_queues_a_frame__is_named(ask):
    assert told(ask(queued="TTSSpeakFrame")) == (
        AdviceKind.APPLICATION_ANSWERS_ERRORS,
        "TTS",
        "TTS fails (E: boom), and a handler of the application answers each failure: it queues "
        "TTSSpeakFrame. If that needs TTS, it fails again. Answer once, on on_circuit_opened, and "
        "in a way that does not need TTS.",
    )


def test__processor_answers_with_what_fails__is_named(bench, ask):
    answers = {"Harmless": "toast", "RTVI": "rtvi-ai/error", "Notifier": "chat"}
    before = bench.message(text="chat")
    assert told(ask(processor=OUT, before=before, answers=answers)) == (
        AdviceKind.PROCESSOR_ANSWERS_ERRORS,
        "Notifier",
        "Output fails (E: boom), and Notifier answers its errors with messages (chat) that fail "
        "again. Let Notifier answer once, on on_circuit_opened.",
    )


def test__only_rtvi_answers__is_pipecat_itself_and_not_named(ask):
    kind = "rtvi-ai/error"
    advice = ask(processor=OUT, failing_kinds=(kind,), answers={"RTVI": kind})
    assert advice.kind is AdviceKind.CHANNEL_FAILS


def test__answers_that_quote_an_error__are_no_messages_that_fail(ask):
    assert ask("chat", answers={"Notifier": "chat"}).kind is AdviceKind.PROCESSOR_FAILS


#
# A channel
#


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("ConnectionError", "x"),
        ("websockets.exceptions.ConnectionClosedOK", "x"),
        ("BrokenPipeError", "x"),
        ("WebSocketDisconnect", "x"),
        ("anyio.ClosedResourceError", "x"),
        ("RuntimeError", "the socket is closed"),
        ("RuntimeError", "Disconnected"),
        ("RuntimeError", "we are not connected"),
        ("RuntimeError", "not joined"),
        ("RuntimeError", "the client is gone"),
        ("RuntimeError", "no client"),
        ("RuntimeError", "broken pipe"),
        ("RuntimeError", "connection reset by peer"),
        ("AttributeError", "'NoneType' object has no attribute 'send'"),
    ],
)
def test__channel__its_client_is_gone(ask, kind, text):
    assert told(ask(text, kind=kind, processor=OUT, failing_kinds=("chat",))) == (
        AdviceKind.CLIENT_GONE,
        "Output",
        f"Output has nobody to send to. Sending fails ({kind}: {text}). End the bot when its "
        "client leaves, or let breaker.watch(transport) hold messages back before any send fails.",
    )


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("TypeError", "x"),
        ("ValueError", "x"),
        ("UnicodeEncodeError", "x"),
        ("OverflowError", "x"),
        ("RecursionError", "x"),
        ("pkg.ValueError", "x"),
        ("RuntimeError", "cannot serialize it"),
        ("RuntimeError", "Serialisation failed"),
        ("RuntimeError", "cannot encode"),
        ("RuntimeError", "circular reference detected"),
    ],
)
def test__channel__cannot_serialize(ask, kind, text):
    assert told(ask(text, kind=kind, processor=OUT, failing_kinds=("chat", "metrics"))) == (
        AdviceKind.CANNOT_SERIALIZE,
        "Output",
        "Output cannot turn messages of these kinds into bytes: chat, metrics "
        f"({kind}: {text}). Look at what is in them that its serializer does not know.",
    )


@pytest.mark.parametrize(("n", "more"), [(8, ""), (9, " and 1 more"), (20, " and 12 more")])
def test__channel__cannot_serialize_many_kinds__the_latest_8_are_named(ask, n, more):
    kinds = tuple(f"k{i}" for i in range(n))
    advice = ask("x", kind="TypeError", processor=OUT, failing_kinds=kinds)
    named = ", ".join(kinds[-8:])
    assert f"into bytes: {named}{more} (TypeError: x). Look" in advice.text


def test__channel__fails_otherwise(ask):
    assert told(ask(kind="OSError", processor=OUT, failing_kinds=("chat",))) == (
        AdviceKind.CHANNEL_FAILS,
        "Output",
        "Sending over Output fails (OSError: boom). Look at its connection, and at the first "
        "error of the chain.",
    )


def test__channel__nothing_is_known_of_how__is_told_all_the_same(ask):
    advice = ask(kind="channel down", processor=OUT, chain=(), failing_kinds=("chat",))
    assert told(advice) == (
        AdviceKind.CHANNEL_FAILS,
        "Output",
        "Sending over Output fails. Look at its connection, and at the first error of the chain.",
    )


#
# A processor
#


def test__processor__fails_by_itself__look_at_it(ask):
    assert told(ask()) == (
        AdviceKind.PROCESSOR_FAILS,
        "TTS",
        "TTS fails again and again (E: boom). Look at what it is given, and at what it calls.",
    )


@pytest.mark.parametrize(
    ("category", "where"),
    [
        (
            "connectivity",
            "It cannot reach what it calls: look at the network, and at the other end.",
        ),
        ("server", "Its provider reports a failure of its own: look at the provider's status."),
        (
            "invalid_request",
            "Its provider rejects what it asks for: look at its model, voice and settings.",
        ),
        (
            "application",
            "What fails is the application's own code that it runs, such as a tool.",
        ),
        ("unknown", "Look at what it is given, and at what it calls."),
    ],
)
def test__processor__its_category_is_known__says_where_to_look(ask, category, where):
    assert ask(category=category).text == f"TTS fails again and again (E: boom). {where}"


def test__processor__in_a_chain__look_at_the_first_error(bench, ask):
    advice = ask(before=bench.message())
    assert advice.text == (
        "TTS fails again and again (E: boom). Look at the first error of the chain."
    )


def test__processor__makes_errors_of_anothers__look_at_that_one(bench, ask):
    before = bench.link(RTVI, origin=Origin.of(RTVI, "F"), text="no way")
    assert told(ask(before=before)) == (
        AdviceKind.PROCESSOR_FAILS,
        "RTVI",
        "RTVI fails (no way), and TTS makes errors of its own of that (E: boom). Look at RTVI.",
    )


def test__processor__makes_errors_of_its_own__look_at_the_first(bench, ask):
    before = bench.link(TTS, origin=Origin.of(TTS, "F"), text="no way")
    assert ask(before=before).text == (
        "TTS fails again and again (E: boom). Look at the first error of the chain."
    )


def test__processor__nothing_is_known__is_told_all_the_same(ask):
    assert ask(chain=()).text == (
        "TTS fails again and again. Look at what it is given, and at what it calls."
    )


@pytest.mark.parametrize("kind", ["boom", "no way at all"])
def test__failure__its_kind_is_its_text__is_said_once(ask, kind):
    assert "again (boom). Look" in ask(kind=kind).text


def test__failure__of_several__is_the_latest_and_cut(bench, ask):
    before = bench.link(TTS, origin=Origin.of(TTS, "F"), text="no way")
    last = bench.link(TTS, before, origin=Origin.of(TTS, "E"), text="boom")
    last.text = "x" * 200
    assert f"again (E: {'x' * 159}…). Look" in ask(chain=last.chain()).text
