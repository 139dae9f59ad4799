#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The command: measures, prints the table, and writes the page."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from loguru import logger
from rich.console import Console

from benchmarks import decision, fleet, floor, growth, healthy, storms
from benchmarks.folders import HERE, Folders
from benchmarks.machine import Machine
from benchmarks.report import show, write
from benchmarks.result import Effort, Section

SECTIONS: dict[str, Callable[[Effort], Awaitable[Section]]] = {
    "healthy": healthy.measure,
    "floor": floor.measure,
    "decision": decision.measure,
    "growth": growth.measure,
    "storms": storms.measure,
    "fleet": fleet.measure,
}


def _names(value: str) -> list[str]:
    names = value.split(",")
    for name in names:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(SECTIONS)}")
    return names


def _folders(options: argparse.Namespace, *, complete: bool) -> Folders | None:
    if options.out is not None:
        return Folders.both(options.out)
    return HERE if complete and not options.quick else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks.

    Args:
        arguments: The command line.

    Returns:
        The exit code: 0 if every goal is met, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "apart",
        nargs="?",
        choices=["fleet-load"],
        help="measure this, which has a page of its own: it takes five minutes and a redis-server",
    )
    parser.add_argument("--quick", action="store_true", help="about a minute; not to be quoted")
    parser.add_argument(
        "--only",
        type=_names,
        default=[*SECTIONS],
        metavar="NAME,...",
        help=f"sections to measure, of {', '.join(SECTIONS)}",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write the page and the figures; the default is docs/figures/ and benchmarks/results/, "
        "for a complete run only",
    )
    options = parser.parse_args(arguments)
    # A log of what storms would be a storm on the terminal.
    logger.remove()
    console, effort = Console(), Effort(quick=options.quick)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    if options.apart:
        # It needs redis-py, and nothing else does.
        from benchmarks.fleet_load.run import measure

        return measure(console, quick=effort.quick, folders=_folders(options, complete=True))
    machine, sections = Machine.here(), []
    for name in options.only:
        progress = Console(stderr=True)
        with progress.status(f"measuring {name}"):
            begin = time.monotonic()
            section = asyncio.run(SECTIONS[name](effort))
            sections.append(replace(section, secs=time.monotonic() - begin))
        show(console, machine, sections[-1:])
    if len(sections) > 1:
        show(console, machine, sections)
    complete = len(sections) == len(SECTIONS)
    folders = _folders(options, complete=complete)
    if folders is not None:
        console.print(f"written to {write(folders, machine, sections)}")
    return int(any(row.is_met is False for section in sections for row in section.rows))


if __name__ == "__main__":
    sys.exit(main())
