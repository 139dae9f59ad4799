#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Test sessions: the whole suite on each Python, the releases of pipecat, the linters.

`nox` runs all, `nox -s tests-3.12` or `nox -s "releases(1.7.0)"` one; what follows `--` goes to
pytest. A Python that is not there is skipped; where `CI` is set it is an error. Not among all is
`nox -s normal_calls` and `nox -s failover_table`.
"""

import re

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"

#: Those that pyproject.toml names.
PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))

#: A release per line that pipecat had, and whatever is the newest today.
RELEASES = ["0.0.108", "1.0.0", "1.7.0", "1.8.1", "1.12.0", "1.14.0", "newest"]

#: Of the points at which a failover is interrupted, ended and cancelled, and of the servers and
#: processes of a fleet. The oldest Python takes all.
FEWER_POINTS = {"FAILOVER_STRIDE": "29", "FLEET_SERVERS": "redis7"}


def newest(session: nox.Session) -> str:
    """The newest release that the index serves, whatever may pin an installation lower."""
    listing = session.run("python", "-m", "pip", "index", "versions", "pipecat-ai", silent=True)
    found = re.search(r"^pipecat-ai \((\S+)\)", str(listing), re.MULTILINE)
    if found is None:
        session.error(f"pip names no newest pipecat-ai: {listing}")
    return found[1]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the whole suite on the newest pipecat, and see to it that it is the newest."""
    session.install("-e", ".[test]")
    env = {"PIPECAT_RELEASE": newest(session)}
    if session.python != PYTHONS[0]:
        env |= FEWER_POINTS
    session.run("pytest", *session.posargs, env=env)


@nox.session
@nox.parametrize("release", RELEASES, ids=RELEASES)
def releases(session: nox.Session, release: str) -> None:
    """Run what runs on every release: storms of real transports, failover, the older names."""
    if release == "newest":
        release = newest(session)
        if release in RELEASES:
            session.skip(f"the newest is {release}, which has a session of its own")
    session.install("-e", ".[test-releases]", f"pipecat-ai=={release}")
    session.run(
        "pytest",
        "-m",
        "releases",
        *(
            session.posargs
            or [
                "tests/examples/test_first_bot.py",
                "tests/releases",
                "tests/failover",
                "tests/fleet/test_bots.py",
                "tests/test_storms.py",
                "tests/test_tool_loops.py",
                "tests/test_tool_loops_failover.py",
            ]
        ),
        env={"PIPECAT_RELEASE": release} | FEWER_POINTS,
    )
    session.run("pipecat-circuit-breaker", "demo", "--chain", "send-raises", "--seconds", "1")


@nox.session(default=False)
def normal_calls(session: nox.Session) -> None:
    """Make the calls of real transports and of a real browser: minutes where others are at work."""
    session.install("-e", ".[test]")
    session.run(
        "pytest",
        *(
            session.posargs
            or ["tests/test_normal_calls.py", "tests/test_normal_calls_in_a_browser.py"]
        ),
        env={"NORMAL_CALLS": "1"},
    )


@nox.session(default=False)
@nox.parametrize("release", ["1.14.0", "1.7.0"], ids=["1.14.0", "1.7.0"])
def failover_table(session: nox.Session, release: str) -> None:
    """Print the table of docs/failover.md: four minutes each, on a machine that has nothing else."""
    session.install("-e", ".[demo]", f"pipecat-ai=={release}")
    session.run("python", "-m", "benchmarks.failover", "--markdown", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and types."""
    session.install("-e", ".[lint,demo,fleet,otel]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
