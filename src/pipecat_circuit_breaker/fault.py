#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A circuit, and the record of the failure that it guards against."""

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from uuid import uuid4

from pipecat_circuit_breaker.advice import Evidence, advise
from pipecat_circuit_breaker.causality import Link
from pipecat_circuit_breaker.channel import Channel
from pipecat_circuit_breaker.circuit import Admission, Circuit, CircuitState, Transition
from pipecat_circuit_breaker.incident import (
    Advice,
    ChainStep,
    CircuitSnapshot,
    Ending,
    Incident,
    Probe,
    ProbeOutcome,
    Trigger,
)
from pipecat_circuit_breaker.origin import CLIENT_GONE, Origin

# What an incident holds at most, whatever a client or a provider sends.
_MAX_STEPS = 64
_MAX_PROBES = 32
_MAX_KINDS = 32
_OTHER = "other"


class Mode(Enum):
    """What a breaker does with what it knows.

    Parameters:
        GUARD: Holds back what an open circuit holds back.
        OBSERVE: Counts, opens and tells as if it guarded, but lets everything pass.
        DISABLED: Lets everything pass and notes nothing.
    """

    GUARD = "guard"
    OBSERVE = "observe"
    DISABLED = "disabled"


@dataclass(slots=True)
class Tally:
    """The counts behind :class:`Totals`, for one kind of failure."""

    failures: int = 0
    openings: int = 0
    closings: int = 0
    held_errors: int = 0
    held_messages: int = 0
    probes: dict[ProbeOutcome, int] = field(default_factory=lambda: dict.fromkeys(ProbeOutcome, 0))


@dataclass(slots=True)
class _Record:
    """What is written down from an opening until the circuit closes.

    Times are on the circuit's clock; ``opened_at`` ties them to the calendar.
    """

    trigger: Trigger
    steps: tuple[ChainStep, ...]
    steps_omitted: int
    failures: int
    rate: float | None
    opened_at: datetime
    opened_secs: float
    advice: Advice
    is_channel: bool
    id: str = field(default_factory=lambda: uuid4().hex)
    openings: int = 0
    held_errors: int = 0
    held_kinds: dict[str, int] = field(default_factory=dict)
    probes: deque[Probe] = field(default_factory=lambda: deque(maxlen=_MAX_PROBES))
    given_up: bool = False

    @property
    def held_messages(self) -> int:
        return sum(self.held_kinds.values())

    def moment(self, secs: float) -> datetime:
        """When something was, that is known on the circuit's clock."""
        return self.opened_at + timedelta(seconds=secs - self.opened_secs)


@dataclass(slots=True, eq=False)
class Fault:
    """A circuit, with what is known of the failure that it guards against.

    Parameters:
        origin: Which processor failed, and how.
        circuit: Its circuit.
        max_errors: Failures that open it.
        tally: Its share of the totals.
        latest: The frame that was counted last, while the circuit is closed.
        announcement: The error that opened it, and says so.
        mode: Its own mode; None for the breaker's.
        probe: The frame that is the probe, while the circuit is half-open.
        openings: How often it has opened.
        answers: Messages that its errors set off: by whom, and of which kind.
        queued: What was queued last outside the pipeline on account of its errors.
        ending: How it ends, where somebody is about to end it.
    """

    origin: Origin
    circuit: Circuit
    max_errors: int
    tally: Tally
    latest: Link | None = None
    announcement: Link | None = None
    mode: Mode | None = None
    probe: Link | None = None
    openings: int = 0
    answers: dict[str, str] = field(default_factory=dict)
    queued: str | None = None
    ending: Ending | None = None
    _record: _Record | None = None

    @property
    def is_closed(self) -> bool:
        """Whether it holds nothing back."""
        self.circuit.look()
        return self.circuit.state is CircuitState.CLOSED

    @property
    def has_given_up(self) -> bool:
        """Whether ``give_up`` has said to give up since it opened."""
        return self._record is not None and self._record.given_up

    @property
    def secs_open(self) -> float:
        """Seconds from leaving the closed state to the latest opening."""
        return self.circuit.opened_at - self._record.opened_secs if self._record else 0.0

    @property
    def opening_remark(self) -> str:
        """What the error that opened the circuit says upstream."""
        record = self._record
        if record is not None and record.trigger is Trigger.RECURSION:
            why = "errors and messages set each other off"
        else:
            why = f"{record.failures if record is not None else 0} related errors"
        return f"circuit open, {why}: more like it are held back until it recovers"

    @property
    def probe_remark(self) -> str:
        """What an error says upstream that is let through as the probe."""
        held = self._record.held_errors if self._record is not None else 0
        return f"{held} more like it were held back"

    def is_announced_by(self, link: Link) -> bool:
        """Whether a message only says that this circuit is open."""
        return self.announcement is not None and link.descends_from(self.announcement)

    def stops(self, channel: Channel, kind: str, link: Link) -> bool:
        """Whether a channel cannot take a message because of this, while it is open."""
        origin = self.origin
        if origin.processor_id != channel.processor_id:
            return False
        if origin.destination != channel.destination:
            return origin.destination is None and self.circuit.is_isolated
        return channel.is_suspect(kind) or self.circuit.is_isolated or self.is_announced_by(link)

    def ask(self, link: Link, *, quiet_closes: bool) -> Admission:
        """Ask for a frame to pass, see :meth:`Circuit.ask`."""
        before, self.probe = self.probe, link
        admission = self.circuit.ask(quiet_closes=quiet_closes)
        if admission is not Admission.PROBE:
            half_open = self.circuit.state is CircuitState.HALF_OPEN
            self.probe = before if half_open else None
        return admission

    #
    # Writing down
    #

    def note_answer(self, who: str, kind: str) -> None:
        """Note a message that one of its errors has set off."""
        self.answers[who] = kind

    def note_held_error(self) -> None:
        """Note an error that is held back."""
        self.tally.held_errors += 1
        if self._record is not None:
            self._record.held_errors += 1

    def note_held_message(self, kind: str) -> None:
        """Note a message that is held back."""
        self.tally.held_messages += 1
        record = self._record
        if record is not None:
            held = record.held_kinds
            if kind not in held:
                if len(held) >= _MAX_KINDS - 1:
                    kind = _OTHER
                held.setdefault(kind, 0)
            held[kind] += 1

    def note_transition(
        self, transition: Transition, *, now: datetime, channel: Channel | None
    ) -> None:
        """Write down a change of the circuit's state.

        Args:
            transition: The change.
            now: The time, by the calendar.
            channel: The channel of its processor, where it is one.
        """
        if transition.before is CircuitState.CLOSED:
            self._record = self._opened(transition, now, channel)
        record = self._record
        if record is None:
            return
        if transition.before is CircuitState.HALF_OPEN:
            self._note_probe(record, transition)
        match transition.after:
            case CircuitState.OPEN:
                self.openings += 1
                self.tally.openings += 1
                record.openings += 1
                self.probe = None
            case CircuitState.HALF_OPEN:
                self._note_probe_sent(record)
            case CircuitState.CLOSED:
                self.tally.closings += 1
                if self.ending is None:
                    self.ending = Ending.QUIET if transition.by_time else Ending.RECOVERED

    def note_giving_up(self) -> None:
        """Note that it is given up."""
        if self._record is not None:
            self._record.given_up = True

    def forget(self) -> None:
        """Let go of what was known of a failure that is over."""
        self.probe = self.announcement = self._record = self.ending = self.queued = None
        self.answers.clear()

    def _note_probe_sent(self, record: _Record) -> None:
        if self.probe is not None:
            record.probes.append(
                Probe(
                    frame=self.probe.frame,
                    text=self.probe.text,
                    at=record.moment(self.circuit.now),
                    outcome=ProbeOutcome.PENDING,
                )
            )

    def _note_probe(self, record: _Record, transition: Transition) -> None:
        if self.ending is not None or self.circuit.is_isolated:
            outcome = ProbeOutcome.VOID
        elif transition.after is CircuitState.CLOSED:
            outcome = ProbeOutcome.PASSED
        else:
            outcome = ProbeOutcome.TIMED_OUT if transition.by_time else ProbeOutcome.FAILED
        self.tally.probes[outcome] += 1
        if record.probes:
            record.probes.append(record.probes.pop().model_copy(update={"outcome": outcome}))

    def _opened(self, transition: Transition, now: datetime, channel: Channel | None) -> _Record:
        link, self.latest = self.latest, None
        trigger = self._trigger(transition, link)
        chain = link.chain() if link is not None else ()
        kept = chain if len(chain) <= _MAX_STEPS else (chain[0], *chain[1 - _MAX_STEPS :])
        span = transition.span_secs
        evidence = Evidence(
            origin=self.origin,
            trigger=trigger,
            chain=kept,
            failing_kinds=channel.failing_kinds if channel is not None else (),
            answers=self.answers,
            queued=self.queued,
        )
        return _Record(
            trigger=trigger,
            # At once: the frame that says so becomes a root.
            steps=tuple(_step(link, now, self.circuit.now) for link in kept),
            steps_omitted=len(chain) - len(kept),
            failures=transition.failures,
            rate=(transition.failures - 1) / span if span > 0 else None,
            opened_at=now,
            opened_secs=self.circuit.now,
            advice=advise(evidence),
            is_channel=channel is not None,
        )

    def _trigger(self, transition: Transition, link: Link | None) -> Trigger:
        if self.circuit.is_isolated:
            gone = self.origin.kind == CLIENT_GONE
            return Trigger.CLIENT_GONE if gone else Trigger.MANUAL
        if link is not None and link.is_error and transition.failures >= self.max_errors:
            return Trigger.ERRORS
        return Trigger.RECURSION

    #
    # Telling
    #

    def snapshot(self) -> CircuitSnapshot:
        """What anybody may know of it now."""
        record = self._record
        return CircuitSnapshot(
            origin=self.origin,
            state=self.circuit.state,
            failures=self.circuit.failures,
            openings=self.openings,
            held_errors=record.held_errors if record is not None else 0,
            held_messages=record.held_messages if record is not None else 0,
            probe_in_secs=self.circuit.probe_in_secs,
        )

    def incident(self, *, gave_up: bool = False) -> Incident:
        """What has happened since it opened.

        Args:
            gave_up: Whether it is now that it is given up.
        """
        record = self._record
        assert record is not None, "there is a record from the opening on"
        at = record.moment(self.circuit.now)
        closed = self.circuit.state is CircuitState.CLOSED
        return Incident(
            id=record.id,
            origin=self.origin,
            state=self.circuit.state,
            trigger=record.trigger,
            is_channel=record.is_channel,
            chain=record.steps,
            chain_omitted=record.steps_omitted,
            failures=record.failures,
            rate=record.rate,
            opened_at=record.opened_at,
            at=at,
            ended_at=at if closed else None,
            ending=self.ending if closed else None,
            openings=record.openings,
            held_errors=record.held_errors,
            held_messages=record.held_messages,
            held_kinds={**record.held_kinds},
            probes=(*record.probes,),
            probe_in_secs=self.circuit.probe_in_secs,
            gave_up=gave_up,
            advice=record.advice,
        )


def _step(link: Link, now: datetime, secs: float) -> ChainStep:
    return ChainStep(
        hop=link.hop,
        frame=link.frame,
        processor=link.processor,
        text=link.text,
        at=now + timedelta(seconds=link.at - secs),
    )
