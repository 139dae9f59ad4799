#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Joins causes and circuits, and answers one question: may this frame pass?"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from pipecat_circuit_breaker.causality import Link
from pipecat_circuit_breaker.channel import Channel
from pipecat_circuit_breaker.circuit import Admission, Circuit, CircuitState, Transition
from pipecat_circuit_breaker.fault import Fault, Mode, Tally
from pipecat_circuit_breaker.incident import (
    CircuitSnapshot,
    Ending,
    Incident,
    ProbeOutcome,
    Totals,
)
from pipecat_circuit_breaker.origin import CLIENT_GONE, FEEDBACK, Origin, Processor

#: A message that set off a message that set off a message: from here on it is
#: taken for a loop and counted. One reply to a message is a habit, two are a
#: coincidence.
_FEEDBACK_DEPTH = 3

#: Transitions that wait to be told, at most.
_MAX_UNTOLD = 1_000

#: What is counted for origins beyond ``max_circuits`` names.
_OTHER_ORIGINS = "other"


@dataclass(slots=True, eq=False)
class Delivery:
    """One message on its way over one channel.

    Parameters:
        channel: The channel.
        kind: The message's kind.
        generation: The channel's generation when it went: an outcome that
            comes after the channel was opened or recovered is void.
        probing: Faults whose probe it is, each with its circuit's generation.
        failed: Whether an error was pushed on account of it.
    """

    channel: Channel
    kind: str
    generation: int
    probing: tuple[tuple[Fault, int], ...] = ()
    failed: bool = False


@dataclass(frozen=True, slots=True)
class ErrorVerdict:
    """What becomes of an error.

    Parameters:
        passes: Whether it goes on upstream.
        remark: What it has to say beside its own text; empty for nothing.
    """

    passes: bool
    remark: str = ""


_PASSES = ErrorVerdict(True)
_HELD = ErrorVerdict(False)


class Breaker:
    """Judges every tracked frame once.

    Args:
        max_errors: See :class:`~pipecat_circuit_breaker.CircuitBreakerParams`,
            for this and the others.
        window_secs: As there.
        max_hops: As there.
        probe_timeout_secs: As there.
        max_circuits: As there.
        cooldown: Seconds to stay open after so many openings in a row.
        gives_up: Whether to give up after so many openings in a row, and so
            many seconds since the first of them.
        clock: Monotonic seconds.
        mode: What to do with what is known; may be set at any time.
        calendar: The time by the calendar, for what people read; nothing is
            decided by it.
    """

    def __init__(
        self,
        *,
        max_errors: int,
        window_secs: float,
        max_hops: int,
        probe_timeout_secs: float,
        max_circuits: int,
        cooldown: Callable[[int], float],
        gives_up: Callable[[int, float], bool],
        clock: Callable[[], float],
        mode: Mode,
        calendar: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Start with no circuits."""
        self.mode = mode
        self._max_errors = max_errors
        self._window_secs = window_secs
        self._max_hops = max_hops
        self._probe_timeout_secs = probe_timeout_secs
        self._max_circuits = max_circuits
        self._cooldown = cooldown
        self._gives_up = gives_up
        self._clock = clock
        self._calendar = calendar
        self._faults: OrderedDict[Origin, Fault] = OrderedDict()
        # Those of them that are closed, the one that was longest without news
        # first: the next to make room for another.
        self._closed: OrderedDict[Origin, Fault] = OrderedDict()
        # Those of them that are not closed: as a rule none, and then a message costs nothing.
        self._open: dict[Origin, Fault] = {}
        self._open_at: dict[int, dict[Origin, Fault]] = {}
        self._channels: OrderedDict[tuple[int, str | None], Channel] = OrderedDict()
        self._untold: deque[Incident] = deque(maxlen=_MAX_UNTOLD)
        self._tallies: dict[str, Tally] = {}

    @property
    def circuits(self) -> tuple[CircuitSnapshot, ...]:
        """Every circuit as it is now, the one with the latest news last."""
        return tuple(fault.snapshot() for fault in self._faults.values())

    @property
    def totals(self) -> tuple[Totals, ...]:
        """What has been counted since the start, for each name of an origin."""
        return tuple(
            Totals(
                origin=name,
                failures=tally.failures,
                openings=tally.openings,
                closings=tally.closings,
                held_errors=tally.held_errors,
                held_messages=tally.held_messages,
                probes_passed=tally.probes[ProbeOutcome.PASSED],
                probes_failed=tally.probes[ProbeOutcome.FAILED],
                probes_timed_out=tally.probes[ProbeOutcome.TIMED_OUT],
            )
            for name, tally in self._tallies.items()
        )

    @property
    def open_incidents(self) -> tuple[Incident, ...]:
        """What has happened until now where it is not over."""
        return tuple(fault.incident() for fault in self._open.values())

    @property
    def has_news(self) -> bool:
        """Whether there are transitions to tell."""
        return bool(self._untold)

    def tell(self) -> Incident:
        """Take the oldest transition that has not been told."""
        return self._untold.popleft()

    def judge_error(self, link: Link, delivery: Delivery | None = None) -> ErrorVerdict:
        """Count an error, and say whether it may go on upstream.

        Args:
            link: The error's link.
            delivery: The delivery on whose account it was pushed, if any.
        """
        if delivery is not None:
            self._note_failure(delivery)
        # An error counts for its own origin, and for the one its chain began with.
        own = first = _own(link)
        for origin in link.origins:
            if origin.kind != FEEDBACK:
                first = origin
                break
        verdict = self._judge_error(link, own)
        if first is not own and first != own:
            begun = self._judge_error(link, first)
            verdict = ErrorVerdict(verdict.passes and begun.passes, verdict.remark or begun.remark)
        link.passes = verdict.passes
        if verdict.remark:
            # The one error that says so is heard wherever it can be heard: it
            # must not belong to the lineage that the open circuit holds back.
            link.restart()
        return verdict

    def judge_message(self, link: Link) -> bool:
        """Say whether a message may go on, as far as its lineage goes."""
        if link.passes is not None:
            return link.passes
        link.passes = True
        if link.origins:
            self._note_feedback(link)
            for origin in link.origins if self._open else ():
                fault = self._open.get(origin)
                if fault is not None and self._holds(link, fault):
                    fault.note_held_message(link.text)
                    if self._mode_of(fault) is Mode.GUARD:
                        link.passes = False
        return link.passes

    def note_answer(self, error: Link, who: str, kind: str) -> None:
        """Note a message that an error has set off; an incident's advice goes by it.

        Args:
            error: The error's link.
            who: Name of the processor that answered it.
            kind: The message's kind.
        """
        for fault in self._faults_of(error):
            fault.note_answer(who, kind)

    def note_queued(self, error: Link, frame: str) -> None:
        """Note what was queued outside the pipeline on account of an error.

        Args:
            error: The error's link.
            frame: Name of the frame's class.
        """
        for fault in self._faults_of(error):
            fault.queued = frame

    def channel(self, processor: Processor, destination: str | None) -> Channel:
        """The channel over which a processor delivers to a destination."""
        key = (processor.id, destination)
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = Channel(*key)
            if len(self._channels) > self._max_circuits:
                self._channels.popitem(last=False)
        self._channels.move_to_end(key)
        return channel

    def deliver(self, channel: Channel, link: Link, kind: str) -> Delivery | None:
        """Say whether a message may be sent over a channel.

        Args:
            channel: The channel.
            link: The message's link.
            kind: The message's kind.

        Returns:
            The delivery, to be ended with :meth:`delivered`; None to hold the
            message back from this channel.
        """
        if not self.judge_message(link):
            return None
        at_channel = self._open_at.get(channel.processor_id)
        if at_channel is None:
            return Delivery(channel, kind, channel.generation)
        probed, observed = [], False
        for fault in (*at_channel.values(),):
            circuit = fault.circuit
            holds = circuit.holds
            if not holds and circuit.state is CircuitState.CLOSED:
                continue
            if not fault.stops(channel, kind, link):
                continue
            mode = fault.mode or self.mode
            if mode is Mode.DISABLED:
                continue
            if not holds:
                probed.append(fault)
                continue
            fault.note_held_message(kind)
            if mode is Mode.GUARD:
                return None
            observed = True
        if observed:
            # It goes, but as if it did not, so its outcome is void.
            return Delivery(channel, kind, -1)
        delivery = Delivery(channel, kind, channel.generation)
        for fault in probed:
            fault.ask(link, quiet_closes=False)
        delivery.probing = tuple((fault, fault.circuit.generation) for fault in probed)
        return delivery

    def delivered(self, delivery: Delivery, *, success: bool) -> None:
        """Report the outcome of a delivery.

        Args:
            delivery: What :meth:`deliver` returned.
            success: Whether the message was sent. A delivery that was cut off
                has no outcome: do not report it, its probe will time out.
        """
        if not success:
            self._note_failure(delivery)
            return
        for fault, generation in delivery.probing:
            fault.circuit.settle(generation, success=True)
        if delivery.generation == delivery.channel.generation:
            delivery.channel.succeeded(delivery.kind)

    #
    # Control
    #

    def open(self, origin: Origin | None) -> None:
        """Open one circuit, or all, until they are closed by hand."""
        for fault in [self._fault(origin)] if origin else [*self._faults.values()]:
            fault.latest = None
            fault.circuit.isolate()

    def close(self, origin: Origin | None) -> None:
        """Close one circuit, or all, at once."""
        for fault in self._known(origin):
            self._close(fault, Ending.BY_HAND)

    def reset(self, origin: Origin | None) -> None:
        """Close one circuit, or all, and forget everything about it."""
        for fault in self._known(origin):
            self._close(fault, Ending.BY_HAND)
            self._forget(fault)

    def set_mode(self, mode: Mode, origin: Origin | None) -> None:
        """Set the mode of one circuit, or of the breaker and of every circuit."""
        if origin is None:
            self.mode = mode
        for fault in self._known(origin):
            fault.mode = mode if origin else None

    def client_gone(self, processor: Processor) -> None:
        """Hold back every message to a processor: it has nobody to send to."""
        self.open(Origin.of(processor, CLIENT_GONE))

    def client_came(self, processor: Processor) -> None:
        """Close every circuit of a processor: it has somebody to send to."""
        for fault in [*self._open.values()]:
            if fault.origin.processor_id == processor.id:
                self._close(fault, Ending.CLIENT_CAME)

    def _close(self, fault: Fault, ending: Ending) -> None:
        fault.ending = ending
        if not fault.circuit.close():
            fault.ending = None

    def _known(self, origin: Origin | None) -> list[Fault]:
        if origin is None:
            return [*self._faults.values()]
        if origin not in self._faults:
            raise ValueError(f"expected the origin of one of `circuits`, got {origin}")
        return [self._faults[origin]]

    #
    # What is known
    #

    def _faults_of(self, error: Link) -> Iterator[Fault]:
        for origin in {*islice(error.origins, 1), _own(error)}:
            if origin in self._faults:
                yield self._faults[origin]

    def _note_failure(self, delivery: Delivery) -> None:
        if delivery.failed:
            return
        delivery.failed = True
        for fault, generation in delivery.probing:
            fault.circuit.settle(generation, success=False)
        if delivery.generation == delivery.channel.generation:
            delivery.channel.failed(delivery.kind)

    def _judge_error(self, link: Link, origin: Origin) -> ErrorVerdict:
        if self.mode is Mode.DISABLED and origin not in self._faults:
            return _PASSES
        fault = self._fault(origin)
        mode = fault.mode or self.mode
        if mode is Mode.DISABLED:
            return _PASSES
        verdict = self._count_error(link, fault)
        return verdict if mode is Mode.GUARD else _PASSES

    def _count_error(self, link: Link, fault: Fault) -> ErrorVerdict:
        circuit = fault.circuit
        if fault.is_closed:
            # What was sent before the circuit opened tells of that time only.
            if link.cause is not None and link.cause.at < circuit.opened_at:
                return _PASSES
            fault.latest = fault.announcement = link
            fault.tally.failures += 1
            opened = circuit.fail() or (link.hop > self._max_hops and circuit.trip())
            return ErrorVerdict(True, fault.opening_remark) if opened else _PASSES
        channel = self._channel_of(fault)
        if circuit.state is CircuitState.HALF_OPEN:
            if fault.probe is not None and (
                fault.probe.is_error or link.descends_from(fault.probe)
            ):
                circuit.settle(circuit.generation, success=False)
        elif channel is not None and channel.is_failing:
            pass  # a message is what tells whether it can take messages again
        elif fault.ask(link, quiet_closes=True) is Admission.PROBE:
            return ErrorVerdict(True, fault.probe_remark)
        fault.note_held_error()
        return _HELD

    def _note_feedback(self, link: Link) -> None:
        origin = _own(link)
        too_long = link.hop > self._max_hops
        if too_long or (origin.kind == FEEDBACK and link.origins[origin] >= _FEEDBACK_DEPTH):
            if self._mode_of(self._faults.get(origin)) is Mode.DISABLED:
                return
            fault = self._fault(origin)
            if fault.is_closed:
                fault.latest = link
                fault.tally.failures += 1
                fault.circuit.trip() if too_long else fault.circuit.fail()

    def _holds(self, link: Link, fault: Fault) -> bool:
        if fault.is_closed or self._mode_of(fault) is Mode.DISABLED:
            return False
        circuit = fault.circuit
        if fault.origin.kind == FEEDBACK:
            if fault.ask(link, quiet_closes=True) is Admission.PROBE:
                return False
            if fault.probe is not None and link.descends_from(fault.probe):
                circuit.settle(circuit.generation, success=False)
        return True

    def _fault(self, origin: Origin) -> Fault:
        known = self._faults.get(origin)
        if known is not None:
            self._faults.move_to_end(origin)
            if origin in self._closed:
                self._closed.move_to_end(origin)
            return known
        if len(self._faults) >= self._max_circuits:
            gone = next(iter(self._closed or self._faults))
            fault = self._faults[gone]
            self._close(fault, Ending.FORGOTTEN)
            self._forget(fault)
        circuit = Circuit(
            max_errors=self._max_errors,
            window_secs=self._window_secs,
            probe_timeout_secs=self._probe_timeout_secs,
            quiet_secs=self._window_secs,
            cooldown=self._cooldown,
            clock=self._clock,
            on_transition=lambda transition: self._on_transition(fault, transition),
        )
        tally = self._tally(origin)
        fault = Fault(origin, circuit, self._max_errors, tally)
        self._faults[origin] = self._closed[origin] = fault
        return fault

    def _forget(self, fault: Fault) -> None:
        """Let go of a circuit that is closed."""
        del self._faults[fault.origin], self._closed[fault.origin]

    def _tally(self, origin: Origin) -> Tally:
        name = origin.shared_name
        if name not in self._tallies and len(self._tallies) >= self._max_circuits:
            name = _OTHER_ORIGINS
        return self._tallies.setdefault(name, Tally())

    def _mode_of(self, fault: Fault | None) -> Mode:
        return self.mode if fault is None or fault.mode is None else fault.mode

    def _channel_of(self, fault: Fault) -> Channel | None:
        return self._channels.get((fault.origin.processor_id, fault.origin.destination))

    def _on_transition(self, fault: Fault, transition: Transition) -> None:
        channel = self._channel_of(fault)
        if channel is not None and transition.after is not CircuitState.HALF_OPEN:
            channel.generation += 1
        fault.note_transition(transition, now=self._calendar(), channel=channel)
        if transition.after is CircuitState.CLOSED:
            self._note_closed(fault)
            self._untold.append(fault.incident())
            if channel is not None:
                channel.recovered()
            fault.forget()
            return
        self._closed.pop(fault.origin, None)
        self._open[fault.origin] = fault
        self._open_at.setdefault(fault.origin.processor_id, {})[fault.origin] = fault
        gave_up = transition.after is CircuitState.OPEN and self._note_giving_up(fault)
        self._untold.append(fault.incident(gave_up=gave_up))

    def _note_closed(self, fault: Fault) -> None:
        origin = fault.origin
        self._closed[origin] = fault
        if self._open.pop(origin, None) is not None:
            at_channel = self._open_at[origin.processor_id]
            del at_channel[origin]
            if not at_channel:
                del self._open_at[origin.processor_id]

    def _note_giving_up(self, fault: Fault) -> bool:
        """Whether it is now that it is given up."""
        circuit = fault.circuit
        if fault.has_given_up or circuit.is_isolated:
            return False
        gives_up = self._gives_up(circuit.openings_in_a_row, fault.secs_open)
        if gives_up:
            fault.note_giving_up()
        return gives_up


def _own(link: Link) -> Origin:
    assert link.origin is not None, "whoever asks has seen that it has passed an origin"
    return link.origin
