#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""An incident in words, the same in the terminal and on a page.

Its texts come from outside: from errors, from clients, from a file. Whatever is
shown of them is one line, bounded and printable.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pipecat_circuit_breaker._core.circuit import CircuitState
from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker.incident import (
    ChainStep,
    Ending,
    FailedOver,
    Incident,
    ProbeOutcome,
    Trigger,
    held_in_words,
)

_MAX_TEXT = 400
_MAX_NAME = 120
_MAX_TURN = 8

#: Seconds after its opening in which there is nothing to tell of how long it is open.
_SOON = 0.1

_STATES = {
    CircuitState.OPEN: "open",
    CircuitState.HALF_OPEN: "half-open",
    CircuitState.CLOSED: "closed",
}
_ENDINGS = {
    Ending.RECOVERED: "ended when a probe arrived",
    Ending.QUIET: "ended when it was used and no error came",
    Ending.BY_HAND: "ended by hand",
    Ending.FORGOTTEN: "no longer followed: another circuit needed its place",
    Ending.PIPELINE_OVER: "ended with its pipeline",
}
_OUTCOMES = {
    ProbeOutcome.PENDING: "on its way",
    ProbeOutcome.PASSED: "passed",
    ProbeOutcome.FAILED: "failed",
    ProbeOutcome.TIMED_OUT: "never reported",
    ProbeOutcome.VOID: "void",
}


@dataclass(frozen=True)
class Step:
    """One step of the chain.

    Parameters:
        hop: Frames between it and the root.
        when: How long before the opening it was pushed.
        processor: Who pushed it.
        frame: Its class.
        text: What it said.
        is_error: Whether it is an error.
        trips: Whether it is the one that opened the circuit.
    """

    hop: int
    when: str
    processor: str
    frame: str
    text: str
    is_error: bool
    trips: bool


@dataclass(frozen=True)
class Gap:
    """Steps of the chain that are not shown.

    Parameters:
        steps: How many.
    """

    steps: int


@dataclass(frozen=True)
class Held:
    """Frames that were held back.

    Parameters:
        count: How many.
        kind: Of which kind.
        share: Their share of the largest count, above 0 and up to 1.
    """

    count: int
    kind: str
    share: float


@dataclass(frozen=True)
class Try:
    """One probe.

    Parameters:
        when: How long after the opening it was let through.
        outcome: What came of it, in words.
        result: The same for a machine.
        frame: Its class.
        text: What it said.
    """

    when: str
    outcome: str
    result: str
    frame: str
    text: str


@dataclass(frozen=True)
class Story:
    """What there is to tell of an incident.

    Parameters:
        id: The incident's.
        state: The circuit's state, in words.
        title: Who failed, and how.
        facts: Why it opened, when, for how long, and how it ended or goes on.
        advice: What to do.
        advice_kind: What it comes down to.
        look_at: The processor to look at first.
        loop: Who sets whom off, and how often round; empty where nothing goes round.
        chain: From the root to the frame that opened the circuit.
        held: What was held back, errors first.
        held_title: What to call that: in a mode that only observes nothing is.
        nothing_held: What to say where that is nothing.
        tries: The latest probes.
        tried: The same in one line; empty where there was none.
        noticed: What the user noticed.
        whose: Whose call it was, in pairs of what and which.
        as_of: A remark where it all goes on after this copy; else empty.
    """

    id: str
    state: str
    title: str
    facts: tuple[str, ...]
    advice: str
    advice_kind: str
    look_at: str
    loop: str
    chain: tuple[Step | Gap, ...]
    held: tuple[Held, ...]
    held_title: str
    nothing_held: str
    tries: tuple[Try, ...]
    tried: str
    noticed: str
    whose: tuple[tuple[str, str], ...]
    as_of: str


def tell(incident: Incident, *, most_steps: int = 64) -> Story:
    """Put an incident into words.

    Args:
        incident: The incident.
        most_steps: Steps of its chain to show; of a longer one the root and the latest.
    """
    return Story(
        id=one_line(incident.id, _MAX_NAME),
        state=_STATES[incident.state],
        title=one_line(incident.origin, 2 * _MAX_NAME),
        facts=tuple(_facts(incident)),
        advice=one_line(incident.advice.text, 3 * _MAX_TEXT),
        advice_kind=incident.advice.kind.value.replace("_", " "),
        look_at=one_line(incident.advice.processor, _MAX_NAME),
        loop=_loop(incident.chain),
        chain=_chain(incident, most_steps),
        held=_held(incident),
        held_title=_held_title(incident),
        nothing_held=_nothing_held(incident),
        tries=_tries(incident),
        tried=_tried(incident),
        noticed=_noticed(incident),
        whose=_whose(incident),
        as_of=_as_of(incident),
    )


def duration(secs: float) -> str:
    """Write a time span as people do.

    Args:
        secs: Seconds; the sign is left out.
    """
    secs = abs(secs)
    if 0.00005 <= secs < 0.00995:
        return f"{secs * 1000:.1f} ms"
    if secs < 0.9995:
        return f"{secs * 1000:.0f} ms"
    if secs < 99.95:
        return f"{secs:.1f} s"
    minutes, rest = divmod(round(secs), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def in_utc(at: datetime) -> str:
    """Write a time as people in several places read it.

    Args:
        at: The time, with its offset.
    """
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def per_second(rate: float) -> str:
    """Write a rate.

    Args:
        rate: How many a second.
    """
    return f"{rate:,.0f} a second" if rate >= 10 else f"{rate:.1f} a second"


def _facts(incident: Incident) -> list[str]:
    facts = [_why(incident), f"opened {in_utc(incident.opened_at)}"]
    if incident.failover is not None:
        facts[0] = _failover(incident, incident.failover)
    if incident.mode is Mode.OBSERVE:
        facts.insert(0, "only observed")
    if incident.openings > 1:
        facts.append(f"opened {incident.openings} times")
    if incident.ended_at is not None:
        facts.append(f"lasted {duration(incident.secs)}")
    elif incident.secs >= _SOON:
        facts.append(f"not over after {duration(incident.secs)}")
    if incident.ending is not None and incident.failover is None:
        facts.append(_ENDINGS[incident.ending])
    if incident.state is CircuitState.OPEN:
        wait = incident.probe_in_secs
        facts.append("no probe" if wait is None else f"next probe in {duration(wait)}")
    if incident.gave_up:
        facts.append("given up")
    return facts


def _why(incident: Incident) -> str:
    match incident.trigger:
        case Trigger.ERRORS:
            errors = f"{incident.failures:,} related error{'' if incident.failures == 1 else 's'}"
            return errors if incident.rate is None else f"{errors}, {per_second(incident.rate)}"
        case Trigger.TOO_MANY:
            return "too many errors of one processor, of several kinds"
        case Trigger.RECURSION:
            return "errors and messages set each other off"
        case Trigger.CHANNEL_DOWN:
            return f"{incident.failures:,} deliveries in a row failed"
        case Trigger.LOG_ECHO:
            return "sending writes log lines, and they are sent"
        case Trigger.FAILOVER:
            return "a request failed"
        case Trigger.FLEET:
            return "it failed once, and the fleet knew of the outage"
        case Trigger.MANUAL:
            return "opened by hand"


def _failover(incident: Incident, failover: FailedOver) -> str:
    """Say who failed, who took over, and when it was back."""
    failed = " and ".join(one_line(name, _MAX_NAME) for name in failover.failed)
    said = f" ({one_line(incident.chain[-1].text, _MAX_NAME)})" if incident.chain else ""
    after = f"after {duration(incident.secs)}"
    match incident.ending:
        case None:
            back = "not back yet"
        case Ending.RECOVERED:
            back = f"back {after}"
        case Ending.BY_HAND:
            back = f"taken for back by hand {after}"
        case _:
            back = "not back when the call was over"
    return f"{failed} failed{said}; {one_line(failover.outcome, _MAX_TEXT)}; {back}"


def _chain(incident: Incident, most_steps: int) -> tuple[Step | Gap, ...]:
    last = len(incident.chain) - 1
    steps = [_step(incident, step, trips=i == last) for i, step in enumerate(incident.chain)]
    shown = steps if len(steps) <= most_steps else [steps[0], *steps[1 - most_steps :]]
    missing = incident.chain_omitted + len(steps) - len(shown)
    return (*shown[:1], Gap(missing), *shown[1:]) if missing else tuple(shown)


def _step(incident: Incident, step: ChainStep, *, trips: bool) -> Step:
    secs = (incident.opened_at - step.at).total_seconds()
    return Step(
        hop=step.hop,
        when=f"{'−' if secs >= 0.00005 else ''}{duration(secs)}",
        processor=one_line(step.processor, _MAX_NAME),
        frame=one_line(step.frame, _MAX_NAME),
        text=one_line(step.text, _MAX_TEXT),
        is_error=is_error(step),
        trips=trips,
    )


def is_error(step: ChainStep) -> bool:
    """Whether a step is an error; otherwise it is a message."""
    return "Error" in step.frame


def _loop(chain: Sequence[ChainStep]) -> str:
    """Say what the chain's end repeats."""
    pushed = [(step.processor, step.frame) for step in chain]
    for length in range(1, min(len(pushed) // 2, _MAX_TURN) + 1):
        turn, turns = pushed[-length:], 1
        while pushed[-length * (turns + 1) : -length * turns] == turn:
            turns += 1
        if turns > 1:
            names = [one_line(processor, _MAX_NAME) for processor, _ in turn]
            return f"{' → '.join((*names, names[0]))}, {turns} times round"
    return ""


def _held(incident: Incident) -> tuple[Held, ...]:
    kinds = sorted(incident.held_kinds.items(), key=lambda item: -item[1])
    counts = [(one_line(kind, _MAX_NAME), count) for kind, count in kinds]
    if incident.held_errors:
        counts = [("errors", incident.held_errors), *counts]
    most = max((count for _, count in counts), default=0)
    return tuple(Held(count, kind, count / most) for kind, count in counts if count > 0)


def _held_title(incident: Incident) -> str:
    if incident.failover is not None and not incident.held_errors + incident.held_messages:
        return "What became of the requests"
    observed = incident.observed_errors + incident.observed_messages
    if observed and observed == incident.held_errors + incident.held_messages:
        return "What would have been held back"
    if observed:
        return "What was, or would have been, held back"
    return "What was held back"


def _nothing_held(incident: Incident) -> str:
    if incident.failover is not None:
        return one_line(incident.failover.outcome, _MAX_TEXT)
    return "nothing" if incident.ended_at is not None else "nothing yet"


def _tries(incident: Incident) -> tuple[Try, ...]:
    return tuple(
        Try(
            when=f"+{duration((probe.at - incident.opened_at).total_seconds())}",
            outcome=_OUTCOMES[probe.outcome],
            result=probe.outcome.value,
            frame=one_line(probe.frame, _MAX_NAME),
            text=one_line(probe.text, _MAX_TEXT),
        )
        for probe in incident.probes
    )


def _tried(incident: Incident) -> str:
    counts = Counter(probe.outcome for probe in incident.probes)
    return ", ".join(f"{count} {_OUTCOMES[outcome]}" for outcome, count in counts.items())


def _noticed(incident: Incident) -> str:
    # `incident.noticed` counts the kinds too, and these have a table of their own here.
    held = incident.held_messages
    if not held or incident.failover is not None:
        return incident.noticed if incident.ended_at is not None else "Nothing yet."
    words = held_in_words(held, incident.observed_messages, "message")
    return f"{words} in {duration(incident.secs)}. Sound was not touched."


def _whose(incident: Incident) -> tuple[tuple[str, str], ...]:
    call = incident.call
    if call is None:
        return ()
    pairs = [
        ("pipeline", call.pipeline),
        ("session", call.session or ""),
        ("host", f"{call.host}, process {call.process}"),
        ("versions", f"pipecat {call.pipecat}, circuit breaker {call.version}"),
        *call.tags.items(),
    ]
    return tuple(
        (one_line(what, _MAX_NAME), one_line(which, _MAX_TEXT)) for what, which in pairs if which
    )


def _as_of(incident: Incident) -> str:
    if incident.ended_at is not None:
        return ""
    return f"Written {in_utc(incident.at)}, while it went on: what came later is not in it."
