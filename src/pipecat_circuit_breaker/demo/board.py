#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What is shown while the chains run: how far it all is, and what is awaited now."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.spinner import Spinner
from rich.text import Text

from pipecat_circuit_breaker import Mode
from pipecat_circuit_breaker.demo.contained import END_SECS, GRACE_SECS, Follow, Stage
from pipecat_circuit_breaker.demo.table import colour, counts, label
from pipecat_circuit_breaker.demo.tally import Figures

AWAITED = {
    Stage.STARTING: "starting its process, which imports Pipecat",
    Stage.RUNNING: "running for {seconds:g} s",
    Stage.ENDING: f"time is up, waiting up to {END_SECS:g} s for the EndFrame to get through",
    Stage.OVERDUE: f"it starves its event loop and is killed within {GRACE_SECS:g} s",
}


class Board:
    """Shows how the chains get on. On what is no terminal it draws nothing.

    Args:
        console: Where.
        runs: How many there will be.
        seconds: How long each chain runs.
    """

    def __init__(self, console: Console, *, runs: int, seconds: float) -> None:
        """Start with nothing done."""
        self._seconds = seconds
        self._progress = Progress(
            TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._all = self._progress.add_task("runs", total=runs)
        self._now = Spinner("dots")
        self._live = Live(self, console=console, transient=True)

    def __rich__(self) -> Group:
        """What it looks like now."""
        return Group(self._progress, self._now)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Be on the screen for as long as the context lasts."""
        with self._live:
            yield

    @contextmanager
    def run(self, name: str, mode: Mode | None) -> Iterator[Follow]:
        """Follow one run.

        Args:
            name: Name of the chain.
            mode: What the breaker does; None for no breaker.

        Yields:
            What to call with its progress.
        """

        def follow(stage: Stage, figures: Figures) -> None:
            awaited = AWAITED[stage].format(seconds=self._seconds)
            run = Text.assemble((name, "bold"), " ", (label(mode), colour(mode)))
            self._now.update(text=Text("\n").join([run, Text(counts(figures)), Text(awaited)]))

        follow(Stage.STARTING, Figures())
        yield follow
        self._progress.advance(self._all)
