"""Control by hand, giving up, participants, and failing open, on real pipelines."""

import asyncio
from dataclasses import dataclass

import pytest
import tenacity
from loguru import logger
from pipecat.frames.frames import OutputTransportMessageUrgentFrame, TTSSpeakFrame

from pipecat_circuit_breaker import (
    CircuitBreakerParams,
    CircuitBreakerProcessor,
    CircuitState,
    GiveUpPolicy,
    Mode,
    Origin,
    Trigger,
)
from pipecat_circuit_breaker.testing import Output, running
from tests.support.parts import Failing, app_message, dead, of_type, settle

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
MAX_ERRORS = CircuitBreakerParams().max_errors


def breaker_with(clock, **params):
    params.setdefault("cooldown", tenacity.wait_fixed(5))
    return CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock, **params))


def told_by(breaker):
    told = []
    for event in ("opened", "reopened", "half_opened", "closed", "given_up"):
        breaker.add_event_handler(
            f"on_circuit_{event}", lambda _, incident, e=event: told.append((e, incident))
        )
    return told


async def storm(worker, output):
    output.fails = dead
    await worker.queue_frame(app_message())
    await settle()


#
# By hand
#


async def test__open_by_hand__ignores_time_and_sends_no_probe(clock):
    output, breaker = Output(), breaker_with(clock)
    told = told_by(breaker)
    async with running(breaker, output) as worker:
        await storm(worker, output)
        output.fails = lambda message: None
        origin = breaker.incidents[0].origin
        await breaker.open_circuits(origin)
        clock.advance(1_000_000)
        await worker.queue_frames([app_message(n) for n in range(10)])
        await settle()
        assert output.sent == []
        [circuit] = [c for c in breaker.circuits if c.origin == origin]
        assert circuit.state is OPEN
        assert circuit.probe_in_secs is None
        assert [event for event, _ in told] == ["opened"]


async def test__open_by_hand__of_a_closed_circuit__is_told_as_manual(clock):
    output, breaker = Output(), breaker_with(clock)
    told = told_by(breaker)
    origin = Origin.of(output, "planned maintenance")
    async with running(breaker, output) as worker:
        await breaker.open_circuits(origin)
        await worker.queue_frame(app_message())
        await settle()
        assert output.sent == []
        await breaker.close_circuits(origin)
        await worker.queue_frame(app_message())
        await settle()
        assert len(output.sent) == 1
        assert [(event, i.trigger) for event, i in told] == [
            ("opened", Trigger.MANUAL),
            ("closed", Trigger.MANUAL),
        ]
        assert told[-1][1].held_messages == 1


async def test__close_by_hand__works_before_the_wait_is_over(clock):
    output, breaker = Output(), breaker_with(clock)
    async with running(breaker, output) as worker:
        await storm(worker, output)
        output.fails = lambda message: None
        await breaker.close_circuits()
        assert breaker.circuits[0].state is CLOSED
        assert breaker.circuits[0].failures == 0
        await worker.queue_frames([app_message(n) for n in range(10)])
        await settle()
        assert [m["n"] for m in output.sent] == [*range(10)]


async def test__reset__forgets_the_circuit(clock):
    output, breaker = Output(), breaker_with(clock)
    told = told_by(breaker)
    async with running(breaker, output) as worker:
        await storm(worker, output)
        await breaker.reset_circuits()
        await settle()
        assert breaker.circuits == ()
        assert [event for event, _ in told] == ["opened", "closed"]


async def test__control_of_an_unknown_circuit__is_refused_with_the_value(clock):
    output, breaker = Output(), breaker_with(clock)
    async with running(breaker, output):
        with pytest.raises(ValueError, match="no such thing"):
            await breaker.close_circuits(Origin.of(output, "no such thing"))


async def test__control_before_the_pipeline_runs__is_refused(clock):
    with pytest.raises(RuntimeError, match="not set up"):
        await breaker_with(clock).close_circuits()


async def test__listener_may_call_the_breaker(clock):
    output, breaker = Output(), breaker_with(clock)
    told = told_by(breaker)

    @breaker.event_handler("on_circuit_opened")
    async def on_circuit_opened(breaker, incident):
        await breaker.close_circuits(incident.origin)

    async with running(breaker, output) as worker:
        await storm(worker, output)
        assert [event for event, _ in told][:2] == ["opened", "closed"]


async def test__control_from_another_task__is_seen_by_the_next_frame(clock):
    output, breaker = Output(), breaker_with(clock)
    async with running(breaker, output) as worker:
        await storm(worker, output)
        output.fails = lambda message: None
        await asyncio.create_task(breaker.close_circuits())
        await worker.queue_frame(app_message())
        await settle()
        assert len(output.sent) == 1


#
# Modes
#


async def test__disabled__admits_all_and_records_nothing(clock):
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "no"})
    breaker = breaker_with(clock, mode=Mode.DISABLED)
    told = told_by(breaker)
    async with running(breaker, tts, Output()) as worker:
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame))
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(50)])
        await settle()
        assert len(seen) == 50
        assert breaker.circuits == ()
        assert told == []


async def test__observe_only__records_all_and_drops_nothing(clock):
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "no"})
    output, breaker = Output(), breaker_with(clock, mode=Mode.OBSERVE)
    told = told_by(breaker)
    async with running(breaker, tts, output) as worker:
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame.error))
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(50)])
        await settle(500)
        assert seen == ["no"] * 50
        assert len(of_type(output.sent, "error")) == 50
        assert breaker.circuits[0].state is OPEN
        assert breaker.circuits[0].held_errors == 45
        assert [event for event, _ in told] == ["opened"]


async def test__observe_only__channel_that_fails__is_sent_everything(clock):
    output, breaker = Output(dead), breaker_with(clock, mode=Mode.OBSERVE)
    async with running(breaker, output, enable_rtvi=False) as worker:
        for n in range(20):
            await worker.queue_frame(app_message(n))
            await settle(20)
        assert len(output.failed) == 20
        assert breaker.circuits[0].state is OPEN
        assert breaker.circuits[0].held_messages == 15


async def test__set_mode__at_runtime__for_all_and_for_one(clock):
    output, breaker = Output(), breaker_with(clock)
    async with running(breaker, output) as worker:
        await storm(worker, output)
        origin = breaker.circuits[0].origin
        output.fails = lambda message: None
        await breaker.set_mode(Mode.OBSERVE, origin)
        await worker.queue_frame(app_message())
        await settle()
        assert len(output.sent) == 1
        await breaker.set_mode(Mode.GUARD)
        await worker.queue_frame(app_message())
        await settle()
        assert len(output.sent) == 1
        await breaker.set_mode(Mode.DISABLED)
        await worker.queue_frame(app_message())
        await settle()
        assert len(output.sent) == 2


async def test__one_circuit_disabled__its_errors_pass_and_are_not_counted(clock):
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "no"})
    breaker = breaker_with(clock)
    async with running(breaker, tts, Output()) as worker:
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame))
        await worker.queue_frame(TTSSpeakFrame("hello"))
        await settle()
        await breaker.set_mode(Mode.DISABLED, breaker.circuits[0].origin)
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(50)])
        await settle()
        assert len(seen) == 51
        assert breaker.circuits[0].failures == 1


#
# Giving up
#


@pytest.mark.parametrize("policy", [GiveUpPolicy.END, GiveUpPolicy.CANCEL])
async def test__give_up__ends_the_pipeline(clock, policy):
    output = Output(dead)
    breaker = breaker_with(
        clock, give_up=tenacity.stop_after_attempt(3), give_up_policy=policy, max_errors=1
    )
    told = told_by(breaker)
    finished = asyncio.Event()
    async with running(breaker, output) as worker:
        worker.add_event_handler("on_pipeline_finished", lambda *_: finished.set())
        for _ in range(3):
            assert not finished.is_set()
            await worker.queue_frame(app_message())
            await settle()
            clock.advance(5.0)
        await asyncio.wait_for(finished.wait(), 10)
        assert [event for event, _ in told].count("given_up") == 1


async def test__give_up__continue__is_told_once_and_goes_on_probing(clock):
    output = Output(dead)
    breaker = breaker_with(clock, give_up=tenacity.stop_after_delay(12), max_errors=1)
    told = told_by(breaker)
    async with running(breaker, output) as worker:
        for _ in range(8):
            await worker.queue_frame(app_message())
            await settle()
            clock.advance(5.0)
        given_up = [n for n, (event, _) in enumerate(told) if event == "given_up"]
        # Opened at 0, reopened at 5, 10 and 15: that is when 12 s are over.
        before = [event for event, _ in told[: given_up[0] + 1]]
        assert (before.count("opened"), before.count("reopened")) == (1, 3)
        assert all(incident.gave_up for incident in breaker.incidents)
        assert len(given_up) == 1
        output.fails = lambda message: None
        await worker.queue_frame(app_message())
        await settle()
        assert breaker.circuits[0].state is CLOSED


#
# Participants
#


@dataclass
class ToParticipant(OutputTransportMessageUrgentFrame):
    participant_id: str | None = None


async def test__one_participant_fails__the_others_are_not_silenced(clock):
    output = Output(lambda m: ConnectionError("gone") if m.get("to") == "ann" else None)
    breaker = breaker_with(clock)
    async with running(breaker, output, enable_rtvi=False) as worker:
        for n in range(50):
            for whom in ("ann", "bob", None):
                message = {"type": "app", "n": n, "to": whom}
                await worker.queue_frame(ToParticipant(message=message, participant_id=whom))
            await settle(20)
        assert [m["n"] for m in output.sent if m["to"] == "bob"] == [*range(50)]
        assert [m["n"] for m in output.sent if m["to"] is None] == [*range(50)]
        assert len(output.failed) == MAX_ERRORS
        [down] = [c for c in breaker.circuits if c.origin.kind == "channel down"]
        assert down.origin.destination == "ann"


async def test__destination__is_a_setting(clock):
    output = Output(lambda m: ConnectionError("gone") if m["room"] == 1 else None)
    breaker = breaker_with(clock, destination=lambda frame: f"room {frame.message['room']}")
    async with running(breaker, output, enable_rtvi=False) as worker:
        for n in range(40):
            await worker.queue_frame(
                OutputTransportMessageUrgentFrame(message={"type": "app", "room": n % 2})
            )
            await settle(20)
        assert len(output.sent) == 20
        assert breaker.circuits[0].origin.destination == "room 1"


#
# Failing open
#


class Raising(tenacity.wait.wait_base):
    def __call__(self, retry_state):
        raise RuntimeError("broken strategy")


class RaisingStop(tenacity.stop.stop_base):
    def __call__(self, retry_state):
        raise RuntimeError("broken strategy")


def raising(*_):
    raise RuntimeError("broken setting")


@pytest.mark.parametrize(
    "params",
    [
        {"cooldown": Raising()},
        {"give_up": RaisingStop(), "give_up_policy": GiveUpPolicy.CANCEL},
        {"destination": raising},
    ],
)
async def test__setting_that_raises__the_storm_ends_and_it_is_reported_once(clock, params):
    lines = []
    logger.add(lines.append, level="ERROR", filter="pipecat_circuit_breaker")
    output, breaker = Output(dead), breaker_with(clock, **params)
    async with running(breaker, output) as worker:
        await storm(worker, output)
        assert len(output.failed) == MAX_ERRORS
        clock.advance(100.0)
        output.fails = lambda message: None
        await worker.queue_frames([app_message(n) for n in range(5)])
        await settle()
        assert len(output.sent) == 5
        assert breaker.circuits[0].state is CLOSED
        assert len(lines) == 1


async def test__counts_that_raises__the_error_is_neutral(clock):
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "no"})
    async with running(breaker_with(clock, counts=raising), tts) as worker:
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame))
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(20)])
        await settle()
        assert len(seen) == 20


async def test__ignored_error__decides_nothing_for_a_probe_either(clock):
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "ignore" if n > 6 else "no"})
    breaker = breaker_with(clock, counts=lambda error: "ignore" not in error.error)
    async with running(breaker, tts) as worker:
        for _ in range(5):
            await worker.queue_frame(TTSSpeakFrame("hello"))
        await settle()
        clock.advance(5.0)
        await worker.queue_frame(TTSSpeakFrame("hello"))  # the probe
        await settle()
        assert breaker.circuits[0].state is HALF_OPEN
        await worker.queue_frame(TTSSpeakFrame("hello"))
        await settle()
        assert breaker.circuits[0].state is HALF_OPEN
