#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What an incident comes down to, and what to do about it.

Facts come first: who pushed what on account of what, what else got through,
who is connected, where it was raised. Only where these do not decide do the
words and the type of an error, and then the advice says that it is a guess.
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


_FLEET = "Other bots of the fleet have found it out before: one outage, and one cause."


@dataclass(frozen=True, slots=True)
class ChannelFacts:
    """What is known of an output transport when a circuit of it opens.

    Parameters:
        failing_kinds: Kinds of message that cannot be sent, the latest last;
            empty where all can be.
        delivered: Messages that got through since the first of these failed.
        is_connected: Whether somebody is connected; None where nobody watches.
        went_at: When the last client went, on the breaker's clock; None if none has.
    """

    failing_kinds: tuple[str, ...] = ()
    delivered: int = 0
    is_connected: bool | None = None
    went_at: float | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known when a circuit opens.

    Parameters:
        origin: Which processor failed, and how.
        trigger: Why the circuit opened.
        chain: The chain of causes, oldest first; empty where nothing failed.
        channel: What is known of the output transport that the origin's
            processor is; None where it is none.
        answers: Who pushed what on account of the origin's errors: a
            processor's name and a message's kind.
        queued: Frame that a handler of the application queued on account of
            them, outside the pipeline; None where none did.
    """

    origin: Origin
    trigger: Trigger
    chain: Sequence[Link]
    channel: ChannelFacts | None
    answers: Mapping[str, str]
    queued: str | None

    @property
    def failing_kinds(self) -> tuple[str, ...]:
        """Kinds of message that cannot be sent."""
        return () if self.channel is None else self.channel.failing_kinds


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
    advice = (
        _log_feeds_itself(evidence)
        or _refused(evidence)
        or _answered(evidence)
        or _channel(evidence)
        or _processor(evidence)
    )
    if evidence.trigger is not Trigger.FLEET:
        return advice
    return advice.model_copy(update={"text": f"{advice.text} {_FLEET}"})


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
    last = None if evidence.failing_kinds else _last_error(evidence)
    if last is None or last is not evidence.chain[-1]:
        return None
    processor = evidence.origin.processor
    said = f"{evidence.origin.kind} {last.text}"
    answered = ""
    if evidence.queued is not None:
        answered = (
            f" Each failure is answered with {evidence.queued}, which makes more of it if it "
            f"needs {processor}."
        )
    known = last.category in ("authentication", "authorization")
    if known or _CREDENTIALS.search(said):
        rejects = "rejects" if known else "seems to reject"
        return Advice(
            kind=AdviceKind.CREDENTIALS,
            processor=processor,
            text=f"The provider of {processor} {rejects} the credentials{_failure(evidence)}"
            f"{_by_its_words(known)}. Check its API key, and what the key is allowed to do; trying "
            f"again will not help.{answered}",
            is_guess=not known,
        )
    known = last.category in ("quota", "rate_limit")
    if known or _QUOTA.search(said):
        reached = "is reached" if known else "seems to be reached"
        return Advice(
            kind=AdviceKind.QUOTA,
            processor=processor,
            text=f"A limit of {processor}'s provider {reached}{_failure(evidence)}"
            f"{_by_its_words(known)}. Send less, wait, or raise the limit.{answered}",
            is_guess=not known,
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
    channel = evidence.channel
    if channel is None or not channel.failing_kinds:
        return None
    processor = evidence.origin.processor
    exception = evidence.origin.kind.rpartition(".")[2]
    last = _last_error(evidence)
    text = "" if last is None else last.text
    facts = _facts(evidence, channel, last)
    if channel.is_connected is False:
        return Advice(
            kind=AdviceKind.CLIENT_GONE,
            processor=processor,
            text=f"{facts} End the bot when its client leaves.",
        )
    gone = _GONE_EXCEPTIONS.search(exception) or _GONE.search(text)
    if gone and channel.is_connected is None and not channel.delivered:
        return Advice(
            kind=AdviceKind.CLIENT_GONE,
            processor=processor,
            text=f"{facts} Perhaps nobody is there any more: a guess, by the words of the error. "
            f"breaker.watch(transport) would know, and would send nothing to nobody. End the bot "
            "when its client leaves.",
            is_guess=True,
        )
    if not gone and (exception in _SERIALIZE_EXCEPTIONS or _SERIALIZE.search(text)):
        return Advice(
            kind=AdviceKind.CANNOT_SERIALIZE,
            processor=processor,
            text=f"{facts} It seems that they cannot be turned into bytes: a guess, by the error. "
            "Look at what is in them that the serializer does not know.",
            is_guess=True,
        )
    return Advice(
        kind=AdviceKind.CHANNEL_FAILS,
        processor=processor,
        text=f"{facts} Look at its connection, and at the first error of the chain.",
    )


def _facts(evidence: Evidence, channel: ChannelFacts, last: Link | None) -> str:
    """What is known of deliveries that fail, in sentences."""
    kinds = channel.failing_kinds
    shown = ", ".join(kinds[-_MAX_KINDS:])
    more = f" and {len(kinds) - _MAX_KINDS} more" if len(kinds) > _MAX_KINDS else ""
    of = "one kind" if len(kinds) == 1 else f"{len(kinds)} kinds"
    others = (
        f"{channel.delivered:,} other{'' if channel.delivered == 1 else 's'} got through meanwhile"
        if channel.delivered
        else "nothing got through meanwhile"
    )
    there = {True: " A client is connected.", False: " Its client has gone.", None: ""}
    return (
        f"Sending over {evidence.origin.processor} fails{_failure(evidence)}{_raised(evidence, last)}: "
        f"messages of {of} ({shown}{more}); {others}.{there[channel.is_connected]}"
    )


def _raised(evidence: Evidence, last: Link | None) -> str:
    """Where it was raised, if that is known."""
    where = (last.origin if last is not None and last.origin else evidence.origin).where
    return f", raised in {where}" if where else ""


def _by_its_words(known: bool) -> str:
    return "" if known else ": a guess, by the words of the error"


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
    once = evidence.trigger in (Trigger.FAILOVER, Trigger.FLEET)
    fails = "failed" if once else "fails again and again"
    where = "Look at what it is given, and at what it calls."
    if last is not None and last.category in _LOOK:
        where = _LOOK[last.category]
    elif cause is not None:
        where = "Look at the first error of the chain."
    return Advice(
        kind=AdviceKind.PROCESSOR_FAILS,
        processor=processor,
        text=f"{processor} {fails}{failure}. {where}",
    )


def _fed_back(evidence: Evidence) -> dict[str, str]:
    """Those of the answers that fail in their turn; the others do no harm."""
    failing = {link.text for link in evidence.chain if link.origin is None}
    failing.update(evidence.failing_kinds)
    return {who: kind for who, kind in evidence.answers.items() if kind in failing}


def _last_error(evidence: Evidence) -> Link | None:
    """The latest error of the processor: another's says nothing of how this one fails."""
    whose = evidence.origin.processor_id
    for link in reversed(evidence.chain):
        if link.origin is not None and link.origin.processor_id == whose:
            return link
    return None


def _failure(evidence: Evidence) -> str:
    last = _last_error(evidence)
    if last is None:
        return ""
    kind, text = evidence.origin.kind, _quote(last.text)
    # Where nothing else names the failure, its kind is the text over again.
    return f" ({text})" if " " in kind or kind == text else f" ({kind}: {text})"


def _quote(text: str) -> str:
    return one_line(text, _MAX_QUOTE)
