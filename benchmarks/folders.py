#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Where pages and figures are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Characters up to which a part of the figures stands on one line.
_WIDTH = 280


@dataclass(frozen=True)
class Folders:
    """Where a measurement leaves what came of it.

    Parameters:
        pages: Folder of the page; its plots go to ``images`` in it.
        results: Folder of the figures.
        address: Where the page links to for the figures, up to a file's name.
    """

    pages: Path
    results: Path
    address: str = ""

    @classmethod
    def both(cls, folder: Path) -> Folders:
        """One folder for all."""
        return cls(folder, folder)

    def keep(self, name: str, figures: dict[str, Any]) -> str:
        """Write figures as JSON.

        Args:
            name: The file's name.
            figures: What was measured.

        Returns:
            The file's address, for a link in the page.
        """
        self.results.mkdir(parents=True, exist_ok=True)
        path = self.results / name
        path.write_text("\n".join(_lines(figures)) + "\n", encoding="utf-8")
        return self.address + name


#: Those of a complete measurement.
HERE = Folders(
    pages=Path(__file__).parents[1] / "docs" / "figures",
    results=Path(__file__).parent / "results",
    # The figures are no page of the docs.
    address="https://github.com/pipecat-circuit-breaker/pipecat-circuit-breaker/blob/main/benchmarks/results/",
)


def _lines(value: Any, indent: str = "") -> Iterator[str]:
    """JSON, with each series and each row on a line of its own."""
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        parts = [(f"{json.dumps(key)}: ", part) for key, part in value.items()]
    elif isinstance(value, list | tuple):
        parts = [("", part) for part in value]
    else:
        parts = []
    is_flat = not any(isinstance(part, dict | list | tuple) for _, part in parts)
    if is_flat or len(indent + text) <= _WIDTH:
        yield text
        return
    yield text[0]
    for key, part in parts[:-1]:
        yield from _part(key, part, indent, ",")
    yield from _part(*parts[-1], indent, "")
    yield indent + text[-1]


def _part(key: str, part: Any, indent: str, comma: str) -> Iterator[str]:
    first, *more = _lines(part, indent + " ")
    *lines, last = (f"{indent} {key}{first}", *more)
    yield from lines
    yield last + comma
