"""A processor that dies is heard each time that it dies, whatever is held back of it."""

from pipecat.frames.frames import ManuallySwitchServiceFrame, TextFrame
from pipecat.pipeline.service_switcher import ServiceSwitcher, ServiceSwitcherStrategyFailover
from pipecat.utils.errors import ErrorCategory

from pipecat_circuit_breaker.testing import Output, running
from tests.healthy.healthy_parts import Service, queue
from tests.support.guard import MAX_ERRORS
from tests.support.parts import Tap


def rejected(name):
    """A service without credentials."""
    error = {"exception": PermissionError("rejected"), "category": ErrorCategory.AUTHENTICATION}
    return Service(name, lambda n: True, **error)


def texts_of(tap):
    return [frame.text for frame in tap.frames(TextFrame)]


async def test__revived_while_its_circuit_is_open__dies_again__heard_again(guard):
    service, heard = rejected("service"), []
    async with running(*guard.line(service, Output())) as worker:
        worker.add_event_handler("on_pipeline_error", lambda _, error: heard.append(error))
        for _ in range(2 * MAX_ERRORS):
            await queue(worker, TextFrame("text"))

        for _ in range(3):
            heard.clear()
            await service.set_usable(True)
            await queue(worker, TextFrame("text"))
            # The one with which it becomes unusable, each time that it does.
            assert len(heard) == 1
            assert not service.is_usable


async def test__revived_in_a_switcher__dies_again__failover_after_one_chunk(guard):
    primary, backup, tap = rejected("primary"), Service("backup"), Tap()
    switcher = ServiceSwitcher([primary, backup], ServiceSwitcherStrategyFailover)
    async with running(*guard.line(switcher, tap, Output())) as worker:
        for n in range(2 * MAX_ERRORS):
            for chunk in range(30):
                await queue(worker, TextFrame(f"{n}.{chunk}"))
            # Only the chunk that was the first to fail is lost.
            assert texts_of(tap)[29 * n :] == [f"backup: {n}.{chunk}" for chunk in range(1, 30)]
            assert primary.asked == n + 1
            await primary.set_usable(True)
            await queue(worker, ManuallySwitchServiceFrame(service=primary))

    assert len(texts_of(tap)) == 29 * 2 * MAX_ERRORS


async def test__only_service_of_a_switcher__revived_and_dies_again__heard_again(guard):
    # The switcher reports it as its own, and it is the switcher that dies each time.
    service, heard = rejected("service"), []
    switcher = ServiceSwitcher([service], ServiceSwitcherStrategyFailover)
    async with running(*guard.line(switcher, Output())) as worker:
        worker.add_event_handler("on_pipeline_error", lambda _, error: heard.append(error))
        for _ in range(2 * MAX_ERRORS):
            heard.clear()
            await service.set_usable(True)
            await queue(worker, TextFrame("text"))
            assert len(heard) == 1
            assert not switcher.is_usable
