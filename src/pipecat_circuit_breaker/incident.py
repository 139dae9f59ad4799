#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What the breaker tells: plain, immutable data."""

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from pipecat_circuit_breaker._core.circuit import CircuitState
from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.origin import Origin

__all__ = [
    "Advice",
    "AdviceKind",
    "Call",
    "ChainStep",
    "CircuitSnapshot",
    "Ending",
    "FailedOver",
    "Incident",
    "Probe",
    "ProbeOutcome",
    "Totals",
    "Trigger",
]


class Trigger(StrEnum):
    """Why a circuit opened.

    Parameters:
        ERRORS: ``max_errors`` errors of one origin within ``window_secs``.
        TOO_MANY: Four times as many errors of one processor, of whatever origin.
        RECURSION: ``max_errors`` failures that caused each other, however slowly.
        CHANNEL_DOWN: ``max_errors`` deliveries in a row failed.
        LOG_ECHO: Sending messages writes log lines that are sent as messages.
        FAILOVER: A service of a switcher that has a failover has failed a request.
        FLEET: It failed once, and the fleet knew of the outage already.
        MANUAL: Somebody opened it by hand.
    """

    ERRORS = "errors"
    TOO_MANY = "too_many"
    RECURSION = "recursion"
    CHANNEL_DOWN = "channel_down"
    LOG_ECHO = "log_echo"
    FAILOVER = "failover"
    FLEET = "fleet"
    MANUAL = "manual"


class Ending(StrEnum):
    """How an incident ended.

    Parameters:
        RECOVERED: A probe arrived, or a service that had failed has answered.
        QUIET: What had failed was used again, and no error came of it.
        BY_HAND: Somebody closed or reset the circuit.
        FORGOTTEN: ``max_circuits`` were reached, and it had to make room for another.
        PIPELINE_OVER: Its pipeline came to an end before.
    """

    RECOVERED = "recovered"
    QUIET = "quiet"
    BY_HAND = "by_hand"
    FORGOTTEN = "forgotten"
    PIPELINE_OVER = "pipeline_over"


class ProbeOutcome(StrEnum):
    """What came of a probe.

    Parameters:
        PENDING: Nothing yet.
        PASSED: It arrived, or its silence was good news.
        FAILED: It failed.
        TIMED_OUT: It never reported.
        VOID: Somebody opened or closed the circuit by hand meanwhile.
    """

    PENDING = "pending"
    PASSED = "passed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    VOID = "void"


class AdviceKind(StrEnum):
    """What an incident comes down to.

    Parameters:
        CLIENT_GONE: A transport has nobody to send to any more.
        CHANNEL_FAILS: Sending over a transport fails in some other way.
        CANNOT_SERIALIZE: Messages of some kind cannot be turned into bytes.
        LOG_FEEDS_ITSELF: Log lines go to the client, and sending them writes log lines.
        PROCESSOR_ANSWERS_ERRORS: A processor answers errors with messages that fail again.
        APPLICATION_ANSWERS_ERRORS: A handler of the application answers errors with frames
            that fail again.
        CREDENTIALS: A provider rejects the credentials.
        QUOTA: A provider's limit is reached.
        PROCESSOR_FAILS: A processor fails again and again on its own account.
        BY_HAND: Somebody opened the circuit.
    """

    CLIENT_GONE = "client_gone"
    CHANNEL_FAILS = "channel_fails"
    CANNOT_SERIALIZE = "cannot_serialize"
    LOG_FEEDS_ITSELF = "log_feeds_itself"
    PROCESSOR_ANSWERS_ERRORS = "processor_answers_errors"
    APPLICATION_ANSWERS_ERRORS = "application_answers_errors"
    CREDENTIALS = "credentials"
    QUOTA = "quota"
    PROCESSOR_FAILS = "processor_fails"
    BY_HAND = "by_hand"


class Advice(BaseModel):
    """What to do about an incident.

    Parameters:
        kind: What it comes down to.
        processor: Name of the processor to look at first.
        text: A few sentences for a person: first what is known, then what to do.
        is_guess: Whether ``kind`` goes by the words or the type of an error
            alone; the text says so too.
    """

    model_config = ConfigDict(frozen=True)

    kind: AdviceKind
    processor: str
    text: str
    is_guess: bool = False


class Call(BaseModel):
    """Whose incident it is: one pipeline of one process, and what the application knows of it.

    Parameters:
        pipeline: Name of the worker that runs the pipeline.
        session: The conversation's id, where the worker was given one
            (``conversation_id=``); None otherwise.
        process: The process's id on its host.
        host: The host's name.
        pipecat: Version of pipecat.
        version: Version of this package.
        tags: What the application says of it, see
            :class:`~pipecat_circuit_breaker.CircuitBreakerProcessor`; at most 32.
    """

    model_config = ConfigDict(frozen=True)

    pipeline: str
    session: str | None = None
    process: int
    host: str
    pipecat: str
    version: str
    tags: dict[str, str] = Field(default_factory=dict)


class ChainStep(BaseModel):
    """One tracked frame in a chain of causes.

    Parameters:
        hop: Tracked frames between it and its root; 0 for the root.
        frame: Name of the frame's class.
        processor: Name of the processor that pushed it.
        text: What it said: the text of an error, the label and type of a
            message. One line, shortened, and never a message's content.
        at: When it was pushed.
    """

    model_config = ConfigDict(frozen=True)

    hop: int
    frame: str
    processor: str
    text: str
    at: datetime


class Probe(BaseModel):
    """One frame that was let through to see whether it is over.

    Parameters:
        frame: Name of the frame's class.
        text: What it said, as in :class:`ChainStep`.
        at: When it was let through.
        outcome: What came of it.
    """

    model_config = ConfigDict(frozen=True)

    frame: str
    text: str
    at: datetime
    outcome: ProbeOutcome


class CircuitSnapshot(BaseModel):
    """One circuit at one moment.

    Parameters:
        origin: Which processor failed, and how.
        state: The circuit's state.
        mode: Its own mode, or else the breaker's.
        failures: Failures in the window.
        openings: How often it has opened in all.
        held_errors: Errors held back since it last left the closed state, or
            that would have been, where the mode was to observe.
        held_messages: Messages likewise, one for each channel.
        probe_in_secs: Seconds until the next probe may go; None where none may.
    """

    model_config = ConfigDict(frozen=True)

    origin: Origin
    state: CircuitState
    mode: Mode = Mode.GUARD
    failures: int
    openings: int
    held_errors: int
    held_messages: int
    probe_in_secs: float | None


class Totals(BaseModel):
    """What has been counted for one kind of failure, over all circuits and since the start.

    Counts never go down, not even where a circuit is reset or makes room for another.

    Parameters:
        origin: The name that an origin has in every process, see
            :attr:`Origin.shared_name`.
        incidents: Outages that have begun, each under the origin that began it.
        failures: Failures that were counted.
        openings: How often a circuit has opened, a failed probe's reopening included.
        closings: How often one has closed.
        held_errors: Errors held back, or that would have been.
        held_messages: Messages likewise, one for each channel.
        observed_errors: How many of these errors were let through all the same,
            because the mode was to observe.
        observed_messages: How many of these messages were.
        unsent_messages: Messages that were not sent because nobody was connected.
        saved_requests: Requests that another service has answered in place of one that fails.
        lost_requests: Requests that nobody has answered, or not the whole of it, while a
            service fails that has a failover.
        probes_passed: Probes that arrived.
        probes_failed: Probes that failed.
        probes_timed_out: Probes that never reported.
    """

    model_config = ConfigDict(frozen=True)

    origin: str
    incidents: int = 0
    failures: int = 0
    openings: int = 0
    closings: int = 0
    held_errors: int = 0
    held_messages: int = 0
    observed_errors: int = 0
    observed_messages: int = 0
    unsent_messages: int = 0
    saved_requests: int = 0
    lost_requests: int = 0
    probes_passed: int = 0
    probes_failed: int = 0
    probes_timed_out: int = 0


class FailedOver(BaseModel):
    """What became of the requests while services of a switcher failed; of their content nothing.

    Parameters:
        switcher: Name of the switcher.
        failed: Names of the services that failed at the request with which it began.
        took_over: Name of the service that was the last to answer in their place;
            None where none has.
        saved: Requests that were answered in their place.
        lost: Requests that nobody has answered, or not the whole of it. Each is in
            the incident of every service that fails then; ``totals`` count it once.
        nobody_answers: Whether no service has answered the latest request.
    """

    model_config = ConfigDict(frozen=True)

    switcher: str
    failed: tuple[str, ...]
    took_over: str | None = None
    saved: int = 0
    lost: int = 0
    nobody_answers: bool = False

    @property
    def outcome(self) -> str:
        """Who took over, and what became of the requests, in one clause."""
        counts = [_counted(self.saved, "request") + " answered"] if self.saved else []
        if self.lost:
            counts.append(
                f"{self.lost:,} lost" if counts else f"{_counted(self.lost, 'request')} lost"
            )
        who = f"{self.took_over} took over"
        if self.nobody_answers:
            who = f"no service of {self.switcher} answers"
        elif self.took_over is None:
            who = "nobody took over"
        return f"{who}: {', '.join(counts)}" if counts else who


class Incident(BaseModel):
    """One outage: what happened from the moment in which a circuit opened until all is closed again.

    Circuits that open on account of the same outage (a channel, the errors of its failed
    deliveries, those that they set off) are one incident. It ends when the last of them closes, or
    with its pipeline. Each transition brings a newer copy with the same ``id``. A copy is immutable,
    bounded in size, and the same after a journey through JSON:
    ``Incident.model_validate_json(incident.model_dump_json())``.

    Parameters:
        id: The same in every copy, and unique.
        origin: Which processor failed, and how.
        state: The state that the circuit has just entered.
        mode: The mode in force when this copy was made. What was held back, or
            would have been, is told by the counts below.
        trigger: Why the circuit opened.
        is_channel: Whether the processor is one that delivers messages.
        chain: The chain of causes that opened it: its root first, last the
            frame that tripped it. At most 64 steps.
        chain_omitted: Steps that were left out after the root.
        failures: Failures in the window when it opened.
        rate: Failures a second at that time; None where there was only one.
        opened_at: When it opened.
        at: When this copy was made.
        ended_at: When it closed; None while it has not.
        ending: How it ended; None while it has not.
        openings: How often it has opened since, failed probes included.
        held_errors: Errors held back since it opened, or that would have been.
        held_messages: Messages likewise, one for each channel.
        observed_errors: How many of these errors were let through all the same,
            because the mode was to observe.
        observed_messages: How many of these messages were.
        held_kinds: How many of those messages were of which kind, at most 32
            kinds; the rest is under ``other``.
        probes: The latest probes, at most 32.
        probe_in_secs: Seconds until the next probe may go; None where none may.
        gave_up: Whether ``give_up`` has said since it opened to give up.
        advice: What to do.
        call: Whose it is.
        failover: What became of the requests, where services failed that have a
            failover; None for any other incident.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    origin: Origin
    state: CircuitState
    mode: Mode = Mode.GUARD
    trigger: Trigger
    is_channel: bool
    chain: tuple[ChainStep, ...]
    chain_omitted: int
    failures: int
    rate: float | None
    opened_at: datetime
    at: datetime
    ended_at: datetime | None
    ending: Ending | None
    openings: int
    held_errors: int
    held_messages: int
    observed_errors: int = 0
    observed_messages: int = 0
    held_kinds: dict[str, int]
    probes: tuple[Probe, ...]
    probe_in_secs: float | None
    gave_up: bool
    advice: Advice
    call: Call | None = None
    failover: FailedOver | None = None

    @property
    def secs(self) -> float:
        """Seconds from the opening to this copy."""
        return max(0.0, (self.at - self.opened_at).total_seconds())

    @property
    def lost_messages(self) -> int:
        """Messages that were held back, where others were only observed; these the client has missed."""
        return self.held_messages - self.observed_messages

    @property
    def noticed(self) -> str:
        """What the user noticed of it, in one sentence."""
        if self.failover is not None:
            lost = self.failover.lost
            return (
                f"{_counted(lost, 'request')} got no answer, or not the whole of it."
                if lost
                else "Nothing but a pause: each request was answered."
            )
        if not self.held_messages:
            return "Nothing was held back from the client. Sound was not touched."
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.held_kinds.items())
        return f"{held_in_words(self.held_messages, self.observed_messages, 'message')} ({kinds}). Sound was not touched."


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def held_in_words(held: int, observed: int, what: str) -> str:
    """Say how many frames were held back, and how many would have been.

    Args:
        held: How many were, or would have been.
        observed: How many of them were let through, because the mode was to observe.
        what: What they are, in the singular.
    """

    def frames(count: int, verb: str) -> str:
        return f"{count:,} {what}{'' if count == 1 else 's'} {verb} held back"

    really = held - observed
    if not observed:
        return frames(held, "was" if held == 1 else "were")
    would = frames(observed, "would have been")
    if not really:
        return f"{would} (observing: nothing was)"
    return f"{frames(really, 'was' if really == 1 else 'were')}, {would} while only observing"
