#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Take each rule of the core out, one by one: the core's tests have to fail.

The rules, and the code that carries each, are in ``core_rules.toml``. Each is taken out of a copy
of the package, so the checkout stays as it is.

    python -m checks core-rules [WORDS]

takes out those whose text contains WORDS, all of them without. It ends with 1 where a rule can go
without a test that fails.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = "pipecat_circuit_breaker"
CORE = ROOT / "src" / PACKAGE / "_core"

#: But for the one that is about the checkout, and not about its copy.
TESTS = sorted({*(ROOT / "tests" / "core").glob("test_*.py")} - {ROOT / "tests/core/test_rules.py"})

#: A test that hangs without a rule has noticed it too.
LIMIT_SECS = 180

#: Two at a time: CI has two cores.
AT_A_TIME = 2


@dataclass(frozen=True)
class Rule:
    """One rule of the core.

    Parameters:
        says: The rule.
        file: Where it is, under ``_core``.
        code: What carries it; stands there once.
        without: What stands there instead when it is taken out.
    """

    says: str
    file: str
    code: str
    without: str


def rules() -> list[Rule]:
    """Every rule that is written down."""
    written = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
    return [Rule(**rule) for rule in written["rule"]]


def failing_test(rule: Rule | None) -> str | None:
    """The first test of the core that fails without a rule; None where none does.

    Args:
        rule: The rule; None takes nothing out.
    """
    with tempfile.TemporaryDirectory() as folder:
        src = Path(folder, "src")
        shutil.copytree(
            ROOT / "src" / PACKAGE, src / PACKAGE, ignore=shutil.ignore_patterns("__pycache__")
        )
        if rule is None:
            return _failing(TESTS, folder)
        file = src / PACKAGE / "_core" / rule.file
        file.write_text(file.read_text("utf-8").replace(rule.code, rule.without), "utf-8")
        # As a rule one of its own tests fails, and that is known sooner.
        own = [path for path in TESTS if path.stem.startswith(f"test_{file.stem}")]
        others = [path for path in TESTS if path not in own]
        return (own and _failing(own, folder)) or _failing(others, folder)


def _failing(tests: list[Path], folder: str) -> str | None:
    try:
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-x",
                "-q",
                "-p",
                "no:cacheprovider",
                *map(str, tests),
            ],
            cwd=ROOT,
            env=os.environ
            | {
                "PYTHONPATH": str(Path(folder, "src")),
                "PYTHONDONTWRITEBYTECODE": "1",
                "HYPOTHESIS_STORAGE_DIRECTORY": folder,
            },
            capture_output=True,
            text=True,
            timeout=LIMIT_SECS,
        )
    except subprocess.TimeoutExpired:
        return f"a test, which takes more than {LIMIT_SECS} s"
    if run.returncode == 0:
        return None
    failed = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0] if failed else run.stdout[-2_000:] + run.stderr[-2_000:]


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the rules out, and print for each what fails without it."""
    parser = argparse.ArgumentParser(prog="python -m checks core-rules", description=__doc__)
    parser.add_argument("words", nargs="*", help="take out those whose text contains them")
    words = " ".join(parser.parse_args(arguments).words)
    chosen = [rule for rule in rules() if words in rule.says]
    began = time.monotonic()
    if (failed := failing_test(None)) is not None:
        print(f"With every rule in its place a test fails:\n{failed}")
        return 1
    unguarded = 0
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for rule, failed in zip(chosen, pool.map(failing_test, chosen), strict=True):
            unguarded += failed is None
            print(f"{'NO TEST FAILS' if failed is None else 'fails'}: {rule.says}", flush=True)
            if failed is not None:
                print(f"       {failed}", flush=True)
    secs = time.monotonic() - began
    print(f"{len(chosen) - unguarded} of {len(chosen)} rules are guarded; {secs:.0f} s")
    return 1 if unguarded or not chosen else 0
