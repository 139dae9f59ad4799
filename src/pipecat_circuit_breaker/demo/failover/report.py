#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What came of the calls: a table, a picture of one call, Markdown, JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from pydantic import TypeAdapter
from rich import box
from rich.table import Table
from rich.text import Text

from pipecat_circuit_breaker.demo.failover.call import LATE_SECS, TURN_SECS, Call, Turn, Variant
from pipecat_circuit_breaker.demo.failover.faults import FAULTS

#: What stands in a cell beside the turns that were heard.
BESIDE = "HTTP requests to the first + the second provider, switches, longest wait for a first word"

_CALL = TypeAdapter(Call)


@dataclass(frozen=True)
class Report:
    """All calls that were made.

    Parameters:
        calls: What each variant's call came to, by the name of the fault.
        turns: How many questions were asked in each.
        speed: How many times faster than in a call the time went.
        retries: How often OpenAI's client repeated a failed request by itself.
    """

    calls: Mapping[str, Sequence[Call]]
    turns: int
    speed: float
    retries: int = 0

    @property
    def caption(self) -> str:
        """What the figures are, and what was run."""
        return (
            f"Turns heard of {self.turns}, one every {TURN_SECS:g} s; then {BESIDE}. "
            f"Pipecat {version('pipecat-ai')}, client retries {self.retries}, "
            f"time {self.speed:g} times faster."
        )

    def as_table(self) -> Table:
        """Draw the table, a row per fault."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("fault of the first")
        for variant in Variant:
            table.add_column(variant.value, justify="right")
        for name, calls in self.calls.items():
            cells = (
                Text.assemble(
                    (str(call.heard), _grade(call.heard / self.turns)), f"\n{_took(call)}"
                )
                for call in calls
            )
            table.add_row(FAULTS[name].title, *cells)
        return table

    def as_picture(self, name: str) -> Table:
        """Draw the calls with one fault, a row per turn: it is as high as the call has turns.

        Args:
            name: The fault.
        """
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("turn", justify="right")
        for variant in Variant:
            table.add_column(variant.value, no_wrap=True, min_width=22)
        for number, heard in enumerate(
            zip(*(call.turns for call in self.calls[name]), strict=True)
        ):
            table.add_row(str(number + 1), *(_cell(turn) for turn in heard))
        return table

    def as_markdown(self) -> str:
        """Write the table as Markdown."""
        lines = [
            self.caption,
            "",
            f"| fault of the first | {' | '.join(Variant)} |",
            "| --- | --: | --: | --: |",
        ]
        for name, calls in self.calls.items():
            cells = (f"{call.heard} ({_took(call)})" for call in calls)
            lines.append(f"| {FAULTS[name].title} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Return all of it as a JSON object.

        Returns:
            A dictionary of plain values.
        """
        return {
            "pipecat": version("pipecat-ai"),
            "turns": self.turns,
            "speed": self.speed,
            "retries": self.retries,
            "faults": [
                {
                    "fault": name,
                    "title": FAULTS[name].title,
                    "calls": [
                        {"variant": variant.value, "heard": call.heard, **_plain(call)}
                        for variant, call in zip(Variant, calls, strict=True)
                    ],
                }
                for name, calls in self.calls.items()
            ],
        }

    @property
    def legend(self) -> Iterator[str]:
        """What the words of the picture mean."""
        yield "heard: the whole answer, once; backup: the second provider's; lost: neither."
        yield "Pipecat 1.14 switches only where a service cannot work any more (HTTP 401), 1.7 at any error."
        yield f"late: the first word came more than {LATE_SECS:g} s after the question."


def _plain(call: Call) -> dict[str, Any]:
    values: dict[str, Any] = _CALL.dump_python(call, mode="json")
    return values


def _took(call: Call) -> str:
    first, second = call.requests
    wait = f"{max(call.waits):.1f} s" if call.waits else "-"
    return f"{first} + {second}, {call.switches}, {wait}"


def _grade(share: float) -> str:
    return "bold green" if share > 0.95 else "bold yellow" if share > 0.5 else "bold red"


def _cell(turn: Turn) -> Text:
    if not turn.is_heard:
        return Text("lost", style="red")
    words = ["backup" if turn.answered_by else "heard", *(["late"] if turn.is_late else [])]
    style = "yellow" if turn.is_late else "cyan" if turn.answered_by else "green"
    return Text(f"{', '.join(words):<13}{turn.wait_secs:>5.1f} s", style=style)
