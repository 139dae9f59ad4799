#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The guard: the breaker's hands in one running pipeline.

It listens where frames are handled and pushed, puts a gate in front of each
processor that pushes an error, and stands at each output transport where a
message is about to be sent. What it sees it hands to the breaker; what the
breaker says it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

from loguru import logger
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    OutputTransportMessageFrame,
)
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.transports.base_output import BaseOutputTransport

from pipecat_circuit_breaker import backoff, causality, releases
from pipecat_circuit_breaker.breaker import Breaker, Delivery
from pipecat_circuit_breaker.causality import Causality, Handling, Link
from pipecat_circuit_breaker.circuit import CircuitState
from pipecat_circuit_breaker.fault import Mode
from pipecat_circuit_breaker.gate import Gate
from pipecat_circuit_breaker.incident import CircuitSnapshot, Incident
from pipecat_circuit_breaker.origin import Origin, kind_of_failure, one_line
from pipecat_circuit_breaker.params import CircuitBreakerParams, GiveUpPolicy

_MAX_KIND_CHARS = 64

Tell = Callable[[Incident], Awaitable[None]]


class Guard:
    """Guards the pipeline of one worker, whoever many breakers stand in it.

    Args:
        worker: The worker.
        params: The settings.
    """

    _of_worker: WeakKeyDictionary[PipelineWorker, Guard] = WeakKeyDictionary()

    def __init__(self, worker: PipelineWorker, params: CircuitBreakerParams) -> None:
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
        self._worker = ref(worker)
        self._ended: WeakSet[FrameProcessor] = WeakSet()
        self._gated: WeakSet[FrameProcessor] = WeakSet()
        self._unusable: WeakSet[FrameProcessor] = WeakSet()
        self._undo: list[Callable[[], None]] = []
        for processor in _processors(worker.pipeline):
            self._attach(processor)

    @classmethod
    def join(cls, worker: PipelineWorker, params: CircuitBreakerParams, tell: Tell) -> Guard:
        """Take part in guarding a worker's pipeline.

        Args:
            worker: The worker. The first to join brings the guard about.
            params: The settings. Those of the first to join hold for all.
            tell: Called with every transition.
        """
        guard = cls._of_worker.get(worker)
        if guard is None:
            guard = cls._of_worker[worker] = cls(worker, params)
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

    #
    # Control
    #

    async def control(self, step: Callable[[Breaker], None]) -> None:
        """Do something to the breaker by hand, and tell what has come of it."""
        step(self._breaker)
        await self._tell()

    #
    # Listening
    #

    def _attach(self, processor: FrameProcessor) -> None:
        if isinstance(processor, releases.RELAYS):
            return
        self._listen(processor, "on_before_process_frame", self._on_before_process_frame)
        self._listen(processor, "on_before_push_frame", self._on_before_push_frame)
        if releases.is_direct(processor):
            self._listen(processor, "on_after_process_frame", self._on_after_process_frame)
        if isinstance(processor, BaseOutputTransport):
            self._listen(processor, "on_after_process_frame", self._on_after_output)
            self._stand_at(processor)

    def _listen(
        self, processor: FrameProcessor, event: str, handler: Callable[[Any, Frame], None]
    ) -> None:
        processor.add_event_handler(event, handler)
        self._undo.append(lambda: processor.remove_event_handler(event, handler))

    def _on_before_process_frame(self, processor: FrameProcessor, frame: Frame) -> None:
        try:
            link = None
            if isinstance(frame, releases.TRACKED):
                # A frame that nobody was seen to push came through a queue
                # (`worker.queue_frame`): nothing is known of its cause.
                link = self._link(frame, processor, None)
            causality.begin(processor, link)
        except Exception as e:
            self._report("noting a cause", e)

    def _on_after_process_frame(self, processor: FrameProcessor, frame: Frame) -> None:
        causality.end(processor)

    def _on_after_output(self, output: FrameProcessor, frame: Frame) -> None:
        if isinstance(frame, EndFrame | CancelFrame):
            # It has let its client go: a message that comes now can only fail.
            self._ended.add(output)

    def _on_before_push_frame(self, processor: FrameProcessor, frame: Frame) -> None:
        if not isinstance(frame, releases.TRACKED):
            return
        try:
            if self._causality.link_of(frame) is not None:
                return  # it is only handed on
            self._link(frame, processor, causality.current(processor))
            if isinstance(frame, ErrorFrame):
                self._put_gate_in_front_of(processor)
        except Exception as e:
            self._report("noting a tracked frame", e)

    def _link(self, frame: Frame, processor: FrameProcessor, handling: Handling | None) -> Link:
        """The frame's link, made when the frame is first seen."""
        link = self._causality.link_of(frame)
        if link is not None:
            return link
        now = self._params.clock()
        if not isinstance(frame, ErrorFrame):
            return self._causality.born(
                frame, processor, handling, at=now, text=_kind_of_message(frame)
            )
        failed = frame.processor or processor
        kind = kind_of_failure(frame.exception, releases.category_of(frame), frame.error)
        delivery = _delivery(handling)
        whom = delivery.channel.destination if delivery is not None else None
        origin = Origin.of(failed, kind, whom)
        return self._causality.born(
            frame, processor, handling, at=now, text=frame.error, origin=origin
        )

    #
    # Gates
    #

    def _put_gate_in_front_of(self, processor: FrameProcessor) -> None:
        """Link in a gate, in time for the frame that is being pushed.

        Gates stand only where errors have come from, so a pipeline in which
        nothing fails has none.
        """
        neighbour = processor.previous
        if processor in self._gated or neighbour is None:
            return
        self._gated.add(processor)
        gate = Gate(may_pass=self._may_pass, name=f"{processor}::Gate")
        neighbour.link(gate)
        gate.link(processor)
        self._undo.append(lambda: gate.previous.link(processor) if gate.previous else None)

    async def _may_pass(self, frame: Frame) -> bool:
        try:
            if isinstance(frame, ErrorFrame):
                passes = self._judge_error(frame)
            else:
                link = self._causality.link_of(frame)
                passes = link is None or self._breaker.judge_message(link)
        except Exception as e:
            self._report("judging a frame", e)
            return True
        await self._tell()
        return passes

    def _judge_error(self, frame: ErrorFrame) -> bool:
        link = self._causality.link_of(frame)
        if link is None:
            return True
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

        async def send_message(frame: Any) -> None:
            mode = self._breaker.mode
            if mode is Mode.DISABLED:
                await send(frame)
                return
            if mode is Mode.GUARD and output in self._ended:
                return
            try:
                link = self._link(frame, output, causality.current(output))
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

        output.send_message = send_message  # type: ignore[method-assign]
        self._undo.append(lambda: setattr(output, "send_message", send))

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
                logger.warning(_line(incident))
                for tell in self._listeners:
                    await tell(incident)
                if incident.gave_up:
                    await self._give_up()
        except Exception as e:
            self._report("telling what happened", e)
        finally:
            causality.restore(token)

    async def _give_up(self) -> None:
        worker = self._worker()
        if worker is None:
            return
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
    words = [message[key] for key in ("label", "type") if isinstance(message.get(key), str)]
    return one_line("/".join(words) or "dict", _MAX_KIND_CHARS)


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
                f"opening {incident.openings}), {probe}{gave_up}"
            )
        case CircuitState.HALF_OPEN:
            return f"circuit half-open: {origin}, {held}, probing"
        case CircuitState.CLOSED:
            return f"circuit closed: {origin}, {held}"
