# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
# Handlers are registered by pipecat's own decorator, which has no types.
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false
"""The public API as typed code uses it.

It is checked and never run: by mypy and by pyright, both strict, against the installed package, see
`nox -s package`. A line with `type: ignore` is wrong on purpose: a checker that finds nothing wrong
with it fails.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, assert_type

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider
from pipecat.frames.frames import ErrorFrame, Frame, OutputAudioRawFrame
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.service_switcher import ServiceSwitcher
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_transport import BaseTransport
from pipecat.utils.text.simple_text_aggregator import SimpleTextAggregator
from tenacity import stop_after_attempt, wait_exponential_jitter, wait_fixed

import pipecat_circuit_breaker
from pipecat_circuit_breaker import (
    Advice,
    AdviceKind,
    Call,
    ChainStep,
    CircuitBreakerFrame,
    CircuitBreakerParams,
    CircuitBreakerProcessor,
    CircuitSnapshot,
    CircuitState,
    Ending,
    FailedOver,
    GiveUpPolicy,
    Health,
    Incident,
    Mode,
    Origin,
    Probe,
    ProbeOutcome,
    ToolLoop,
    Totals,
    Trigger,
)
from pipecat_circuit_breaker.failover import (
    Failover,
    failover_of,
)
from pipecat_circuit_breaker.fleet import (
    Failure,
    Fleet,
    FleetParams,
    FleetStatus,
    Lease,
    ModeSet,
    Outage,
    OutageStatus,
    label_of,
    shares,
)
from pipecat_circuit_breaker.instrumentation import instrument, instrument_fleet
from pipecat_circuit_breaker.logs import StormFilter, add_log_file, log_fleet
from pipecat_circuit_breaker.testing import (
    Clock,
    Output,
    Provider,
    Transport,
    assert_incident,
    assert_no_incidents,
    ended,
    hangs,
    logs,
    pushes_error,
    running,
    running_worker,
    settle,
)
from pipecat_circuit_breaker.testing import Failure as WayToFail

assert_type(pipecat_circuit_breaker.__version__, str)


#
# Settings
#


def destination(frame: Frame) -> str | None:
    return frame.name or None


def counts(error: ErrorFrame) -> bool:
    return not error.fatal


def seconds() -> float:
    return 0.0


params = CircuitBreakerParams(
    max_errors=3,
    window_secs=30,
    cooldown=wait_exponential_jitter(initial=2, max=120),
    channel_cooldown=wait_fixed(1) + wait_fixed(2),
    grace_secs=1.5,
    absence_secs=30.0,
    probe_timeout_secs=5.0,
    max_tool_rounds=None,
    max_failed_tool_rounds=2,
    give_up=stop_after_attempt(5),
    give_up_policy=GiveUpPolicy.END,
    mode=Mode.OBSERVE,
    destination=destination,
    notify_client=True,
    counts=counts,
    max_circuits=100,
    max_text=100,
    clock=seconds,
)
CircuitBreakerParams()
CircuitBreakerParams(give_up=None, give_up_policy=GiveUpPolicy.CONTINUE, mode=Mode.GUARD)
assert_type(params.max_errors, int)
assert_type(params.window_secs, float)
assert_type(params.max_tool_rounds, int | None)
assert_type(params.mode, Mode)

CircuitBreakerParams(max_errors="5")  # type: ignore[arg-type]
CircuitBreakerParams(cooldown=5.0)  # type: ignore[arg-type]
CircuitBreakerParams(give_up=5)  # type: ignore[arg-type]
CircuitBreakerParams(mode="observe")  # type: ignore[arg-type]
CircuitBreakerParams(counts=destination)  # type: ignore[arg-type]
CircuitBreakerParams(max_hops=5)  # type: ignore[call-arg]
CircuitBreakerParams(5)  # type: ignore[call-arg]


#
# The processor
#


def tags(worker: Any) -> Mapping[str, Any]:
    return {"room": worker.name}


breaker = CircuitBreakerProcessor()
CircuitBreakerProcessor(params=params, tags={"tenant": 5}, fleet=None, name="breaker")
CircuitBreakerProcessor(tags=tags)
CircuitBreakerProcessor(params)  # type: ignore[call-arg]
CircuitBreakerProcessor(params={"max_errors": 3})  # type: ignore[arg-type]
CircuitBreakerProcessor(tags="room 5")  # type: ignore[arg-type]
CircuitBreakerProcessor(fleet="redis://localhost")  # type: ignore[arg-type]


@breaker.event_handler("on_circuit_opened")
async def on_circuit_opened(breaker: CircuitBreakerProcessor, incident: Incident) -> None:
    print(incident.origin, incident.trigger, incident.chain)


@breaker.event_handler("on_circuit_half_opened")
@breaker.event_handler("on_circuit_reopened")
@breaker.event_handler("on_circuit_closed")
@breaker.event_handler("on_circuit_given_up")
async def on_circuit(breaker: CircuitBreakerProcessor, incident: Incident) -> None:
    if incident.held_messages and incident.ending is not Ending.PIPELINE_OVER:
        await breaker.reset_circuits(incident.origin)


@breaker.event_handler("on_circuit_changed")
def on_circuit_changed(breaker: CircuitBreakerProcessor, incident: Incident) -> None:
    print(incident.model_dump_json())


@breaker.event_handler("on_tool_loop")
async def on_tool_loop(breaker: CircuitBreakerProcessor, loop: ToolLoop) -> None:
    assert_type(loop.tools, tuple[str, ...])
    assert_type((loop.rounds, loop.failed_rounds), tuple[int, int])
    assert_type((loop.processor, loop.mode), tuple[str, Mode])


@breaker.event_handler("on_guard_left")
def on_guard_left(breaker: CircuitBreakerProcessor) -> None:
    print(breaker.totals)


async def control(worker: PipelineWorker, transport: BaseTransport, origin: Origin) -> None:
    breaker.watch(transport)
    breaker.watch("transport")  # type: ignore[arg-type]
    await breaker.open_circuits()
    await breaker.open_circuits(origin)
    await breaker.close_circuits(origin)
    await breaker.reset_circuits(None)
    await breaker.set_mode(Mode.GUARD)
    await breaker.set_mode(Mode.DISABLED, origin)
    await breaker.set_mode("guard")  # type: ignore[arg-type]
    await breaker.open_circuits("OpenAILLMService#0")  # type: ignore[arg-type]
    await worker.queue_frame(CircuitBreakerFrame(incident={}))
    Pipeline([breaker, transport.input(), transport.output()])


#
# What it tells
#


def read_circuits() -> None:
    assert_type(breaker.circuits, tuple[CircuitSnapshot, ...])
    for circuit in breaker.circuits:
        assert_type(circuit.state, CircuitState)
        assert_type(circuit.mode, Mode)
        assert_type(circuit.probe_in_secs, float | None)
        assert_type((circuit.failures, circuit.openings), tuple[int, int])
        assert_type((circuit.held_errors, circuit.held_messages), tuple[int, int])
        read_origin(circuit.origin)
        print(circuit.opened)  # type: ignore[attr-defined]


def read_origin(origin: Origin) -> None:
    assert_type((origin.processor_id, origin.processor), tuple[int, str])
    assert_type((origin.processor_class, origin.kind), tuple[str, str])
    assert_type((origin.destination, origin.where), tuple[str | None, str])
    assert_type(origin.shared_name, str)
    origin.kind = "TimeoutError"  # type: ignore[misc]


def read_incidents() -> None:
    assert_type(breaker.incidents, tuple[Incident, ...])
    for incident in breaker.incidents:
        assert_type((incident.id, incident.noticed), tuple[str, str])
        assert_type((incident.state, incident.mode), tuple[CircuitState, Mode])
        assert_type((incident.trigger, incident.ending), tuple[Trigger, Ending | None])
        assert_type((incident.is_channel, incident.gave_up), tuple[bool, bool])
        assert_type((incident.opened_at, incident.at), tuple[datetime, datetime])
        assert_type((incident.ended_at, incident.secs), tuple[datetime | None, float])
        assert_type((incident.failures, incident.openings), tuple[int, int])
        assert_type((incident.rate, incident.probe_in_secs), tuple[float | None, float | None])
        assert_type((incident.held_errors, incident.held_messages), tuple[int, int])
        assert_type((incident.observed_errors, incident.observed_messages), tuple[int, int])
        assert_type(incident.held_kinds, dict[str, int])
        assert_type(incident.chain_omitted, int)
        read_origin(incident.origin)
        for step in incident.chain:
            assert_type(step, ChainStep)
            assert_type((step.hop, step.at), tuple[int, datetime])
            assert_type((step.frame, step.processor, step.text), tuple[str, str, str])
        for probe in incident.probes:
            assert_type(probe, Probe)
            assert_type((probe.frame, probe.text, probe.at), tuple[str, str, datetime])
            if probe.outcome is ProbeOutcome.FAILED:
                print(probe)
        assert_type(incident.advice, Advice)
        assert_type((incident.advice.kind, incident.advice.is_guess), tuple[AdviceKind, bool])
        assert_type((incident.advice.processor, incident.advice.text), tuple[str, str])
        if (call := incident.call) is not None:
            assert_type(call, Call)
            assert_type((call.pipeline, call.session), tuple[str, str | None])
            assert_type((call.process, call.host), tuple[int, str])
            assert_type((call.pipecat, call.version), tuple[str, str])
            assert_type(call.tags, dict[str, str])
        if (failover := incident.failover) is not None:
            assert_type(failover, FailedOver)
            assert_type((failover.switcher, failover.failed), tuple[str, tuple[str, ...]])
            assert_type((failover.took_over, failover.outcome), tuple[str | None, str])
            assert_type((failover.saved, failover.lost), tuple[int, int])
            assert_type(failover.nobody_answers, bool)
        print(incident.call.tags)  # type: ignore[union-attr]
        assert_type(Incident.model_validate_json(incident.model_dump_json()), Incident)


def read_totals() -> None:
    for totals in breaker.totals:
        assert_type(totals, Totals)
        assert_type((totals.origin, totals.incidents), tuple[str, int])
        assert_type(totals.failures + totals.openings + totals.closings, int)
        assert_type(totals.held_errors + totals.held_messages, int)
        assert_type(totals.observed_errors + totals.observed_messages, int)
        assert_type(totals.unsent_messages, int)
        assert_type(totals.saved_requests + totals.lost_requests, int)
        assert_type(totals.probes_passed + totals.probes_failed + totals.probes_timed_out, int)


def read_health() -> int:
    health = breaker.health()
    assert_type(health, Health)
    assert_type(health["status"], Literal["ok", "degraded", "out", "idle", "over"])
    assert_type((health["mode"], health["pipeline"]), tuple[str | None, str | None])
    for processor in health["processors"].values():
        assert_type((processor["state"], processor["failing"]), tuple[str, list[str]])
        assert_type(processor["held_errors"], int)
        assert_type(processor["probe_in_secs"], float | None)
    for channel in health["channels"].values():
        assert_type((channel["state"], channel["connected"]), tuple[str, bool | None])
        assert_type((channel["down"], channel["held_messages"]), tuple[list[str], int])
        assert_type((channel["unsent_messages"]), int)
    for failover in health["failovers"].values():
        assert_type(failover["status"], Literal["ok", "degraded", "out"])
        assert_type((failover["answers"], failover["failing"]), tuple[str | None, list[str]])
    print(health["state"])  # type: ignore[typeddict-item]
    print(json.dumps(health))
    return 503 if health["status"] in ("out", "over") else 200


class Watcher(FrameProcessor):
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, CircuitBreakerFrame):
            assert_type(Incident.model_validate(frame.incident), Incident)
        await self.push_frame(frame, direction)


#
# Failover
#


def fail_over(
    llms: LLMSwitcher[Any], services: ServiceSwitcher[Any], sound: OutputAudioRawFrame
) -> None:
    failover = breaker.failover(
        llms,
        attempt_timeout_secs=3,
        cooldown=wait_fixed(5),
        text_aggregator=SimpleTextAggregator,
        announcement="One moment, please.",
    )
    assert_type(failover, Failover)
    assert_type((failover.is_out, failover.acts), tuple[bool, bool])
    assert_type(breaker.failover(services, announcement=sound, replay_secs=10.0), Failover)
    breaker.failover([llms])  # type: ignore[arg-type]
    breaker.failover(llms, 3.0)  # type: ignore[call-arg]
    breaker.failover(llms, cooldown=5.0)  # type: ignore[arg-type]
    assert_type(failover_of(services, clock=seconds), Failover)

    @failover.event_handler("on_service_failed")
    async def on_service_failed(
        failover: Failover, service: FrameProcessor, error: ErrorFrame, saved: bool
    ) -> None:
        print(service, error.error, saved)

    @failover.event_handler("on_service_recovered")
    async def on_service_recovered(failover: Failover, service: FrameProcessor) -> None:
        print(service)

    @failover.event_handler("on_request_lost")
    async def on_request_lost(failover: Failover, partial: str) -> None:
        print(partial)

    @failover.event_handler("on_outage")
    @failover.event_handler("on_outage_over")
    async def on_outage(failover: Failover) -> None:
        print(failover.switcher)

    print(on_service_failed, on_service_recovered, on_request_lost, on_outage)


#
# Fleets
#


def share(failure: Failure) -> bool:
    assert_type((failure.kind, failure.where), tuple[str, str])
    assert_type((failure.category, failure.exception), tuple[str | None, BaseException | None])
    assert_type((failure.processor, failure.by_delivery), tuple[FrameProcessor, bool])
    return shares(failure) and not failure.is_of_one_request and failure.is_unreachable


def label(service: FrameProcessor) -> str:
    return f"{label_of(service)} eu"


async def share_outages(llm: FrameProcessor) -> None:
    fleet_params = FleetParams(
        name="production",
        instance="pod-1",
        min_instances=3,
        vote_secs=10,
        hold_secs=600.0,
        lease_secs=15.0,
        cooldown=wait_fixed(5),
        share=share,
        label=label,
    )
    fleet = Fleet("redis://localhost:6379", params=fleet_params)
    Fleet(clock=seconds)
    Fleet(6379)  # type: ignore[arg-type]
    Fleet("redis://localhost", fleet_params)  # type: ignore[call-arg]
    FleetParams(share=label)  # type: ignore[arg-type]
    CircuitBreakerProcessor(fleet=fleet)

    @fleet.event_handler("on_fleet_outage_opened")
    @fleet.event_handler("on_fleet_outage_closed")
    async def on_fleet_outage(fleet: Fleet, outage: Outage, first: bool) -> None:
        print(fleet, outage.key, first)

    @fleet.event_handler("on_fleet_outage_changed")
    async def on_fleet_outage_changed(fleet: Fleet, outage: Outage) -> None:
        print(fleet, outage.openings)

    @fleet.event_handler("on_fleet_alone")
    async def on_fleet_alone(fleet: Fleet, reason: str) -> None:
        print(fleet, reason)

    @fleet.event_handler("on_fleet_connected")
    async def on_fleet_connected(fleet: Fleet) -> None:
        print(fleet)

    print(on_fleet_outage, on_fleet_outage_changed, on_fleet_alone, on_fleet_connected)
    await fleet.start()
    outage = await fleet.outage(llm, timeout_secs=0.1)
    assert_type(outage, Outage | None)
    print(outage.key)  # type: ignore[union-attr]
    if outage is not None:
        assert_type(outage.state, Literal["suspected", "open", "closed"])
        assert_type(outage.lease, Lease | None)
        assert_type((outage.opened_at, outage.instances), tuple[float | None, dict[str, float]])
        assert_type((outage.is_open, outage.is_over), tuple[bool, bool])
    assert_type(await fleet.outage("OpenAILLMService: TimeoutError"), Outage | None)
    assert_type(fleet.outages, tuple[Outage, ...])
    assert_type(fleet.mode, Literal["guard", "observe", "disabled"])
    assert_type(ModeSet().mode, Literal["guard", "observe", "disabled"])
    assert_type((fleet.is_connected, fleet.params), tuple[bool, FleetParams])
    status = fleet.status()
    assert_type(status, FleetStatus)
    assert_type((status["connected"], status["alone_reason"]), tuple[bool, str | None])
    assert_type(status["outages"], list[OutageStatus])
    instrument_fleet(fleet)
    log_fleet(fleet, "logs/fleet.jsonl", max_bytes=100_000, files=2)
    await fleet.close()


#
# Monitoring and logs
#


def monitor(meters: MeterProvider, tracers: TracerProvider, fleet: Fleet) -> None:
    instrument(breaker)
    instrument(breaker, meter_provider=meters, tracer_provider=tracers)
    instrument(fleet)  # type: ignore[arg-type]
    instrument_fleet(fleet, meter_provider=meters)
    storm_filter = StormFilter(
        first=3, interval_secs=30.0, level="ERROR", max_kinds=100, clock=seconds
    )
    assert_type(storm_filter.pending, int)
    storm_filter.flush()
    StormFilter(3)  # type: ignore[call-arg]
    assert_type(
        add_log_file(
            "logs/bot.log",
            level="INFO",
            max_bytes=100_000,
            files=2,
            storm_filter=storm_filter,
            enqueue=False,
            serialize=True,
        ),
        int,
    )
    add_log_file(None)  # type: ignore[arg-type]


#
# Tests of a bot
#


def falls_silent(message: Any) -> Exception | WayToFail | None:
    return hangs if message else None


async def test_a_bot(worker: PipelineWorker) -> None:
    clock = Clock()
    clock.advance(60)
    clock.advance("60")  # type: ignore[arg-type]
    guarded = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    output = Output(fails=falls_silent)
    transport = Transport(output)
    await transport.connect()
    output.fail(ConnectionError("the client is gone"))
    output.fail(logs(), kind="bot-transcription")
    output.fail(pushes_error("gone", ValueError()), when=bool)
    output.fail("gone")  # type: ignore[arg-type]
    async with running(guarded, transport.input(), output) as its_worker:
        assert_type(its_worker, PipelineWorker)
        assert_type(await settle(), bool)
        output.recover()
        await ended(its_worker)
    async with Provider("first") as provider:
        assert_type(provider.base_url, str)
        assert_type(provider.fails, dict[str, bool])
        assert_type(provider.requests, dict[str, int])
    await CircuitBreakerProcessor().insert_into(worker)
    await CircuitBreakerProcessor().insert_into(output)  # type: ignore[arg-type]
    async with running_worker(worker):
        incident = assert_incident(
            guarded,
            processor=output,
            kind="ConnectionError",
            trigger=Trigger.CHANNEL_DOWN,
            state=CircuitState.CLOSED,
            ending=Ending.RECOVERED,
            advice=AdviceKind.CLIENT_GONE,
        )
        assert_type(incident, Incident)
        assert_no_incidents(guarded)
        assert_incident(guarded, trigger="errors")  # type: ignore[arg-type]
    await transport.disconnect()
