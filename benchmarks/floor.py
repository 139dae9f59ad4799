#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The floor: what pipecat itself charges for each way to be there when a frame passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from pipecat.frames.frames import Frame, StartFrame
from pipecat.processors.frame_processor import FrameCallback, FrameDirection, FrameProcessor

from benchmarks.bots import FILTERS, FILTERS_MORE, Bot
from benchmarks.healthy import BOTS, cpu_per_frame
from benchmarks.result import Effort, Row, Section, Value, bootstrap
from pipecat_circuit_breaker.testing.running import running_workers

METHOD = """\
The same bots as on the healthy path, silent and at full speed, with things in them that do nothing:
what is left of these costs is the breaker's own."""


_LISTENING = {
    "a handler of on_before_process_frame on all": ["on_before_process_frame"],
    "a handler of on_before_push_frame on all": ["on_before_push_frame"],
    "a handler of each on all": ["on_before_process_frame", "on_before_push_frame"],
}


class _Direct(FrameProcessor):
    """A direct-mode processor that hands frames on as pipecat's documentation says."""

    def __init__(self) -> None:
        super().__init__(enable_direct_mode=True)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)


class _HandsOn(_Direct):
    """A direct-mode processor that hands frames on before pipecat begins to process them."""

    async def queue_frame(
        self,
        frame: Frame,
        direction: FrameDirection = FrameDirection.DOWNSTREAM,
        callback: FrameCallback | None = None,
    ) -> None:
        down = direction is FrameDirection.DOWNSTREAM
        neighbour = self.next if down else self.previous
        if isinstance(frame, StartFrame) or neighbour is None:
            await super().queue_frame(frame, direction, callback)
        else:
            await neighbour.queue_frame(frame, direction, callback)


def _nothing(*_: object) -> None:
    pass


def _listen(bot: Bot, *events: str) -> None:
    for processor in _processors(bot.worker.pipeline):
        for event in events:
            processor.add_event_handler(event, _nothing)


def _processors(processor: FrameProcessor) -> Iterator[FrameProcessor]:
    if not processor.processors:
        yield processor
    for inner in processor.processors:
        yield from _processors(inner)


async def measure(effort: Effort) -> Section:
    """Measure the floor."""
    sorts: dict[str, Callable[[], Bot]] = {
        "alone": lambda: Bot(filters=FILTERS),
        "one IdentityFilter": lambda: Bot(filters=FILTERS + FILTERS_MORE),
        "a direct-mode processor": lambda: Bot(filters=FILTERS, breaker=_Direct()),
        "the same, handing on in queue_frame": lambda: Bot(filters=FILTERS, breaker=_HandsOn()),
        **{what: lambda: Bot(filters=FILTERS) for what in _LISTENING},
    }
    bots = {what: [make() for _ in range(BOTS)] for what, make in sorts.items()}
    async with running_workers(*(bot.worker for group in bots.values() for bot in group)):
        for what, events in _LISTENING.items():
            for bot in bots[what]:
                _listen(bot, *events)
        samples = await cpu_per_frame(
            bots, talks=False, rounds=effort.of(20, 4), frames=effort.of(1_000, 200)
        )
    alone = samples.pop("alone")
    rows = [Row("the bot alone", Value.of(alone), "µs/frame")]
    for what, values in samples.items():
        share = FILTERS_MORE if what == "one IdentityFilter" else 1
        added = [(value - base) / share for value, base in zip(values, alone, strict=True)]
        rows.append(Row(f"adds: {what}", bootstrap(np.median, added), "µs/frame"))
    return Section("floor", "What pipecat charges", METHOD, rows)
