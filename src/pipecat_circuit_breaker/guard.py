#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The guard: the breaker's hands in one running pipeline.

It stands at the doors of the processors, where frames are pushed, listens to
which of them is handled, and stands at each output transport, where a message
is about to be sent. What it sees it hands to the breaker; what the breaker says
it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import lru_cache
from typing import Any
from weakref import WeakSet

from loguru import logger
from pipecat.frames.frames import ErrorFrame, Frame, OutputTransportMessageFrame
from pipecat.observers.base_observer import BaseObserver
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_output import BaseOutputTransport

from pipecat_circuit_breaker import backoff, causality, door, releases
from pipecat_circuit_breaker.breaker import Breaker, Delivery
from pipecat_circuit_breaker.causality import Causality, Handling, Link
from pipecat_circuit_breaker.circuit import CircuitState
from pipecat_circuit_breaker.fault import Mode
from pipecat_circuit_breaker.incident import CircuitSnapshot, Incident, Totals
from pipecat_circuit_breaker.origin import Origin, Processor, kind_of_failure, one_line
from pipecat_circuit_breaker.params import CircuitBreakerParams, GiveUpPolicy
from pipecat_circuit_breaker.releases import Worker

_MAX_KIND_CHARS = 64
_GUARD = "_circuit_breaker_guard"

Tell = Callable[[Incident], Awaitable[None]]


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
        self._params = params
        self._listeners: list[Tell] = []
        self._reported: set[str] = set()
        self._causality = Causality(max_hops=params.max_hops, max_text=params.max_text)
        self._breaker = Breaker(
            max_errors=params.max_errors,
            window_secs=params.window_secs,
            max_hops=params.max_hops,
            probe_timeout_secs=params.probe_timeout_secs,
            max_circuits=params.max_circuits,
            cooldown=self._draw_cooldown,
            gives_up=self._gives_up,
            clock=params.clock,
            mode=params.mode,
        )
        self._worker = worker
        self._ended: WeakSet[FrameProcessor] = WeakSet()
        self._failing: set[int] = set()
        self._unusable: WeakSet[FrameProcessor] = WeakSet()
        self._undo: list[door.Undo] = []
        pipeline = worker.pipeline
        # What is at the ends of a pipeline hands on in its pusher's task, so the next
        # door sees all that one there would see. At the top there is the worker behind.
        top = next(iter(pipeline.processors), None)
        for processor in _processors(pipeline):
            is_end = processor is pipeline or releases.is_end(processor)
            if processor is top or not is_end:
                self._undo.append(door.Door(processor, self).leave)
            if isinstance(processor, BaseOutputTransport):
                self._stand_at(processor)
        if observer is not None:
            self._undo.append(door.listen_to(observer, self))
        self._listen_to(worker)

    @classmethod
    def join(
        cls,
        worker: Worker,
        params: CircuitBreakerParams,
        observer: BaseObserver | None,
        tell: Tell,
    ) -> Guard:
        """Take part in guarding a worker's pipeline.

        Args:
            worker: The worker. The first to join brings the guard about.
            params: The settings. Those of the first to join hold for all.
            observer: The worker's observer, whom every processor tells what it handles.
            tell: Called with every transition.
        """
        # Kept by the worker itself: they refer to each other, and go together.
        guard: Guard | None = getattr(worker, _GUARD, None)
        if guard is None:
            guard = cls(worker, params, observer)
            setattr(worker, _GUARD, guard)
        elif guard._params != params:
            logger.warning(
                f"{worker}: more than one circuit breaker with different parameters, "
                f"those of the first hold: {guard._params}"
            )
        guard._listeners.append(tell)
        return guard

    def leave(self) -> None:
        """Take everything out of the pipeline again."""
        while self._undo:
            self._undo.pop()()

    @property
    def circuits(self) -> tuple[CircuitSnapshot, ...]:
        """Every circuit as it is now."""
        return self._breaker.circuits

    @property
    def open_incidents(self) -> tuple[Incident, ...]:
        """What has happened until now where it is not over."""
        return self._breaker.open_incidents

    @property
    def totals(self) -> tuple[Totals, ...]:
        """What has been counted since the start."""
        return self._breaker.totals

    #
    # Control
    #

    async def control(self, step: Callable[[Breaker], None]) -> None:
        """Do something to the breaker by hand, and tell what has come of it."""
        step(self._breaker)
        await self._tell()

    #
    # Doors
    #

    def knows(self, processor: FrameProcessor, frame: Frame) -> bool:
        """Whether a frame may come in, and nothing has to be said of it."""
        try:
            link = self._causality.link_of(frame)
            return link is not None and (
                link.passes is True or (not link.is_error and processor.id not in self._failing)
            )
        except Exception as e:
            self._report("looking at a frame", e)
            return True

    async def admits(
        self, processor: FrameProcessor, frame: Frame, direction: FrameDirection
    ) -> bool:
        """Whether a tracked frame may come in; runs in the task of whoever pushes it."""
        try:
            passes = self._judge(processor, frame, direction)
        except Exception as e:
            self._report("judging a frame", e)
            return True
        await self._tell()
        return passes

    def begins(self, processor: FrameProcessor, frame: Frame) -> None:
        """Note what a processor is about to handle."""
        try:
            link = None
            if isinstance(frame, releases.TRACKED):
                # A frame that nobody was seen to push: nothing is known of its cause.
                link = self._causality.link_of(frame) or self._born(frame, processor, None)
            causality.begin(processor, link)
        except Exception as e:
            self._report("noting a cause", e)

    def ended(self, processor: FrameProcessor, frame: Frame) -> None:
        """Note that a processor has handled a frame."""
        if isinstance(frame, releases.LIFECYCLE) and isinstance(processor, BaseOutputTransport):
            # It has let its client go: a message that comes now can only fail.
            self._ended.add(processor)

    def _judge(self, processor: FrameProcessor, frame: Frame, direction: FrameDirection) -> bool:
        if not isinstance(frame, releases.TRACKED):
            return True
        upstream = direction is FrameDirection.UPSTREAM
        link = self._causality.link_of(frame)
        if link is None:
            link = self._first_seen(processor.next if upstream else processor.previous, frame)
        if isinstance(frame, ErrorFrame):
            return not upstream or self._judge_error(frame, link)
        # A message is judged where it may fail: here, or where an output sends it.
        return upstream or processor.id not in self._failing or self._breaker.judge_message(link)

    def _first_seen(self, neighbour: FrameProcessor | None, frame: Frame) -> Link:
        """Make the link of a frame that comes from a neighbour."""
        if neighbour is None:
            return self._born(frame, self._worker, None)  # it came through its queue
        handling = causality.current(neighbour)
        pusher: Processor = neighbour
        if releases.only_hands_on(neighbour) and handling is not None:
            pusher = handling.processor  # one inside of a nested pipeline
        if isinstance(frame, ErrorFrame):
            pusher = frame.processor or pusher
            self._failing.add(pusher.id)
        return self._born(frame, pusher, handling)

    def _born(self, frame: Frame, processor: Processor, handling: Handling | None) -> Link:
        """Make a frame's link when it is first seen."""
        now = self._params.clock()
        if not isinstance(frame, ErrorFrame):
            link = self._causality.born(
                frame, processor, handling, at=now, text=_kind_of_message(frame)
            )
            if link.cause is not None and link.cause.is_error:
                self._breaker.note_answer(link.cause, link.processor, link.text)
            return link
        category = releases.category_of(frame)
        kind = kind_of_failure(frame.exception, category, frame.error)
        delivery = _delivery(handling)
        whom = delivery.channel.destination if delivery is not None else None
        return self._causality.born(
            frame,
            processor,
            handling,
            at=now,
            text=frame.error,
            origin=Origin.of(frame.processor or processor, kind, whom),
            category=category,
        )

    def _listen_to(self, worker: Worker) -> None:
        """Hear of what a handler of the application queues on account of an error.

        A queue carries no cause, so the frame is a root all the same; but
        whoever reads the incident should know who answers the errors.
        """
        queue = worker.queue_frame

        def queue_frame(frame: Frame, *args: Any, **kwargs: Any) -> Awaitable[None]:
            try:
                error = causality.answered()
                # What ends the pipeline, which the worker queues itself, is no answer.
                if error is not None and not isinstance(frame, releases.LIFECYCLE):
                    self._breaker.note_queued(error, type(frame).__name__)
            except Exception as e:
                self._report("noting an answer", e)
            return queue(frame, *args, **kwargs)

        self._undo.append(door.replace(worker, "queue_frame", queue_frame))

    #
    # Errors
    #

    def _judge_error(self, frame: ErrorFrame, link: Link) -> bool:
        if link.passes is not None:
            return link.passes
        must_pass = self._must_pass(frame)
        if not self._counts(frame):
            link.passes = True
            return True
        handling = causality.current(frame.processor) if frame.processor else None
        delivery = _delivery(handling) if handling and handling.link is link.cause else None
        verdict = self._breaker.judge_error(link, delivery)
        if must_pass:
            link.passes = True
            return True
        if verdict.remark:
            frame.error = f"{one_line(frame.error, self._params.max_text)} ({verdict.remark})"
        return verdict.passes

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
                self._unusable.discard(processor)
            return frame.fatal
        newly = processor not in self._unusable
        self._unusable.add(processor)
        return frame.fatal or newly

    #
    # Channels
    #

    def _stand_at(self, output: BaseOutputTransport) -> None:
        """Stand where an output transport sends a message.

        This is the one place where a message can still be stopped that has
        waited behind others or behind ten seconds of speech, and where its
        outcome is known. A message that is held back here goes on to whoever
        comes after the transport.
        """
        send = output.send_message
        self._breaker.channel(output, None)

        async def send_message(frame: Any) -> None:
            mode = self._breaker.mode
            if mode is Mode.DISABLED:
                await send(frame)
                return
            if mode is Mode.GUARD and output in self._ended:
                return
            try:
                link = self._causality.link_of(frame) or self._born(
                    frame, output, causality.current(output)
                )
                channel = self._breaker.channel(output, self._destination(frame))
                delivery = self._breaker.deliver(channel, link, _kind_of_message(frame))
            except Exception as e:
                self._report("judging a message", e)
                await send(frame)
                return
            await self._tell()
            if delivery is None:
                return
            token = causality.begin(output, link, delivery)
            try:
                await send(frame)
            except Exception as e:
                self._breaker.delivered(delivery, success=False)
                if not isinstance(frame, OutputTransportMessageFrame):
                    # pipecat reports it, in this task: leave what it is caused by.
                    raise
                # Here pipecat would let the task die that plays the audio too.
                await releases.push_send_failure(output, e)
            except asyncio.CancelledError:
                causality.restore(token)
                raise
            else:
                self._breaker.delivered(delivery, success=not delivery.failed)
            causality.restore(token)
            await self._tell()

        self._undo.append(door.replace(output, "send_message", send_message))

    #
    # Telling
    #

    async def _tell(self) -> None:
        if not self._breaker.has_news:
            return
        # What the breaker says has no cause, so it can feed no chain.
        token = causality.forget()
        try:
            while self._breaker.has_news:
                incident = self._breaker.tell()
                logger.bind(**_fields(incident)).warning(_line(incident))
                for tell in self._listeners:
                    await tell(incident)
                if incident.gave_up:
                    await self._give_up()
        except Exception as e:
            self._report("telling what happened", e)
        finally:
            causality.restore(token)

    async def _give_up(self) -> None:
        worker = self._worker
        match self._params.give_up_policy:
            case GiveUpPolicy.END:
                await worker.stop_when_done()
            case GiveUpPolicy.CANCEL:
                await worker.cancel(reason="a circuit did not recover")

    def _draw_cooldown(self, openings: int) -> float:
        return backoff.draw_cooldown(
            self._params.cooldown, openings, lambda e: self._report("asking `cooldown`", e)
        )

    def _gives_up(self, openings: int, open_secs: float) -> bool:
        stop = self._params.give_up
        return stop is not None and backoff.gives_up(
            stop, openings, open_secs, lambda e: self._report("asking `give_up`", e)
        )

    def _destination(self, frame: Frame) -> str | None:
        try:
            return self._params.destination(frame)
        except Exception as e:
            self._report("asking `destination`", e)
            return None

    def _report(self, doing: str, error: Exception) -> None:
        """Report a failure of the breaker itself, once."""
        if doing in self._reported:
            return
        self._reported.add(doing)
        token = causality.forget()
        try:
            logger.opt(exception=error).error(
                f"circuit breaker failed while {doing}, frames pass: {type(error).__name__}"
            )
        finally:
            causality.restore(token)


def _processors(processor: FrameProcessor) -> Iterator[FrameProcessor]:
    yield processor
    for inner in processor.processors:
        yield from _processors(inner)


def _delivery(handling: Handling | None) -> Delivery | None:
    return handling.delivery if handling is not None else None


def _kind_of_message(frame: Any) -> str:
    """What sort of message a frame carries: its label and type, never its content."""
    message = frame.message
    if not isinstance(message, dict):
        return type(message).__name__
    label, sort = message.get("label"), message.get("type")
    return _joined(
        label if isinstance(label, str) else None, sort if isinstance(sort, str) else None
    )


@lru_cache(maxsize=256)
def _joined(label: str | None, sort: str | None) -> str:
    return one_line("/".join(word for word in (label, sort) if word) or "dict", _MAX_KIND_CHARS)


def _line(incident: Incident) -> str:
    origin = one_line(incident.origin, 200)
    held = f"held back {incident.held_errors} errors, {incident.held_messages} messages"
    match incident.state:
        case CircuitState.OPEN:
            wait = incident.probe_in_secs
            probe = "no probe" if wait is None else f"next probe in {wait:.1f} s"
            gave_up = ", giving up" if incident.gave_up else ""
            return (
                f"circuit open: {origin} ({incident.trigger.value}, {incident.failures} failures, "
                f"opening {incident.openings}), {probe}{gave_up}. {incident.advice.text}"
            )
        case CircuitState.HALF_OPEN:
            return f"circuit half-open: {origin}, {held}, probing"
        case CircuitState.CLOSED:
            return f"circuit closed: {origin}, {held} in {incident.secs:.1f} s"


def _fields(incident: Incident) -> dict[str, Any]:
    """What a structured log carries beside the line."""
    return {
        "circuit_origin": str(incident.origin),
        "circuit_state": incident.state.value,
        "circuit_trigger": incident.trigger.value,
        "circuit_incident": incident.id,
        "circuit_advice": incident.advice.kind.value,
        "circuit_held_errors": incident.held_errors,
        "circuit_held_messages": incident.held_messages,
    }
