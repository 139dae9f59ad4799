#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The command line's entry point.

It works where no extra is installed. And it is no part of the package: importing that imports
Pipecat, which takes a second and logs a banner, for `--help` too.
"""

import argparse
import importlib
import sys
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

_NAME = "pipecat-circuit-breaker"

#: Found without an import.
_PACKAGE = Path(__file__).with_name("pipecat_circuit_breaker")


@dataclass(frozen=True)
class _Command:
    """A command, and what is needed to run it.

    Parameters:
        help: What it does, in one line.
        extra: The extra that it comes with.
        needs: What that installs, by the names to import.
        room: The package that holds its ``app``, where that has another name.
    """

    help: str
    extra: str
    needs: tuple[str, ...]
    room: str | None = None


_COMMANDS = {
    "demo": _Command(
        "run error chains that really happen, without and with the breaker; or failing providers",
        "demo",
        ("click", "jinja2", "rich", "websockets"),
    ),
    "fleet": _Command(
        "watch a fleet of bots: what fails for all of them; open, close and mode by hand",
        "cli,fleet",
        ("click", "redis", "rich"),
        room="fleet_console",
    ),
    "show": _Command(
        "explain incidents that somebody has kept: who failed, why, what to do",
        "cli",
        ("click", "jinja2", "rich"),
    ),
}

#: Files that come with the package: what each is, and where.
_FILES = {
    "alerts": ("print alert rules for Prometheus", "instrumentation/alerts.yml"),
    "dashboard": ("print a Grafana dashboard", "instrumentation/dashboard.json"),
}


def main() -> None:
    """Run a command, or say what it needs and how to install that."""
    parser = argparse.ArgumentParser(
        _NAME, description="A circuit breaker for Pipecat.", epilog=f"More: {_NAME} COMMAND --help"
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version(_NAME)}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="name", required=True
    )
    for name, command in _COMMANDS.items():
        commands.add_parser(name, help=command.help)
    for name, (what, _) in _FILES.items():
        commands.add_parser(name, help=what, description=f"{what.capitalize()}.")
    given = sys.argv[1:]
    if given and given[0] in _COMMANDS:
        given = given[:1]  # what follows is for the command
    name = parser.parse_args(given).name
    if name in _FILES:
        sys.stdout.write((_PACKAGE / _FILES[name][1]).read_text(encoding="utf-8"))
        return
    command = _COMMANDS[name]
    if missing := [need for need in command.needs if find_spec(need) is None]:
        parser.exit(
            2,
            f"{_NAME} {name} needs {', '.join(missing)}: not installed, as a bot runs without them."
            f" To install them:\n\n  pip install '{_NAME}[{command.extra}]'\n",
        )
    from loguru import logger

    # Before Pipecat is imported, which logs its banner then.
    logger.remove()
    room = command.room or name
    run = getattr(importlib.import_module(f"pipecat_circuit_breaker.{room}.app"), name)
    run.main(sys.argv[2:], prog_name=f"{_NAME} {name}")


if __name__ == "__main__":
    main()
