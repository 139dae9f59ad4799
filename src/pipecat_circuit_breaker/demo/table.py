#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The one table of what came of the chains: for a terminal, as Markdown, as JSON."""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from pipecat_circuit_breaker import Mode
from pipecat_circuit_breaker.demo.chains import CHAINS, SOUND_CHUNKS, Position
from pipecat_circuit_breaker.demo.contained import END_SECS
from pipecat_circuit_breaker.demo.run import Outcome
from pipecat_circuit_breaker.demo.tally import Figures

#: What is told of each run. README shows the same, in the same order.
COLUMNS = ("chain", "breaker", "sends", "failed", "log lines", "log size", "EndFrame")

#: Columns of a terminal from which on there is room for what each chain is about.
WIDE = 110

_LABELS = {None: "without", Mode.GUARD: "with", Mode.OBSERVE: "observing"}
_COLOURS = {None: "red", Mode.GUARD: "green", Mode.OBSERVE: "yellow"}


@dataclass(frozen=True)
class Comparison:
    """One chain, run twice.

    Parameters:
        chain: Its name.
        without: What came of it without a breaker.
        guarded: What came of it with one.
    """

    chain: str
    without: Outcome
    guarded: Outcome


@dataclass(frozen=True)
class Report:
    """All chains that were run.

    Parameters:
        comparisons: What came of each.
        mode: What the breaker did.
        position: Where it was.
        seconds: How long each chain ran.
    """

    comparisons: Sequence[Comparison]
    mode: Mode
    position: Position
    seconds: float

    @property
    def caption(self) -> str:
        """What was run, and on what."""
        return (
            f"{self.seconds:g} s of each chain on Pipecat {version('pipecat-ai')}, "
            f"Python {platform.python_version()}; breaker {self.position}, mode {self.mode.value}"
        )

    @property
    def notes(self) -> Iterator[str]:
        """What cannot be seen from the table alone."""
        shown = {comparison.chain: comparison for comparison in self.comparisons}
        yield "sends: tries to send the client a message; failed: those that failed."
        if "spoken-apology" in shown:
            yield "spoken-apology: failed are the texts that were to be spoken."
        if "two-dead-outputs" in shown:
            yield "two-dead-outputs: both outputs together."
        if "stt-flood" in shown:
            yield "stt-flood: failed are the chunks; a send tells the client of one."
        if "queued-message" in shown:
            without, guarded = shown["queued-message"].without, shown["queued-message"].guarded
            yield (
                f"queued-message: of {SOUND_CHUNKS} chunks of sound after the message, "
                f"{without.figures.audio_chunks_after} are played {label(None)} a breaker, "
                f"{guarded.figures.audio_chunks_after} {label(self.mode)}."
            )
        reasons = {
            outcome.killed
            for comparison in self.comparisons
            for outcome in (comparison.without, comparison.guarded)
            if outcome.killed
        }
        if reasons:
            yield f"† killed, with the figures from before: {', '.join(sorted(reasons))}."

    def as_json(self) -> dict[str, Any]:
        """Return all of it as a JSON object.

        Returns:
            A dictionary of plain values.
        """
        return {
            "pipecat": version("pipecat-ai"),
            "python": platform.python_version(),
            "position": self.position,
            "mode": self.mode.value,
            "seconds": self.seconds,
            "chains": [
                {
                    "chain": comparison.chain,
                    "title": CHAINS[comparison.chain].title,
                    "without": comparison.without.as_json(),
                    "with": comparison.guarded.as_json(),
                }
                for comparison in self.comparisons
            ],
        }

    def as_markdown(self) -> str:
        """Return the table as Markdown, with a caption before it and notes after it.

        Returns:
            Lines that end in a line feed.
        """
        lines = [f"{self.caption}:", "", _markdown_row(COLUMNS)]
        lines.append(_markdown_row(["---", "---", *("--:" for _ in COLUMNS[2:])]))
        for comparison in self.comparisons:
            name, title = f"`{comparison.chain}`", CHAINS[comparison.chain].title
            lines.append(_markdown_row([name, *_cells(None, comparison.without)]))
            breaker, sends, failed, logged, *rest = _cells(self.mode, comparison.guarded)
            bold = (f"**{cell}**" for cell in (breaker, sends, failed, logged))
            lines.append(_markdown_row([title, *bold, *rest]))
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes), ""])

    def as_table(self, width: int) -> Table:
        """Return the table for a terminal.

        Args:
            width: Columns of the terminal. It takes 80 of them, and more from :data:`WIDE` on.

        Returns:
            What a rich console can print.
        """
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
        for column in COLUMNS[:2]:
            table.add_column(column, no_wrap=True)
        for column in COLUMNS[2:]:
            table.add_column(column, justify="right", no_wrap=True)
        for comparison in self.comparisons:
            title = CHAINS[comparison.chain].title if width >= WIDE else ""
            table.add_row(
                Text(comparison.chain, style="bold default"),
                *_cells(None, comparison.without),
                style=colour(None),
            )
            table.add_row(
                Text(title, style="dim default"),
                *_cells(self.mode, comparison.guarded),
                style=colour(self.mode),
            )
        return table


def label(mode: Mode | None) -> str:
    """What a run is called.

    Args:
        mode: What the breaker did; None for no breaker.
    """
    return _LABELS[mode]


def colour(mode: Mode | None) -> str:
    """The colour of a run.

    Args:
        mode: What the breaker did; None for no breaker.
    """
    return _COLOURS[mode]


def counts(figures: Figures) -> str:
    """Say in short what has happened so far.

    Args:
        figures: The counts.
    """
    parts = {
        "sends": figures.sends,
        "failed": figures.failures,
        "log lines": figures.log_lines,
    }
    return "  ".join(f"{count:>7,} {name}" for name, count in parts.items())


def _cells(mode: Mode | None, outcome: Outcome) -> tuple[str, ...]:
    """What the columns after the first say of a run."""
    figures, end_ms = outcome.figures, outcome.end_frame_ms
    end = f"> {END_SECS:g} s" if end_ms is None else f"{end_ms:.0f} ms"
    return (
        label(mode),
        f"{figures.sends:,}",
        f"{figures.failures:,}",
        f"{figures.log_lines:,}",
        _size(figures.log_bytes),
        f"{end} †" if outcome.killed else end,
    )


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _size(count: int) -> str:
    """Write a number of bytes as people do."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
