#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What a caller hears of 50 turns when the first of two LLM providers fails.

`python -m benchmarks.failover`. pipecat's own `OpenAILLMService` asks two real
HTTP servers on this machine, of which the first fails on command. A caller asks
a question every four seconds, or when the answer to the last one has ended, and
a turn counts as heard if the whole answer, and nothing else, left the switcher
between one start and one end.

Time is compressed: whatever takes seconds in the call (a turn, the caller's
patience, the client's timeout and its pauses between retries, the provider's
outage, time limits and cooldowns) takes `1 / --speed` of that here. What the
machine itself needs is not compressed, so it weighs more than in a real call.

What is measured is that of `pipecat-circuit-breaker demo --failover`; here all
faults are, and the client may retry.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from typing import Any

import openai._base_client
from loguru import logger
from rich.console import Console

from pipecat_circuit_breaker.demo.failover.faults import FAULTS
from pipecat_circuit_breaker.demo.failover.report import Report
from pipecat_circuit_breaker.demo.failover.run import compare


def told(report: Report) -> list[str]:
    """How long one waits with our failover, and what the application is told, a line per fault."""
    lines = []
    for name, calls in report.calls.items():
        ours = calls[-1]
        median = f"{statistics.median(ours.waits):.1f} s" if ours.waits else "-"
        events = ", ".join(f"{what} {n}" for what, n in sorted(ours.told.items()))
        lines.append(f"{FAULTS[name].title}: median wait {median}; told: {events or 'nothing'}")
    return lines


def main() -> int:
    """Run it, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=__doc__)
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--speed", type=float, default=10.0, help="how much time is compressed")
    parser.add_argument("--retries", type=int, default=0, help="of OpenAI's client; its own is 2")
    parser.add_argument("--only", default="", help="a part of a fault's name or title")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args()
    names = [n for n, fault in FAULTS.items() if options.only in n or options.only in fault.title]
    if not names:
        parser.error(f"--only {options.only}: no such fault; there are {', '.join(FAULTS)}")
    logger.remove()
    # The client's pauses between retries are seconds of the call too.
    client: Any = openai._base_client
    client.INITIAL_RETRY_DELAY /= options.speed
    client.MAX_RETRY_DELAY /= options.speed
    progress = Console(stderr=True)
    report = asyncio.run(
        compare(progress, names, turns=options.turns, speed=options.speed, retries=options.retries)
    )
    if options.markdown:
        print(report.as_markdown(), end="")
    else:
        console = Console(width=150)
        console.print(report.as_table())
        console.print(report.caption)
    print("", *told(report), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
