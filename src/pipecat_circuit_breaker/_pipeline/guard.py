#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The guard: the breaker's hands in one running pipeline.

It stands at the surfaces of this package, hands what it sees to the breaker in
the breaker's own terms, and does what the breaker says.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import Token
from itertools import count
from typing import TYPE_CHECKING, Any

from loguru import logger
from pipecat.frames.frames import ErrorFrame, Frame, OutputTransportMessageFrame
from pipecat.observers.base_observer import BaseObserver
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_output import BaseOutputTransport

from pipecat_circuit_breaker._core import backoff, causality, remarks
from pipecat_circuit_breaker._core.breaker import Breaker, Delivery
from pipecat_circuit_breaker._core.causality import WINDOWS_CARRIED, Causality, Link, Note
from pipecat_circuit_breaker._core.channel import Absence, Output
from pipecat_circuit_breaker._core.circuit import Circuit, CircuitState
from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.news import News, log_fields, log_level, log_line
from pipecat_circuit_breaker._core.origin import CHANNEL_DOWN, Origin, Processor
from pipecat_circuit_breaker._core.services import Services
from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker._pipeline import errors, identify, observers, outputs, releases, worker
from pipecat_circuit_breaker._pipeline.call import Tags, call_of
from pipecat_circuit_breaker._pipeline.doors import MESSAGES, Door
from pipecat_circuit_breaker._pipeline.log import ear
from pipecat_circuit_breaker._pipeline.patch import Undo
from pipecat_circuit_breaker._pipeline.releases import Worker
from pipecat_circuit_breaker._pipeline.tools import Tools
from pipecat_circuit_breaker.incident import Call, CircuitSnapshot, Incident, Totals
from pipecat_circuit_breaker.params import CircuitBreakerParams, GiveUpPolicy
from pipecat_circuit_breaker.tool_loop import ToolLoop

if TYPE_CHECKING:
    from pipecat_circuit_breaker.fleet.fleet import Fleet
    from pipecat_circuit_breaker.fleet.view import View

_GUARD = "_circuit_breaker_guard"

#: A chain of messages in which nothing fails is told once it is so long. It is
#: not cut: a heartbeat looks the same.
_LONG_CHAIN = 1_000

Tell = Callable[[News], Awaitable[None]]
Left = Callable[[], Awaitable[None]]
TellLoop = Callable[[ToolLoop], Awaitable[None]]


class Guard:
    """Guards the pipeline of one worker, however many breakers stand in it.

    Args:
        worker: The worker.
        params: The settings.
        observer: The worker's observer.
    """

    def __init__(
        self, worker: Worker, params: CircuitBreakerParams, observer: BaseObserver | None
    ) -> None:
        """Attach to every processor of the worker's pipeline."""
        self.is_alert = False
        self._params = params
        self._listeners: list[Tell] = []
        #: Whose client is told: breakers that share a pipeline would tell it twice.
        self.leader: Tell | None = None
        self._leaving: list[Left] = []
        self._loop_listeners: list[TellLoop] = []
        self._tags: list[Tags] = []
        self._has_left = False
        self._reported: set[str] = set()
        self._is_telling = False
        self._causality = Causality(window_secs=params.window_secs, max_text=params.max_text)
        self._breaker = Breaker(
            max_errors=params.max_errors,
            window_secs=params.window_secs,
            probe_timeout_secs=params.probe_timeout_secs,
            max_circuits=params.max_circuits,
            cooldown=self._draw_cooldown,
            channel_cooldown=self._draw_channel_cooldown,
            gives_up=self._gives_up if params.give_up is not None else None,
            clock=params.clock,
            mode=params.mode,
            grace_secs=params.grace_secs,
            call=self._call,
        )
        self._tools = Tools(self, params.max_tool_rounds, params.max_failed_tool_rounds)
        self.worker = worker
        self._observer = observer
        self._alert_until = float("-inf")
        self._unusable: set[int] = set()
        # What processors with an open circuit have handled last.
        self._in_hand: dict[int, Note | None] = {}
        #: What this bot and its fleet know of each other; None without one.
        self.fleet: View | None = None
        self._telling: set[asyncio.Task[None]] = set()
        # Whether somebody who looked has closed a circuit: the next frame tells it.
        self._has_untold = False
        self._undo: list[Undo] = []
        self._undo_alert: list[Undo] = []
        self._attach(worker.pipeline)

    @classmethod
    def join(
        cls,
        worker: Worker,
        params: CircuitBreakerParams,
        observer: BaseObserver | None,
        tell: Tell,
        left: Left,
        tags: Tags = None,
        tell_loop: TellLoop | None = None,
    ) -> Guard:
        """Take part in guarding a worker's pipeline.

        Args:
            worker: The worker. The first to join attaches the guard.
            params: The settings. Those of the first to join hold for all.
            observer: The worker's observer, whom every processor tells what it handles.
            tell: Called with every change.
            left: Called when the guard has left.
            tags: What the application says of the pipeline.
            tell_loop: Called with every tool loop.
        """
        # Kept by the worker itself: they refer to each other, and go together.
        guard: Guard | None = getattr(worker, _GUARD, None)
        if guard is None:
            guard = cls(worker, params, observer)
            setattr(worker, _GUARD, guard)
        elif different := _differences(guard._params, params):
            logger.warning(
                f"{worker}: more than one circuit breaker with different parameters, "
                f"those of the first hold: {', '.join(different)}"
            )
        guard.leader = guard.leader or tell
        guard._listeners.append(tell)
        guard._leaving.append(left)
        guard._tags.append(tags)
        if tell_loop is not None:
            guard._loop_listeners.append(tell_loop)
        return guard

    async def leave(self) -> None:
        """Take everything out of the pipeline again: it is over."""
        if self._has_left:
            return
        self._has_left = True
        self._breaker.finish()
        await self.tell()
        self._stand_down()
        if self.fleet is not None:
            self.fleet.leave()
        while self._undo:
            self._undo.pop()()
        if getattr(self.worker, _GUARD, None) is self:
            delattr(self.worker, _GUARD)
        for left in self._leaving:
            try:
                await left()
            except Exception as e:
                self._report("telling that it is over", e)

    def join_fleet(self, fleet: Fleet) -> None:
        """Share what is found out with other bots; with the first fleet that is given.

        Args:
            fleet: The fleet.
        """
        if self.fleet is not None:
            return
        try:
            name = one_line(self.worker.name, 64)
            self.fleet = fleet.join(name, self._may_be_listened_to, self._over_in_fleet)
            self._breaker.shared = self.fleet
        except Exception as e:
            self._report("joining the fleet", e)

    def _may_be_listened_to(self) -> Iterator[FrameProcessor]:
        """Processors that answer for themselves: a failover tells what its services do."""
        acting = self._breaker.failovers if self.mode is Mode.GUARD else ()
        apart = {service.id for services in acting for service in services.processors}
        for processor, _ in _processors(self.worker.pipeline, hears_errors=False):
            if processor.id not in apart:
                yield processor

    def _over_in_fleet(self, origins: frozenset[Origin]) -> None:
        """Close what is over for all; in the fleet's task, which waits for no bot."""
        if not self._has_left:
            self._breaker.over_in_fleet(origins)
            self._tell_soon()

    def _attach(self, pipeline: FrameProcessor) -> None:
        numbers = count()
        # What is at the ends of a pipeline hands on in its pusher's task, so the next
        # door sees all that one there would see. At the top there is the worker behind.
        top = next(iter(pipeline.processors), None)
        for processor, hears_errors in _processors(pipeline, hears_errors=False):
            is_end = processor is pipeline or releases.is_end(processor)
            if processor is top or not is_end:
                door = Door(
                    processor,
                    self,
                    next(numbers),
                    hears_errors=hears_errors,
                    is_top=processor is top,
                )
                self._undo.append(door.leave)
            if not hears_errors:
                self._undo.append(errors.stand_at(processor, self))
            if isinstance(processor, BaseOutputTransport):
                self._breaker.output(processor)
                self._undo.append(outputs.stand_at(processor, self))
            self._listen_to_bus(processor)
        if self._observer is not None:
            self._undo.append(observers.listen_to(self._observer, self))
        self._undo.extend(self._tools.stand_in(pipeline))
        self._undo.append(worker.listen_to_queue(self.worker, self))
        self._undo.append(worker.listen_to_cleanup(pipeline, self.leave))
        self._listen_to_bus(self.worker)
        self._undo.append(ear.join())

    def _listen_to_bus(self, subscriber: Any) -> None:
        undo = worker.listen_to_bus(subscriber, self)
        if undo is not None:
            self._undo.append(undo)

    #
    # What is known
    #

    @property
    def circuits(self) -> tuple[CircuitSnapshot, ...]:
        """Every circuit as it is now."""
        circuits = self._breaker.circuits
        self._has_untold = self._breaker.has_news
        return circuits

    @property
    def open_incidents(self) -> tuple[Incident, ...]:
        """What has happened until now where it is not over."""
        incidents = self._breaker.open_incidents
        self._has_untold = self._breaker.has_news
        return incidents

    @property
    def totals(self) -> tuple[Totals, ...]:
        """What has been counted since the start."""
        return self._breaker.totals

    @property
    def has_left(self) -> bool:
        """Whether the pipeline is over."""
        return self._has_left

    @property
    def mode(self) -> Mode:
        """The breaker's mode."""
        return self._breaker.mode

    @property
    def channels(self) -> tuple[tuple[str, bool | None, int], ...]:
        """Each output transport: its name, whether somebody is there, how much it has not sent to nobody."""
        return self._breaker.channels

    def _call(self) -> Call:
        """Whose an incident is, asked when it begins."""
        return call_of(
            self.worker,
            self._tags,
            max_text=self._params.max_text,
            report=lambda e: self._report("asking `tags`", e),
        )

    @property
    def open_circuits(self) -> tuple[tuple[str, CircuitState], ...]:
        """The shared name and the state of each circuit that is not closed; from any thread."""
        return self._breaker.open_circuits

    @property
    def is_quiet(self) -> bool:
        """Whether every circuit is closed, and there is nothing to tell or in doubt."""
        return self._breaker.is_quiet

    @property
    def has_news(self) -> bool:
        """Whether there is something to tell."""
        return self._breaker.has_news

    async def control(self, step: Callable[[Breaker], None]) -> None:
        """Do something to the breaker by hand, and tell what has come of it."""
        step(self._breaker)
        self._be_alert()
        await self.tell()

    def connected(self, output: FrameProcessor, *, connected: bool | None) -> None:
        """Say whether there is anybody to send to; None where that is not known yet."""
        channel = self._breaker.output(output)
        channel.is_watched, channel.is_connected = True, connected
        if connected is False:
            channel.went_at = self._params.clock()
        absence, channel.absence = channel.absence, Absence()
        if connected is False:
            self._breaker.nobody_left(channel)
        if absence.since is not None:
            self._say(
                "DEBUG",
                f"{output}: {absence.messages} messages were not sent while nobody was connected",
            )

    def _note_absence(self, output: BaseOutputTransport, channel: Output) -> None:
        """Tell it once where a bot goes on sending to nobody for long."""
        absence = channel.absence
        if absence.since is None or absence.is_told or channel.has_ended:
            return
        secs = self._params.clock() - absence.since
        if secs >= self._params.absence_secs:
            absence.is_told = True
            self._say(
                "WARNING",
                f"{output}: nobody has been connected for {secs:.0f} s, and the bot goes on: "
                f"{absence.messages} messages were not sent. End the bot when its client leaves.",
            )

    #
    # Doors
    #

    def link_of(self, frame: Frame) -> Link | None:
        """The link that a frame has, or carries."""
        try:
            return self._causality.link_of(frame)
        except Exception as e:
            self._report("looking for a cause", e)
            return None

    def passes_on(self, frame: Frame, bit: int) -> bool:
        """Whether a message only passes a door: it is known, and nothing is open or to be told."""
        return self._breaker.is_quiet and self._causality.passes(frame, bit)

    def carries(self, door: Door, frame: Frame, direction: FrameDirection) -> None:
        """Let an untracked frame carry what it is pushed on account of."""
        try:
            if causality.noted() is None:
                return
            note = causality.note_of(door.neighbour(direction) or self.worker)
            cause = self._causality.cause(note, type(frame), now=self._params.clock())
            if cause is not None and cause.failures and cause is not self.link_of(frame):
                self._causality.carry(frame, cause)
        except Exception as e:
            self._report("carrying a cause", e)

    def admits(self, door: Door, frame: Frame, direction: FrameDirection) -> bool:
        """Whether a tracked frame may come in; runs in the task of whoever pushes it."""
        try:
            link = self._pass(door, frame, direction)
            if isinstance(frame, ErrorFrame):
                return self._admits_error(door, frame, link)
            processor_id = door.processor.id
            # An output decides where it sends: there the outcome is known.
            return (
                door.is_output
                or not self._breaker.has_open_at(processor_id)
                or self._breaker.judge_message(processor_id, link, link.text, type(frame).__name__)
            )
        except Exception as e:
            self._report("judging a frame", e)
            return True

    def asks(self, door: Door, frame: Any, direction: FrameDirection) -> Frame:
        """Ask a model, with its tools or without; runs in the task of whoever pushes the request."""
        if self.is_alert:
            self.carries(door, frame, direction)
        request = self._tools.asks(door.processor, frame, direction)
        link = self.link_of(frame)
        if request is not frame and link is not None:
            self._causality.carry(request, link)
        return request

    def ended(self, processor: FrameProcessor) -> None:
        """Note that an output has let its client go: a message that comes now can only fail."""
        self._breaker.output(processor).has_ended = True

    def handles(self, processor: FrameProcessor, frame: Frame) -> None:
        """Note what a processor is about to handle."""
        try:
            link, handled = self._causality.link_of(frame), type(frame).__name__
            if type(frame) in MESSAGES or isinstance(frame, releases.TRACKED):
                # A frame that nobody was seen to push: nothing is known of its cause.
                link = link or self._born(frame, processor, None)
                if isinstance(frame, OutputTransportMessageFrame) and releases.is_output(processor):
                    link.queued_at |= {processor.id}
            elif link is not None and self._is_over(link):
                link = None
            if link is not None or self.is_alert:
                causality.begin(processor, link, handled)
            else:
                causality.begin(processor, None)
            if self.is_alert:
                self._note_use(processor, frame, handled)
        except Exception as e:
            self._report("noting a cause", e)

    def _is_over(self, cause: Link) -> bool:
        now = self._params.clock()
        return now - cause.at >= WINDOWS_CARRIED * self._params.window_secs

    def _note_use(self, processor: FrameProcessor, frame: Frame, handled: str) -> None:
        if self._has_untold:
            self._has_untold = False
            self._tell_soon()
        if self._breaker.has_open_at(processor.id):
            # That an output is handed a message does not mean that it sends it.
            if not (isinstance(frame, releases.MESSAGES) and releases.is_output(processor)):
                self._breaker.used(processor.id, handled)
                self._in_hand[processor.id] = causality.noted()
        elif self._breaker.any_open:
            if self._breaker.is_due:
                self._breaker.look()
                self._tell_soon()
        elif self._params.clock() >= self._alert_until:
            self._stand_down()

    def _pass(self, door: Door, frame: Frame, direction: FrameDirection) -> Link:
        """The link of this push of a frame: it is pushed again where it has passed before."""
        link = self._causality.link_of(frame)
        bit = door.bit(direction)
        arrives = self._causality.arrives(frame)
        if link is None or arrives or link.doors & bit:
            link = self._pushed(door, frame, direction, link if arrives else None, arrives)
        link.doors |= bit
        return link

    def _pushed(
        self,
        door: Door,
        frame: Frame,
        direction: FrameDirection,
        carried: Link | None,
        arrives: bool,
    ) -> Link:
        """Make the link of a push by a neighbour."""
        neighbour = door.neighbour(direction)
        note = causality.note_of(neighbour or self.worker)
        pusher: Processor = neighbour or self.worker
        if note is not None and (neighbour is None or releases.only_hands_on(neighbour)):
            pusher = note.processor  # one inside of a nested pipeline
        cause = carried
        if not arrives:
            cause = self._causality.cause(note, type(frame), now=self._params.clock())
        return self._born(frame, pusher, cause, note)

    def _born(
        self, frame: Frame, pusher: Processor, cause: Link | None, note: Note | None = None
    ) -> Link:
        now = self._params.clock()
        if not isinstance(frame, ErrorFrame):
            kind = identify.kind_of_message(frame)
            link = self._causality.born(frame, pusher, cause, at=now, text=kind)
            if cause is not None:
                self._note_answer(link, cause)
            return link
        peer = self._causality.peer_of(frame) or (note.peer if note is not None else None)
        processor = identify.processor_of(frame, pusher, peer)
        repeats = (
            cause is not None
            and cause.is_error
            # It is the error itself that is being handled, and not an answer to it.
            and note is not None
            and note.link is cause
            and note.handles == cause.frame
            and pusher.id not in cause.told_by
        )
        if note is not None and self._in_hand.get(processor.id) is note:
            # It may have taken longer than a window, and proves nothing but this error.
            self._breaker.disturbed(processor.id)
        self._be_alert()
        origin = identify.origin_of(frame, processor)
        if self.fleet is not None:
            self._learn(self.fleet, origin, processor, frame)
        link = self._causality.born(
            frame,
            processor,
            cause,
            at=now,
            text=frame.error,
            origin=origin,
            category=releases.category_of(frame),
            handled=note.handles if note is not None else None,
            repeats=repeats,
        )
        if cause is not None and repeats:
            # Told again by somebody else, in other words or not: one failure.
            link.told_by |= {pusher.id}
            link.passes = cause.passes
        else:
            # A failure of its own, which everybody else may tell again.
            link.told_by = frozenset((pusher.id,))
        return link

    def _note_answer(self, link: Link, cause: Link) -> None:
        if cause.is_error:
            self._breaker.note_answer(cause, link.processor, link.text)
        elif link.hop == _LONG_CHAIN and not link.failures:
            self._say_once(
                "a long chain",
                f"{self.worker}: messages have set each other off {_LONG_CHAIN} times in a row, "
                f"and none has failed; the latest is {link.text} by {link.processor}. They are "
                "not held back.",
            )

    #
    # Errors
    #

    def _admits_error(self, door: Door, frame: ErrorFrame, link: Link) -> bool:
        if link.passes is not None:
            return link.passes or door.hears_errors
        if door.hears_errors:
            # It is judged where it leaves those who have to hear it.
            self._breaker.note_deep(link)
            return True
        return self._judge_error(frame, link)

    def _judge_error(self, frame: ErrorFrame, link: Link) -> bool:
        must_pass = self._must_pass(frame)
        if not self._counts(frame):
            link.passes = True
            return True
        delivery, by_delivery = self._delivery_of(frame, link)
        if delivery is not None and self.fleet is not None and frame.processor is not None:
            category = releases.category_of(frame)
            self._note_shared(self.fleet, delivery, frame.processor, frame.exception, category)
        verdict = self._breaker.judge_error(
            link, delivery, by_delivery=by_delivery, must_pass=must_pass
        )
        link.passes = verdict.passes
        if verdict.remark:
            text = one_line(remarks.without(str(frame.error)), self._params.max_text)
            frame.error = f"{text} ({verdict.remark})"
        return link.passes

    def may_hear(
        self, processor: FrameProcessor, error: ErrorFrame, *, lasting: bool
    ) -> Link | bool:
        """Whether a processor's own handlers may hear of its error.

        They hear all but those that recur: a handler that answers each of them
        makes the next. Others may be counted there, for a reason of the application's.
        """
        try:
            if self._causality.link_of(error) is not None:
                return True  # it was pushed before: that is a matter of the doors
            note = causality.note_of(processor)
            cause = self._causality.cause(note, type(error), now=self._params.clock())
            link = self._born(error, processor, cause, note)
            origin = link.origin
            recurs = origin is not None and link.failed_at.get(origin.processor_id, 0) > 2
            if recurs and not lasting and not self._judge_error(error, link):
                return False
            return link
        except Exception as e:
            self._report("judging an error", e)
            return True

    def _learn(self, fleet: View, origin: Origin, processor: Processor, error: ErrorFrame) -> None:
        """Find out whether a failure is the fleet's concern; a remote worker's is not."""
        if isinstance(processor, FrameProcessor):
            category = releases.category_of(error)
            fleet.learn(origin, processor, category=category, exception=error.exception)

    def _note_shared(
        self,
        fleet: View,
        delivery: Delivery,
        output: FrameProcessor,
        failure: Exception | None,
        category: str | None,
    ) -> None:
        """Find out whether a delivery that fails is; one to a participant never is."""
        try:
            if delivery.channel.destination is None:
                delivery.is_shared = fleet.learn(
                    Origin.of(output, CHANNEL_DOWN),
                    output,
                    category=category,
                    exception=failure,
                    by_delivery=True,
                )
        except Exception as e:
            self._report("asking what the fleet shares", e)

    def _delivery_of(self, frame: ErrorFrame, link: Link) -> tuple[Delivery | None, bool]:
        """The delivery on whose account an error is pushed, and whether it is one at all."""
        cause = link.cause
        if cause is None or link.origin is None:
            return None, False
        if link.origin.processor_id in cause.undelivered_by:
            return None, True
        note = causality.note_of(frame.processor) if frame.processor is not None else None
        while note is not None:
            if note.link is cause and note.delivery is not None:
                return note.delivery, True
            note = note.outer
        return None, False

    def _counts(self, frame: ErrorFrame) -> bool:
        try:
            return bool(self._params.counts(frame))
        except Exception as e:
            self._report("asking `counts`", e)
            return False

    def _must_pass(self, frame: ErrorFrame) -> bool:
        """Whether the worker has to see this error: it ends the pipeline, or may."""
        processor = frame.processor
        if processor is None or releases.is_usable(processor):
            if processor is not None:
                self._unusable.discard(processor.id)
            return frame.fatal
        if processor.id in self._unusable:
            return frame.fatal
        self._unusable.add(processor.id)
        self._listen_to_usable(processor)
        return True

    def _listen_to_usable(self, processor: FrameProcessor) -> None:
        """Hear of it when a processor becomes usable again, so that the next time is heard."""
        unusable = self._unusable

        def on_usable_changed(_: FrameProcessor, is_usable: bool) -> None:
            if is_usable:
                unusable.discard(processor.id)

        event = "on_usable_changed"
        processor.add_event_handler(event, on_usable_changed)
        self._undo.append(lambda: processor.remove_event_handler(event, on_usable_changed))

    #
    # What comes in
    #

    def queued(self, frame: Frame) -> None:
        """Note a frame that is queued with the worker, in the task that queues it."""
        try:
            if causality.noted() is None:
                # The same object may have been pushed before.
                link = self._causality.link_of(frame)
                if link is not None and isinstance(frame, releases.TRACKED):
                    self._causality.carry(frame, None, arrives=True)
                return
            if isinstance(frame, releases.LIFECYCLE):
                return
            note = causality.note_of(self.worker)
            tracked = isinstance(frame, releases.TRACKED)
            if note is None:
                return
            cause = self._causality.cause(note, type(frame), now=self._params.clock())
            if cause is not None and cause.is_error:
                self._breaker.note_queued(cause, type(frame).__name__)
            if tracked or note.peer is not None or (cause is not None and cause.failures):
                self._causality.carry(frame, cause, arrives=tracked, peer=note.peer)
        except Exception as e:
            self._report("noting what is queued", e)

    def arrives(self, subscriber: Any, message: Any) -> Token[Note | None]:
        """Note a message that comes over the bus, in the task that takes it in."""
        link = peer = None
        try:
            frame = getattr(message, "frame", None)
            if frame is not None:
                link = self._causality.link_of(frame)
                peer = one_line(message.source, 100)
        except Exception as e:
            self._report("noting what comes over the bus", e)
        return causality.nest(subscriber, link, peer=peer)

    #
    # Services that stand in for each other
    #

    @property
    def failovers(self) -> tuple[Services, ...]:
        """The services of each switcher that has a failover."""
        return (*self._breaker.failovers,)

    def services(
        self,
        switcher: FrameProcessor,
        services: Iterable[tuple[FrameProcessor, Circuit]],
    ) -> Services:
        """Take part in what becomes of requests to the services of a switcher.

        Args:
            switcher: The switcher.
            services: Each service, and the circuit by which it is asked or not.
        """
        return self._breaker.services(switcher, services)

    def link_of_failure(self, error: ErrorFrame, service: FrameProcessor) -> Link:
        """What is known of the error of a request, whether anybody has heard of it or not.

        Args:
            error: The error.
            service: The service that has failed.
        """
        link = self._causality.link_of(error)
        if link is not None and link.origin is not None:
            return link
        processor = identify.processor_of(error, service, None)
        origin = identify.origin_of(error, processor)
        if self.fleet is not None:
            self._learn(self.fleet, origin, processor, error)
        # A copy: nobody has pushed this one, and it may be pushed yet.
        return self._causality.born(
            copy.copy(error),
            processor,
            self._causality.cause(
                causality.note_of(service), type(error), now=self._params.clock()
            ),
            at=self._params.clock(),
            text=error.error,
            origin=origin,
            category=releases.category_of(error),
        )

    def may_answer(self, link: Link) -> bool:
        """Whether the application may hear of a failed request by other ways than its error.

        Not where each that it answers makes the next: a handler that asks again what
        was lost would go on for ever.

        Args:
            link: The failure's link.
        """
        if link.failures < self._params.max_errors:
            return True
        self._breaker.note_deep(link)
        return False

    #
    # Channels
    #

    def may_send(
        self, output: BaseOutputTransport, frame: Any
    ) -> Delivery | outputs.HeldBackError | bool:
        """Ask for a message, in the task that sends it."""
        breaker = self._breaker
        if breaker.mode is Mode.DISABLED:
            return True
        try:
            ear.ensure()
            link = self._causality.link_of(frame)
            if link is None:
                cause = self._causality.cause(
                    causality.note_of(output), type(frame), now=self._params.clock()
                )
                link = self._born(frame, output, cause)
            kind = identify.kind_of_message(frame)
            breaker.echo_of(link, frame.message, is_system_log=kind == identify.SYSTEM_LOG)
            channels = breaker.output(output)
            delivery = breaker.deliver(
                channels,
                self._destination(frame),
                link,
                kind,
                message=frame.message,
                handled=type(frame).__name__,
            )
            if delivery is not None:
                return delivery
            self._note_absence(output, channels)
            if channels.is_reachable and not self._sends_itself(output, link):
                return outputs.HeldBackError(f"{output}: held back, the channel is down")
            return False
        except Exception as e:
            self._report("judging a message", e)
            return True

    def _sends_itself(self, output: BaseOutputTransport, link: Link) -> bool:
        """Whether it is pipecat that sends a message, which the output was handed."""
        note = causality.note_of(output)
        return output.id in link.queued_at or (
            note is not None and note.processor is output and note.link is link
        )

    def undelivered(
        self, output: BaseOutputTransport, delivery: Delivery, failure: Exception
    ) -> None:
        """Note that sending a message has raised."""
        if self.fleet is not None:
            self._note_shared(self.fleet, delivery, output, failure, None)
        delivery.failed()
        delivery.link.undelivered_by |= {output.id}
        self._be_alert()

    def delivered(self, output: BaseOutputTransport, delivery: Delivery) -> None:
        """Let the fleet know that an output delivers; not what only a participant gets."""
        try:
            if self.fleet is not None and delivery.channel.destination is None:
                self.fleet.service_worked(output)
        except Exception as e:
            self._report("telling the fleet", e)

    def _destination(self, frame: Frame) -> str | None:
        try:
            whom = self._params.destination(frame)
            return whom[:100] if isinstance(whom, str) else None
        except Exception as e:
            self._report("asking `destination`", e)
            return None

    #
    # Being alert: plain frames carry causes too, for as long as a cause is one
    #

    def _be_alert(self) -> None:
        self._alert_until = self._params.clock() + WINDOWS_CARRIED * self._params.window_secs
        if self.is_alert:
            return
        self.is_alert = True
        for observer in releases.observers_of(self._observer):
            self._undo_alert.append(observers.carry_into(observer, self))

    def _stand_down(self) -> None:
        self.is_alert = False
        self._in_hand.clear()
        while self._undo_alert:
            self._undo_alert.pop()()

    #
    # Telling
    #

    async def tell(self) -> None:
        """Tell what has happened, in order: whoever tells already tells this too."""
        if self._is_telling or not self._breaker.has_news:
            return
        # What the breaker says has no cause, so it can feed no chain.
        token = causality.silence()
        self._is_telling = True
        try:
            while self._breaker.has_news:
                await self._tell_one(self._breaker.take_news())
        finally:
            self._is_telling = False
            causality.restore(token)

    def _tell_soon(self) -> None:
        """Tell it in a task: whoever has brought it about waits for nobody."""
        telling = asyncio.ensure_future(self.tell())
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _tell_one(self, news: News) -> None:
        try:
            level = log_level(news)
            if level is not None:
                logger.bind(**log_fields(news.incident)).log(level, log_line(news))
        except Exception as e:
            # Whoever listens hears of it all the same.
            self._report("writing to the log", e)
        for tell in [*self._listeners]:
            try:
                await tell(news)
            except Exception as e:
                self._report("telling what happened", e)
        if news.gives_up:
            try:
                await self._give_up()
            except Exception as e:
                self._report("giving up", e)

    async def _give_up(self) -> None:
        worker = self.worker
        match self._params.give_up_policy:
            case GiveUpPolicy.END:
                await worker.stop_when_done()
            case GiveUpPolicy.CANCEL:
                await worker.cancel(reason="a circuit did not recover")

    def _draw_cooldown(self, openings: int) -> float:
        return backoff.draw_cooldown(
            self._params.cooldown, openings, lambda e: self._report("asking `cooldown`", e)
        )

    def _draw_channel_cooldown(self, openings: int) -> float:
        return backoff.draw_cooldown(
            self._params.channel_cooldown,
            openings,
            lambda e: self._report("asking `channel_cooldown`", e),
        )

    def _gives_up(self, openings: int, open_secs: float) -> bool:
        stop = self._params.give_up
        return stop is not None and backoff.gives_up(
            stop, openings, open_secs, lambda e: self._report("asking `give_up`", e)
        )

    async def tell_loop(self, loop: ToolLoop) -> None:
        """Tell the application of a model that goes on calling tools."""
        token = causality.silence()
        try:
            for tell in [*self._loop_listeners]:
                try:
                    await tell(loop)
                except Exception as e:
                    self.report("telling of a tool loop", e)
        finally:
            causality.restore(token)

    def warn(self, line: str) -> None:
        """Write a line to the log at WARNING; what it says has no cause."""
        self._say("WARNING", line)

    def say_error(self, line: str) -> None:
        """Write a line to the log at ERROR; what it says has no cause."""
        self._say("ERROR", line)

    def report(self, doing: str, error: Exception) -> None:
        """Report a failure of the breaker itself, once."""
        self._report(doing, error)

    def _report(self, doing: str, error: Exception) -> None:
        """Report a failure of the breaker itself, once."""
        self._say_once(
            doing,
            f"circuit breaker failed while {doing}, frames pass: {type(error).__name__}",
            error,
        )

    def _say_once(self, what: str, line: str, error: Exception | None = None) -> None:
        if what not in self._reported:
            self._reported.add(what)
            self._say("WARNING" if error is None else "ERROR", line, error)

    def _say(self, level: str, line: str, error: Exception | None = None) -> None:
        token = causality.silence()
        try:
            logger.opt(exception=error).log(level, line)
        except Exception:
            pass  # a sink that raises must not stop a frame
        finally:
            causality.restore(token)


def _differences(held: CircuitBreakerParams, given: CircuitBreakerParams) -> list[str]:
    """What of two breakers' settings is not alike, the one that holds first."""
    return [
        f"{name}={one_line(value, 100)} (not {one_line(getattr(given, name), 100)})"
        for name, value in held
        if value != getattr(given, name)
    ]


def _processors(
    processor: FrameProcessor, *, hears_errors: bool
) -> Iterator[tuple[FrameProcessor, bool]]:
    """Every processor, and whether it is inside of one that has to hear every error."""
    yield processor, hears_errors
    inner_hears = hears_errors or releases.handles_errors(processor)
    for inner in processor.processors:
        yield from _processors(inner, hears_errors=inner_hears)
