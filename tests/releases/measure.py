"""Three seconds of each outage on the pipecat that is installed, without and with a breaker.

`python -m tests.releases.measure > 1.7.0.json` once per release, and then
`python -m tests.releases.measure *.json` for the tables of docs/contributing/releases.md.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from pipecat_circuit_breaker import CircuitBreakerProcessor
from tests.releases.room import RELEASE, Outage
from tests.releases.storms import SCENARIOS, Scenario

SECS = 3.0


def outcome(scenario: Scenario, *before: Any) -> dict[str, int]:
    with pytest.MonkeyPatch.context() as patch:
        outage = Outage(limit=10**9, secs=SECS)
        return vars(asyncio.run(scenario(patch, outage, *before)))


def measure() -> dict[str, Any]:
    logger.remove()
    return {
        "release": RELEASE,
        "outages": {
            name: {
                "without": outcome(scenario),
                "with": outcome(scenario, CircuitBreakerProcessor()),
            }
            for name, scenario in SCENARIOS.items()
        },
    }


def table(measured: list[dict[str, Any]], figure: str) -> str:
    """One line per outage, one column per release: without → with."""
    measured = sorted(measured, key=lambda one: one["release"])
    releases = [".".join(map(str, one["release"])) for one in measured]
    lines = ["| outage | " + " | ".join(releases) + " |", "| --- |" + " --: |" * len(releases)]
    for name in SCENARIOS:
        seen = [one["outages"][name] for one in measured]
        cells = [f"{s['without'][figure]:,} → {s['with'][figure]:,}" for s in seen]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    if not sys.argv[1:]:
        print(json.dumps(measure()))
        return
    measured = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    for figure in ("failed_sends", "log_lines", "kept"):
        print(f"{figure}\n\n{table(measured, figure)}\n")


if __name__ == "__main__":
    main()
