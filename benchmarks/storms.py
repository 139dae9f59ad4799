#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Storms: each known chain, without and with the breaker, in a process of its own."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from benchmarks.result import Effort, Row, Section, Value
from pipecat_circuit_breaker import CircuitBreakerParams, Mode
from pipecat_circuit_breaker.demo.chains import CHAINS
from pipecat_circuit_breaker.demo.contained import run_contained
from pipecat_circuit_breaker.demo.run import Outcome

_MAX_ERRORS = CircuitBreakerParams().max_errors
_FEW = ("send-raises", "two-dead-outputs")

#: Failures that a chain may come to with a breaker, where it is not `max_errors`.
_BOUNDS = {
    # Nothing reports an error: it takes some turns to know it for a loop.
    "system-logs-silent": 4 * _MAX_ERRORS,
    # The application answers the one error that says "circuit open", too.
    "spoken-apology": _MAX_ERRORS + 1,
    # The message behind the sound comes when the channel has cooled down: it is the probe.
    "queued-message": _MAX_ERRORS + 1,
}
_END_FRAME_MS = 100.0

METHOD = """\
The chains of `pipecat-circuit-breaker demo`, breaker first, each twice in a child process with limits
on its time and memory: real pipelines, in which one event sets off an endless chain. Counted until
the pipeline is ended after {seconds} s: messages that the outputs were asked to send, the size of the
log, CPU seconds of the process, the time that the `EndFrame` takes, the most memory."""


async def measure(effort: Effort) -> Section:
    """Run every chain, without and with the breaker."""
    seconds = float(effort.of(3, 1))
    results: dict[str, dict[str, Outcome]] = {}
    for name in _FEW if effort.quick else CHAINS:
        results[name] = {
            key: await asyncio.to_thread(run_contained, name, mode=mode, duration=seconds)
            for key, mode in (("without", None), ("with", Mode.GUARD))
        }
    rows = [_row(name, pair["without"], pair["with"]) for name, pair in results.items()]
    guarded = [pair["with"] for pair in results.values()]
    ends = [outcome.end_frame_ms for outcome in guarded]
    worst = None if None in ends else Value(max(end for end in ends if end is not None))
    rows.append(Row("EndFrame with the breaker, slowest chain", worst, "ms", _END_FRAME_MS))
    for key in ("without", "with"):
        busiest = max(pair[key].figures.cpu_secs for pair in results.values())
        rows.append(Row(f"CPU in {seconds:g} s, busiest chain, {key}", Value(busiest), "s"))
        largest = max(pair[key].peak_rss_mib for pair in results.values())
        rows.append(Row(f"peak memory, largest chain, {key}", Value(largest), "MiB"))
    plot = {
        name: {
            key: asdict(outcome) | {"incidents": [], "totals": []} for key, outcome in pair.items()
        }
        for name, pair in results.items()
    }
    return Section("storms", "Storms", METHOD.format(seconds=f"{seconds:g}"), rows, plot)


def _row(name: str, without: Outcome, guarded: Outcome) -> Row:
    return Row(
        f"{name}: failures with the breaker",
        Value(_failures(guarded)),
        "",
        _BOUNDS.get(name, _MAX_ERRORS),
        f"without: {_failures(without):,}",
    )


def _failures(outcome: Outcome) -> int:
    """Failed sends of the worst channel, or failed syntheses; where nothing fails, sends."""
    figures = outcome.figures
    failed = max(figures.failed_by_channel.values(), default=0)
    return max(failed, figures.synthesis) or figures.sends
