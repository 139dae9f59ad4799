#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Pipecat's own tests with a breaker in every pipeline: none may change its result.

Runs a folder of tests three times with the Python that runs this: as they are, with a breaker
inserted first into the pipeline of every worker, and with it inserted last. Each test whose result
differs from that of the first run is run alone three times more, without and with: if it then has
one result in common it is only unsteady. Prints what differs, and every failure inside a breaker,
which lets frames pass and so fails no test. Exits 1 if there is any of either.

The tests are not part of Pipecat's packages: take the folder ``tests`` from its repository, at the
commit of the installed release.

Usage: ``python -m checks pipecat-suite TESTS [--only first|last] [PYTEST ARGUMENTS]``
(``--noconftest`` where the tests are of another release). Needs pytest-asyncio, pytest-aiohttp,
pytest-timeout and python-dotenv.
"""

import argparse
import functools
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

POSITIONS = ("first", "last")
TEST_SECS = 60
RUN_SECS = 3600
REPEATS = 3

_POSITION = "PIPECAT_SUITE_POSITION"
_REPORT = "PIPECAT_SUITE_REPORT"

Results = dict[str, Any]


class Suite:
    """The pytest plugin: inserts breakers, and writes down what came of each test.

    Args:
        position: Where in each pipeline; None for no breaker.
        report: The file to write to.
    """

    def __init__(self, position: str | None, report: Path):
        """Start with no results."""
        self._position = position
        self._report = report
        self._outcomes: dict[str, str] = {}
        self._why: dict[str, str] = {}
        self._lines: list[str] = []
        self._sink: int | None = None
        self._inserted = 0
        self._running = ""
        if position is not None:
            self._insert_into_every_worker()

    def _insert_into_every_worker(self) -> None:
        from pipecat.pipeline.pipeline import Pipeline

        from pipecat_circuit_breaker import CircuitBreakerProcessor

        try:
            from pipecat.pipeline.worker import PipelineWorker as Worker
        except ImportError:
            from pipecat.pipeline.task import PipelineTask as Worker  # before 1.3.0
        init = Worker.__init__

        @functools.wraps(init)
        def with_breaker(worker: Any, pipeline: Any, *args: Any, **kwargs: Any) -> None:
            if isinstance(pipeline, Pipeline):
                self._inserted += 1
                self._listen()
                # In place: a test may look at the pipeline that it made.
                insert(pipeline, CircuitBreakerProcessor(), self._position)
            init(worker, pipeline, *args, **kwargs)

        with_breaker.__signature__ = inspect.signature(init)  # type: ignore[attr-defined]
        Worker.__init__ = with_breaker

    def _listen(self) -> None:
        if self._sink is None:
            self._sink = logger.add(self._hear, level="WARNING", format="{message}\n{exception}")

    def _hear(self, line: str) -> None:
        if line.startswith(("circuit breaker", "circuit open:")):
            self._lines.append(f"{self._running}: {line.strip()}")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note which test runs, for what its breakers have to say."""
        self._running = nodeid

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the worst outcome of a test's setup, call and teardown."""
        worst = ("failed", "skipped", "passed")
        known = self._outcomes.get(report.nodeid, "passed")
        self._outcomes[report.nodeid] = min(known, report.outcome, key=worst.index)
        if report.failed:
            self._why[report.nodeid] = report.longreprtext.strip().splitlines()[-1][:200]

    def pytest_runtest_logfinish(self) -> None:
        """Let go of the log: a test may have taken every sink away."""
        if self._sink is not None:
            try:
                logger.remove(self._sink)
            except ValueError:
                pass
            self._sink = None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what cannot be collected, a package that is missing as a rule."""
        if report.failed:
            self._outcomes[report.nodeid] = "not collected"
            self._why[report.nodeid] = report.longreprtext.strip().splitlines()[-1][:200]

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write it all down."""
        results = {
            "status": int(exitstatus),
            "outcomes": self._outcomes,
            "why": self._why,
            "lines": self._lines,
            "inserted": self._inserted,
        }
        self._report.write_text(json.dumps(results))


def insert(pipeline: Any, breaker: Any, position: str | None) -> None:
    """Insert a processor first or last into a pipeline that does not run yet."""
    processors = pipeline.processors  # with the pipeline's own source and sink
    at = 1 if position == "first" else len(processors) - 1
    before, after = processors[at - 1], processors[at]
    processors.insert(at, breaker)
    before.link(breaker)
    breaker.link(after)


def pytest_configure(config: pytest.Config) -> None:
    """Take part in a run that `main` has started."""
    if _REPORT in os.environ:
        position = os.environ.get(_POSITION)
        config.pluginmanager.register(Suite(position, Path(os.environ[_REPORT])))


def run(tests: Path, position: str | None, arguments: list[str]) -> Results:
    """Run tests once, in a process of their own.

    Args:
        tests: The folder of tests, in the root of a repository.
        position: Where to insert a breaker; None for nowhere.
        arguments: For pytest: which tests to run.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        root = Path(__file__).resolve().parents[1]
        path = [str(root), str(root / "src"), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {_REPORT: str(report), "PYTHONPATH": os.pathsep.join(path)}
        if position is not None:
            environment[_POSITION] = position
        command = [sys.executable, "-m", "pytest", "-q", "-p", __name__]
        command += ["-p", "no:cacheprovider", "-o", "addopts=", "--tb=native"]
        command += [f"--timeout={TEST_SECS}", "--rootdir=.", "--continue-on-collection-errors"]
        command += arguments
        begun = time.monotonic()
        finished = subprocess.run(
            command,
            cwd=tests.resolve().parent,
            env=environment,
            timeout=RUN_SECS,
            capture_output=True,
            text=True,
        )
        results: Results = json.loads(report.read_text()) if report.exists() else {"status": -1}
        if results["status"] not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            sys.exit(
                f"pytest did not finish:\n{finished.stdout[-4000:]}\n{finished.stderr[-4000:]}"
            )
        results["secs"] = time.monotonic() - begun
        return results


def show(results: Results, name: str) -> None:
    """Print the figures of one run."""
    counts = Counter(results["outcomes"].values())
    words = ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items()))
    print(f"{name}: {words}; {results['inserted']} breakers, {results['secs']:.0f} s", flush=True)


def compare(
    tests: Path, position: str, options: list[str], plain: Results, guarded: Results
) -> int:
    """Print what differs, and return how much."""
    differing = [
        test
        for test in sorted({*plain["outcomes"], *guarded["outcomes"]})
        if plain["outcomes"].get(test) != guarded["outcomes"].get(test)
    ]
    differences = 0
    for test in differing:
        before = Counter({plain["outcomes"].get(test): 1})
        after = Counter({guarded["outcomes"].get(test): 1})
        why = guarded["why"].get(test) or plain["why"].get(test, "")
        for _ in range(REPEATS):
            before[run(tests, None, [test, *options])["outcomes"].get(test)] += 1
            after[run(tests, position, [test, *options])["outcomes"].get(test)] += 1
        is_unsteady = bool(before.keys() & after.keys())
        differences += not is_unsteady
        print(f"  {test}{' (unsteady)' if is_unsteady else ''}")
        print(f"    {dict(before)} without, {dict(after)} with: {why}", flush=True)
    for line in guarded["lines"]:
        failed = "circuit open" not in line
        differences += failed
        print(f"  {'a breaker failed' if failed else 'opened'} in {line}")
    return differences


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests without and with, and compare.

    Args:
        arguments: The command line.

    Returns:
        The exit code: 0 if nothing differs, else 1.
    """
    parser = argparse.ArgumentParser(
        prog="python -m checks pipecat-suite", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("tests", type=Path, help="a folder with Pipecat's tests")
    parser.add_argument("--only", choices=POSITIONS, help="one position instead of both")
    options, for_pytest = parser.parse_known_args(arguments)
    which = [options.tests.name, *for_pytest]
    plain = run(options.tests, None, which)
    show(plain, "without")
    differences = 0
    for position in [options.only] if options.only else POSITIONS:
        guarded = run(options.tests, position, which)
        show(guarded, position)
        differences += compare(options.tests, position, for_pytest, plain, guarded)
    return 1 if differences else 0
