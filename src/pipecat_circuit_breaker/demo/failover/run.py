#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Makes the calls, and says meanwhile how far they are."""

import asyncio
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from pipecat_circuit_breaker.demo.failover.call import TURN_SECS, Call, Variant, play
from pipecat_circuit_breaker.demo.failover.faults import FAULTS
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
    title = FAULTS[name].title
    console.print(
        Text.assemble((title, "bold"), f"  {turns} turns, at least {_secs(turns, speed)}")
    )
    now: dict[Variant, Call] = {}
    with console.status("starting three calls") as status:

        async def one(variant: Variant) -> Call:
            def follow(call: Call) -> None:
                now[variant] = call
                slowest = min(len(call.turns) for call in now.values())
                heard = ", ".join(f"{which} {made.heard}" for which, made in now.items())
                left = _secs(turns - slowest, speed)
                status.update(f"turn {slowest} of {turns}; heard: {heard}; {left} to wait")

            return await play(
                FAULTS[name],
                variant,
                turns=turns,
                speed=speed,
                retries=retries,
                on_turn=follow,
            )

        return await asyncio.gather(*(one(variant) for variant in Variant))


def _secs(turns: int, speed: float) -> str:
    return f"{turns * TURN_SECS / speed:.0f} s"


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
