#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What an incident comes down to, and what to do about it.

Facts come first: who pushed what on account of what is known. Only where that
does not decide does the text of an error.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipecat_circuit_breaker._core.causality import Link
from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker.incident import Advice, AdviceKind, Trigger

#: How RTVI labels its messages. Others are the application's own.
_RTVI = "rtvi-ai/"
_LOG_LINE = f"{_RTVI}system-log"

#: Characters of an error's text that an advice quotes, and kinds of message.
_MAX_QUOTE = 160
_MAX_KINDS = 8

# A number is a status only where the text says so: it may be an id as well.
_STATUS = r"(?:http|status|code|error)[^\d\n]{0,12}"
_CREDENTIALS = re.compile(
    rf"{_STATUS}(?:401|403)\b|unauthori[sz]ed|forbidden|invalid api key|permission.?denied"
    r"|api[ _-]?key\b(?!\s*=)|\bcredentials?\b|authenticat|authori[sz]ation",
    re.IGNORECASE,
)
_QUOTA = re.compile(
    rf"{_STATUS}429\b|quota|rate.?limit|too.?many.?requests|resource.?exhausted", re.IGNORECASE
)
_SERIALIZE = re.compile(r"seriali[sz]|encod|circular reference", re.IGNORECASE)
_SERIALIZE_EXCEPTIONS = {
    "TypeError",
    "ValueError",
    "UnicodeEncodeError",
    "OverflowError",
    "RecursionError",
}
_GONE = re.compile(
    r"'NoneType' object has no attribute"
    r"|\b(closed|disconnected|not connected|not joined|gone|no client|broken pipe|reset by peer)\b",
    re.IGNORECASE,
)
_GONE_EXCEPTIONS = re.compile(r"Connection|BrokenPipe|Disconnect|Closed")

# What pipecat's categories say of where to look, beside credentials and quota.
_LOOK = {
    "connectivity": "It cannot reach what it calls: look at the network, and at the other end.",
    "server": "Its provider reports a failure of its own: look at the provider's status.",
    "invalid_request": "Its provider rejects what it asks for: look at its model, voice and "
    "settings.",
    "application": "What fails is the application's own code that it runs, such as a tool.",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known when a circuit opens.

    Parameters:
        origin: Which processor failed, and how.
        trigger: Why the circuit opened.
        chain: The chain of causes, oldest first; empty where nothing failed.
        failing_kinds: Kinds of message that cannot be sent over the origin's
            channel; empty where it is none, or where all can be sent.
        answers: Who pushed what on account of the origin's errors: a
            processor's name and a message's kind.
        queued: Frame that a handler of the application queued on account of
            them, outside the pipeline; None where none did.
    """

    origin: Origin
    trigger: Trigger
    chain: Sequence[Link]
    failing_kinds: Sequence[str]
    answers: Mapping[str, str]
    queued: str | None


def advise(evidence: Evidence) -> Advice:
    """Say what to do.

    Args:
        evidence: What is known.
    """
    processor = evidence.origin.processor
    if evidence.trigger is Trigger.MANUAL:
        return Advice(
            kind=AdviceKind.BY_HAND,
            processor=processor,
            text="Opened by hand: close_circuits() or reset_circuits() closes it again.",
        )
    return (
        _log_feeds_itself(evidence)
        or _refused(evidence)
        or _answered(evidence)
        or _channel(evidence)
        or _processor(evidence)
    )


def _log_feeds_itself(evidence: Evidence) -> Advice | None:
    texts = {link.text for link in evidence.chain} | {*_fed_back(evidence).values()}
    if evidence.trigger is not Trigger.LOG_ECHO and _LOG_LINE not in texts:
        return None
    processor = evidence.origin.processor
    return Advice(
        kind=AdviceKind.LOG_FEEDS_ITSELF,
        processor=processor,
        text=f"Log lines go to the client, and {processor} writes log lines when it handles "
        f"them{_failure(evidence)}. Turn off RTVIObserverParams.system_logs_enabled, or mend "
        f"{processor}.",
    )


def _refused(evidence: Evidence) -> Advice | None:
    """A provider that says no: then whoever answers the errors only makes more of them."""
    if evidence.failing_kinds or not evidence.chain or not evidence.chain[-1].is_error:
        return None
    last, processor = evidence.chain[-1], evidence.origin.processor
    said = f"{evidence.origin.kind} {last.text}"
    answered = ""
    if evidence.queued is not None:
        answered = (
            f" Each failure is answered with {evidence.queued}, which makes more of it if it "
            f"needs {processor}."
        )
    if last.category in ("authentication", "authorization") or _CREDENTIALS.search(said):
        return Advice(
            kind=AdviceKind.CREDENTIALS,
            processor=processor,
            text=f"The provider of {processor} rejects the credentials{_failure(evidence)}. Check "
            "its API key, and what the key is allowed to do; trying again will not help."
            f"{answered}",
        )
    if last.category in ("quota", "rate_limit") or _QUOTA.search(said):
        return Advice(
            kind=AdviceKind.QUOTA,
            processor=processor,
            text=f"A limit of {processor}'s provider is reached{_failure(evidence)}. Send less, "
            f"wait, or raise the limit.{answered}",
        )
    return None


def _answered(evidence: Evidence) -> Advice | None:
    """Somebody who answers what happens, and so makes it happen again."""
    processor, failure = evidence.origin.processor, _failure(evidence)
    if evidence.queued is not None:
        return Advice(
            kind=AdviceKind.APPLICATION_ANSWERS_ERRORS,
            processor=processor,
            text=f"{processor} fails{failure}, and a handler of the application answers each "
            f"failure: it queues {evidence.queued}. If that needs {processor}, it fails again. Answer once, "
            f"on on_circuit_opened, and in a way that does not need {processor}.",
        )
    for who, kind in _fed_back(evidence).items():
        if not kind.startswith(_RTVI):
            return Advice(
                kind=AdviceKind.PROCESSOR_ANSWERS_ERRORS,
                processor=who,
                text=f"{processor} fails{failure}, and {who} answers its errors with messages "
                f"({kind}) that fail again. Let {who} answer once, on on_circuit_opened.",
            )
    return None


def _channel(evidence: Evidence) -> Advice | None:
    if not evidence.failing_kinds:
        return None
    processor, failure = evidence.origin.processor, _failure(evidence)
    exception = evidence.origin.kind.rpartition(".")[2]
    text = evidence.chain[-1].text if evidence.chain else ""
    if _GONE_EXCEPTIONS.search(exception) or _GONE.search(text):
        return _client_gone(processor, f"Sending fails{failure}.")
    if exception in _SERIALIZE_EXCEPTIONS or _SERIALIZE.search(text):
        kinds = ", ".join(evidence.failing_kinds[-_MAX_KINDS:])
        more = len(evidence.failing_kinds) - _MAX_KINDS
        return Advice(
            kind=AdviceKind.CANNOT_SERIALIZE,
            processor=processor,
            text=f"{processor} cannot turn messages of these kinds into bytes: {kinds}"
            f"{f' and {more} more' if more > 0 else ''}{failure}. Look at what is in them that "
            "its serializer does not know.",
        )
    return Advice(
        kind=AdviceKind.CHANNEL_FAILS,
        processor=processor,
        text=f"Sending over {processor} fails{failure}. Look at its connection, and at the "
        "first error of the chain.",
    )


def _processor(evidence: Evidence) -> Advice:
    processor, failure = evidence.origin.processor, _failure(evidence)
    last = evidence.chain[-1] if evidence.chain else None
    cause = last.cause if last is not None else None
    if cause is not None and cause.is_error and cause.processor != processor:
        return Advice(
            kind=AdviceKind.PROCESSOR_FAILS,
            processor=cause.processor,
            text=f"{cause.processor} fails ({_quote(cause.text)}), and {processor} makes errors of "
            f"its own of that{failure}. Look at {cause.processor}.",
        )
    where = "Look at what it is given, and at what it calls."
    if last is not None and last.category in _LOOK:
        where = _LOOK[last.category]
    elif cause is not None:
        where = "Look at the first error of the chain."
    return Advice(
        kind=AdviceKind.PROCESSOR_FAILS,
        processor=processor,
        text=f"{processor} fails again and again{failure}. {where}",
    )


def _client_gone(processor: str, what: str) -> Advice:
    return Advice(
        kind=AdviceKind.CLIENT_GONE,
        processor=processor,
        text=f"{processor} has nobody to send to. {what} End the bot when its client leaves, or "
        "let breaker.watch(transport) hold messages back before any send fails.",
    )


def _fed_back(evidence: Evidence) -> dict[str, str]:
    """Those of the answers that fail in their turn; the others do no harm."""
    failing = {link.text for link in evidence.chain if not link.is_error}
    failing.update(evidence.failing_kinds)
    return {who: kind for who, kind in evidence.answers.items() if kind in failing}


def _failure(evidence: Evidence) -> str:
    errors = [link for link in evidence.chain if link.is_error]
    if not errors:
        return ""
    kind, text = evidence.origin.kind, _quote(errors[-1].text)
    # Where nothing else names the failure, its kind is the text over again.
    return f" ({text})" if " " in kind or kind == text else f" ({kind}: {text})"


def _quote(text: str) -> str:
    return one_line(text, _MAX_QUOTE)
