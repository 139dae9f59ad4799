#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What came of both runs: a table, Markdown, JSON."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from statistics import mean
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from pipecat_circuit_breaker.demo.fleet.pod import TURN_SECS, has_failover
from pipecat_circuit_breaker.demo.fleet.trial import Trial


@dataclass(frozen=True)
class Report:
    """Both runs.

    Parameters:
        processes: How many instances.
        bots: How many bots in each.
        seconds: For how long the provider was dead.
        server: The server by which they told each other; None where that was in memory.
        trials: What came of each run.
    """

    processes: int
    bots: int
    seconds: float
    server: str | None
    trials: list[Trial] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Who talks, and what happens to them."""
        return (
            f"{self.processes} pods of {self.bots} bots, whose LLM provider is dead for "
            f"{self.seconds:g} s"
        )

    @property
    def where(self) -> str:
        """Where the bots are, and by what they tell each other."""
        if self.server is None:
            return "all pods in one process, the fleet's store in memory"
        return f"each pod is a process; the store is a {self.server} of the demo's own"

    @property
    def caption(self) -> str:
        """What the figures are, and what was run."""
        with_failover = self.processes * sum(map(has_failover, range(self.bots)))
        return (
            f"A bot asks every {TURN_SECS:g} s; {with_failover} of the "
            f"{self.processes * self.bots} have failover. In the outage each caller hangs up once, "
            "and another one calls. A breaker holds errors back, and no requests. "
            f"Pipecat {version('pipecat-ai')}."
        )

    @property
    def rows(self) -> Iterator[tuple[str, list[str]]]:
        """What is compared, and the figure of each run; a headline has none."""
        trials = self.trials
        yield "bots without failover", []
        yield "requests to the dead provider", [f"{t.outage.requests[0]}" for t in trials]
        yield "errors that somebody hears", [f"{t.outage.heard}" for t in trials]
        yield "failures until a circuit opens, on average", [_mean(t.failures()) for t in trials]
        yield "circuits that open at the first failure", [_at_first(t.failures()) for t in trials]
        yield (
            "the same, of calls that begin in the outage",
            [_at_first(t.failures(since=t.died_at)) for t in trials],
        )
        yield "bots with failover", []
        yield "requests to the dead provider", [f"{t.outage.requests[1]}" for t in trials]
        yield "new calls that ask it first", ["{} of {}".format(*t.new_calls) for t in trials]
        yield "questions without an answer", [f"{t.outage.unanswered}" for t in trials]
        yield "all bots", []
        yield "alarms", [f"{t.alarms}" for t in trials]
        yield "probes", [f"{t.probes}" for t in trials]
        yield "from its return until no circuit is open", [_secs(t.return_secs) for t in trials]

    def as_table(self) -> Table:
        """Draw the table."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("in the outage", min_width=44)
        for trial in self.trials:
            table.add_column(trial.name, justify="right", min_width=14)
        for name, figures in self.rows:
            if not figures:
                table.add_row(Text(name, "dim"))
                continue
            colours = ("yellow", "bold green")
            cells = (
                Text(figure, style=colour) for figure, colour in zip(figures, colours, strict=False)
            )
            table.add_row(f"  {name}", *cells)
        return table

    def as_markdown(self) -> str:
        """Write the table as Markdown."""
        names = [trial.name for trial in self.trials]
        lines = [
            f"{self.title}: {self.where}. {self.caption}",
            "",
            f"| in the outage | {' | '.join(names)} |",
            f"| --- |{' --: |' * len(names)}",
        ]
        for name, figures in self.rows:
            cells = figures or [""] * len(names)
            lines.append(f"| {name if figures else f'**{name}**'} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Return all of it as a JSON object.

        Returns:
            A dictionary of plain values.
        """
        return {
            "pipecat": version("pipecat-ai"),
            "processes": self.processes,
            "bots": self.bots,
            "seconds": self.seconds,
            "server": self.server,
            "runs": [
                {
                    "name": trial.name,
                    "is_fleet": trial.is_fleet,
                    "phases": [asdict(phase) for phase in trial.phases],
                    "opened_at_failure": dict(sorted(Counter(trial.failures()).items())),
                    "new_calls_that_asked_first": trial.new_calls[0],
                    "new_calls": trial.new_calls[1],
                    "alarms": trial.alarms,
                    "probes": trial.probes,
                    "return_secs": trial.return_secs,
                }
                for trial in self.trials
            ],
        }


def _at_first(failures: list[int]) -> str:
    return f"{failures.count(1)} of {len(failures)}"


def _mean(failures: list[int]) -> str:
    return f"{mean(failures):.1f}" if failures else "-"


def _secs(secs: float | None) -> str:
    return "not in time" if secs is None else f"{secs:.1f} s"
