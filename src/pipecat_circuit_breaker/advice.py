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

from pipecat_circuit_breaker.causality import Link
from pipecat_circuit_breaker.incident import Advice, AdviceKind, Trigger
from pipecat_circuit_breaker.origin import FEEDBACK, Origin

#: How RTVI labels its messages. Others are the application's own.
_RTVI = "rtvi-ai/"
_LOG_LINE = f"{_RTVI}system-log"

_CREDENTIALS = re.compile(
    r"\b(401|403|unauthori[sz]ed|forbidden|invalid api key|api[ _-]?key|credentials?)\b"
    r"|authenticat|authori[sz]ation",
    re.IGNORECASE,
)
_QUOTA = re.compile(r"\b(429|quota|rate.?limit(ed)?|too many requests)\b", re.IGNORECASE)
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
        application: Who queued what on account of them, outside the pipeline.
    """

    origin: Origin
    trigger: Trigger
    chain: Sequence[Link]
    failing_kinds: Sequence[str]
    answers: Mapping[str, str]
    application: Mapping[str, str]


def advise(evidence: Evidence) -> Advice:
    """Say what to do.

    Args:
        evidence: What is known.
    """
    processor = evidence.origin.processor
    failure = _failure(evidence)
    if evidence.trigger is Trigger.MANUAL:
        return Advice(
            kind=AdviceKind.BY_HAND,
            processor=processor,
            text="Opened by hand: close_circuits() or reset_circuits() closes it again.",
        )
    if evidence.trigger is Trigger.CLIENT_GONE:
        return _client_gone(processor, "It has no client any more.")
    if _LOG_LINE in {link.text for link in evidence.chain} | {*evidence.answers.values()}:
        return Advice(
            kind=AdviceKind.LOG_FEEDS_ITSELF,
            processor=processor,
            text=f"Log lines go to the client, and {processor} writes log lines when it handles "
            f"them{failure}. Turn off RTVIObserverParams.system_logs_enabled, or mend {processor}.",
        )
    for who, what in evidence.application.items():
        return Advice(
            kind=AdviceKind.APPLICATION_ANSWERS_ERRORS,
            processor=processor,
            text=f"{processor} fails{failure}, and a handler of the application answers each "
            f"failure: it queues {what} with {who}, which fails again. Answer once, on "
            f"on_circuit_opened, and in a way that does not need {processor}.",
        )
    for who, kind in evidence.answers.items():
        if not kind.startswith(_RTVI):
            return Advice(
                kind=AdviceKind.PROCESSOR_ANSWERS_ERRORS,
                processor=who,
                text=f"{processor} fails{failure}, and {who} answers its errors with messages "
                f"({kind}) that fail again. Let {who} answer once, on on_circuit_opened.",
            )
    if evidence.origin.kind == FEEDBACK:
        return Advice(
            kind=AdviceKind.MESSAGES_ANSWER_MESSAGES,
            processor=processor,
            text=f"{processor} sets off another message whenever it handles one, and that comes "
            "back to it. Look at what it does with a message that it has set off itself.",
        )
    return _by_failure(evidence, failure)


def _by_failure(evidence: Evidence, failure: str) -> Advice:
    processor, kind = evidence.origin.processor, evidence.origin.kind
    last = evidence.chain[-1] if evidence.chain else None
    category = (last.category if last is not None else None) or kind
    text = last.text if last is not None else ""
    exception = kind.rpartition(".")[2]
    if category in ("authentication", "authorization") or _CREDENTIALS.search(text):
        return Advice(
            kind=AdviceKind.CREDENTIALS,
            processor=processor,
            text=f"The provider of {processor} rejects the credentials{failure}. Check its API "
            "key, and what the key is allowed to do; trying again will not help.",
        )
    if category in ("quota", "rate_limit") or _QUOTA.search(text):
        return Advice(
            kind=AdviceKind.QUOTA,
            processor=processor,
            text=f"A limit of {processor}'s provider is reached{failure}. Send less, wait, or "
            "raise the limit.",
        )
    if evidence.failing_kinds:
        if exception in _SERIALIZE_EXCEPTIONS or _SERIALIZE.search(text):
            kinds = ", ".join(evidence.failing_kinds)
            return Advice(
                kind=AdviceKind.CANNOT_SERIALIZE,
                processor=processor,
                text=f"{processor} cannot turn messages of these kinds into bytes: {kinds}"
                f"{failure}. Look at what is in them that its serializer does not know.",
            )
        if _GONE_EXCEPTIONS.search(exception) or _GONE.search(text):
            return _client_gone(processor, f"Sending fails{failure}.")
        return Advice(
            kind=AdviceKind.CHANNEL_FAILS,
            processor=processor,
            text=f"Sending over {processor} fails{failure}. Look at its connection, and at the "
            "first error of the chain.",
        )
    return Advice(
        kind=AdviceKind.PROCESSOR_FAILS,
        processor=processor,
        text=f"{processor} fails again and again{failure}. Look at the first error of the chain.",
    )


def _client_gone(processor: str, what: str) -> Advice:
    return Advice(
        kind=AdviceKind.CLIENT_GONE,
        processor=processor,
        text=f"{processor} has nobody to send to. {what} End the bot when its client leaves, or "
        "let breaker.watch(transport) hold messages back before any send fails.",
    )


def _failure(evidence: Evidence) -> str:
    errors = [link for link in evidence.chain if link.is_error]
    return f" ({evidence.origin.kind}: {errors[-1].text})" if errors else ""
