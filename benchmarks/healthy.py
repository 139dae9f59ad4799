#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The healthy path: what a breaker costs a bot in which nothing fails."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Mapping, Sequence

import numpy as np
from pipecat.frames.frames import Frame

from benchmarks.bots import FILTERS, FILTERS_MORE, FRAMES_PER_SEC, VARIANTS, Bot, speech
from benchmarks.calls import MOODS, calls_per_frame
from benchmarks.result import Effort, Row, Section, Value, bootstrap, interleaved
from pipecat_circuit_breaker.testing.running import running_workers

GOAL = 0.5

# At full speed: so many frames are on their way at once.
_BATCH = 50
BOTS = 20

METHOD = f"""\
Pipelines of eight processors, {FILTERS} `IdentityFilter`s and an output transport, in a
`PipelineWorker` with RTVI as it is on by default: alone, with {FILTERS_MORE} `IdentityFilter`s more (a
{FILTERS_MORE}th of what they add is the cost of one), with the breaker first, and with it last before
the output. `InputAudioRawFrame`s of 20 ms go through all of them, in turn, in a new order each round.
At full speed {_BATCH} frames are on their way at once, and each round measures another one of {BOTS}
bots of each sort; at 50 frames a second there are {BOTS} bots of
each sort, each fed on a beat of its own. *Silent* bots get sound alone; *talking* ones send four
messages a second to their client, half of them by RTVI; one of the processors of those that *failed
lately* has just reported an error, and of those that *failed once* more than six windows ago. What is
measured is the CPU time of the process, per frame of sound, and
what is added is the median of the differences within each round; its spread is the middle half of a
bootstrap over rounds. Calls are counted, not timed: every call of a Python or C function while a
batch goes through."""

_ADDED = {
    "filters": "one IdentityFilter",
    "first": "a breaker, first",
    "last": "a breaker, last",
}


async def measure(effort: Effort) -> Section:
    """Measure the healthy path."""
    rows: list[Row] = []
    plot: dict[str, dict[str, float]] = {}
    for talks in (False, True):
        mood = "talking" if talks else "silent"
        full = await _full_speed(talks, rounds=effort.of(25, 4), frames=effort.of(1_000, 200))
        _compare(rows, plot, f"full speed, {mood}", full)
    for talks in (False, True):
        mood = "talking" if talks else "silent"
        paced = await _paced(talks, rounds=effort.of(15, 1))
        _compare(rows, plot, f"50 frames/s, {mood}", paced)
    for mood in MOODS:
        calls = {variant: await calls_per_frame(variant, mood) for variant in VARIANTS}
        alone = calls.pop("alone")
        one = (calls["filters"].all - alone.all) / FILTERS_MORE
        rows.append(Row(f"calls, {mood}: {_ADDED['filters']}", Value(one), "calls/frame"))
        for variant in ("first", "last"):
            added = Value(calls[variant].all - alone.all)
            note = f"{calls[variant].own:.3g} of them of the breaker's own functions"
            what = f"calls, {mood}: {_ADDED[variant]}"
            # For a minute after an error causes are carried: that is no healthy path.
            goal = None if mood == "failed lately" else GOAL * one
            rows.append(Row(what, added, "calls/frame", goal, note))
    return Section("healthy", "Healthy path", METHOD, rows, plot)


def _compare(
    rows: list[Row],
    plot: dict[str, dict[str, float]],
    speed: str,
    samples: dict[str, list[float]],
) -> None:
    alone = samples["alone"]
    share = {"filters": FILTERS_MORE, "first": 1, "last": 1}
    added = {
        variant: [(s - a) / share[variant] for s, a in zip(samples[variant], alone, strict=True)]
        for variant in share
    }
    rows.append(Row(f"{speed}: the bot alone", Value.of(alone), "µs/frame"))
    plot[speed] = {"alone": Value.of(alone).middle}
    for variant, differences in added.items():
        value = bootstrap(np.median, differences)
        rows.append(Row(f"{speed}: {_ADDED[variant]}", value, "µs/frame"))
        plot[speed][variant] = value.middle
    for variant in ("first", "last"):
        ratio = bootstrap(
            lambda breaker, one: np.median(breaker) / np.median(one),
            added[variant],
            added["filters"],
        )
        what = f"{speed}: {_ADDED[variant]} / {_ADDED['filters']}"
        rows.append(Row(what, ratio, "×", GOAL))


async def cpu_per_frame(
    bots: Mapping[str, Sequence[Bot]], *, talks: bool, rounds: int, frames: int
) -> dict[str, list[float]]:
    """Measure what a frame costs at full speed.

    Args:
        bots: Bots that run, several of a sort: in each round another one of them is measured,
            because where in memory a bot happens to lie makes more of a difference than a breaker.
        talks: Whether they send messages.
        rounds: How often each is measured.
        frames: Frames of sound each time.

    Returns:
        CPU time per frame of sound in µs, for each bot and round.
    """
    samples: dict[str, list[float]] = {name: [] for name in bots}
    for group in bots.values():
        for bot in group:  # warm up
            await bot.take(speech(_BATCH, talks=True))
    for name in interleaved(bots, rounds):
        batches = [speech(_BATCH, talks=talks) for _ in range(frames // _BATCH)]
        bot = bots[name][len(samples[name]) % len(bots[name])]
        gc.collect()
        begin = time.process_time_ns()
        for batch in batches:
            await bot.take(batch)
        samples[name].append((time.process_time_ns() - begin) / 1000 / frames)
    return samples


async def _full_speed(talks: bool, *, rounds: int, frames: int) -> dict[str, list[float]]:
    bots = {variant: [Bot.variant(variant) for _ in range(BOTS)] for variant in VARIANTS}
    async with running_workers(*(bot.worker for group in bots.values() for bot in group)):
        return await cpu_per_frame(bots, talks=talks, rounds=rounds, frames=frames)


async def _paced(
    talks: bool, *, rounds: int, frames: int = FRAMES_PER_SEC
) -> dict[str, list[float]]:
    bots = {variant: [Bot.variant(variant) for _ in range(BOTS)] for variant in VARIANTS}
    samples: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    async with running_workers(*(b.worker for group in bots.values() for b in group)):
        for group in bots.values():
            await asyncio.gather(*(b.take(speech(_BATCH, talks=True)) for b in group))
        for variant in interleaved(VARIANTS, rounds):
            stretches = [_beats(speech(frames, talks=talks)) for _ in range(BOTS)]
            gc.collect()
            begin = time.process_time_ns()
            await asyncio.gather(
                *(
                    _feed(b, stretch, offset=n / BOTS / FRAMES_PER_SEC)
                    for n, (b, stretch) in enumerate(zip(bots[variant], stretches, strict=True))
                )
            )
            samples[variant].append((time.process_time_ns() - begin) / 1000 / (frames * BOTS))
    return samples


def _beats(stretch: list[Frame]) -> list[list[Frame]]:
    """Group frames by the beat on which they are due: a message goes with the sound before it."""
    beats: list[list[Frame]] = []
    for frame in stretch:
        if hasattr(frame, "audio"):
            beats.append([frame])
        else:
            beats[-1].append(frame)
    return beats


async def _feed(bot: Bot, beats: list[list[Frame]], *, offset: float) -> None:
    loop = asyncio.get_running_loop()
    begin = loop.time() + offset
    for n, beat in enumerate(beats):
        await asyncio.sleep(begin + n / FRAMES_PER_SEC - loop.time())
        for frame in beat:
            await bot.worker.queue_frame(frame)
    await bot.output.hears(len(beats))
