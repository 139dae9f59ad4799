"""What an incident comes down to: facts decide first, and only then the text of an error."""

import pytest

from pipecat_circuit_breaker._core.advice import ChannelFacts, Evidence, advise
from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.incident import AdviceKind, Trigger
from tests.core.core_parts import OUT, RTVI, TTS


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
        where="",
        failing_kinds=(),
        delivered=0,
        is_connected=None,
        answers=None,
        queued=None,
    ):
        origin = Origin.of(processor, kind, where=where)
        if chain is None:
            last = bench.link(processor, before, origin=origin, text=text)
            last.category = category
            chain = last.chain()
        channel = ChannelFacts(tuple(failing_kinds), delivered, is_connected)
        return advise(Evidence(origin, trigger, chain, channel, answers or {}, queued))

    return ask


@pytest.fixture
def ask_channel(ask):
    """The advice on an output that cannot send a message."""

    def ask_channel(text="boom", *, kind="OSError", failing_kinds=("chat",), **more):
        return ask(text, kind=kind, processor=OUT, failing_kinds=failing_kinds, **more)

    return ask_channel


def told(advice):
    return (advice.kind, advice.processor, advice.text)


def test__new_facts__nothing_is_known__say_nothing():
    assert ChannelFacts() == ChannelFacts(failing_kinds=(), delivered=0, is_connected=None)


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
        f"The provider of TTS seems to reject the credentials (E: {text}): a guess, by the words "
        "of the error. Check its API key, and what the key is allowed to do; trying again will "
        "not help.",
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
        f"A limit of TTS's provider seems to be reached (E: {text}): a guess, by the words of the "
        "error. Send less, wait, or raise the limit.",
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


@pytest.mark.parametrize("text", ["HTTP 401", "HTTP 429"])
def test__only_the_text_says_it__is_a_guess(ask, text):
    assert ask(text).is_guess


@pytest.mark.parametrize("category", ["authentication", "authorization"])
def test__category_says_that_the_key_is_rejected__is_no_guess(ask, category):
    advice = ask("no", category=category)
    assert told(advice) == (
        AdviceKind.CREDENTIALS,
        "TTS",
        "The provider of TTS rejects the credentials (E: no). Check its API key, and what the key "
        "is allowed to do; trying again will not help.",
    )
    assert not advice.is_guess


@pytest.mark.parametrize("category", ["quota", "rate_limit"])
def test__category_says_that_a_limit_is_reached__is_no_guess(ask, category):
    advice = ask("no", category=category)
    assert told(advice) == (
        AdviceKind.QUOTA,
        "TTS",
        "A limit of TTS's provider is reached (E: no). Send less, wait, or raise the limit.",
    )
    assert not advice.is_guess


@pytest.mark.parametrize(
    ("category", "text", "kind"),
    [
        ("authentication", "Rate limit reached", AdviceKind.CREDENTIALS),
        ("authentication", "HTTP 401", AdviceKind.CREDENTIALS),
        ("quota", "HTTP 429", AdviceKind.QUOTA),
    ],
)
def test__category_and_text_both_say_something__the_category_decides(ask, category, text, kind):
    advice = ask(text, category=category)
    assert advice.kind is kind
    assert not advice.is_guess


@pytest.mark.parametrize(
    ("exception", "kind"),
    [
        ("openai.AuthenticationError", AdviceKind.CREDENTIALS),
        ("openai.RateLimitError", AdviceKind.QUOTA),
    ],
)
def test__exception_type_says_it__is_enough_for_a_guess(ask, exception, kind):
    advice = ask("no", kind=exception)
    assert advice.kind is kind
    assert advice.is_guess


@pytest.mark.parametrize("text", ["HTTP 401", "HTTP 429"])
def test__provider_says_no__and_each_is_answered__says_so(ask, text):
    assert ask(text, queued="TTSSpeakFrame").text.endswith(
        " Each failure is answered with TTSSpeakFrame, which makes more of it if it needs TTS."
    )


def test__provider_says_no__where_a_channel_fails__it_is_the_channel(ask):
    assert ask("HTTP 401", failing_kinds=("chat",)).kind is AdviceKind.CHANNEL_FAILS


def test__provider_says_no__to_another_processor__says_nothing_of_this_one(bench, ask):
    # Whose circuit it is has begun the chain, and another one has failed last.
    first = bench.link(TTS, origin=Origin.of(TTS, "E"), text="timed out")
    last = bench.link(RTVI, first, origin=Origin.of(RTVI, "F"), text="HTTP 401")
    assert ask(chain=last.chain()).kind is AdviceKind.PROCESSOR_FAILS


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
# A channel: facts
#


def test__channel__what_is_known__comes_first(ask_channel):
    advice = ask_channel()
    assert told(advice) == (
        AdviceKind.CHANNEL_FAILS,
        "Output",
        "Sending over Output fails (OSError: boom): messages of one kind (chat); nothing got "
        "through meanwhile. Look at its connection, and at the first error of the chain.",
    )
    assert not advice.is_guess


def test__channel__nothing_is_known_of_how__is_told_all_the_same(ask_channel):
    assert told(ask_channel(kind="channel down", chain=())) == (
        AdviceKind.CHANNEL_FAILS,
        "Output",
        "Sending over Output fails: messages of one kind (chat); nothing got through meanwhile. "
        "Look at its connection, and at the first error of the chain.",
    )


def test__channel__all_can_be_sent__it_is_the_processor(ask):
    assert ask(kind="ConnectionError", processor=OUT).kind is AdviceKind.PROCESSOR_FAILS


def test__no_channel__it_is_the_processor(bench):
    origin = Origin.of(TTS, "ConnectionError")
    evidence = Evidence(origin, Trigger.ERRORS, (), None, {}, None)
    assert evidence.failing_kinds == ()
    assert advise(evidence).kind is AdviceKind.PROCESSOR_FAILS


@pytest.mark.parametrize(
    ("delivered", "said"),
    [
        (0, "; nothing got through meanwhile. Look"),
        (1, "; 1 other got through meanwhile. Look"),
        (2, "; 2 others got through meanwhile. Look"),
        (12345, "; 12,345 others got through meanwhile. Look"),
    ],
)
def test__channel__others_got_through_meanwhile__says_how_many(ask_channel, delivered, said):
    assert said in ask_channel(delivered=delivered).text


@pytest.mark.parametrize(
    ("is_connected", "said"),
    [
        (True, "meanwhile. A client is connected. Look"),
        (False, "meanwhile. Its client has gone. End"),
        (None, "meanwhile. Look"),
    ],
)
def test__channel__whether_somebody_is_connected__is_said_where_it_is_known(
    ask_channel, is_connected, said
):
    assert said in ask_channel(is_connected=is_connected).text


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (1, "one kind (k0);"),
        (2, "2 kinds (k0, k1);"),
        (8, "8 kinds (k0, k1, k2, k3, k4, k5, k6, k7);"),
        (9, "9 kinds (k1, k2, k3, k4, k5, k6, k7, k8 and 1 more);"),
        (20, "20 kinds (k12, k13, k14, k15, k16, k17, k18, k19 and 12 more);"),
    ],
)
def test__channel__of_many_kinds__the_latest_8_are_named(ask_channel, n, said):
    assert f": messages of {said}" in ask_channel(failing_kinds=[f"k{i}" for i in range(n)]).text


def test__channel__where_it_was_raised__is_said(ask_channel):
    assert "(OSError: boom), raised in aiohttp:send: messages" in (
        ask_channel(where="aiohttp:send").text
    )


def test__channel__where_it_was_raised__is_that_of_the_latest_error(bench, ask_channel):
    # A channel's own circuit knows no place: those of its errors do.
    before = bench.link(OUT, origin=Origin.of(OUT, "E", where="first:one"))
    last = bench.link(OUT, before, origin=Origin.of(OUT, "E", where="last:one"))
    chain = bench.message(last).chain()
    assert ", raised in last:one:" in ask_channel(chain=chain, where="its:own").text


def test__channel__error_of_another_processor__says_nothing_of_it(bench, ask_channel):
    # Errors of a TTS are sent over a channel that is down.
    error = bench.link(TTS, origin=Origin.of(TTS, "E", where="tts:one"), text="socket closed")
    chain = bench.message(error, text="rtvi-ai/error").chain()
    advice = ask_channel(kind="channel down", chain=chain)
    assert advice.kind is AdviceKind.CHANNEL_FAILS
    assert advice.text.startswith("Sending over Output fails: messages of one kind")


def test__channel__no_error_is_known__it_was_raised_where_its_origin_says(bench, ask_channel):
    chain = bench.message().chain()
    assert ", raised in its:own:" in ask_channel(chain=chain, where="its:own").text


#
# A channel: guesses
#

GONE = [
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
]

CANNOT_SERIALIZE = [
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
]


@pytest.mark.parametrize(("kind", "text"), GONE)
def test__channel__only_the_error_says_that_its_client_is_gone__is_a_guess(ask_channel, kind, text):
    advice = ask_channel(text, kind=kind)
    assert told(advice) == (
        AdviceKind.CLIENT_GONE,
        "Output",
        f"Sending over Output fails ({kind}: {text}): messages of one kind (chat); nothing got "
        "through meanwhile. Perhaps nobody is there any more: a guess, by the words of the error. "
        "breaker.watch(transport) would know, and would send nothing to nobody. End the bot when "
        "its client leaves.",
    )
    assert advice.is_guess


@pytest.mark.parametrize(("kind", "text"), [*GONE, ("OSError", "boom"), *CANNOT_SERIALIZE])
def test__channel__nobody_is_connected__its_client_is_gone_and_no_guess(ask_channel, kind, text):
    advice = ask_channel(text, kind=kind, is_connected=False)
    assert told(advice) == (
        AdviceKind.CLIENT_GONE,
        "Output",
        f"Sending over Output fails ({kind}: {text}): messages of one kind (chat); nothing got "
        "through meanwhile. Its client has gone. End the bot when its client leaves.",
    )
    assert not advice.is_guess


@pytest.mark.parametrize(
    ("kind", "text"), [("ConnectionError", "x"), ("RuntimeError", "the client is gone")]
)
@pytest.mark.parametrize(
    ("is_connected", "delivered"), [(True, 0), (True, 1), (None, 1), (None, 500)]
)
def test__channel__error_says_gone_but_somebody_is_there__is_no_guess_at_who_left(
    ask_channel, kind, text, is_connected, delivered
):
    advice = ask_channel(text, kind=kind, is_connected=is_connected, delivered=delivered)
    assert advice.kind is AdviceKind.CHANNEL_FAILS
    assert not advice.is_guess
    assert "nobody" not in advice.text.lower()


@pytest.mark.parametrize(("kind", "text"), CANNOT_SERIALIZE)
def test__channel__error_says_that_it_cannot_serialize__is_a_guess(ask_channel, kind, text):
    advice = ask_channel(text, kind=kind, failing_kinds=("chat", "metrics"))
    assert told(advice) == (
        AdviceKind.CANNOT_SERIALIZE,
        "Output",
        f"Sending over Output fails ({kind}: {text}): messages of 2 kinds (chat, metrics); nothing "
        "got through meanwhile. It seems that they cannot be turned into bytes: a guess, by the "
        "error. Look at what is in them that the serializer does not know.",
    )
    assert advice.is_guess


@pytest.mark.parametrize(("is_connected", "delivered"), [(True, 0), (True, 9), (None, 9)])
def test__channel__cannot_serialize__whoever_is_there_and_whatever_else_arrives(
    ask_channel, is_connected, delivered
):
    advice = ask_channel(kind="TypeError", is_connected=is_connected, delivered=delivered)
    assert advice.kind is AdviceKind.CANNOT_SERIALIZE


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("ConnectionError", "cannot encode"),
        ("ValueError", "I/O operation on closed file"),
    ],
)
def test__channel__error_says_both__it_is_not_taken_for_one_of_them(ask_channel, kind, text):
    advice = ask_channel(text, kind=kind, is_connected=True)
    assert advice.kind is AdviceKind.CHANNEL_FAILS
    assert ask_channel(text, kind=kind).kind is AdviceKind.CLIENT_GONE


def test__channel__a_message_tripped_it__its_own_words_say_nothing(bench, ask_channel):
    # A message's label is no error: "ticket closed" says nothing of the connection.
    chain = bench.message(text="ticket closed").chain()
    assert ask_channel(kind="channel down", chain=chain).kind is AdviceKind.CHANNEL_FAILS


def test__channel__a_message_tripped_it__the_latest_error_is_looked_at(bench, ask_channel):
    error = bench.link(OUT, origin=Origin.of(OUT, "E"), text="the socket is closed")
    chain = bench.message(error, text="chat").chain()
    assert ask_channel(kind="channel down", chain=chain).kind is AdviceKind.CLIENT_GONE


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


def test__failure__of_a_chain_that_it_began__is_its_own(bench, ask):
    first = bench.link(TTS, origin=Origin.of(TTS, "E"), text="its own")
    last = bench.link(RTVI, first, origin=Origin.of(RTVI, "F"), text="another's")
    assert "TTS fails again and again (E: its own)" in ask(chain=last.chain()).text


def test__failure__of_several__is_the_latest_and_cut(bench, ask):
    before = bench.link(TTS, origin=Origin.of(TTS, "F"), text="no way")
    last = bench.link(TTS, before, origin=Origin.of(TTS, "E"), text="boom")
    last.text = "x" * 200
    assert f"again (E: {'x' * 159}…). Look" in ask(chain=last.chain()).text
