#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Makes the calls, and says meanwhile how far they are."""

import asyncio
import math
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from pipecat_circuit_breaker.demo.failover.call import TURN_SECS, Call, Variant, play
from pipecat_circuit_breaker.demo.failover.faults import FAULTS, Fault
from pipecat_circuit_breaker.demo.failover.report import Report


async def compare(
    console: Console, names: Sequence[str], *, turns: int, speed: float, retries: int = 0
) -> Report:
    """Make every call: those of one fault at once, the faults one after another.

    Args:
        console: Where to say what is awaited.
        names: The faults.
        turns: How many questions are asked in each call.
        speed: How many times faster than in a call the time goes.
        retries: How often OpenAI's client repeats a failed request by itself.

    Returns:
        What came of it.
    """
    return Report(
        {name: await _compare(console, name, turns, speed, retries) for name in names},
        turns,
        speed,
        retries,
    )


async def _compare(
    console: Console, name: str, turns: int, speed: float, retries: int
) -> Sequence[Call]:
    fault = FAULTS[name]
    about = f"  {turns} turns, about {_secs(fault, turns, speed)}"
    console.print(Text.assemble((fault.title, "bold"), about))
    now: dict[Variant, Call] = {}
    with console.status("starting three calls") as status:

        async def one(variant: Variant) -> Call:
            def follow(call: Call) -> None:
                now[variant] = call
                slowest = min(len(call.turns) for call in now.values())
                heard = ", ".join(f"{which} {made.heard}" for which, made in now.items())
                left = _secs(fault, turns - slowest, speed)
                status.update(f"turn {slowest} of {turns}, {left} to wait. Heard: {heard}")

            return await play(
                fault,
                variant,
                turns=turns,
                speed=speed,
                retries=retries,
                on_turn=follow,
            )

        return await asyncio.gather(*(one(variant) for variant in Variant))


def _secs(fault: Fault, turns: int, speed: float) -> str:
    """How long so many turns take whoever nobody helps."""
    silence = min(fault.client_timeout_secs, fault.patience_secs or math.inf) if fault.hangs else 0
    return f"{turns * max(TURN_SECS, silence) / speed:.0f} s"


def show_report(console: Console, report: Report) -> None:
    """Show the call with the last fault, and then the table.

    Args:
        console: Where.
        report: What came of the calls.
    """
    name = list(report.calls)[-1]
    console.rule(f"what the caller hears, turn by turn: {FAULTS[name].title}", style="dim")
    console.print(report.as_picture(name))
    for line in report.legend:
        console.print(Text(line, style="dim"))
    console.rule(style="dim")
    console.print(report.as_table())
    console.print(Text(report.caption, style="dim"))
