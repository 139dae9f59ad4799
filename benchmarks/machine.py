#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The machine that the figures come from."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """What somebody needs to know to compare figures.

    Parameters:
        cpu: Model of the processor.
        cores: Cores that the system sees.
        system: Operating system.
        python: Version of Python.
        pipecat: Version of pipecat.
        commit: The commit that was measured; empty outside of a repository.
        date: Day of the measurement.
        load: The system's load average when the measurement began: near 0 on a quiet machine.
    """

    cpu: str
    cores: int
    system: str
    python: str
    pipecat: str
    commit: str
    date: str
    load: float

    @classmethod
    def here(cls) -> Machine:
        """This machine, now."""
        return cls(
            cpu=_cpu(),
            cores=os.cpu_count() or 1,
            system=f"{platform.system()} {platform.machine()}",
            python=f"{platform.python_implementation()} {platform.python_version()}",
            pipecat=version("pipecat-ai"),
            commit=_commit(),
            date=time.strftime("%Y-%m-%d"),
            load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0,
        )


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
