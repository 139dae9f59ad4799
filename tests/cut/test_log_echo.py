"""A failure that is only logged, and a log that is sent to the client that cannot be reached."""

import asyncio

import pytest
from loguru import logger

from tests.cut.cut_parts import message
from tests.cut.log_parts import FORWARDERS, TRANSPORTS, Pushes, plain_output, pushed, queued
from tests.support.parts import settle

#: Nobody reports an error here: it takes a few turns to know them for a loop.
AT_MOST = 40


@pytest.mark.parametrize("forwarder", FORWARDERS)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test__transport_only_logs__log_is_forwarded__ends(
    guard, storm, monkeypatch, transport, forwarder
):
    pushes = Pushes()
    async with TRANSPORTS[transport](guard, storm, pushes, patch=monkeypatch) as worker:
        async with FORWARDERS[forwarder](worker, pushes, storm):
            await worker.queue_frame(message())
            await storm.over()

    storm.assert_cut(guard, AT_MOST)


QUOTES = {
    "as it is": lambda text: text,
    "in a sentence": lambda text: f"The bot says: {text} (please report)",
    "deep in a structure": lambda text: {"attributes": {"body": {"stringValue": text}}},
    "cut": lambda text: text[:60],
}


@pytest.mark.parametrize("quote", QUOTES)
async def test__transport_only_logs__line_is_quoted_somehow__ends(guard, storm, monkeypatch, quote):
    lines = asyncio.Queue()
    storm.pending = lambda: not lines.empty()

    async def forward(worker):
        while True:
            await worker.queue_frame(message("log", text=QUOTES[quote](await lines.get())))

    async with plain_output(guard, storm, patch=monkeypatch) as worker:
        sink = logger.add(lambda line: lines.put_nowait(line.record["message"]), level="WARNING")
        forwarding = asyncio.create_task(forward(worker))
        await worker.queue_frame(message())
        await storm.over()
        forwarding.cancel()
        logger.remove(sink)

    storm.assert_cut(guard, AT_MOST)


@pytest.mark.parametrize("forwarder", [pushed, queued])
async def test__log_loop_is_cut__other_log_lines__all_are_tried(
    guarded, storm, monkeypatch, forwarder
):
    # Only what repeats the loop's own lines is held back: nothing is known against the rest.
    pushes = Pushes()
    async with plain_output(guarded, storm, pushes, patch=monkeypatch) as worker:
        async with forwarder(worker, pushes, storm):
            await worker.queue_frame(message())
            await storm.over()
            for n in range(3):
                logger.warning(f"the store is slow, case {n}")
                await settle(400)

    assert storm.turns <= AT_MOST
    assert [n for n in range(3) if f"the store is slow, case {n}" in str(storm.tried)] == [0, 1, 2]
