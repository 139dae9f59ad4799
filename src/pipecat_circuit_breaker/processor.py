#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The processor that users insert into their pipeline."""

import asyncio
import difflib
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipecat.frames.frames import CancelFrame, EndFrame, Frame, StartFrame, StopFrame
from pipecat.processors.frame_processor import (
    FrameCallback,
    FrameDirection,
    FrameProcessor,
    FrameProcessorSetup,
)
from pipecat.processors.frameworks.rtvi import RTVIServerMessageFrame
from pipecat.transports.base_transport import BaseTransport
from pipecat.utils.base_object import BaseObject
from tenacity.wait import wait_base

from pipecat_circuit_breaker._core.breaker import Breaker
from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.news import Change, News
from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker._pipeline.call import Tags
from pipecat_circuit_breaker._pipeline.clients import Clients
from pipecat_circuit_breaker._pipeline.guard import Guard
from pipecat_circuit_breaker._pipeline.insert import insert_first
from pipecat_circuit_breaker._pipeline.releases import Worker, worker_of
from pipecat_circuit_breaker.frames import CircuitBreakerFrame
from pipecat_circuit_breaker.health import Health, health_of
from pipecat_circuit_breaker.incident import CircuitSnapshot, Incident, Totals
from pipecat_circuit_breaker.params import CircuitBreakerParams
from pipecat_circuit_breaker.tool_loop import ToolLoop

if TYPE_CHECKING:
    from pipecat.pipeline.service_switcher import ServiceSwitcher
    from pipecat.pipeline.worker import PipelineWorker  # 1.3.0
    from pipecat.utils.text.base_text_aggregator import BaseTextAggregator

    from pipecat_circuit_breaker.failover import Failover
    from pipecat_circuit_breaker.fleet import Fleet

__all__ = ["CircuitBreakerProcessor"]

_EVENTS = {
    Change.OPENED: "on_circuit_opened",
    Change.REOPENED: "on_circuit_reopened",
    Change.PROBED: "on_circuit_half_opened",
    Change.CLOSED: "on_circuit_closed",
}

#: Events whose handlers are called in a task, and in place.
_IN_A_TASK = (*_EVENTS.values(), "on_circuit_given_up", "on_tool_loop")
_IN_PLACE = ("on_circuit_changed", "on_guard_left")

#: Arguments of pipecat's own processors that make sense for this one.
_PARENTS = {"name", "metrics"}

#: Frames that a processor has to handle itself; it is between them that it runs.
_OWN = (StartFrame, EndFrame, CancelFrame, StopFrame)

#: How long handlers of the last events may take before the pipeline is over without them.
_LAST_HANDLERS_SECS = 5.0

#: Incidents that are kept.
_KEPT_INCIDENTS = 100


@dataclass
class _Outage:
    """A channel of which at least one circuit is open."""

    began: datetime
    open: set[str] = field(default_factory=set)
    held_messages: int = 0


class CircuitBreakerProcessor(FrameProcessor):
    """Ends recursive error chains, and lets everything else through untouched.

    Insert one, anywhere: it guards the whole pipeline of its worker. The best
    place is the first, before ``transport.input()``, where no audio passes
    through it. Several breakers of one pipeline share the work.

    Event handlers available:

    - on_circuit_opened(breaker, incident): Called once for each incident, when it begins: errors of the circuit, and
      the messages by which it would feed itself, are held back from here on. Where a transport is
      watched its incidents are told after ``grace_secs``, unless its client has only hung up.
    - on_circuit_closed(breaker, incident): Called once for each incident, when it is over: it has
      recovered, or its pipeline has come to an end; ``incident.ending`` says which.
    - on_circuit_half_opened(breaker, incident): Called in between, when a probe is let through.
    - on_circuit_reopened(breaker, incident): Called in between, when a probe has failed.
    - on_circuit_given_up(breaker, incident): Called when ``give_up`` says so, before
      ``give_up_policy`` is applied.
    - on_circuit_changed(breaker, incident): Called in place, where the others are called in a task:
      at each of these changes, before them. Meant for instruments; a handler must not wait.
    - on_tool_loop(breaker, loop): Called once in a turn of the user whose model went on calling
      tools when it had been asked to answer without. ``loop`` is a :class:`ToolLoop`. Nobody says
      anything more in this turn, unless the handler does.
    - on_guard_left(breaker): Called in place when its pipeline is over, or before it guards
      another: ``totals`` say what has been counted in the end.

    ``incident`` is the :class:`Incident` as it is then. A :class:`CircuitBreakerFrame` with it goes through the pipeline, both ways.

    Example::

        breaker = CircuitBreakerProcessor()

        @breaker.event_handler("on_circuit_opened")
        async def on_circuit_opened(breaker, incident):
            print(incident.origin, incident.trigger, incident.advice.text)

        pipeline = Pipeline([breaker, transport.input(), ..., transport.output()])
    """

    #: What it pushes itself is never on account of what it handles.
    only_hands_on = True

    def __init__(
        self,
        *,
        params: CircuitBreakerParams | None = None,
        tags: Tags = None,
        fleet: "Fleet | None" = None,
        **kwargs: Any,
    ) -> None:
        """Initialize the circuit breaker.

        Args:
            params: Settings; the defaults suit a bot with one client.
            tags: Whose call it is, for people who read an incident: a mapping
                of names to values, or a function of the worker that returns
                one, asked when an incident begins. At most 32 of them, each
                value at most ``max_text`` characters. They are in incidents,
                log fields and spans, and not in metrics.
            fleet: What this bot and others tell each other of outages; one for all bots
                of the process. None shares nothing.
            **kwargs: ``name``, by default the class and a number, and ``metrics``, by default
                none: both as pipecat's processors take them.

        Raises:
            TypeError: Anything else, which pipecat would ignore in silence.
        """
        _refuse_unknown(kwargs)
        if params is not None and not isinstance(params, CircuitBreakerParams):
            raise TypeError(f"expected params=CircuitBreakerParams(...), got {params!r:.100}")
        if tags is not None and not callable(tags) and not isinstance(tags, Mapping):
            raise TypeError(
                f"expected tags to be a mapping, or a function of the worker, got {tags!r:.100}"
            )
        if fleet is not None and not callable(getattr(fleet, "outage", None)):
            # Not its value: a URL may hold a password.
            raise TypeError(f"expected fleet=Fleet(url), got an object of {type(fleet)}")
        # Direct mode: a frame that passes here waits in no queue of ours.
        super().__init__(enable_direct_mode=True, **kwargs)
        self._params = params or CircuitBreakerParams()
        self._tags = tags
        self._fleet = fleet
        self._guard: Guard | None = None
        self._watched: list[Clients] = []
        self._failovers: list[Failover] = []
        # A subclass that handles frames itself has to see all of them.
        self._hands_on = type(self).process_frame is CircuitBreakerProcessor.process_frame
        self._incidents: dict[str, Incident] = {}
        self._outages: dict[int, _Outage] = {}
        self._running = False
        self._is_ending = False
        for event in _IN_A_TASK:
            self._register_event_handler(event)
        for event in _IN_PLACE:
            self._register_event_handler(event, sync=True)

    def add_event_handler(self, event_name: str, handler: Callable[..., Any]) -> None:
        """Add a handler for an event; ``event_handler`` does the same as a decorator.

        Args:
            event_name: The event's name.
            handler: Called when the event occurs; may be a coroutine function.

        Raises:
            ValueError: There is no such event. Pipecat itself only warns.
        """
        if event_name not in self._event_handlers:
            near = difflib.get_close_matches(event_name, self._event_handlers, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            events = ", ".join((*_IN_A_TASK, *_IN_PLACE))
            raise ValueError(f"expected one of {events}; got {event_name!r}{meant}")
        super().add_event_handler(event_name, handler)

    @property
    def guard(self) -> Guard | None:
        """What all breakers of one pipeline share, and whose ``circuits`` and ``totals`` these are.

        None before the pipeline is set up.
        """
        return self._guard

    @property
    def circuits(self) -> tuple[CircuitSnapshot, ...]:
        """Every circuit as it is now, the one with the latest news last.

        Empty before the pipeline is set up, and as long as nothing has failed.
        """
        return self._guard.circuits if self._guard else ()

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """The last 100 incidents as they are now, the one that opened last at the end.

        One that nobody was told of yet (``grace_secs``) is among them, and is gone
        again where the client has only hung up.
        """
        open_now = self._guard.open_incidents if self._guard else ()
        known = self._incidents | {incident.id: incident for incident in open_now}
        return tuple(known.values())[-_KEPT_INCIDENTS:]

    @property
    def totals(self) -> tuple[Totals, ...]:
        """What has been counted since the pipeline was set up, for each kind of failure."""
        return self._guard.totals if self._guard else ()

    def health(self) -> Health:
        """How the pipeline is now, for a status or readiness endpoint: plain JSON types, small.

        Example::

            @app.get("/health")
            async def health():
                return breaker.health()
        """
        return health_of(self._guard)

    def watch(self, transport: BaseTransport) -> None:
        """Let a transport's own events say whether there is somebody to send to.

        When its last client is gone, messages are not sent any more until one
        comes: no send fails, and none is an incident. They are counted in
        ``totals`` as ``unsent_messages``. Clients are those of
        ``on_client_connected`` and ``on_client_disconnected``; all are gone when
        the bot itself has left (``on_left``, ``on_disconnected``). A transport
        that is a client itself counts as one: ``on_connected`` and
        ``on_disconnected``.

        Until the first has come, or gone, it is not known whether anybody is there:
        messages are sent, and ``health()`` says None.

        Call it before the pipeline runs. Later nobody can tell who is there
        already, but for rooms that say so and pipecat's own transports for one
        client; on others messages are then sent until the bot itself has left.

        Args:
            transport: The transport, before or while the pipeline runs.

        Raises:
            TypeError: It is no transport.
            ValueError: It has no such events.
        """
        if not hasattr(transport, "output"):
            raise TypeError(f"expected a transport, got {transport!r:.100}")
        self._watched.append(Clients(transport, self._note_clients))

    def failover(
        self,
        switcher: "ServiceSwitcher[Any]",
        *,
        attempt_timeout_secs: float = 5.0,
        cooldown: wait_base | None = None,
        text_aggregator: "Callable[[], BaseTextAggregator] | None" = None,
        announcement: str | Frame | None = None,
        replay_secs: float | None = None,
    ) -> "Failover":
        """Ask the next service of a switcher what the first has failed to answer.

        Call it before the pipeline runs, for a ``ServiceSwitcher`` or
        ``LLMSwitcher``, whatever its strategy: of LLM services, of STT
        services, or of TTS services that speak by sentence. See the events of
        the :class:`.Failover` that it returns. In the modes ``OBSERVE`` and
        ``DISABLED`` it does nothing.

        Args:
            switcher: The switcher.
            attempt_timeout_secs: Seconds that a service may be silent before the
                next one is asked, above 0: until the provider sends something,
                and while a first sentence is incomplete.
            cooldown: A tenacity wait: seconds for which a service that has
                failed is left alone, before one request is sent to it whose
                answer nobody hears. ``attempt_number`` counts failures in a row,
                and those soon after it came back. None is 5 s, doubling up to a
                minute.
            text_aggregator: Makes what says when a first sentence is whole; text
                is held until then. Give the class that your TTS service uses if
                it is not pipecat's default, which None is. For LLM services only.
            announcement: What the caller hears once per outage, when no service
                answers: a line for your TTS service, or a frame with audio.
            replay_secs: Seconds of sound since the last final transcription that
                are kept for the next service, above 0. None is 30. For STT
                services only.

        Returns:
            What tells the application of failures and outages.

        Raises:
            TypeError: It is no switcher, or of other services, or a setting is no such thing.
            ValueError: ``attempt_timeout_secs`` or ``replay_secs`` is not a finite number
                above 0, or the switcher has a failover already.
        """
        # Only here: who does not ask for it does not pay for it.
        from pipecat_circuit_breaker.failover import failover_of

        failover = failover_of(
            switcher,
            clock=self._params.clock,
            attempt_timeout_secs=attempt_timeout_secs,
            cooldown=cooldown,
            text_aggregator=text_aggregator,
            announcement=announcement,
            replay_secs=replay_secs,
        )
        # It may have had another one before, which has left.
        others = [other for other in self._failovers if other.switcher is not switcher]
        self._failovers = [*others, failover]
        if self._guard is not None:
            failover.join(self._guard)
        return failover

    async def insert_into(self, worker: "PipelineWorker") -> None:
        """Come into the pipeline of a worker that somebody else has made, in the first place.

        For a setup file: pipecat calls its ``setup_pipeline_worker`` with each worker before
        the pipeline starts, where the environment variable ``PIPECAT_SETUP_FILES`` names the
        file. So a bot gets a breaker, and its code stays as it is.

        Example::

            async def setup_pipeline_worker(worker):
                await CircuitBreakerProcessor().insert_into(worker)

        Args:
            worker: The worker, a ``PipelineTask`` before pipecat 1.3.0.

        Raises:
            RuntimeError: The worker's pipeline has started, or this breaker is in one already.
        """
        if self.next is not None or self.previous is not None:
            raise RuntimeError(f"expected a breaker that is in no pipeline, {self} is in one")
        await insert_first(self, worker)

    async def open_circuits(self, origin: Origin | None = None) -> None:
        """Open by hand: nothing but :meth:`close_circuits` or a reset closes again.

        Args:
            origin: The circuit's origin; None for every circuit there is. An origin
                that has not failed yet gets a circuit, which is open.

        Raises:
            RuntimeError: The pipeline is not set up yet.
            TypeError: ``origin`` is no :class:`Origin`.
        """
        await self._control(lambda breaker: breaker.open(origin), origin)

    async def close_circuits(self, origin: Origin | None = None) -> None:
        """Close by hand, before the cooldown is over.

        Args:
            origin: The circuit's origin: it closes together with those that are
                open for the same outage (an output's errors and its channel);
                None for every circuit there is.

        Raises:
            RuntimeError: The pipeline is not set up yet.
            TypeError: ``origin`` is no :class:`Origin`.
            ValueError: There is no such circuit.
        """
        await self._control(lambda breaker: breaker.close(origin), origin)

    async def reset_circuits(self, origin: Origin | None = None) -> None:
        """Close, and forget all counts.

        Args:
            origin: The circuit's origin; None for every circuit there is.

        Raises:
            RuntimeError: The pipeline is not set up yet.
            TypeError: ``origin`` is no :class:`Origin`.
            ValueError: There is no such circuit.
        """
        await self._control(lambda breaker: breaker.reset(origin), origin)

    async def set_mode(self, mode: Mode, origin: Origin | None = None) -> None:
        """Guard, only observe, or do nothing, from now on.

        Args:
            mode: The mode.
            origin: The circuit's origin; None for all, whatever was set for one before.

        Raises:
            RuntimeError: The pipeline is not set up yet.
            TypeError: ``origin`` is no :class:`Origin`.
            ValueError: There is no such circuit, or no such mode.
        """
        mode = Mode(mode)
        await self._control(lambda breaker: breaker.set_mode(mode, origin), origin)

    async def setup(self, setup: FrameProcessorSetup) -> None:  # type: ignore[override]
        """Take up guard over the pipeline that is being set up.

        Args:
            setup: Configuration for frame processor setup.

        Raises:
            RuntimeError: It stands twice in this pipeline, which lets no frame through then.
        """
        await super().setup(setup)
        worker = worker_of(setup, self)
        if self._guard is not None:
            self._refuse_two_places(self._guard, worker)
            # A pipeline that was stopped may run again, in another worker.
            await self._guard.leave()
        self._is_ending = False
        self._guard = Guard.join(
            worker,
            self._params,
            setup.observer,
            self._tell,
            self._left,
            self._tags,
            self._tell_loop,
        )
        if self._fleet is not None:
            self._guard.join_fleet(self._fleet)
        worker.add_event_handler("on_pipeline_finished", self._on_pipeline_finished)
        for failover in self._failovers:
            failover.join(self._guard)
        for clients in self._watched:
            await self._note_clients(clients)

    def _refuse_two_places(self, guard: Guard, worker: Worker) -> None:
        """Report that it stands in two places: it hands frames on to its neighbours in the second."""
        if guard.has_left:
            return
        if guard.worker is worker:
            # Newer releases report what setup raises, older ones do not start the pipeline.
            raise RuntimeError(
                f"{self} stands twice in the pipeline of {worker}: keep one, or make a second one"
            )
        if not self._is_ending and not guard.worker.has_finished():
            guard.say_error(
                f"{self} stands in two pipelines that run at once, {guard.worker} and {worker}: "
                "the first gets no frames any more. Make one in the function that makes the pipeline."
            )

    async def _on_pipeline_finished(self, worker: object, frame: Frame | None = None) -> None:
        # The others are followed by a cleanup, once they are through everywhere.
        if isinstance(frame, StopFrame) and self._guard is not None:
            if self._guard.worker is worker:
                await self._guard.leave()

    async def _left(self) -> None:
        await self._call_event_handler("on_guard_left")
        # Pipecat has waited for handlers before those of the incidents that end only here were
        # called, and the process may be over with its pipeline.
        with suppress(TimeoutError):
            await asyncio.wait_for(BaseObject.cleanup(self), _LAST_HANDLERS_SECS)

    def queue_frame(
        self,
        frame: Frame,
        direction: FrameDirection = FrameDirection.DOWNSTREAM,
        callback: FrameCallback | None = None,
    ) -> Coroutine[Any, Any, None]:
        """Hand a frame on to the neighbour at once, inside the call that pushes it.

        Args:
            frame: The frame.
            direction: Where it is going.
            callback: Called when the frame has been processed.
        """
        if self._hands_on and callback is None and not isinstance(frame, _OWN):
            downstream = direction is FrameDirection.DOWNSTREAM
            neighbour = self.next if downstream else self.previous
            if neighbour is not None:
                return neighbour.queue_frame(frame, direction)
        return super().queue_frame(frame, direction, callback)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Hand on whatever comes; the work is done where frames are pushed and sent.

        Args:
            frame: The frame.
            direction: Where it is going.
        """
        await super().process_frame(frame, direction)
        if isinstance(frame, EndFrame | CancelFrame):
            self._running, self._is_ending = False, True
        await self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            self._running = True

    async def _tell(self, news: News) -> None:
        incident = news.incident
        if incident.id not in self._incidents and len(self._incidents) >= _KEPT_INCIDENTS:
            del self._incidents[next(iter(self._incidents))]
        self._incidents[incident.id] = incident
        await self._call_event_handler("on_circuit_changed", incident)
        if news.change in _EVENTS:
            await self._call_event_handler(_EVENTS[news.change], incident)
        if news.gives_up:
            await self._call_event_handler("on_circuit_given_up", incident)
        if self._running:
            plain = incident.model_dump(mode="json")
            await self.broadcast_frame(CircuitBreakerFrame, incident=plain)
            leads = self._guard is not None and self._guard.leader == self._tell
            if leads and self._params.notify_client and incident.is_channel:
                await self._notify_client(incident)

    async def _tell_loop(self, loop: ToolLoop) -> None:
        await self._call_event_handler("on_tool_loop", loop)

    async def _notify_client(self, incident: Incident) -> None:
        """Tell the client what it missed, once its channel can take everything again."""
        channel = incident.origin.processor_id
        outage = self._outages.setdefault(channel, _Outage(incident.opened_at))
        if incident.ended_at is None:
            outage.open.add(incident.id)
            return
        outage.open.discard(incident.id)
        outage.held_messages += incident.lost_messages
        if outage.open:
            return
        del self._outages[channel]
        if incident.mode is Mode.OBSERVE and not outage.held_messages:
            return  # nothing was held back, so there is nothing that the client has missed
        message = {
            "type": "circuit-closed",
            "secs": round((incident.ended_at - outage.began).total_seconds(), 3),
            "held_messages": outage.held_messages,
        }
        await self.push_frame(RTVIServerMessageFrame(data=message))

    async def _note_clients(self, clients: Clients) -> None:
        if self._guard is not None:
            output = clients.transport.output()
            self._guard.connected(output, connected=clients.are_connected)

    async def _control(self, step: Callable[[Breaker], None], origin: Origin | None) -> None:
        if origin is not None and not isinstance(origin, Origin):
            raise TypeError(f"expected an Origin, as circuits have, or None, got {origin!r:.100}")
        if self._guard is None:
            raise RuntimeError(f"{self}: expected a pipeline that runs, this one is not set up yet")
        await self._guard.control(step)


def _refuse_unknown(kwargs: Mapping[str, Any]) -> None:
    """Refuse what pipecat's processors take and ignore."""
    for name, value in kwargs.items():
        if name in CircuitBreakerParams.model_fields:
            raise TypeError(
                f"{name} is a setting: expected params=CircuitBreakerParams({name}={value!r:.100})"
            )
        if name not in _PARENTS:
            raise TypeError(
                f"expected params, tags, fleet, {', '.join(sorted(_PARENTS))}; got {name}={value!r:.100}"
            )
