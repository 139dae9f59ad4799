#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The command that shows incidents which somebody has kept."""

from pathlib import Path

import click
from rich.console import Console

from pipecat_circuit_breaker.show.page import page
from pipecat_circuit_breaker.show.read import incidents_of
from pipecat_circuit_breaker.show.terminal import tree

_WIDEST = 100


class _Unreadable(click.ClickException):
    """What was named cannot be read or written."""

    exit_code = 2


@click.command()
@click.argument("file")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a page for a browser there, instead of showing it here.",
)
def show(file: str, html: Path | None) -> None:
    """Explain incidents: who failed, why, what came of it and what to do.

    FILE holds what `incident.model_dump_json()` returned: one incident, a list of them, or one on
    each line. Of several copies of one incident the latest is shown. `-` reads from the standard
    input.
    """
    try:
        with click.open_file(file, "rb") as stream:
            incidents = incidents_of(stream.read().decode())
    except OSError as error:
        raise _Unreadable(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        there = error.object[error.start : error.start + 1]
        raise _Unreadable(f"{file}: expected UTF-8, got {there!r} at byte {error.start}") from error
    except ValueError as error:
        raise _Unreadable(f"{file}: {error}") from error
    if html is None:
        # Where the terminal has no sign for a character, another one is better than none at all.
        console = Console(file=click.open_file("-", "w", errors="replace"))
        for incident in incidents:
            console.print(tree(incident), width=min(console.width, _WIDEST))
        return
    try:
        html.write_text(page(incidents), encoding="utf-8")
    except OSError as error:
        raise _Unreadable(f"{html}: {error.strerror}") from error
    click.echo(f"wrote {html.resolve()}")
