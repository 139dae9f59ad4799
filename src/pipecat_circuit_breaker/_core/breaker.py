#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Joins causes and circuits, and answers the questions: may this pass, and what came of it?"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from pipecat_circuit_breaker._core.causality import Link, descend
from pipecat_circuit_breaker._core.channel import Channel, Output
from pipecat_circuit_breaker._core.circuit import (
    Admission,
    Circuit,
    CircuitState,
    Reason,
    Settings,
    Transition,
    Transitions,
)
from pipecat_circuit_breaker._core.circuits import Circuits, Guarded, Mode
from pipecat_circuit_breaker._core.echo import Echoes
from pipecat_circuit_breaker._core.journal import Journal, Opening
from pipecat_circuit_breaker._core.news import News
from pipecat_circuit_breaker._core.origin import (
    ANY_KIND,
    CHANNEL_DOWN,
    LOG_ECHO,
    NOBODY_CONNECTED,
    SERVICE_DOWN,
    Origin,
    Processor,
)
from pipecat_circuit_breaker._core.services import Services
from pipecat_circuit_breaker._core.shared import SharedKnowledge
from pipecat_circuit_breaker._core.window import Window
from pipecat_circuit_breaker.incident import Call, CircuitSnapshot, Incident, Totals, Trigger

#: A processor may fail in several ways at once. So many times as many errors of
#: all kinds are too many all the same; likewise failed deliveries in a row over
#: an output, whomever they were for.
MANY = 4

#: Whom an output delivers to where all of its destinations are meant.
EVERYONE = "everyone"

_NEVER = float("inf")

_Ask = tuple[Guarded, Admission]


@dataclass(frozen=True, slots=True)
class ErrorVerdict:
    """What becomes of an error.

    Parameters:
        passes: Whether it goes on.
        remark: What it has to say beside its own text; empty for nothing.
    """

    passes: bool
    remark: str = ""


_PASSES = ErrorVerdict(True)
_HELD = ErrorVerdict(False)


class Delivery:
    """One message on its way over one channel.

    Its outcome is reported by :meth:`succeeded` or :meth:`failed`. One that was
    cut off has none: a probe then times out. An error that comes later on its
    account takes a success back.

    Args:
        breaker: Who hears of the outcome; None where it decides nothing.
        output: The output transport.
        channel: The channel.
        link: The message's link.
        kind: The message's kind.
        message: What it says.
        handled: Name of the frame's class.

    ``is_shared`` says whether its failure is the fleet's concern; it is set
    before that is reported.
    """

    __slots__ = (
        "_breaker",
        "_generations",
        "_outcome",
        "channel",
        "closed",
        "counted",
        "handled",
        "is_shared",
        "kind",
        "link",
        "message",
        "output",
        "success",
        "successes",
        "whole_counted",
        "whole_successes",
    )

    def __init__(
        self,
        breaker: "Breaker | None",
        output: Output,
        channel: Channel,
        link: Link,
        kind: str,
        message: object,
        handled: str,
    ) -> None:
        """Send a message."""
        self.output = output
        self.channel = channel
        self.link = link
        self.kind = kind
        self.message = message
        self.handled = handled
        self.is_shared = False
        # What its success has brought about, and what is undone when it is taken back.
        self.counted: tuple[float, ...] = ()
        self.closed = False
        self.success: tuple[int, int | None] = (0, None)
        self.successes = 0
        self.whole_counted: tuple[float, ...] = ()
        self.whole_successes = 0
        self._breaker = breaker
        self._outcome: bool | None = None
        self.renew()

    @property
    def has_failed(self) -> bool:
        """Whether an error has been pushed on its account."""
        return self._outcome is False

    @property
    def is_void(self) -> bool:
        """Whether the channel has opened or closed since: then its outcome says nothing."""
        return self._generations != self._now()

    def renew(self) -> None:
        """Let what comes from now on count."""
        self._generations = self._now()

    def _now(self) -> tuple[int, int]:
        channel, whole = self.channel.guarded, self.output.whole.guarded
        return (
            0 if channel is None else channel.circuit.generation,
            0 if whole is None else whole.circuit.generation,
        )

    def succeeded(self) -> None:
        """Report that the message was sent."""
        if self._outcome is None and self._breaker is not None:
            self._outcome = True
            self._breaker.delivered(self)

    def failed(self) -> None:
        """Report that it was not; or, later, that it was not after all."""
        was, self._outcome = self._outcome, False
        if was is not False and self._breaker is not None:
            self._breaker.undelivered(self, was_success=was is True)

    def log(self, line: str) -> None:
        """Note a line that was logged while it was on its way."""
        if self._breaker is not None:
            self._breaker.logged(self, line)


class Breaker:
    """Judges every push of a tracked frame once.

    Args:
        max_errors: See :class:`~pipecat_circuit_breaker.CircuitBreakerParams`,
            for this and the others.
        window_secs: As there.
        probe_timeout_secs: As there.
        max_circuits: As there.
        cooldown: Seconds to stay open after so many openings in a row.
        channel_cooldown: The same for channels.
        gives_up: Whether to give up after so many openings in a row, and so
            many seconds since the first of them; None is never.
        clock: Monotonic seconds.
        mode: What to do with what is known; may be set at any time.
        grace_secs: As there.
        calendar: The time by the calendar, for what people read; nothing is
            decided by it.
        call: Asked at each opening whose it is.
    """

    def __init__(
        self,
        *,
        max_errors: int,
        window_secs: float,
        probe_timeout_secs: float,
        max_circuits: int,
        cooldown: Callable[[int], float],
        channel_cooldown: Callable[[int], float],
        gives_up: Callable[[int, float], bool] | None,
        clock: Callable[[], float],
        mode: Mode,
        grace_secs: float = 0.0,
        calendar: Callable[[], datetime] = lambda: datetime.now(UTC),
        call: Callable[[], Call | None] = lambda: None,
    ) -> None:
        """Start with no circuits."""
        self.mode = mode
        self._max_errors = max_errors
        self._window_secs = window_secs
        self._max_circuits = max_circuits
        self._grace_secs = grace_secs
        self._gives_up = gives_up
        self._clock = clock
        self._settings = Settings(
            max_errors=max_errors,
            window_secs=window_secs,
            probe_timeout_secs=probe_timeout_secs,
            quiet_secs=window_secs,
            cooldown=cooldown,
            clock=clock,
        )
        self._channel_settings = Settings(
            max_errors=max_errors,
            window_secs=window_secs,
            probe_timeout_secs=probe_timeout_secs,
            quiet_secs=window_secs,
            cooldown=channel_cooldown,
            clock=clock,
        )
        self._circuits = Circuits(max_circuits)
        self._channels = Circuits(MANY * max_circuits)
        # Of services that have a failover, which drives them: as many as there are services.
        self._services = Circuits(max_circuits)
        self.failovers: list[Services] = []
        #: What other bots have found out; None without a fleet.
        self.shared: SharedKnowledge | None = None
        self._journal = Journal(
            max_names=max_circuits,
            clock=clock,
            calendar=calendar,
            call=call,
        )
        # When the errors of a channel that has recovered may be over, at the earliest.
        self._ease_at = _NEVER
        self._outputs: dict[int, Output] = {}
        self._processors: dict[int, Processor] = {}
        # Errors of each processor that somebody heard, of whatever origin.
        self._heard: OrderedDict[tuple[int, str], Window] = OrderedDict()
        self._echoes = Echoes(window_secs)

    #
    # What is known
    #

    @property
    def circuits(self) -> tuple[CircuitSnapshot, ...]:
        """Every circuit as it is now, the one with the latest news last."""
        self.look()
        return tuple(self._journal.snapshot(guarded, self.mode) for guarded in self._all())

    @property
    def totals(self) -> tuple[Totals, ...]:
        """What has been counted since the start, for each name of an origin."""
        return self._journal.totals

    @property
    def open_incidents(self) -> tuple[Incident, ...]:
        """What has happened until now where it is not over, or has not been told."""
        self.look()
        return self._journal.open_incidents(self.mode)

    @property
    def channels(self) -> tuple[tuple[str, bool | None, int], ...]:
        """Each output: its name, whether somebody is there, how much was not sent since all have left."""
        return tuple(
            (
                self._processors[id].name,
                output.is_connected,
                output.absence.messages,
            )
            for id, output in self._outputs.items()
        )

    @property
    def open_circuits(self) -> tuple[tuple[str, CircuitState], ...]:
        """The shared name and the state of each circuit that is not closed, as the last step left it.

        Nothing is done by it, so it may be asked from another thread.
        """
        return tuple(
            (guarded.origin.shared_name, guarded.circuit.state)
            for guarded in self._all()
            if not guarded.circuit.is_closed
        ) + tuple((group.name, CircuitState.OPEN) for group in self.failovers if group.is_out)

    @property
    def has_news(self) -> bool:
        """Whether there are changes to tell."""
        return self._journal.has_news

    def take_news(self) -> News:
        """Take the oldest change that has not been told."""
        return self._journal.take(self.mode)

    @property
    def is_quiet(self) -> bool:
        """Whether every circuit is closed, and there is nothing to tell or in doubt."""
        journal = self._journal
        return not (
            self._circuits.opened or self._channels.opened or journal.untold or journal.in_doubt
        )

    @property
    def any_open(self) -> bool:
        """Whether any circuit is not closed."""
        return self._circuits.any_open or self._channels.any_open

    def has_open_at(self, processor_id: int) -> bool:
        """Whether a processor has a circuit that is not closed."""
        # As a rule none is open at all.
        return bool(self._circuits.opened or self._channels.opened) and bool(
            self._circuits.open_at(processor_id) or self._channels.open_at(processor_id)
        )

    def output(self, processor: Processor) -> Output:
        """What is known of an output transport."""
        output = self._outputs.get(processor.id)
        if output is None:
            output = self._outputs[processor.id] = Output(
                processor.id,
                max_errors=MANY * self._max_errors,
                # One kind alone never speaks against a channel.
                most_kinds=max(2, self._max_errors),
                window_secs=self._window_secs,
                most=MANY * self._max_circuits,
            )
            self._processors[processor.id] = processor
        return output

    def look(self) -> None:
        """Do what time alone has decided."""
        if self.any_open or self._services.any_open:
            for guarded in self._all():
                self._apply(guarded, guarded.circuit.look())
                if self._clock() >= guarded.over_at:
                    self._close_if_over(guarded)
        self._ease_at = min(
            (guarded.over_at for guarded in self._circuits if guarded.works_again), default=_NEVER
        )

    @property
    def is_due(self) -> bool:
        """Whether the cooldown of errors whose channel has recovered is over; then :meth:`look`."""
        return self._ease_at < _NEVER and self._clock() >= self._ease_at

    def _close_if_over(self, guarded: Guarded) -> bool:
        """Close what a channel's recovery has shown to be over, once its cooldown is over too."""
        is_over = guarded.works_again and guarded.circuit.is_cool
        if is_over:
            self._apply(guarded, guarded.circuit.close(Reason.RECOVERED))
        return is_over

    def used(self, processor_id: int, handled: str) -> None:
        """Note that a processor has begun to handle a frame: from now on its quiet says something.

        Args:
            processor_id: The processor.
            handled: Name of the frame's class.
        """
        for guarded in [*self._circuits.open_at(processor_id).values()]:
            if not guarded.fails_on or handled in guarded.fails_on:
                self._apply(guarded, guarded.circuit.use())

    def disturbed(self, processor_id: int) -> None:
        """Note that what a processor was used for last has failed.

        Args:
            processor_id: The processor.
        """
        for guarded in self._circuits.open_at(processor_id).values():
            guarded.circuit.disturb()

    #
    # Errors
    #

    def judge_error(
        self,
        link: Link,
        delivery: Delivery | None = None,
        *,
        by_delivery: bool = False,
        must_pass: bool = False,
    ) -> ErrorVerdict:
        """Count an error, and say whether it may go on.

        Args:
            link: The error's link.
            delivery: The delivery on whose account it was pushed, where that
                has no outcome yet, or one that has to be taken back.
            by_delivery: Whether it was pushed on account of a delivery at all.
            must_pass: Whether it goes on whatever is said of it here.
        """
        if delivery is not None:
            delivery.failed()
        origin = _own(link)
        by_delivery = by_delivery or delivery is not None
        if by_delivery and not self._may_reach(origin.processor_id):
            return _PASSES  # it was sent when its client went, which is no failure
        if self.mode is Mode.DISABLED and self._circuits.get(origin) is None:
            return _PASSES
        own = self._obtain(origin)
        mode = own.mode or self.mode
        if mode is Mode.DISABLED:
            return _PASSES
        verdict = self._verdict_of_open_circuits(
            link, own, by_delivery=by_delivery, mode=mode, must_pass=must_pass
        )
        if verdict is None:
            verdict = self._count(link, own, by_delivery=by_delivery)
        return verdict if mode is Mode.GUARD and not must_pass else _PASSES

    def _may_reach(self, processor_id: int) -> bool:
        output = self._outputs.get(processor_id)
        return output is None or output.is_reachable

    def _verdict_of_open_circuits(
        self, link: Link, own: Guarded, *, by_delivery: bool, mode: Mode, must_pass: bool
    ) -> ErrorVerdict | None:
        """What the circuits say that an error belongs to; None where all are closed."""
        concerned = []
        for guarded in self._circuits_of(link, own):
            if (guarded.mode or self.mode) is Mode.DISABLED:
                continue
            self._apply(guarded, guarded.circuit.look())
            if not guarded.circuit.is_closed:
                guarded.works_again = False
                concerned.append(guarded)
        if not concerned:
            return None
        if self.shared is not None and not own.circuit.is_closed:
            self.shared.failed(own.origin, votes=not own.by_fleet)
        held_by = [guarded for guarded in concerned if not guarded.circuit.is_ready]
        if held_by:
            pass
        elif (by_delivery and all(guarded.by_delivery for guarded in concerned)) or (
            self.shared is not None
            and own in concerned
            and self.shared.knows(own.origin) is not None
        ):
            # The message was the probe, or a request of whichever bot of the fleet, and it
            # has failed: nobody has to hear of it.
            held_by = concerned
            for guarded in concerned:
                self._probe(guarded, link)
        else:
            for guarded in concerned:
                self._probe(guarded, link)
            return ErrorVerdict(True, self._journal.probe_remark(concerned[0]))
        guarding = [g for g in held_by if (g.mode or self.mode) is Mode.GUARD]
        holds = mode is Mode.GUARD and bool(guarding)
        if not must_pass:
            self._journal.held_error((guarding or held_by)[0], observed=not holds)
        self._note_failed_probes(link, held_by)
        return _HELD if holds else _PASSES

    def _note_failed_probes(self, link: Link, held_by: list[Guarded]) -> None:
        for guarded in held_by:
            circuit = guarded.circuit
            if circuit.state is CircuitState.HALF_OPEN and not _is_older(link, guarded):
                # The probe was let through, and it has failed again.
                self._apply(guarded, circuit.settle(circuit.generation, success=False))
                if self.shared is not None and self.shared.knows(guarded.origin) is None:
                    # What the fleet has forgotten the bot has now found out by itself.
                    guarded.by_fleet = False

    def _probe(self, guarded: Guarded, link: Link) -> None:
        _, transitions = guarded.circuit.ask(quiet_closes=not guarded.is_channel)
        self._apply(guarded, transitions)
        self._journal.probe(guarded, link)

    def _circuits_of(self, link: Link, own: Guarded) -> Iterator[Guarded]:
        """The circuits that are not closed, and that an error belongs to."""
        open_here = self._circuits.open_at(own.origin.processor_id)
        if open_here:
            if own.origin in open_here:
                yield own
            any_kind = open_here.get(own.origin.with_kind(ANY_KIND))
            if any_kind is not None:
                yield any_kind
        first = link.first
        if link.failures >= self._max_errors and first is not None and first != own.origin:
            began = self._circuits.open_at(first.processor_id).get(first)
            if began is not None:
                yield began

    def _count(self, link: Link, own: Guarded, *, by_delivery: bool) -> ErrorVerdict:
        """Count an error that passes."""
        if _is_older(link, own):
            # What was sent before the circuit opened tells of that time only.
            return _PASSES
        self._journal.failed(own.origin)
        own.note_failure(link.handled, by_delivery=by_delivery)
        opened = self._apply(own, own.circuit.fail(), Trigger.ERRORS, link)
        if self.shared is not None:
            if not opened and (wait := self.shared.knows(own.origin)) is not None:
                own.by_fleet = True
                opened = self._apply(own, own.circuit.trip(wait), Trigger.FLEET, link)
            self.shared.failed(own.origin, votes=opened and not own.by_fleet)
        if opened:
            return ErrorVerdict(True, self._journal.opening_remark(own))
        if link.failures >= self._max_errors and link.first is not None:
            return self._trip(link, self._obtain(link.first), Trigger.RECURSION)
        if self._note_heard(own.origin):
            any_kind = self._obtain(own.origin.with_kind(ANY_KIND))
            any_kind.note_failure(link.handled, by_delivery=by_delivery)
            return self._trip(link, any_kind, Trigger.TOO_MANY)
        return _PASSES

    def note_deep(self, link: Link) -> None:
        """Open the circuit of a chain whose errors are not judged here, if it feeds itself.

        A switcher hears every error, and one that it answers never leaves it.
        So a chain that goes through it cannot be cut, but it can be told.

        Args:
            link: The error's link.
        """
        if link.failures >= self._max_errors and link.first is not None:
            self._trip(link, self._obtain(link.first), Trigger.RECURSION)

    def _trip(self, link: Link, guarded: Guarded, trigger: Trigger) -> ErrorVerdict:
        if (guarded.mode or self.mode) is Mode.DISABLED:
            return _PASSES
        opened = self._apply(guarded, guarded.circuit.trip(), trigger, link)
        return ErrorVerdict(True, self._journal.opening_remark(guarded)) if opened else _PASSES

    def _note_heard(self, origin: Origin) -> bool:
        """Whether so many errors of a processor have been heard that it is too much."""
        key = (origin.processor_id, origin.processor)
        window = self._heard.get(key)
        if window is None:
            window = self._heard[key] = Window(MANY * self._max_errors, self._window_secs)
            if len(self._heard) > self._max_circuits:
                self._heard.popitem(last=False)
        self._heard.move_to_end(key)
        return window.add(self._clock())

    def note_answer(self, error: Link, who: str, kind: str) -> None:
        """Note a message that an error has set off; an incident's advice goes by it.

        Args:
            error: The error's link.
            who: Name of the processor that answered it.
            kind: The message's kind.
        """
        self._journal.answered(_begun(error), who, kind)

    def note_queued(self, error: Link, frame: str) -> None:
        """Note what was queued outside the pipeline on account of an error.

        Args:
            error: The error's link.
            frame: Name of the frame's class.
        """
        self._journal.queued(_begun(error), frame)

    #
    # Messages
    #

    def judge_message(self, processor_id: int, link: Link, kind: str, handled: str) -> bool:
        """Say whether a message may come to a processor that has failed.

        It is held back where it recurs: it was set off by failures of this very
        processor, more than once, and it is at such messages that the processor
        fails. So holding it back cuts a loop.

        Args:
            processor_id: The processor.
            link: The message's link.
            kind: The message's kind.
            handled: Name of the frame's class.
        """
        holding = self._at_which_it_recurs(processor_id, link, handled)
        return not self._holds(holding, processor_id, link, kind)

    def _at_which_it_recurs(self, processor_id: int, link: Link, handled: str) -> list[Guarded]:
        """The open circuits of a processor that a message comes back to."""
        recurs: list[Guarded] = []
        if link.failed_at.get(processor_id, 0) < 2:
            return recurs
        for guarded in [*self._circuits.open_at(processor_id).values()]:
            if handled not in guarded.fails_on:
                continue
            if guarded.origin not in link.origins and not guarded.is_any_kind:
                continue
            self._apply(guarded, guarded.circuit.look())
            if not guarded.circuit.is_closed and (guarded.mode or self.mode) is not Mode.DISABLED:
                recurs.append(guarded)
        return recurs

    def _holds(self, holding: list[Guarded], processor_id: int, link: Link, kind: str) -> bool:
        """Whether circuits that would hold a message back do so; either way it counts once."""
        guarding = [g for g in holding if (g.mode or self.mode) is Mode.GUARD]
        if guarding:
            self._journal.held_message(guarding[0], kind)
        elif holding and self._would_have_come(link):
            link.observed_at = processor_id
            self._journal.held_message(holding[0], kind, observed=True)
        return bool(guarding)

    def _would_have_come(self, link: Link) -> bool:
        """Whether a message would have come as far as this, had it been held back.

        Each channel would have held it back for itself; whoever stands before
        the outputs, for all.
        """
        return link.observed_at is None or link.observed_at in self._outputs

    def echo_of(self, link: Link, message: object, *, is_system_log: bool) -> None:
        """Find out whether a message only repeats what sending another has logged.

        Args:
            link: The message's link.
            message: What it says.
            is_system_log: Whether it is a line of the log by its kind: one that
                a message set off needs no quote.
        """
        if is_system_log and link.cause is not None and not link.cause.is_error:
            link.echoes, link.is_echo = link.cause.echoes + 1, True
            return
        source = self._echoes.source_of(message, now=self._clock())
        if source is not None and source is not link:
            if link.cause is None:
                descend(link, source)
            link.echoes, link.is_echo = source.echoes + 1, True

    def deliver(
        self,
        output: Output,
        destination: str | None,
        link: Link,
        kind: str,
        *,
        message: object = None,
        handled: str = "",
    ) -> Delivery | None:
        """Say whether a message may be sent.

        Args:
            output: The output transport.
            destination: Whom the message is for, where the output serves several apart.
            link: The message's link.
            kind: The message's kind.
            message: What it says; searched where the log may feed itself.
            handled: Name of the frame's class.

        Returns:
            The delivery, whose outcome is to be reported; None to hold the
            message back from this channel.
        """
        channel = self._channel(output, destination)
        if not output.is_reachable:
            if self.mode is Mode.GUARD:
                self._note_unsent(output)
                return None
            return Delivery(None, output, channel, link, kind, message, handled)
        if link.is_echo and link.echoes > 1:
            self._note_echo(output, link)
        if not self.has_open_at(output.id):
            return Delivery(self, output, channel, link, kind, message, handled)
        recurs = self._at_which_it_recurs(output.id, link, handled)
        asks = [*self._asked(output, channel, link, kind)]
        holding = [guarded for guarded, admission in asks if admission is Admission.HOLD]
        if self._holds([*recurs, *holding], output.id, link, kind):
            return None
        if holding:
            # It goes all the same, but its outcome decides nothing.
            return Delivery(None, output, channel, link, kind, message, handled)
        for guarded, admission in asks:
            if admission is Admission.PROBE:
                self._probe(guarded, link)
        return Delivery(self, output, channel, link, kind, message, handled)

    def nobody_left(self, output: Output) -> None:
        """Note that an output has nobody to send to any more.

        Sends that failed just before are no outage: a transport may hear later
        than they do that its client has hung up.

        Args:
            output: The output.
        """
        circuits, messages = self._journal.take_back(output.id)
        for guarded in circuits:
            self._apply(guarded, guarded.circuit.close(Reason.TAKEN_BACK))
        if messages:
            self._note_unsent(output, messages)

    def _note_unsent(self, output: Output, messages: int = 1) -> None:
        self._journal.unsent(Origin.of(self._processors[output.id], NOBODY_CONNECTED), messages)
        absence = output.absence
        absence.messages += messages
        if absence.since is None:
            absence.since = self._clock()

    def _asked(self, output: Output, channel: Channel, link: Link, kind: str) -> Iterator[_Ask]:
        """What the open circuits of an output would say to a message."""
        for guarded in self._concerned(output, channel, link, kind):
            circuit = guarded.circuit
            self._apply(guarded, circuit.look())
            if not circuit.is_closed and (guarded.mode or self.mode) is not Mode.DISABLED:
                yield guarded, Admission.PROBE if circuit.is_ready else Admission.HOLD

    def _concerned(
        self, output: Output, channel: Channel, link: Link, kind: str
    ) -> Iterator[Guarded]:
        """The circuits of an output that a message has to ask."""
        down = channel.guarded
        if down is not None and (down.circuit.is_isolated or not channel.tries(kind)):
            yield down
        if channel.destination is not None:
            whole, to_all = output.whole, output.channel(None)
            if whole.guarded is not None and (
                whole.guarded.circuit.is_isolated or not whole.tries(kind)
            ):
                yield whole.guarded
            if to_all.guarded is not None and to_all.guarded.circuit.is_isolated:
                yield to_all.guarded
        for guarded in [*self._circuits.open_at(output.id).values()]:
            if guarded.circuit.is_isolated:
                # Opened by hand: nothing is sent to whom it is about.
                if guarded.origin.destination in (None, channel.destination):
                    yield guarded
            elif guarded.origin.kind == LOG_ECHO and link.is_echo:
                yield guarded

    def _note_echo(self, output: Output, link: Link) -> None:
        """Count a message that repeats what sending a repetition has logged, and so on.

        That one and the same message has set off so many is the evidence: a view
        of the log in which each line is repeated once or twice ends by itself.
        """
        root = link.root or link
        root.echoed += 1
        is_deep = max(root.echoed, link.echoes) >= self._max_errors
        if not is_deep and not self._circuits.any_open:
            return
        guarded = self._obtain(Origin.of(self._processors[output.id], LOG_ECHO))
        if (guarded.mode or self.mode) is Mode.DISABLED:
            return
        circuit = guarded.circuit
        self._apply(guarded, circuit.look())
        if not circuit.is_closed:
            if circuit.state is CircuitState.HALF_OPEN and not _is_older(link, guarded):
                self._apply(guarded, circuit.settle(circuit.generation, success=False))
            return
        if not is_deep:
            return
        self._journal.failed(guarded.origin)
        guarded.note_failure(None, by_delivery=False)
        self._apply(guarded, circuit.trip(), Trigger.LOG_ECHO, link)

    #
    # Outcomes
    #

    def delivered(self, delivery: Delivery) -> None:
        """Take in a success; whoever delivers calls :meth:`Delivery.succeeded`."""
        if delivery.is_void:
            return
        output, channel = delivery.output, delivery.channel
        delivery.success = output.delivered(delivery.kind)
        if channel.guarded is not None:
            delivery.counted = channel.guarded.circuit.succeed()
            delivery.closed = self._recovered(channel.guarded)
        channel.delivered()
        if channel.destination is not None:
            delivery.whole_counted = output.whole_failures.clear()
            if output.whole.guarded is not None:
                self._recovered(output.whole.guarded)
            output.whole.delivered()
            delivery.whole_successes = output.whole.successes
        delivery.successes = channel.successes
        if channel.guarded is not None or output.whole.guarded is not None:
            delivery.renew()
        if not self._circuits.opened:
            return
        for guarded in [*self._circuits.open_at(output.id).values()]:
            if not self._close_if_over(guarded) and (
                not guarded.fails_on or delivery.handled in guarded.fails_on
            ):
                self._apply(guarded, guarded.circuit.use())

    def _recovered(self, guarded: Guarded) -> bool:
        """Close the circuit of a channel that has delivered something.

        Returns:
            Whether it was open.
        """
        circuit = guarded.circuit
        if circuit.is_closed or circuit.is_isolated:
            return False
        by_probe = circuit.state is CircuitState.HALF_OPEN
        self._apply(guarded, circuit.close(Reason.PASSED if by_probe else Reason.RECOVERED))
        if by_probe:
            for other in self._circuits.open_at(guarded.origin.processor_id).values():
                other.works_again = other.by_delivery
                if other.works_again:
                    # An error that comes on account of that delivery takes its success back. It
                    # may come from a task that the send has created, so for a window.
                    final_at = self._clock() + self._window_secs
                    other.over_at = max(other.circuit.retry_at, final_at)
                    self._ease_at = min(self._ease_at, other.over_at)
        return True

    def undelivered(self, delivery: Delivery, *, was_success: bool) -> None:
        """Take in a failure; whoever delivers calls :meth:`Delivery.failed`.

        Args:
            delivery: The delivery.
            was_success: Whether a success has been reported before.
        """
        output, channel = delivery.output, delivery.channel
        if not output.is_reachable:
            return  # whoever it was for has gone meanwhile
        if delivery.is_void or (was_success and channel.successes != delivery.successes):
            return  # the channel has opened, closed, or delivered another one since
        if channel.guarded is None:
            channel.guarded = self._obtain(
                Origin.of(self._processors[output.id], CHANNEL_DOWN, channel.destination)
            )
        if (channel.guarded.mode or self.mode) is Mode.DISABLED:
            return
        channel.guarded.circuit.take_back(delivery.counted)
        if was_success:
            output.take_back(delivery.kind, delivery.success)
        output.failed(delivery.kind)
        channel.failed(delivery.kind)
        self._fail_channel(channel.guarded, delivery)
        if channel.destination is not None:
            if was_success and delivery.whole_successes == output.whole.successes:
                output.whole_failures.restore(delivery.whole_counted)
            self._fail_whole(output, delivery)

    def _fail_channel(self, guarded: Guarded, delivery: Delivery) -> None:
        circuit, channel = guarded.circuit, delivery.channel
        trigger = Trigger.CHANNEL_DOWN
        self._journal.failed(guarded.origin)
        # So many of an output's destinations have never been reached that one
        # more of them is taken for gone at its first failure.
        one_more = (
            channel.destination is not None
            and not channel.has_delivered
            and delivery.output.unreached > self._max_errors
        )
        if circuit.state is CircuitState.HALF_OPEN:
            transitions = circuit.settle(circuit.generation, success=False)
        elif delivery.closed or one_more:
            transitions = circuit.trip()
        else:
            transitions = circuit.fail()
            asks = delivery.is_shared and circuit.is_closed and not channel.has_delivered
            if asks and self.shared is not None and self.shared.knows(guarded.origin) is not None:
                # Not where anything has got through before: such a channel may only stumble.
                # And with its own cooldown, and its own probes: what becomes of other bots'
                # messages says little about it.
                guarded.by_fleet, trigger = True, Trigger.FLEET
                transitions += circuit.trip()
        self._apply(guarded, transitions, trigger, delivery.link)
        if self.shared is not None and delivery.is_shared and not circuit.is_closed:
            self.shared.failed(guarded.origin, votes=not guarded.by_fleet)

    def _fail_whole(self, output: Output, delivery: Delivery) -> None:
        whole = output.whole
        whole.failed(delivery.kind)
        if whole.guarded is None:
            if not output.whole_failures.add(self._clock()):
                return
            whole.guarded = self._obtain(
                Origin.of(self._processors[output.id], CHANNEL_DOWN, EVERYONE)
            )
        circuit = whole.guarded.circuit
        if circuit.state is CircuitState.HALF_OPEN:
            transitions = circuit.settle(circuit.generation, success=False)
        elif output.whole_failures.add(self._clock()):
            transitions = circuit.trip()
        else:
            return
        self._apply(whole.guarded, transitions, Trigger.CHANNEL_DOWN, delivery.link)

    def logged(self, delivery: Delivery, line: str) -> None:
        """Remember a line; whoever hears of it calls :meth:`Delivery.log`."""
        self._echoes.note(line, delivery.link, delivery.message, now=self._clock())

    #
    # The fleet
    #

    def over_in_fleet(self, origins: Iterable[Origin]) -> None:
        """Close the circuits of an outage that is over for the whole fleet.

        Once in a window at most, before their own cooldown is over: a store that
        opens and closes without end lets no more errors through than that.

        Args:
            origins: What had failed.
        """
        now = self._clock()
        for origin in origins:
            guarded = self._circuits.get(origin)
            if guarded is None or guarded.circuit.is_closed or guarded.circuit.is_isolated:
                continue
            if now - guarded.fleet_closed_at >= self._window_secs or guarded.circuit.is_cool:
                guarded.fleet_closed_at = now
                self._apply(guarded, guarded.circuit.close(Reason.RECOVERED))

    #
    # Services that stand in for each other
    #

    def services(
        self, switcher: Processor, services: Iterable[tuple[Processor, Circuit]]
    ) -> Services:
        """Take part in what becomes of requests to the services of a switcher.

        Args:
            switcher: The switcher.
            services: Each service, and the circuit by which it is asked or not.
        """
        group = Services(self, self._journal, switcher, services)
        for guarded in group.circuits:
            self._services.add(guarded)
        self.failovers.append(group)
        return group

    def moved(self, guarded: Guarded, transition: Transition, opening: Opening) -> None:
        """Write down what the circuit of a service has done, on account of a request.

        Args:
            guarded: The circuit.
            transition: What it has done.
            opening: Why, where it was closed before.
        """
        if transition.after is CircuitState.CLOSED:
            # The errors of requests are over as well.
            for other in self._journal.of_same_outage(guarded):
                if other.origin in guarded.failed_with:
                    self._apply(other, other.circuit.close(Reason.RECOVERED))
            guarded.forget()
        self._services.moved(guarded)
        self._journal.changed(guarded, transition, opening)

    #
    # Control
    #

    def open(self, origin: Origin | None) -> None:
        """Open one circuit, or all, until they are closed by hand."""
        for guarded in [self._obtain(origin)] if origin else [*self._all()]:
            # Whom a failover asks is not for a circuit of errors to say.
            if not guarded.is_service:
                self._apply(guarded, guarded.circuit.isolate(), Trigger.MANUAL)

    def close(self, origin: Origin | None) -> None:
        """Close one circuit and those that are open for the same outage, or all, at once."""
        for guarded in self._known(origin):
            for other in self._journal.of_same_outage(guarded):
                self._apply(other, other.circuit.close())

    def reset(self, origin: Origin | None) -> None:
        """Close likewise, and forget everything about it."""
        for guarded in self._known(origin):
            for other in self._journal.of_same_outage(guarded):
                if other.is_service:
                    self._apply(other, other.circuit.close())
                elif self._registry_of(other.origin).get(other.origin) is other:
                    self._remove(other, Reason.BY_HAND)

    def set_mode(self, mode: Mode, origin: Origin | None) -> None:
        """Set the mode of one circuit, or of the breaker and of every circuit."""
        if origin is None:
            self.mode = mode
        for guarded in self._known(origin):
            guarded.mode = mode if origin else None

    def finish(self) -> None:
        """Close every circuit: the pipeline is over."""
        for guarded in self._all():
            self._apply(guarded, guarded.circuit.close(Reason.OVER))

    def _known(self, origin: Origin | None) -> list[Guarded]:
        if origin is None:
            return [*self._all()]
        guarded = self._registry_of(origin).get(origin) or self._journal.begun_with(origin)
        if guarded is None:
            raise ValueError(f"expected the origin of one of `circuits`, got {origin}")
        return [guarded]

    #
    # Circuits
    #

    def _channel(self, output: Output, destination: str | None) -> Channel:
        channel = output.channel(destination)
        if channel.guarded is None and destination is not None and self._channels.any_open:
            # One that had to make room, and is back.
            channel.guarded = self._channels.open_at(output.id).get(
                Origin.of(self._processors[output.id], CHANNEL_DOWN, destination)
            )
        return channel

    def _obtain(self, origin: Origin) -> Guarded:
        """The circuit of an origin."""
        circuits = self._registry_of(origin)
        known = circuits.touch(origin)
        if known is not None:
            return known
        gone = circuits.to_make_room()
        if gone is not None:
            self._remove(gone, Reason.FORGOTTEN)
        is_channel = circuits is self._channels
        guarded = Guarded(origin, Circuit(self._channel_settings if is_channel else self._settings))
        circuits.add(guarded)
        return guarded

    def _registry_of(self, origin: Origin) -> Circuits:
        # Apart, so that participants without end push out no circuit of errors.
        if origin.kind == SERVICE_DOWN:
            return self._services
        return self._channels if origin.kind == CHANNEL_DOWN else self._circuits

    def _all(self) -> Iterator[Guarded]:
        yield from self._channels
        yield from self._circuits
        yield from self._services

    def _remove(self, guarded: Guarded, reason: Reason) -> None:
        self._apply(guarded, guarded.circuit.close(reason))
        self._registry_of(guarded.origin).remove(guarded)
        output = self._outputs.get(guarded.origin.processor_id)
        if output is not None:
            output.let_go(guarded)

    def _apply(
        self,
        guarded: Guarded,
        transitions: Transitions,
        trigger: Trigger = Trigger.MANUAL,
        link: Link | None = None,
    ) -> bool:
        """Write down what a circuit has done.

        Args:
            guarded: The circuit.
            transitions: What it has done.
            trigger: The rule by which it has opened, where it was closed before.
            link: The frame that tripped it.

        Returns:
            Whether it is open now, on account of this.
        """
        if not transitions:
            return False
        for transition in transitions:
            self._registry_of(guarded.origin).moved(guarded)
            output = self._outputs.get(guarded.origin.processor_id)
            facts = None if output is None else output.facts
            opening = None
            if transition.before is CircuitState.CLOSED:
                # Whether its client has only hung up, a transport that is watched will say.
                waits = output is not None and output.is_watched and output.is_reachable
                waits = waits and trigger is not Trigger.MANUAL
                opening = Opening(trigger, link, facts, self._grace_secs if waits else 0.0)
            self._journal.changed(guarded, transition, opening, facts)
            if transition.after is CircuitState.CLOSED:
                self._forget(guarded)
        if transitions[-1].after is not CircuitState.OPEN:
            return False
        self._ask_giving_up(guarded)
        return True

    def _forget(self, guarded: Guarded) -> None:
        """Let go of what was known of a failure that is over."""
        guarded.forget()
        origin = guarded.origin
        if guarded.is_any_kind:
            self._heard.pop((origin.processor_id, origin.processor), None)
        elif guarded.is_channel and origin.destination == EVERYONE:
            output = self._outputs.get(origin.processor_id)
            if output is not None:
                output.whole_failures.clear()

    def _ask_giving_up(self, guarded: Guarded) -> None:
        circuit = guarded.circuit
        # A channel tries again after a tenth of a second: its attempts say little.
        # And one that another stands in for is missed by nobody.
        if self._gives_up is None or guarded.is_channel or guarded.is_service:
            return
        if circuit.is_isolated or self._journal.has_given_up(guarded):
            return
        if guarded.by_fleet and circuit.openings_in_a_row == 1:
            return  # it has failed once here, which is no reason to end a call
        if self._gives_up(circuit.openings_in_a_row, self._journal.secs_open(guarded)):
            self._journal.gave_up(guarded)


def _is_older(link: Link, guarded: Guarded) -> bool:
    """Whether what made this was pushed before the circuit opened."""
    return link.cause is not None and link.cause.at < guarded.circuit.opened_at


def _begun(error: Link) -> set[Origin]:
    """The origin of an error, and the one that its chain began with."""
    return {origin for origin in (error.origin, error.first) if origin is not None}


def _own(link: Link) -> Origin:
    assert link.origin is not None, "whoever asks has seen that it is an error"
    return link.origin
