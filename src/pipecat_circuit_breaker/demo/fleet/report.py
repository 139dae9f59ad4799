#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What came of both runs: a table, Markdown, JSON."""

from collections import Counter
from collections.abc import Callable, Iterator
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
class Row:
    """What is compared.

    Parameters:
        name: What it is called.
        figures: That of each run; a headline has none.
        is_same: Whether a fleet is not to change it.
    """

    name: str
    figures: list[str] = field(default_factory=list)
    is_same: bool = False

    @property
    def is_headline(self) -> bool:
        """Whether it only says whose the next ones are."""
        return not self.figures


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
    def rows(self) -> Iterator[Row]:
        """What is compared."""

        def row(name: str, figure: Callable[[Trial], object], *, same: bool = False) -> Row:
            return Row(name, [str(figure(trial)) for trial in self.trials], same)

        yield Row("bots without failover")
        yield row("requests to the dead provider", lambda t: t.outage.requests[0], same=True)
        yield row("errors that somebody hears", lambda t: t.outage.heard)
        yield row("failures until a circuit opens, on average", lambda t: _mean(t.failures()))
        yield row("circuits that open at the first failure", lambda t: _at_first(t.failures()))
        yield row(
            "the same, of calls begun in the outage",
            lambda t: _at_first(t.failures(since=t.died_at)),
        )
        yield Row("bots with failover")
        yield row("requests to the dead provider", lambda t: t.outage.requests[1])
        yield row("new calls that ask it first", lambda t: "{} of {}".format(*t.new_calls))
        yield row("questions without an answer", lambda t: t.outage.unanswered, same=True)
        yield Row("all bots")
        yield row("alarms", lambda t: t.alarms)
        yield row("probes", lambda t: t.probes)
        yield row("from its return until no circuit is open", lambda t: _secs(t.return_secs))

    def as_table(self) -> Table:
        """Draw the table."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("in the outage", min_width=44)
        for trial in self.trials:
            table.add_column(trial.name, justify="right", min_width=14)
        for row in self.rows:
            if row.is_headline:
                table.add_row(Text(row.name, "dim"))
                continue
            colours = ("", "") if row.is_same else ("yellow", "bold green")
            cells = (Text(*cell) for cell in zip(row.figures, colours, strict=False))
            table.add_row(f"  {row.name}", *cells)
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
        for row in self.rows:
            name = f"**{row.name}**" if row.is_headline else row.name
            lines.append(f"| {name} | {' | '.join(row.figures or [''] * len(names))} |")
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
                    "return_secs": None
                    if trial.return_secs is None
                    else round(trial.return_secs, 3),
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
