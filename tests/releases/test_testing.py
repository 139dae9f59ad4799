"""What users test their own bots with: `pipecat_circuit_breaker.testing`, on every release."""

import asyncio
import subprocess
import sys

import pytest
from loguru import logger
from pipecat.frames.frames import OutputAudioRawFrame, TextFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.task import PipelineTask

from pipecat_circuit_breaker import (
    AdviceKind,
    CircuitBreakerParams,
    CircuitBreakerProcessor,
    CircuitState,
    Ending,
    Incident,
    Trigger,
)
from pipecat_circuit_breaker.testing import (
    Clock,
    Output,
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
from tests.support.parts import Failing, On, app_message

pytestmark = [
    pytest.mark.releases,
    # The older names are what runs on every release.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

MAX_ERRORS = CircuitBreakerParams().max_errors
SOUND = OutputAudioRawFrame(audio=b"\1\2" * 1280, sample_rate=16000, num_channels=1)


@pytest.fixture
def breaker(clock):
    return CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))


def numbers(messages):
    return [message["n"] for message in messages if message.get("type") == "app"]


def test__import__needs_no_test_framework_and_no_extra():
    code = (
        "import sys, pipecat_circuit_breaker.testing;"
        "print(sorted({'hypothesis', 'jinja2', 'pytest'} & {*sys.modules}))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == "[]"


#
# The clock
#


def test__clock__is_moved_by_hand_alone():
    clock = Clock(5.0)
    assert clock() == clock() == 5.0
    clock.advance(0)
    clock.advance(2.5)
    assert clock() == clock.now == 7.5
    clock.advance(-1.5)
    assert clock() == 6.0


@pytest.mark.parametrize("secs", [float("nan"), float("inf"), -float("inf")])
def test__clock__time_that_cannot_pass__is_refused(secs):
    with pytest.raises(ValueError, match="expected a finite number"):
        Clock().advance(secs)


#
# The output
#


async def tells(output, *messages):
    """The errors that the application hears of, when an output gets these messages."""
    heard = []
    async with running(output, enable_rtvi=False) as worker:
        worker.add_event_handler("on_pipeline_error", lambda _, error: heard.append(error))
        for message in messages:
            await worker.queue_frame(message)
            assert await settle()
    return heard


async def test__output__healthy__records_messages_and_sound():
    output = Output()
    async with running(output, enable_rtvi=False) as worker:
        await worker.queue_frames([app_message(1), SOUND, app_message(2)])
        await ended(worker)
    assert numbers(output.sent) == [1, 2]
    assert output.failed == []
    assert bytes(output.audio) == SOUND.audio


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (None, "the client is gone"),
        (TypeError("not serializable"), "not serializable"),
        (pushes_error(), "the client is gone"),
        (pushes_error("the room is closed", ValueError("closed")), "the room is closed"),
    ],
)
async def test__output__told_to_fail__is_an_error_and_nothing_is_sent(failure, text):
    output = Output()
    output.fail(failure)
    [error] = await tells(output, app_message(1))
    assert text in error.error
    assert numbers(output.failed) == [1]
    assert output.sent == []


async def test__output__pushes_an_error__with_the_exception():
    output, exception = Output(), ValueError("closed")
    output.fail(pushes_error("the room is closed", exception))
    [error] = await tells(output, app_message())
    assert error.exception is exception


async def test__output__logs__a_warning_and_no_error():
    lines, output = [], Output()
    logger.add(lambda line: lines.append(line.record), level="WARNING")
    output.fail(logs("the socket is closed"))
    assert await tells(output, app_message(1)) == []
    assert [line["message"] for line in lines] == [f"{output}: the socket is closed"]
    assert numbers(output.failed) == [1]


async def test__output__one_exception_raised_often__its_traceback_does_not_grow():
    output, exception = Output(), ConnectionError("gone")
    output.fail(exception)

    async def depth():
        with pytest.raises(ConnectionError):
            await output.send_message(app_message())
        depth, place = 0, exception.__traceback__
        while place := place.tb_next:
            depth += 1
        return depth

    assert await depth() == await depth()


async def test__output__own_failure__gets_the_output_and_the_frame():
    async def drops_quietly(output, frame):
        output.dropped = frame.message

    output = Output()
    output.fail(drops_quietly)
    assert await tells(output, app_message(3)) == []
    assert output.dropped["n"] == 3


@pytest.mark.parametrize(
    ("only", "failed"),
    [
        ({"kind": "transcript"}, [2, 3]),
        ({"when": lambda message: message["n"] > 2}, [3, 4]),
        ({"kind": "transcript", "when": lambda message: message["n"] > 2}, [3]),
    ],
)
async def test__output__fails_for_some_messages__the_others_are_sent(only, failed):
    output = Output()
    output.fail(**only)
    messages = [app_message(1), app_message(2), app_message(3), app_message(4)]
    for frame in messages[1:3]:
        frame.message["type"] = "transcript"
    await tells(output, *messages)
    assert [message["n"] for message in output.failed] == failed
    assert [message["n"] for message in output.sent] == [n for n in range(1, 5) if n not in failed]


async def test__output__kind_alone__leaves_messages_that_are_no_mapping():
    output = Output()
    output.fail(kind="transcript")
    frame = app_message()
    frame.message = "plain text"
    await tells(output, frame)
    assert output.sent == ["plain text"]


async def test__output__fails_from_the_start__as_its_function_says():
    output = Output(lambda message: ValueError("odd") if message["n"] % 2 else None)
    await tells(output, app_message(1), app_message(2))
    assert numbers(output.failed) == [1]
    assert numbers(output.sent) == [2]


async def test__output__recovers__sends_again():
    output = Output()
    async with running(output, enable_rtvi=False) as worker:
        output.fail()
        await worker.queue_frame(app_message(1))
        await settle()
        output.recover()
        await worker.queue_frame(app_message(2))
        await settle()
    assert (numbers(output.failed), numbers(output.sent)) == ([1], [2])


async def test__output__hangs__sends_in_order_when_it_recovers_each_time():
    output = Output()
    async with running(output, enable_rtvi=False) as worker:
        for n in (1, 3):
            output.fail(hangs)
            await worker.queue_frames([app_message(n), app_message(n + 1)])
            assert await settle()
            assert numbers(output.failed) == [n]
            output.recover()
            assert await settle()
            assert output.failed == []
    assert numbers(output.sent) == [1, 2, 3, 4]


async def test__output__other_params__are_its_own():
    given = Output()._params.model_copy(update={"audio_out_sample_rate": 8000})
    assert Output(params=given)._params is given


#
# The transport
#


async def test__transport__client_comes_and_goes__handlers_hear_and_watch_knows(breaker):
    transport, heard = Transport(), []
    breaker.watch(transport)
    for event in ("on_client_connected", "on_client_disconnected"):
        transport.add_event_handler(event, lambda _, client, e=event: heard.append((e, client)))
    output = transport.output()
    async with running(breaker, transport.input(), output) as worker:
        await transport.connect("Ada")
        await worker.queue_frame(app_message(1))
        await settle()
        await transport.disconnect("Ada")
        await settle()
        await worker.queue_frame(app_message(2))
        await settle()
    assert heard == [("on_client_connected", "Ada"), ("on_client_disconnected", "Ada")]
    assert numbers(output.sent) == [1]
    assert sum(totals.unsent_messages for totals in breaker.totals) == 1
    assert_no_incidents(breaker)


def test__transport__output_of_ones_own__is_its_output():
    output = Output()
    assert Transport(output).output() is output


async def test__transport__its_input__hands_on_what_is_pushed_there():
    seen, transport = [], Transport()

    async def note(_, frame, __):
        seen.append(frame.text)

    async with running(transport.input(), On(TextFrame, note), transport.output()):
        await transport.input().push_frame(TextFrame("hello"))
        await settle()
    assert seen == ["hello"]


#
# A pipeline that runs
#


async def test__worker_of_ones_own__runs_and_is_over_in_the_end(breaker):
    output, over = Output(), []
    task = PipelineTask(Pipeline([breaker, output]), idle_timeout_secs=None)
    task.add_event_handler("on_pipeline_finished", lambda *_: over.append(True))
    async with running_worker(task) as worker:
        assert worker is task
        await worker.queue_frame(app_message(1))
        await settle()
        assert numbers(output.sent) == [1]
        assert over == []
    await settle()
    assert over == [True]


async def test__running__a_test_that_fails__says_why_and_leaves_no_task():
    before = asyncio.all_tasks()
    with pytest.raises(ZeroDivisionError):
        async with running(Output()):
            raise ZeroDivisionError
    await settle()
    assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()


async def test__ended__what_was_queued_is_sent_and_incidents_are_over(breaker):
    output = Output()
    async with running(breaker, output) as worker:
        await worker.queue_frame(app_message(1))
        await settle()
        output.fail()
        await worker.queue_frame(app_message(2))
        await settle()
        await ended(worker)
        await settle()
    assert numbers(output.sent) == [1]
    assert_incident(breaker, ending=Ending.PIPELINE_OVER)


async def test__settle__storm_without_a_breaker__is_not_quiet_until_it_is_over():
    output = Output()
    output.fail()
    async with running(output) as worker:
        await worker.queue_frame(app_message())
        assert not await settle(2_000)
        assert len(output.failed) > 10 * MAX_ERRORS
        output.recover()
        assert await settle()


async def test__settle__tasks_that_set_each_other_off__all_have_run():
    async def relay(n):
        if n:
            await asyncio.create_task(relay(n - 1))
        ran.append(n)

    ran = []
    task = asyncio.create_task(relay(300))
    assert await settle()
    assert task.done()
    assert len(ran) == 301


async def test__settle__waits_for_no_timer():
    asleep = asyncio.create_task(asyncio.sleep(3600))
    assert await settle()
    asleep.cancel()


#
# Incidents
#


async def test__no_incident__is_asserted(breaker):
    async with running(breaker, Output()) as worker:
        await worker.queue_frame(app_message())
        await settle()
    assert_no_incidents(breaker)
    with pytest.raises(AssertionError) as failure:
        assert_incident(breaker)
    assert str(failure.value) == "expected one incident, found 0; there is none"


async def outage(breaker):
    """An output whose client has gone; the incident."""
    output = Output()
    async with running(breaker, output) as worker:
        output.fail()
        await worker.queue_frame(app_message())
        assert await settle()
        assert len(output.failed) <= MAX_ERRORS
        return output, assert_incident(breaker)


async def test__incident__described_in_any_way_that_fits__is_returned(breaker):
    output, incident = await outage(breaker)
    assert isinstance(incident, Incident)
    for fits in (
        {"processor": output},
        {"processor": output.name},
        {"processor": "Output"},
        {"kind": "ConnectionError"},
        {"trigger": Trigger.ERRORS},
        {"advice": AdviceKind.CLIENT_GONE},
        {"ending": Ending.PIPELINE_OVER, "state": CircuitState.CLOSED},
        {"processor": output, "kind": "ConnectionError", "trigger": Trigger.ERRORS},
    ):
        assert assert_incident(breaker, **fits).id == incident.id


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"processor": "TTS"}, "processor TTS"),
        ({"kind": "TypeError"}, "kind TypeError"),
        ({"trigger": Trigger.MANUAL}, "trigger manual"),
        ({"state": CircuitState.OPEN}, "state open"),
        ({"ending": Ending.RECOVERED}, "ending recovered"),
        ({"advice": AdviceKind.QUOTA}, "advice quota"),
        ({"kind": "ConnectionError", "advice": AdviceKind.QUOTA}, "ConnectionError, advice quota"),
    ],
)
async def test__incident__not_as_described__the_message_tells_what_there_is(breaker, wrong, words):
    await outage(breaker)
    with pytest.raises(AssertionError) as failure:
        assert_incident(breaker, **wrong)
    asked, *told = str(failure.value).splitlines()
    assert asked.startswith("expected one incident with ")
    assert asked.endswith(f"{words}, found 0; there is 1:")
    assert_tells_the_outage(told)


async def test__no_incident_expected__the_message_tells_what_there_is(breaker):
    await outage(breaker)
    with pytest.raises(AssertionError) as failure:
        assert_no_incidents(breaker)
    asked, *told = str(failure.value).splitlines()
    assert asked == "expected no incident, there is 1:"
    assert_tells_the_outage(told)


def assert_tells_the_outage(lines):
    title, trigger, chain, held, advice = lines
    assert "Output#" in title and "ConnectionError" in title
    assert "trigger errors: 5 related errors" in trigger
    assert "ended with its pipeline" in trigger
    assert "(app) → " in chain and " more → " in chain and "the client is gone" in chain
    assert "held back: 1 rtvi-ai/error" in held
    assert "advice client_gone:" in advice


async def test__two_incidents__one_expected__is_refused_until_it_is_told_which(breaker):
    tts = Failing(TextFrame, lambda n: {"error_msg": "quota"}, name="tts")
    stt = Failing(TextFrame, lambda n: {"error_msg": "quota"}, name="stt")
    async with running(breaker, tts, stt, Output(), enable_rtvi=False) as worker:
        await worker.queue_frames([TextFrame("hello")] * MAX_ERRORS)
        await settle()
    with pytest.raises(AssertionError, match="found 2; there are 2:"):
        assert_incident(breaker, trigger=Trigger.ERRORS)
    assert assert_incident(breaker, processor=tts).origin.processor == "tts"
    assert assert_incident(breaker, processor="stt").origin.processor == "stt"
