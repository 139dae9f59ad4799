#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""OpenTelemetry: metrics that are read when they are collected, and a span for each incident."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Span, Status, StatusCode, Tracer, TracerProvider

from pipecat_circuit_breaker._core.circuit import CircuitState
from pipecat_circuit_breaker.incident import Incident, Totals
from pipecat_circuit_breaker.instrumentation.counts import Counts
from pipecat_circuit_breaker.processor import CircuitBreakerProcessor

_SCOPE = "pipecat_circuit_breaker"
_NAME = "pipecat.circuit_breaker"
_ORIGIN = f"{_NAME}.origin"
_STATE = f"{_NAME}.circuit.state"
_KIND = f"{_NAME}.frame.kind"
_OUTCOME = f"{_NAME}.probe.outcome"
_REQUEST_OUTCOME = f"{_NAME}.request.outcome"

#: Spans that are under way at a time, over all breakers.
_MAX_SPANS = 256


@dataclass(frozen=True)
class _Counter:
    """A counter, and what it is made of.

    Parameters:
        name: Its name.
        unit: Its unit.
        description: What it counts.
        parts: Fields of the totals, each with the attribute that tells it apart.
        less: Of a field, the other field that is no part of it here.
    """

    name: str
    unit: str
    description: str
    parts: dict[str, dict[str, str]]
    less: dict[str, str] = field(default_factory=dict)

    def value(self, totals: Totals, part: str) -> int:
        """What has been counted of one part."""
        less = self.less.get(part)
        counted: int = getattr(totals, part)
        return counted if less is None else counted - int(getattr(totals, less))


_COUNTERS = (
    _Counter(
        "incidents",
        "{incident}",
        "Outages that have begun, each under the origin that began it",
        {"incidents": {}},
    ),
    _Counter("failures", "{failure}", "Failures that were counted", {"failures": {}}),
    _Counter(
        "openings",
        "{opening}",
        "How often a circuit has opened, failed probes included",
        {"openings": {}},
    ),
    _Counter("closings", "{closing}", "How often a circuit has closed", {"closings": {}}),
    _Counter(
        "held_frames",
        "{frame}",
        "Frames that were held back, a message once for each channel",
        {"held_errors": {_KIND: "error"}, "held_messages": {_KIND: "message"}},
        less={"held_errors": "observed_errors", "held_messages": "observed_messages"},
    ),
    _Counter(
        "observed_frames",
        "{frame}",
        "Frames that would have been held back, had the mode not been to observe",
        {"observed_errors": {_KIND: "error"}, "observed_messages": {_KIND: "message"}},
    ),
    _Counter(
        "unsent_messages",
        "{frame}",
        "Messages that were not sent because nobody was connected: a state, and no failure",
        {"unsent_messages": {}},
    ),
    _Counter(
        "failover_requests",
        "{request}",
        "Requests while a service fails that has a failover: another has answered, or nobody has",
        {
            "saved_requests": {_REQUEST_OUTCOME: "saved"},
            "lost_requests": {_REQUEST_OUTCOME: "lost"},
        },
    ),
    _Counter(
        "probes",
        "{probe}",
        "Frames that were let through to see whether it is over",
        {
            "probes_passed": {_OUTCOME: "passed"},
            "probes_failed": {_OUTCOME: "failed"},
            "probes_timed_out": {_OUTCOME: "timed_out"},
        },
    ),
)


def instrument(
    breaker: CircuitBreakerProcessor,
    meter_provider: MeterProvider | None,
    tracer_provider: TracerProvider | None,
) -> None:
    """Instrument one breaker.

    Args:
        breaker: The breaker.
        meter_provider: Where the metrics go; None for the global one.
        tracer_provider: Where the spans go; None for the global one.
    """
    if meter_provider is metrics.get_meter_provider():
        meter_provider = None
    counts = _counts(meter_provider)
    spans = _spans(tracer_provider)
    counts.add(breaker)

    # The breaker comes with the call: what is registered with it must not hold it.
    def on_circuit_changed(breaker: CircuitBreakerProcessor, incident: Incident) -> None:
        counts.note(breaker, incident)
        spans.note(incident)

    def on_guard_left(breaker: CircuitBreakerProcessor) -> None:
        counts.leave(breaker)
        spans.leave(breaker.incidents)

    # In place: the span of whatever failed is still under way, and the current one.
    breaker.add_event_handler("on_circuit_changed", on_circuit_changed)
    breaker.add_event_handler("on_guard_left", on_guard_left)


# A process has one provider of each, as a rule, for as long as it runs. Without
# a name it is the global one, and that may be set after the first breaker.


@cache
def _counts(provider: MeterProvider | None) -> Counts:
    counts = Counts()
    meter = metrics.get_meter(_SCOPE, meter_provider=provider)
    for counter in _COUNTERS:

        def observe(_: CallbackOptions, counter: _Counter = counter) -> Iterable[Observation]:
            return [
                Observation(counter.value(totals, part), {_ORIGIN: totals.origin, **attributes})
                for totals in counts.totals
                for part, attributes in counter.parts.items()
            ]

        meter.create_observable_counter(
            f"{_NAME}.{counter.name}", [observe], counter.unit, counter.description
        )

    def observe_states(_: CallbackOptions) -> Iterable[Observation]:
        # Every state each time, or a series would stop at the value that it had last.
        return [
            Observation(states[state], {_ORIGIN: origin, _STATE: state.value})
            for origin, states in counts.states.items()
            for state in CircuitState
        ]

    meter.create_observable_up_down_counter(
        f"{_NAME}.circuits",
        [observe_states],
        "{circuit}",
        "Circuits of the pipelines that run, by state",
    )
    return counts


@cache
def _spans(provider: TracerProvider | None) -> _Spans:
    return _Spans(trace.get_tracer(_SCOPE, tracer_provider=provider))


@dataclass
class _Spans:
    """The spans of the incidents that are under way.

    Parameters:
        tracer: Starts them.
        open: Each by its incident's id: breakers that share a pipeline tell the
            same incident.
    """

    tracer: Tracer
    open: dict[str, Span] = field(default_factory=dict)

    def note(self, incident: Incident) -> None:
        """Note a transition."""
        if incident.ended_at is not None:
            self._end(incident, incident.ended_at)
        elif incident.id not in self.open:
            self.open[incident.id] = self._start(incident)
            if len(self.open) > _MAX_SPANS:
                self.open.pop(next(iter(self.open))).end()

    def leave(self, incidents: Iterable[Incident]) -> None:
        """End the spans of incidents whose pipeline is over."""
        for incident in incidents:
            self._end(incident, None)

    def _start(self, incident: Incident) -> Span:
        attributes = {
            _ORIGIN: incident.origin.shared_name,
            f"{_NAME}.processor": incident.origin.processor,
            f"{_NAME}.incident.id": incident.id,
            f"{_NAME}.trigger": incident.trigger.value,
            f"{_NAME}.advice": incident.advice.kind.value,
            f"{_NAME}.mode": incident.mode.value,
            "error.type": incident.origin.kind,
            **_whose(incident),
        }
        current = trace.get_current_span()
        if current.is_recording():
            current.add_event(f"{_NAME}.opened", attributes, _nanoseconds(incident.opened_at))
        span = self.tracer.start_span(
            "circuit open", attributes=attributes, start_time=_nanoseconds(incident.opened_at)
        )
        for step in incident.chain:
            span.add_event(
                f"{_NAME}.cause",
                {
                    f"{_NAME}.hop": step.hop,
                    f"{_NAME}.frame.class": step.frame,
                    f"{_NAME}.processor": step.processor,
                    f"{_NAME}.text": step.text,
                },
                _nanoseconds(step.at),
            )
        return span

    def _end(self, incident: Incident, at: datetime | None) -> None:
        span = self.open.pop(incident.id, None)
        if span is None:
            return
        for probe in incident.probes:
            span.add_event(
                f"{_NAME}.probe",
                {f"{_NAME}.frame.class": probe.frame, _OUTCOME: probe.outcome.value},
                _nanoseconds(probe.at),
            )
        span.set_attributes(
            {
                f"{_NAME}.failures": incident.failures,
                f"{_NAME}.openings": incident.openings,
                f"{_NAME}.held_errors": incident.held_errors,
                f"{_NAME}.held_messages": incident.held_messages,
                f"{_NAME}.observed_errors": incident.observed_errors,
                f"{_NAME}.observed_messages": incident.observed_messages,
                **_requests(incident),
                f"{_NAME}.ending": incident.ending.value if incident.ending else "pipeline_over",
            }
        )
        span.set_status(Status(StatusCode.ERROR, incident.trigger.value))
        span.end(time.time_ns() if at is None else _nanoseconds(at))


def _requests(incident: Incident) -> dict[str, str | int]:
    """What became of the requests, where services failed that have a failover."""
    failover = incident.failover
    if failover is None:
        return {}
    return {
        f"{_NAME}.failover.took_over": failover.took_over or "",
        f"{_NAME}.failover.saved": failover.saved,
        f"{_NAME}.failover.lost": failover.lost,
    }


def _whose(incident: Incident) -> dict[str, str | int]:
    """Whose incident it is, under the names that OpenTelemetry has for it."""
    call = incident.call
    if call is None:
        return {}
    session = {} if call.session is None else {"session.id": call.session}
    return {
        f"{_NAME}.pipeline": call.pipeline,
        "host.name": call.host,
        "process.pid": call.process,
        **session,
        **{f"{_NAME}.tag.{name}": value for name, value in call.tags.items()},
    }


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1e6) * 1_000
